"""docs/conformance.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from tests.conformance.outcome import Outcome

_HEAD = """# Checkers that others wrote

What others wrote to try servers with, run against `quicbaton serve` as it is. `make conformance` \
fetches it, runs it and writes this page; CI runs it. A check that fails and is not listed here \
fails the run, and so does a listed one that passes.

| checker | version | checks | passed | listed below |
|---|---|---|---|---|
"""
_NOTES = """
Scripts of peregrine's start their server by its options. What is an option there and a matter of \
the program here is done by a program around theirs: files by Starlette's `StaticFiles`, WSGI by \
a2wsgi. One function of `http3-test.py` is changed: it joined 20 MB in quadratic time. Some checks \
of `webtransport-test.py` try peregrine's own helpers, without a server. Autobahn's cases are \
played over TCP through a relay that adds TLS, and over HTTP/3 through one that makes an extended \
CONNECT of the handshake (RFC 9220). Left out are those of compression (12 and 13), which is not \
offered, and over HTTP/3 those of large messages (9), which would measure the relay.

Starlette's and FastAPI's own tests ask their programs over HTTP/3, by libcurl: their test client \
has a server of ours inside. As a proxy does, it tells the program of the scheme, host and client \
that a test has made up, and it raises the program's exception in the test, where that looks for \
it. Left out are tests of the test client itself, of WebSockets, which it does not send as frames \
(that is what Autobahn is for), FastAPI's tutorial and its telemetry.
"""


class Ran(Struct, frozen=True):
    """A checker, and what came of it."""

    title: str
    version: str
    known: Mapping[str, str]
    outcome: Outcome


def write_page(path: Path, parts: list[Ran]) -> None:
    rows = []
    lists = []
    for part in parts:
        checks = part.outcome.checks
        passed = sum(check.passed for check in checks)
        cells = [part.title, part.version, len(checks), passed, len(part.known) or "–"]
        rows.append(f"| {' | '.join(map(str, cells))} |\n")
        if part.known:
            reasons = "".join(f"| {name} | {why} |\n" for name, why in part.known.items())
            lists.append(f"\n## {part.title}\n\n| fails | because |\n|---|---|\n{reasons}")
    path.write_text(_HEAD + "".join(rows) + _NOTES + "".join(lists))
