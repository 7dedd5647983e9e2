"""The port that a server asks for, over UDP and TCP."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from quicbaton.asyncio.endpoint.udp import open_first_udp
from quicbaton.asyncio.listener import Listener
from quicbaton.cli import tcp, user_state
from quicbaton.cli.addresses import any_address
from quicbaton.cli.options.serve import ServeOptions
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask


async def port_of(other: Path) -> int:
    """The UDP port of the server at a control socket."""
    listed = await ask(other, c.ListConnections(), c.Connections)
    return int(listed.address.rpartition(":")[2])


def open_both(options: ServeOptions) -> tuple[socket.socket, Listener]:
    """The UDP socket, and the TCP socket if there is to be one, at one port."""
    left = tcp.tries(options, options.port)
    while True:
        sock = _open_port(options.host, options.port)
        listener = tcp.listener_at(options, sock.getsockname()[1])
        left -= 1
        if listener.sock is not None or not left:
            return sock, listener
        sock.close()


def _open_port(host: str, port: int) -> socket.socket:
    """The UDP socket, in a group that others can join. Refused while another process has the
    port."""
    try:
        return open_first_udp(host or any_address(), port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigurationError(
                f"cannot listen at {host or 'any address'} port {port}: {error.strerror or error}"
            ) from error
    running = user_state.control_sockets(port)
    hint = f" Control sockets for it: {', '.join(map(str, running))}." if running else ""
    raise ConfigurationError(
        f"UDP port {port} is taken.{hint} Use --join SOCKET to share it, --takeover SOCKET to "
        "replace the server there, or another --port.",
        code=Reason.PORT_TAKEN,
    )
