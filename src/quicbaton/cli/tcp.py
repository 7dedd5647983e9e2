"""TCP beside UDP, for ASGI programs: its socket, and messages about it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from quicbaton.asyncio.beside import Beside, NothingBeside
from quicbaton.asyncio.listener import PORT_TRIES, Listener, adopt_listener, bind_listener
from quicbaton.cli.addresses import any_address
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.cli.program import Program, named_program
from quicbaton.cli.served_certificates import ServedCertificates
from quicbaton.errors import PeerError
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, Conversation

#: Seconds for another process to pass its socket.
_PASS_S: Final = 5.0


def may_serve_tcp(options: ServeOptions) -> bool:
    """Whether the options may name an ASGI program, which is served over TCP, too."""
    return not options.tcp.no_tcp and named_program(options.program) is not None


def listener_at(options: ServeOptions, port: int) -> Listener:
    """The TCP socket for a program that is served at a UDP port."""
    if not may_serve_tcp(options):
        return Listener(None)
    return bind_listener(options.host or any_address(), port)


def tries(options: ServeOptions, port: int) -> int:
    """How often to look for a port that is free over both."""
    return PORT_TRIES if not port and may_serve_tcp(options) else 1


async def listener_of(options: ServeOptions, other: Path, port: int) -> Listener:
    """The TCP socket of another process at the port, from which this one is to accept, too; a new
    one if that process has none."""
    if may_serve_tcp(options):
        try:
            with await Conversation.begin(other, _PASS_S) as asked:
                _, descriptor = await asked.ask_for_descriptor(c.PassListener(), c.SocketOf)
            return adopt_listener(descriptor)
        except (PeerError, CommandFailedError):
            pass  # it serves UDP alone
    return listener_at(options, port)


def assigned(descriptor: int, refusal: str) -> Listener:
    """The listener that a supervisor has given to its worker."""
    return adopt_listener(descriptor) if descriptor >= 0 else Listener(None, refusal)


def beside(
    options: ServeOptions,
    program: Program,
    certificates: ServedCertificates,
    listener: Listener,
) -> Beside:
    """The server of the program over TCP, or a stand-in that serves nothing. ConfigurationError
    (`tcp_port`) when the port is not available."""
    identity = certificates.for_tcp
    if identity is None or program.over_tcp is None:
        listener.close()
        return NothingBeside()
    server = program.over_tcp(listener, identity, options.tcp.timeout_keep_alive)
    certificates.on_tcp_changed = server.show
    return server


def describe(*, over_tcp: bool) -> str:
    """The protocols over which a service is reached."""
    return "HTTP/3 (UDP) and HTTP/1.1, HTTP/2 (TCP)" if over_tcp else "HTTP/3 (UDP)"


def trust_lines(certificate: Path, port: int, *, over_tcp: bool) -> list[str]:
    """How to trust a certificate that was made for this machine."""
    url = f"https://localhost:{port}/"
    lines = [
        f"  certificate  {certificate} (made for this machine; trust it like this:)",
        f"               quicbaton get --ca {certificate} {url}FILE -o FILE",
        f"               curl --http3-only --cacert {certificate} {url}",
    ]
    if over_tcp:
        lines.append(f"               curl --cacert {certificate} {url}")
    return lines
