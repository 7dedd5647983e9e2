"""The bounded queue in which strays wait while no process may take them."""

from __future__ import annotations

from collections import deque

from quicbaton.handoff.messages import Stray
from quicbaton.limits import MAX_QUEUED_STRAY_BYTES, MAX_QUEUED_STRAYS


class StrayQueue:
    """First in, first out. When it is full the oldest is dropped, and QUIC's own recovery repairs
    it.

    The newest are kept because they have the peer's latest acknowledgements, which cover those in
    the dropped ones.
    """

    def __init__(self) -> None:
        self._strays: deque[Stray] = deque()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._strays)

    def push(self, stray: Stray) -> None:
        """Append a stray. If the queue is full, the oldest is dropped."""
        self._strays.append(stray)
        self._bytes += len(stray.datagram)
        while len(self._strays) > MAX_QUEUED_STRAYS or self._bytes > MAX_QUEUED_STRAY_BYTES:
            self._bytes -= len(self._strays.popleft().datagram)
            self.dropped += 1

    def drain(self) -> tuple[Stray, ...]:
        """All strays, oldest first; the queue is empty afterwards."""
        strays = tuple(self._strays)
        self._strays.clear()
        self._bytes = 0
        return strays
