"""The TCP port of a node: finds out for which of its processes a connection is, and passes the
socket to that one.

It trusts no caller and decides nothing: the process that gets the socket does TLS and decides what
a caller may say (`incoming`). The acceptor reads one short line, within a deadline.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from quicbaton.errors import ConfigurationError, PeerError, QuicbatonError
from quicbaton.limits import MAX_UNPROVEN_PEERS, PEER_HANDSHAKE_S
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.accepting import Accepting
from quicbaton.service.peers.asking import CommandFailedError, Conversation
from quicbaton.service.peers.cluster import Address
from quicbaton.service.peers.tls import GREETING, set_timeouts

#: Targets beside a worker's number: the process that speaks for the node, and any worker.
NODE_TARGET: Final = "node"
ANY_TARGET: Final = "any"
_MAX_LINE_BYTES: Final = len(GREETING) + 10
_BACKLOG: Final = 128

#: Takes an accepted socket and the target that it asks for: "0", "any", "node". A QuicbatonError or
#: OSError means that no process took it.
Deliver = Callable[[str, socket.socket], Awaitable[None]]


class Acceptor:
    """Accepts on `sock`, which listens, until closed. `deliver` gets each socket and its target."""

    def __init__(self, sock: socket.socket, deliver: Deliver) -> None:
        self._sock = sock
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        #: Connections whose preamble is awaited, oldest first.
        self._waiting: dict[asyncio.Task[None], None] = {}
        self._accepting = Accepting(sock, self._take)

    @property
    def address(self) -> Address:
        """The address at which it listens."""
        name = self._sock.getsockname()
        return Address(str(name[0]), int(name[1]))

    def close(self) -> None:
        self._accepting.close()
        for task in self._waiting:
            task.cancel()

    def _take(self, sock: socket.socket) -> None:
        if len(self._waiting) >= MAX_UNPROVEN_PEERS:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._read_and_deliver(sock))
        self._waiting[task] = None
        task.add_done_callback(lambda done: self._waiting.pop(done, None))
        # A task that is cancelled before its first step does not close the socket.
        task.add_done_callback(lambda done: sock.close() if done.cancelled() else None)

    async def _read_and_deliver(self, sock: socket.socket) -> None:
        with sock:
            sock.setblocking(False)
            try:
                set_timeouts(sock)
                async with asyncio.timeout(PEER_HANDSHAKE_S):
                    target = await self._read_target(sock)
                    # Its own descriptor: `deliver` may keep it.
                    await self._deliver(target, sock.dup())
            except (QuicbatonError, OSError):
                # The caller finds the connection closed.
                return

    async def _read_target(self, sock: socket.socket) -> str:
        line = b""
        while not line.endswith(b"\n"):
            # The bytes after the line are for the process that gets the socket: none is read here.
            byte = await self._loop.sock_recv(sock, 1)
            line += byte
            if not byte or len(line) > _MAX_LINE_BYTES or not GREETING.startswith(line[:6]):
                raise PeerError("no preamble of ours", code=Reason.UNEXPECTED_MESSAGE)
        target = line[len(GREETING) : -1].decode("ascii", "replace")
        if target not in (NODE_TARGET, ANY_TARGET) and not (target.isascii() and target.isdigit()):
            raise PeerError("no process of a node", code=Reason.UNEXPECTED_MESSAGE)
        return target


def listen(address: Address) -> socket.socket:
    """Listen at a TCP address."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # A process that takes over from another listens before that one ends.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(where)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen for other nodes at {address}: {error.strerror or error}; if they reach "
            "this node at an address that is not its own, set its `listen` in cluster.toml",
            code=Reason.PEERS_ADDRESS,
        ) from error
    sock.setblocking(False)
    return sock


async def pass_on(control: Path, sock: socket.socket) -> None:
    """Pass an accepted socket to the process with this control socket, which does TLS on it.

    PeerError when that process is not there or does not take it. The socket is closed here in any
    case.
    """
    try:
        with await Conversation.begin(control) as asked:
            asked.channel.write_descriptors(c.encode(c.TakePeer()), [sock.fileno()])
            try:
                await asked.expect(c.Answer)
            except CommandFailedError as error:
                raise PeerError(
                    f"{control} does not take a connection: {error}", code=Reason.REFUSED
                ) from error
    finally:
        sock.close()


def take_passed(descriptors: list[int]) -> socket.socket:
    """The socket that `pass_on` passed. PeerError unless it is exactly one TCP connection."""
    if len(descriptors) != 1:
        for descriptor in descriptors:
            os.close(descriptor)
        raise PeerError(
            f"expected one socket, {len(descriptors)} came", code=Reason.UNEXPECTED_MESSAGE
        )
    sock = socket.socket(fileno=descriptors[0])
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise PeerError(
            "the socket that came is not a TCP connection", code=Reason.UNEXPECTED_MESSAGE
        )
    return sock
