"""The connections that a process serves beside QUIC, and cannot move: TCP."""

from __future__ import annotations

import socket
from typing import Final, NamedTuple, Protocol

from quicbaton.asyncio.endpoint.memory import Memory
from quicbaton.transport.state import Address

#: The beginning of the names of TCP connections. Those of QUIC connections are hexadecimal.
TCP_NAME: Final = "tcp-"


class BesideConnection(NamedTuple):
    """A TCP connection. `name` is that of the access log; `held_bytes` count in the memory
    budget."""

    name: str
    peer: Address
    alpn: str
    age_s: float
    rtt_ms: float
    running: int
    held_bytes: int


class Beside(Protocol):
    """A server that a node starts and stops with itself. A process that leaves stays while anything
    runs there, as it does for relayed streams."""

    @property
    def listener(self) -> socket.socket | None:
        """The open listening socket, for other processes to accept from."""

    @property
    def running(self) -> int:
        """The number of connections, TLS handshakes included."""

    @property
    def handshakes(self) -> int:
        """The number of connections whose TLS handshake is not complete."""

    @property
    def accepted(self) -> int:
        """The number of clients that have come since the process began."""

    @property
    def refused(self) -> int:
        """The number of clients that were turned away for lack of memory."""

    def describe(self) -> list[BesideConnection]:
        """Its connections, one by one."""

    def share(self, memory: Memory) -> None:
        """Take what connections hold from that memory. To be called before `start`."""

    def describe_running(self) -> list[str]:
        """A line for each connection whose requests run."""

    def start(self) -> None:
        """Accept clients; also called again after `stop_accepting`."""

    def stop_accepting(self) -> None:
        """Leave new clients to other processes. Open connections go on until they end."""

    async def until_none_left(self, timeout_s: float) -> None:
        """Wait until nothing runs, at most `timeout_s`."""

    def cut(self) -> list[str]:
        """End all connections now. Returns a line for each that had running requests."""

    def close(self) -> None:
        """Accept no more clients, and cut open connections."""


class NothingBeside:
    """The place of TCP in a process that serves only QUIC."""

    listener = None
    running = handshakes = accepted = refused = 0

    def describe(self) -> list[BesideConnection]:
        return []

    def share(self, memory: Memory) -> None:
        return

    def describe_running(self) -> list[str]:
        return []

    def start(self) -> None:
        return

    def stop_accepting(self) -> None:
        return

    async def until_none_left(self, timeout_s: float) -> None:
        return

    def cut(self) -> list[str]:
        return []

    def close(self) -> None:
        return
