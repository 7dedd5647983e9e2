"""Credit for the peer: for consumed bytes, as far as memory allows (RFC 9000 §4.2)."""

from __future__ import annotations

from quicbaton.transport.budget import Account
from quicbaton.transport.state import ConnectionState, ReceiveHalf
from quicbaton.transport.streams import flow as flow_rules
from quicbaton.transport.streams import receive_half


class Credit:
    """Keeps a stream's window and the connection's in step."""

    __slots__ = ("_flow", "_memory", "_recovery")

    def __init__(self, state: ConnectionState, memory: Account) -> None:
        self._flow = state.flow
        self._recovery = state.recovery
        self._memory = memory

    def take(self, half: ReceiveHalf, size: int, now_us: int) -> None:
        """The application took bytes from the queue."""
        if half.paused:
            self._flow.receive_withheld += size
        self._consume(half, receive_half.take(half, size), now_us)

    def resume(self, half: ReceiveHalf, now_us: int) -> None:
        """The application goes on reading: bytes that it took meanwhile are consumed."""
        self._flow.receive_withheld -= receive_half.withheld(half)
        self._consume(half, receive_half.resume(half), now_us)

    def discard(self, half: ReceiveHalf, now_us: int) -> None:
        """The program will not read the bytes that are not delivered yet."""
        self._flow.receive_withheld -= receive_half.withheld(half)
        self._consume(half, receive_half.discard(half), now_us)

    def restore(self, half: ReceiveHalf, now_us: int) -> None:
        """There is memory again: give credit that was refused."""
        self._consume(half, 0, now_us)

    def _consume(self, half: ReceiveHalf, size: int, now_us: int) -> None:
        flow, memory, recovery = self._flow, self._memory, self._recovery
        consumed = flow.receive_consumed = flow.receive_consumed + size
        if not memory.may_credit(flow.receive_used - consumed):
            return
        # A paused stream's bytes are not consumed: no reason for a larger window.
        rtt_us = recovery.smoothed_rtt_us if recovery.has_rtt and not half.paused else 0
        flow_rules.review_limit(flow, now_us, rtt_us, memory)
        if receive_half.review_limit(half, now_us, rtt_us, flow, memory):
            flow_rules.make_room_for(flow, half.window_bytes, memory)
