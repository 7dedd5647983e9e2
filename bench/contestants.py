"""The servers that are measured beside each other, by name.

`quicbaton`, `quicbaton_compiled`, `aioquic` and `qh3` run one application over each library's
events (`bench.servers.application`). `peregrine` is an ASGI server and no library: it runs the same
application as an ASGI program, with limits and datagrams of its own choice.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.asgi_servers import AsgiServer
from bench.peers import COMPILED, PEREGRINE, PeerMissingError, compiled_python, environment_of
from bench.processes import Client, Server
from bench.servers.application import SMALL_BYTES, Ready, make_body
from demo import style
from quicbaton.cli.certificate import CertificateFiles

OURS = ("quicbaton", COMPILED)
#: All of them, in the order in which they are drawn.
COLOURS = {
    "quicbaton": style.OURS,
    COMPILED: style.OURS_TOO,
    "aioquic": style.BASELINE,
    "qh3": style.OTHER,
    PEREGRINE.name: style.SECOND,
}

_ASGI_PROGRAM = "bench.servers.asgi_program:application"


@dataclass(frozen=True)
class Contestant:
    """A server that can be asked: where it is, what it serves, and the CPU time that it has
    used."""

    ready: Ready
    cpu_s: Callable[[], float]


def choose(names: str) -> tuple[list[str], dict[str, str]]:
    """The servers of a comma-separated choice that can be had here; of the others the reason, in a
    line. SystemExit for a name that is none, and if none can be had."""
    chosen = names.split(",")
    if unknown := set(chosen) - COLOURS.keys():
        raise SystemExit(f"no such server: {', '.join(sorted(unknown))}")
    there, missing = available(chosen)
    if not there:
        raise SystemExit("\n".join(missing.values()))
    return there, missing


def available(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of these servers that can be had here; of the others the reason, in a line."""
    missing: dict[str, str] = {}
    for name in names:
        try:
            if name == COMPILED:
                compiled_python()
            elif name == PEREGRINE.name:
                environment_of(PEREGRINE)
        except PeerMissingError as reason:
            missing[name] = str(reason)
    return [name for name in names if name not in missing], missing


def enter(
    stack: ExitStack,
    name: str,
    folder: Path,
    files: CertificateFiles,
    body_bytes: int,
    options: Mapping[str, Any] | None = None,
) -> Contestant:
    """Start a server, which ends with the stack; `options` are for those of `bench.servers`."""
    if name != PEREGRINE.name:
        server = stack.enter_context(Server(name, files, body_bytes, options or {}))
        return Contestant(server.ready, server.cpu_s)
    bins, environment = {name: environment_of(PEREGRINE)}, {"BENCH_BODY_BYTES": str(body_bytes)}
    asgi = stack.enter_context(
        AsgiServer(name, _ASGI_PROGRAM, folder / name, files, bins, environment)
    )
    with Client(files.certificate, SMALL_BYTES) as client:
        asgi.wait_until_open(client)
    body = make_body(body_bytes)
    ready = Ready(asgi.port, sha256(body), sha256(body[:SMALL_BYTES]))
    return Contestant(ready, asgi.cpu_s)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def missing_lines(figures: Mapping[str, Any]) -> list[str]:
    """What a report says of servers that are missing."""
    missing: Mapping[str, str] = figures.get("missing", {})
    return [f"{name} is missing: {reason}" for name, reason in missing.items()]


def ratio_lines(
    what: str, values: Mapping[str, float], peers: Sequence[str] = (PEREGRINE.name,)
) -> list[str]:
    """Our values, uncompiled and compiled, over those of these peers, as far as there are any."""
    return [
        f"{what}: {values[ours] / values[peer]:.2f} of {peer}'s ({ours})"
        for peer in peers
        for ours in OURS
        if {ours, peer} <= values.keys()
    ]
