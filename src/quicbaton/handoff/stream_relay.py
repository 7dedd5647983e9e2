"""Flow control of relayed streams: how many bytes of one direction may be under way on a link.

A relayed stream's request still runs at the handoff's source, while its transport is at the new
owner. Each direction has a `Sending` end, which has the bytes, and a `Receiving` end:

    client's bytes     new owner: Sending ══ StreamBytes ══► source: Receiving ─► application
                                          ◄═ StreamCredit ═
    the application's  source: Sending    ══ StreamBytes ══► new owner: Receiving ─► transport
                                          ◄═ StreamCredit ═

The receiving end gives credit for bytes that it has passed on. The sending end never has more than
a window of uncredited bytes under way and keeps the rest. So no link fills, and neither process can
make the other hold more than a window. A sending end that keeps some bytes is full, and their
writer is told to wait: the application by `is_congested`, the client by flow control (RFC 9000
§4.1).

The end of a direction, by FIN or reset, counts as one byte. So a sending end that is `settled`
knows that the other side has everything. Its process may then end, and so may those between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from quicbaton.baton.snapshot import RelayedReceiving, RelayedSending
from quicbaton.errors import PeerError
from quicbaton.limits import RELAY_WINDOW_BYTES
from quicbaton.reasons import Reason

#: Bytes, and whether they are the stream's last.
Piece = tuple[bytes, bool]


class Sending:
    """The end that has the bytes. Until `open` it keeps all of them.

    `uncredited_bytes` are those that the other side had already when the relay began.
    """

    def __init__(
        self, uncredited_bytes: int = 0, *, window_bytes: int = RELAY_WINDOW_BYTES
    ) -> None:
        self._window_bytes = window_bytes
        self._uncredited_bytes = uncredited_bytes
        self._is_open = False
        self._is_abandoned = False
        self._kept: deque[memoryview] = deque()
        self._kept_bytes = 0
        self._fin_kept = False
        self._reset_kept = False
        #: No more can be written.
        self.ended = False

    def __repr__(self) -> str:
        return (
            f"<Sending uncredited={self._uncredited_bytes} kept={self._kept_bytes}"
            f"{' ended' if self.ended else ''}>"
        )

    @property
    def is_full(self) -> bool:
        """Whether the writer should wait until `has_room`."""
        return self._uncredited_bytes + self._kept_bytes >= self._window_bytes

    @property
    def room_bytes(self) -> int:
        """The bytes that make it full; at least one."""
        return max(1, self._window_bytes - self._uncredited_bytes - self._kept_bytes)

    @property
    def has_room(self) -> bool:
        return self._uncredited_bytes + self._kept_bytes <= self._window_bytes // 2

    @property
    def unsettled_bytes(self) -> int:
        """Bytes that the other side has yet to pass on, or to get."""
        return self._uncredited_bytes + self._kept_bytes + self._fin_kept

    @property
    def drained(self) -> bool:
        """Whether the direction has ended, and everything was sent."""
        return self.ended and not self._kept and not self._fin_kept

    @property
    def settled(self) -> bool:
        """Whether the direction has ended, and the other side has everything."""
        return self.drained and not self._uncredited_bytes

    def open(self) -> list[Piece]:
        """The link is up. Returns the pieces to send at once."""
        self._is_open = True
        self._uncredited_bytes += self._reset_kept
        return self._take()

    def write(self, data: bytes, fin: bool) -> list[Piece]:
        """Take bytes of a direction that has not ended. Returns the pieces to send now."""
        assert not self.ended
        if data:
            self._kept.append(memoryview(data))
            self._kept_bytes += len(data)
        self.ended = self._fin_kept = fin
        return self._take()

    def reset(self) -> None:
        """Drop the bytes that are kept: a reset is sent instead."""
        fin_was_sent = self.drained
        self._drop()
        if self._is_open:
            self._uncredited_bytes += not fin_was_sent
        else:
            self._reset_kept = True

    def abandon(self) -> None:
        """The other side wants no more: nothing is sent, whatever credit still comes."""
        self._drop()
        self._is_abandoned = True
        self._uncredited_bytes = 0

    def credit(self, size_bytes: int) -> list[Piece]:
        """The other side has passed on that many bytes. Returns the pieces to send now.

        PeerError when it never had that many.
        """
        if self._is_abandoned:
            return []
        if size_bytes > self._uncredited_bytes:
            raise PeerError(
                f"credit for {size_bytes} bytes of a relayed stream, of which "
                f"{self._uncredited_bytes} were sent",
                code=Reason.RELAY_CREDIT,
            )
        self._uncredited_bytes -= size_bytes
        return self._take()

    def export(self) -> RelayedSending:
        """The state with which another process goes on in its place."""
        return RelayedSending(
            self._uncredited_bytes,
            b"".join(self._kept),
            self._fin_kept,
            self.ended,
            self._is_abandoned,
        )

    @classmethod
    def restore(cls, state: RelayedSending) -> Sending:
        """Go on from an exported state, once it is opened."""
        half = cls(state.uncredited_bytes)
        if state.kept:
            half._kept.append(memoryview(state.kept))
            half._kept_bytes = len(state.kept)
        half._fin_kept, half.ended = state.fin_kept, state.ended
        half._is_abandoned = state.abandoned
        return half

    def unsent(self) -> Iterable[Piece]:
        """The bytes that are kept, for another process to send."""
        for data in self._kept:
            yield bytes(data), False
        if self._fin_kept:
            yield b"", True

    def _drop(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0
        self._fin_kept = False
        self.ended = True

    def _take(self) -> list[Piece]:
        pieces: list[Piece] = []
        if not self._is_open:
            return pieces
        while self._kept and self._uncredited_bytes < self._window_bytes:
            data = self._kept.popleft()
            room = self._window_bytes - self._uncredited_bytes
            if len(data) > room:
                self._kept.appendleft(data[room:])
                data = data[:room]
            self._kept_bytes -= len(data)
            self._uncredited_bytes += len(data)
            pieces.append((bytes(data), False))
        if self._fin_kept and not self._kept:
            self._fin_kept = False
            self._uncredited_bytes += 1
            pieces.append((pieces.pop()[0] if pieces else b"", True))
        return pieces


class Receiving:
    """The end that gets the bytes. `withheld_bytes` are those that it had when the relay began."""

    def __init__(self, withheld_bytes: int = 0, *, window_bytes: int = RELAY_WINDOW_BYTES) -> None:
        # Small credits are gathered: one for a quarter of the window will do.
        self._batch_bytes = window_bytes // 4
        # A FIN or a reset may always come.
        self._limit_bytes = max(window_bytes, withheld_bytes) + 1
        self._uncredited_bytes = withheld_bytes
        self._released_bytes = 0
        self._is_abandoned = False
        #: Nothing more is expected.
        self.ended = False

    def __repr__(self) -> str:
        return f"<Receiving uncredited={self._uncredited_bytes}{' ended' if self.ended else ''}>"

    def receive(self, size_bytes: int, end: bool) -> bool:
        """Take bytes; `end` by FIN or reset. Returns False when they are not wanted any more.

        PeerError when they may not come.
        """
        if self._is_abandoned:
            return False
        if self.ended:
            raise PeerError("a relayed stream goes on after its end", code=Reason.RELAY_ENDED)
        self.ended = end
        self._uncredited_bytes += size_bytes + end
        if self._uncredited_bytes > self._limit_bytes:
            raise PeerError(
                f"{self._uncredited_bytes} bytes of a relayed stream came without credit, the "
                f"window is {self._limit_bytes - 1}",
                code=Reason.RELAY_WINDOW,
            )
        return True

    def export(self) -> RelayedReceiving:
        """The state with which another process goes on in its place."""
        return RelayedReceiving(
            self._uncredited_bytes, self._released_bytes, self.ended, self._is_abandoned
        )

    @classmethod
    def restore(cls, state: RelayedReceiving) -> Receiving:
        """Go on from an exported state."""
        half = cls(state.uncredited_bytes)
        half._released_bytes = state.released_bytes
        half.ended, half._is_abandoned = state.ended, state.abandoned
        return half

    def release(self, size_bytes: int) -> int:
        """That many bytes were passed on. Returns the credit to give now, possibly 0."""
        if self._is_abandoned:
            return 0  # bytes that a reader held back when the end came
        self._released_bytes += size_bytes
        return self._give()

    def release_all(self) -> int:
        """All bytes were passed on. Returns the credit to give now, possibly 0."""
        self._released_bytes = self._uncredited_bytes
        return self._give()

    def abandon(self) -> None:
        """We want no more: bytes that still come are ignored."""
        self.ended = self._is_abandoned = True
        self._uncredited_bytes = self._released_bytes = 0

    def _give(self) -> int:
        credit = self._released_bytes
        if credit < self._batch_bytes and not self.ended:
            return 0
        assert credit <= self._uncredited_bytes
        self._uncredited_bytes -= credit
        self._released_bytes = 0
        return credit
