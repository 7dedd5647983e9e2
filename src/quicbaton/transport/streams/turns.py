"""Whose turn it is to send: round robin among the streams of the lowest urgency number."""

from __future__ import annotations

from bisect import bisect_right

from quicbaton.transport.state import NONE, ConnectionState, SendHalf
from quicbaton.transport.streams import send_half


class Turns:
    """Runtime over `ConnectionState.order`: streams that their own limits allow to send, sorted
    by urgency, among equals the one that waited longest first."""

    __slots__ = ("_members", "_state")

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self._members = set(state.order)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._members

    def __len__(self) -> int:
        return len(self._members)

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
        if stream_id in self._members:
            return
        self._members.add(stream_id)
        order = self._state.order
        urgency = self._urgency(stream_id)
        if not order or self._urgency(order[-1]) <= urgency:
            order.append(stream_id)
        else:
            order.insert(bisect_right(order, urgency, key=self._urgency), stream_id)

    def leave(self, stream_id: int) -> None:
        if stream_id in self._members:
            self._members.remove(stream_id)
            self._state.order.remove(stream_id)

    def to_back(self, stream_id: int) -> None:
        """End the stream's turn; it stays queued."""
        if len(self._members) > 1:
            self.leave(stream_id)
            self.enter(stream_id)

    def anyone_needs_credit(self) -> bool:
        """Some stream has new data that only the connection's limit can hold back."""
        for stream_id in self._state.order:
            half = self._half(stream_id)
            if half.next < min(half.end, half.limit):
                return True
        return False

    def _urgency(self, stream_id: int) -> int:
        return self._half(stream_id).priority

    def _half(self, stream_id: int) -> SendHalf:
        half = self._state.streams[stream_id].send
        assert half is not None  # only what can send is in the order
        return half
