"""When a connection wants to be called next: the earliest of its deadlines."""

from __future__ import annotations

from typing import Final

from quicbaton.transport.headroom import LimitedBy
from quicbaton.transport.loss.recovery import Recovery
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.paths.paths import Paths
from quicbaton.transport.sender import Sender
from quicbaton.transport.state import NEVER, ConnectionState
from quicbaton.transport.streams.flow import withheld_until_us
from quicbaton.transport.streams.streams import Streams

# A global is read faster than a member of an enumeration, after each turn.
_TURN: Final = LimitedBy.TURN


class Timers:
    """Reads deadlines out of the state and the parts; arms nothing itself."""

    def __init__(
        self,
        state: ConnectionState,
        recovery: Recovery,
        streams: Streams,
        paths: Paths,
        sender: Sender,
    ) -> None:
        self._state = state
        self._recovery = recovery
        self._streams = streams
        self._paths = paths
        self._sender = sender

    def next_us(self) -> int:
        """The earliest deadline; NEVER when there is none."""
        state = self._state
        if state.closed:
            return NEVER
        if state.closing is not None:
            return state.clock_us if state.close_due else state.close_at_us
        headroom = self._sender.headroom
        # Else what asks for sending would fire in vain, again and again.
        may_send = not headroom.waits_for_peer
        if may_send and (headroom.limited_by is _TURN or state.recovery.probes_due):
            return state.clock_us
        # Called after each turn, so the usual deadlines are compared one by one, and rare ones are
        # asked for only where they may exist.
        at_us = _earlier(self._recovery.deadline_us(), self._idle_us())
        paths = state.paths
        path = paths[0]
        if may_send:
            ack_at_us = state.numbers.ack_at_us
            if ack_at_us != NEVER:
                at_us = _earlier(at_us, ack_at_us)
            if headroom.until_us != NEVER:
                at_us = _earlier(at_us, headroom.until_us)
            if path.mtu_at_us > 0:
                at_us = _earlier(at_us, MtuSearch(path).next_timer_us())
            if state.keep_alive_us:
                at_us = _earlier(at_us, self._keep_alive_us())
        if path.challenge_at_us != NEVER or len(paths) > 1:
            at_us = _earlier(at_us, self._paths.next_timer_us())
        if state.ids.alias:
            at_us = _earlier(at_us, state.ids.alias_until_us)
        withheld = state.flow.peer_streams_withheld
        if withheld[0] or withheld[1]:
            at_us = _earlier(at_us, withheld_until_us(state.flow))
        draining_at_us = self._streams.next_timer_us
        return at_us if draining_at_us == NEVER else _earlier(at_us, draining_at_us)

    def is_idle(self, now_us: int) -> bool:
        """Whether silence has ended the connection."""
        return NEVER < self._idle_us() <= now_us

    def wants_keep_alive(self, now_us: int) -> bool:
        """Whether to send a PING because nothing else is sent."""
        return NEVER < self._keep_alive_us() <= now_us

    def _idle_us(self) -> int:
        """When silence ends the connection: three PTOs at least (RFC 9000 §10.1)."""
        state = self._state
        if not state.idle_timeout_us:
            return NEVER
        return state.idle_from_us + max(state.idle_timeout_us, 3 * self._recovery.pto_us())

    def _keep_alive_us(self) -> int:
        """When to send a PING because nothing else is sent. With packets under way there is no
        need: their ACK restarts the peer's idle timer too, and the PTO repeats them."""
        state = self._state
        if not state.keep_alive_us or state.idle_sent_since:
            return NEVER
        return state.idle_from_us + state.keep_alive_us


def _earlier(one_us: int, other_us: int) -> int:
    """The earlier one of two deadlines, either of which may be NEVER."""
    if other_us == NEVER or NEVER < one_us < other_us:
        return one_us
    return other_us
