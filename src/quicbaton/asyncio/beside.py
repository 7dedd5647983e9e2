"""What a process serves beside its QUIC connections, and cannot move: TCP."""

from __future__ import annotations

import socket
from typing import Final, NamedTuple, Protocol

from quicbaton.asyncio.endpoint.memory import Memory
from quicbaton.transport.state import Address

#: What the names of TCP connections begin with. Those of QUIC connections are hexadecimal.
TCP_NAME: Final = "tcp-"


class BesideConnection(NamedTuple):
    """One of them. Its name is that of the access log; `held_bytes` counts in the memory budget."""

    name: str
    peer: Address
    alpn: str
    age_s: float
    rtt_ms: float
    running: int
    held_bytes: int


class Beside(Protocol):
    """A server that a node starts and stops with itself. While anything runs there, a process that
    leaves stays, as it does for relayed streams."""

    @property
    def listener(self) -> socket.socket | None:
        """The open socket at which it is reached, for other processes to accept from."""

    @property
    def running(self) -> int:
        """How many connections there are, TLS handshakes included."""

    @property
    def handshakes(self) -> int:
        """How many of them have yet to become connections."""

    @property
    def accepted(self) -> int:
        """How many clients have come since the process began."""

    @property
    def refused(self) -> int:
        """How many were turned away, for want of memory."""

    def describe(self) -> list[BesideConnection]:
        """Its connections, one by one."""

    def share(self, memory: Memory) -> None:
        """Take what connections hold from that memory; said before `start`."""

    def describe_running(self) -> list[str]:
        """What they are, for people."""

    def start(self) -> None:
        """Accept; again after `stop_accepting`, too."""

    def stop_accepting(self) -> None:
        """Leave new clients to others, and let what is open come to its end."""

    async def until_none_left(self, timeout_s: float) -> None:
        """Wait, so long at most, until nothing runs."""

    def cut(self) -> list[str]:
        """End what is open; what had not come to its end."""

    def close(self) -> None:
        """Accept nobody, and cut."""


class NothingBeside:
    """Of a process that serves QUIC alone."""

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
