"""The sockets of a service: one for each worker, on one UDP port, in an order that never changes.

The kernel numbers the sockets of a SO_REUSEPORT group in the order in which they joined it, and the
steering filter answers with such a number. When one closes, Linux moves the last into its place,
and from then on packets go to workers that do not know them. So the supervisor opens all sockets.
Each worker inherits all of them and reads one, and none closes before the last process has ended.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket

from quicbaton.asyncio.endpoint.steer import steer
from quicbaton.asyncio.endpoint.udp import open_first_udp, open_udp
from quicbaton.asyncio.listener import Listener
from quicbaton.errors import ConfigurationError
from quicbaton.limits import MAX_WORKERS
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import IdConfigs, IdLayout


class Group:
    """Sockets by worker number."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        if not 1 <= len(sockets) <= MAX_WORKERS:
            raise ConfigurationError(
                f"a service has 1 to {MAX_WORKERS} workers, got {len(sockets)}", code=Reason.WORKERS
            )
        self.sockets = sockets
        #: The socket from which all workers accept, if they serve a program over TCP, too.
        self.listener = Listener(None)
        #: False where the kernel cannot steer: workers then pass on the datagrams of others.
        self.steered = False

    @classmethod
    def open(cls, host: str, port: int, workers: int) -> Group:
        """Bind that many sockets. Raises ConfigurationError while another process has the port."""
        return cls.complete([cls._open_first(host, port)], workers)

    @classmethod
    def complete(cls, first: list[socket.socket], workers: int) -> Group:
        """The group of sockets that are open already, and of further ones that join behind them."""
        sockets = list(first)
        try:
            if len(sockets) < workers:
                check_reuse_port(sockets[0])
            while len(sockets) < workers:
                sockets.append(_join(sockets[0]))
            return cls(sockets)
        except BaseException:
            for sock in sockets:
                sock.close()
            raise

    def grow(self, workers: int) -> None:
        """Let further sockets join behind the others, up to one for each worker."""
        before = len(self.sockets)
        check_reuse_port(self.sockets[0])
        try:
            while len(self.sockets) < workers:
                self.sockets.append(_join(self.sockets[0]))
        except ConfigurationError:
            self.shrink(before)
            raise

    def shrink(self, workers: int) -> None:
        """Close our copies of the sockets behind the first ones."""
        while len(self.sockets) > workers:
            self.sockets.pop().close()

    @property
    def port(self) -> int:
        return int(self.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        host, port = self.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def inodes(self) -> list[int]:
        """The inodes of the open sockets, in order. They are the same in every process."""
        return inodes(self.sockets)

    def steer(self, ids: IdLayout | IdConfigs) -> bool:
        """Have the kernel pick a socket by the worker number in the connection ID."""
        # The kernel makes a group of them when the second joins. One that was always alone takes no
        # filter, and gets everything.
        self.steered = steer(self.sockets[0], ids, len(self.sockets)) or len(self.sockets) == 1
        return self.steered

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.listener.close()

    @staticmethod
    def _open_first(host: str, port: int) -> socket.socket:
        try:
            return open_first_udp(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigurationError(
                    f"UDP port {port} is taken, and no worker of ours answers for it: end the "
                    "program that has it, or choose another --port",
                    code=Reason.PORT_TAKEN,
                ) from error
            raise ConfigurationError(
                f"cannot listen at {host or 'any address'} port {port}: {error.strerror or error}"
            ) from error


def inodes(sockets: list[socket.socket]) -> list[int]:
    """The inodes of open sockets."""
    return [os.fstat(sock.fileno()).st_ino for sock in sockets]


def check_reuse_port(sock: socket.socket) -> None:
    """ConfigurationError unless other sockets can join this one's port."""
    if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ConfigurationError("the socket that was passed to us is not a UDP socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        raise _of_another_user(sock) or ConfigurationError(
            "the UDP socket that was passed to us was bound without SO_REUSEPORT, so no other "
            "worker's can join it: write ReusePort=yes into the socket unit, or use --workers 1",
            code=Reason.NO_REUSE_PORT,
        )


def _join(first: socket.socket) -> socket.socket:
    """Another socket at its port. ConfigurationError says why there can be none."""
    host, port = first.getsockname()[:2]
    try:
        return open_udp(host, port, reuse_port=True)
    except OSError as error:
        raise _of_another_user(first) or ConfigurationError(
            f"no further socket at port {port}: {error.strerror or error}"
        ) from error


def _of_another_user(sock: socket.socket) -> ConfigurationError | None:
    """Why no socket of ours can join this one, if it belongs to another user."""
    # socket(7), SO_REUSEPORT: all sockets of a port must have the same effective user ID.
    owner, ours = os.fstat(sock.fileno()).st_uid, os.geteuid()
    if owner == ours:
        return None
    return ConfigurationError(
        f"the socket of UDP port {sock.getsockname()[1]} that was passed to us is {_user(owner)}'s "
        f"and this process {_user(ours)}'s: the kernel lets only one user's sockets share a port. "
        "SocketUser= of a socket unit does not change that. Let the service open the port itself, "
        "without a socket unit (below 1024 with AmbientCapabilities=CAP_NET_BIND_SERVICE), or use "
        "--workers 1",
        code=Reason.SOCKET_USER,
    )


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
