"""A TCP socket at the port that is served over UDP."""

from __future__ import annotations

import contextlib
import socket
from typing import Final, NamedTuple

from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

#: UDP ports that are tried when any port will do: the TCP port must be free, too.
PORT_TRIES: Final = 20


class Listener(NamedTuple):
    """A TCP socket, or the reason why there is none.

    `sock` is bound, and listens once a program is served there. If it is None, `refusal` is the
    reason, for a program that needs it.
    """

    sock: socket.socket | None
    refusal: str = ""

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()

    def take(self) -> socket.socket:
        """The socket. Raises ConfigurationError when there is none."""
        if self.sock is None:
            raise ConfigurationError(self.refusal, code=Reason.TCP_PORT)
        return self.sock

    def listen(self, backlog: int) -> None:
        """Let clients connect. Raises ConfigurationError when another program listens there."""
        sock = self.take()
        try:
            sock.listen(backlog)
        except OSError as error:
            raise ConfigurationError(
                _refusal(int(sock.getsockname()[1]), error), code=Reason.TCP_PORT
            ) from error

    @property
    def is_listening(self) -> bool:
        """Whether any process that has the socket serves a program there."""
        if self.sock is None:
            return False
        return bool(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def bind_listener(host: str, port: int) -> Listener:
    """A non-blocking socket bound to the port; "::" takes IPv4, too. A socket that is only bound
    does not keep programs from the port that set SO_REUSEADDR, as servers do."""
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Connections of an earlier server may linger in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        return Listener(None, _refusal(port, error))
    return Listener(sock)


def adopt_listener(descriptor: int) -> Listener:
    """The listener of a socket that another process has passed to us."""
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.set_inheritable(False)
    return Listener(sock)


def _refusal(port: int, error: OSError) -> str:
    return (
        f"cannot listen at TCP port {port}: {error.strerror or error}; end the program that has "
        "it, choose another --port, or serve over UDP alone with --no-tcp"
    )
