"""docs/conformance.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from tests.conformance.outcome import Outcome

_HEAD = """# Checkers of other projects

Other projects' checkers for servers, run against `quicbaton serve` as it is. `make conformance` \
fetches them, runs them and writes this page; CI runs them. A check that fails and is not listed \
here fails the run, and so does a listed one that passes.

| checker | version | checks | passed | listed below |
|---|---|---|---|---|
"""
_NOTES = """
peregrine's scripts start their server by its options. Some of these options are a program's task \
here, and a program around theirs does it: files by Starlette's `StaticFiles`, WSGI by a2wsgi. \
One function of `http3-test.py` is changed: it joined 20 MB in quadratic time. Some checks of \
`webtransport-test.py` try peregrine's own helpers, without a server. Autobahn's cases run over \
TCP through a relay that adds TLS, and over HTTP/3 through one that turns the handshake into an \
extended CONNECT (RFC 9220). Left out are the cases of compression (12 and 13), which is not \
offered, and over HTTP/3 those of large messages (9), which would measure the relay.

Starlette's and FastAPI's own tests ask their programs over HTTP/3, by libcurl: their test client \
has a server of ours inside. As a proxy does, it tells the program the scheme, host and client \
that a test has made up. It raises the program's exception in the test, which expects it there. \
Left out are tests of the test client itself, of WebSockets, which it does not send as frames \
(Autobahn tests these), FastAPI's tutorial and its telemetry.
"""


class Ran(Struct, frozen=True):
    """A checker, and its outcome."""

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
