"""When a connection wants to be called next: the earliest of its deadlines."""

from __future__ import annotations

from quicbaton.transport.headroom import LimitedBy
from quicbaton.transport.loss.recovery import Recovery
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.paths.paths import Paths
from quicbaton.transport.sender import Sender
from quicbaton.transport.state import NEVER, ConnectionState
from quicbaton.transport.streams.flow import withheld_until_us
from quicbaton.transport.streams.streams import Streams


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
        # Called after each turn: rare deadlines are asked for only where they may exist.
        times = [self._recovery.deadline_us(), self._idle_us(), self._streams.next_timer_us]
        if len(state.paths) > 1 or state.paths[0].challenge_at_us != NEVER:
            times.append(self._paths.next_timer_us())
        if state.ids.alias:
            times.append(state.ids.alias_until_us)
        if any(state.flow.peer_streams_withheld):
            times.append(withheld_until_us(state.flow))
        headroom = self._sender.headroom
        if not headroom.waits_for_peer:  # else these would fire in vain, again and again
            if headroom.limited_by is LimitedBy.TURN or state.recovery.probes_due:
                return state.clock_us
            times += (state.numbers.ack_at_us, headroom.until_us)
            if state.paths[0].mtu_at_us > 0:
                times.append(MtuSearch(state.paths[0]).next_timer_us())
            if state.keep_alive_us:
                times.append(self._keep_alive_us())
        return min([at_us for at_us in times if at_us != NEVER], default=NEVER)

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
