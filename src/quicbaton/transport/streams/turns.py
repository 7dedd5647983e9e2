"""The order in which streams send: RFC 9218 §10, over `ConnectionState.order`.

Streams of a lower urgency number go first. Within one urgency:

    N0 N4 N8 | I1 I2 I3     the queue of one urgency; the first stream sends a train

* incremental streams (I) share: one that has had its turn goes to the end;
* the others (N) are served to their end, one after the other in the order of their IDs. They stand
  together, in front of the queue or behind its first stream;
* both kinds take turns, since neither may starve the other: N's turn is followed by that of one I.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from quicbaton.transport.state import NONE, ConnectionState, SendHalf
from quicbaton.transport.streams import send_half

#: Before every urgency that a peer can name (RFC 9218 §4.1): for streams without which all others
#: are of no use, such as the control streams of HTTP/3.
CONTROL_URGENCY: Final = -1
#: RFC 9218 §4.1: urgency 0 is served first, 7 last.
LOWEST_URGENCY: Final = 7


class Turns:
    """Runtime over `ConnectionState.order`: streams that their own limits allow to send, in the
    order of the module's head."""

    __slots__ = ("_shares", "_state", "members")

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        #: The streams that are queued.
        self.members: set[int] = set()
        #: Queued streams by urgency: [others, incremental ones].
        self._shares: dict[int, list[int]] = {}
        queued = state.order[:]
        state.order.clear()
        for stream_id in queued:
            self.enter(stream_id)

    def first(self) -> int:
        """The stream to send from now, or NONE."""
        state = self._state
        order = state.order
        if not order:
            return NONE
        if state.flow.send_used < state.flow.send_limit:
            return order[0]
        # Without credit for new data only retransmissions and FINs may go.
        for stream_id in order:
            if send_half.needs_no_credit(self._half(stream_id)):
                return stream_id
        return NONE

    def enter(self, stream_id: int) -> None:
        """Queue the stream behind its equals, unless it is queued."""
        if stream_id in self.members:
            return
        order = self._state.order
        half = self._half(stream_id)
        if not self.members:
            # Alone, as the stream of most answers is.
            self.members.add(stream_id)
            self._shares[half.urgency] = [0, 1] if half.incremental else [1, 0]
            order.append(stream_id)
            return
        self.members.add(stream_id)
        start, others, incremental = self._queue_of(half.urgency)
        self._shares.setdefault(half.urgency, [0, 0])[half.incremental] += 1
        if half.incremental:
            order.insert(start + others + incremental, stream_id)
            return
        # Behind one incremental stream when it is the first of its kind: a program that writes
        # little at a time would otherwise be served before them each time it writes.
        first = self._first_other(start) if others else start + min(1, incremental)
        order.insert(bisect_left(order, stream_id, first, first + others), stream_id)

    def leave(self, stream_id: int) -> None:
        if stream_id in self.members:
            self.members.remove(stream_id)
            if not self.members:
                self._state.order.clear()
                self._shares.clear()
                return
            self._state.order.remove(stream_id)
            half = self._half(stream_id)
            shares = self._shares[half.urgency]
            shares[half.incremental] -= 1
            if not any(shares):
                del self._shares[half.urgency]

    def to_back(self, stream_id: int) -> None:
        """End the stream's turn; it stays queued."""
        if len(self.members) < 2:
            return
        order = self._state.order
        half = self._half(stream_id)
        start, others, incremental = self._queue_of(half.urgency)
        if half.incremental:
            order.remove(stream_id)
            order.insert(start + others + incremental - 1, stream_id)
        elif incremental and self._first_other(start) == start:
            order.insert(start, order.pop(start + others))

    def anyone_needs_credit(self) -> bool:
        """Whether a stream has new data that only the connection's limit can hold back."""
        for stream_id in self._state.order:
            half = self._half(stream_id)
            if half.next < min(half.end, half.limit):
                return True
        return False

    def _queue_of(self, urgency: int) -> tuple[int, int, int]:
        """Where the queue of that urgency begins, and how many it has of the others and of
        incremental streams."""
        shares = self._shares
        start = sum([sum(both) for lower, both in shares.items() if lower < urgency])
        others, incremental = shares.get(urgency, (0, 0))
        return start, others, incremental

    def _first_other(self, start: int) -> int:
        """The first of the streams that are not incremental, of which there are some in the queue
        that begins at `start`."""
        return start + self._half(self._state.order[start]).incremental

    def _half(self, stream_id: int) -> SendHalf:
        half = self._state.streams[stream_id].send
        assert half is not None  # only what can send is in the order
        return half
