"""How a connection ends (RFC 9000 §10): every way sets `state.closing`, and here is every way.

    open ── close ──► closing (says CONNECTION_CLOSE, answers ever more rarely) ──► closed
         ── drain ──► draining (the peer closed, or lost its state: silent) ──────► closed
         ── end ────► closed (silent at once: idle, no path, or ownership in doubt)

The application hears of it once, as TerminatedEvent: of a close of ours when CONNECTION_CLOSE goes
out, of the others at once.
"""

from __future__ import annotations

from quicbaton.transport.event_queue import EventSink
from quicbaton.transport.state import NEVER, CloseState, ConnectionState, TerminatedEvent


class Closing:
    """Drives the part of the state that is about the connection's end."""

    __slots__ = ("_events", "_state")

    def __init__(self, state: ConnectionState, events: EventSink) -> None:
        self._state = state
        self._events = events

    def close(self, error_code: int, frame_type: int, reason: str) -> None:
        """Begin an immediate close (§10.2): CONNECTION_CLOSE is due. No effect on a closing one."""
        state = self._state
        if state.closing is None and not state.closed:
            self._begin(error_code, frame_type, reason, by_peer=False)
            state.close_due = True
            state.close_at_us = NEVER

    def drain(self, error_code: int, frame_type: int, reason: str, until_us: int) -> None:
        """The peer closed, or reset us: send nothing more and wait for stragglers (§10.2.2)."""
        state = self._state
        if state.closing is None and not state.closed:
            self._begin(error_code, frame_type, reason, by_peer=True)
            state.close_at_us = until_us
            self._report()

    def end(self, error_code: int, frame_type: int, reason: str) -> None:
        """Be over at once, without telling the peer."""
        state = self._state
        if state.closing is None:
            self._begin(error_code, frame_type, reason, by_peer=False)
        state.close_due = False
        state.closed = True
        self._report()

    def on_packets(self, count: int) -> None:
        """Datagrams came while closing: each doubling of their number is answered (§10.2.1)."""
        state = self._state
        if state.closing is not None and not state.closing.by_peer:
            before = state.close_packets
            state.close_packets = before + count
            if state.close_packets.bit_length() > before.bit_length():
                state.close_due = True

    def on_timer(self, now_us: int) -> None:
        """End the closing or draining period, if its time is over."""
        state = self._state
        if state.close_at_us != NEVER and now_us >= state.close_at_us:
            state.closed = True
            self._report()

    def take_due(self, now_us: int, pto_us: int) -> bool:
        """Whether CONNECTION_CLOSE is to be sent now. The closing period begins with the first one
        (§10.2: three PTOs), and the application hears of it."""
        state = self._state
        if not state.close_due:
            return False
        state.close_due = False
        if state.close_at_us == NEVER:
            state.close_at_us = now_us + 3 * pto_us
        self._report()
        return True

    # --- helpers --------------------------------------------------------------------------------

    def _begin(self, error_code: int, frame_type: int, reason: str, *, by_peer: bool) -> None:
        self._state.closing = CloseState(
            error_code=error_code,
            frame_type=frame_type,
            reason=reason,
            by_peer=by_peer,
            reported=False,
        )
        self._state.close_due = False

    def _report(self) -> None:
        """Queue the application's event, once."""
        closing = self._state.closing
        if closing is not None and not closing.reported:
            closing.reported = True
            self._events.append(
                TerminatedEvent(closing.error_code, closing.frame_type, closing.reason)
            )
