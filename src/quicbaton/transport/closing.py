"""How a connection ends (RFC 9000 §10): every way sets `state.closing`, and here is every way.

    open ── close ──► closing (says CONNECTION_CLOSE, answers ever more rarely) ──► closed
         ── drain ──► draining (the peer closed, or lost its state: silent) ──────► closed
         ── end ────► closed (silent at once: idle, no path, or ownership in doubt)

The application hears of it once, as TerminatedEvent: of a close of ours when CONNECTION_CLOSE goes
out, of the others at once.
"""

from __future__ import annotations

from quicbaton.transport.state import NEVER, CloseState, ConnectionState, TerminatedEvent


def close(state: ConnectionState, error_code: int, frame_type: int, reason: str) -> None:
    """Begin an immediate close (§10.2): CONNECTION_CLOSE is due. No effect on a closing one."""
    if state.closing is None and not state.closed:
        _begin(state, error_code, frame_type, reason, by_peer=False)
        state.close_due = True
        state.close_at_us = NEVER


def drain(
    state: ConnectionState, error_code: int, frame_type: int, reason: str, until_us: int
) -> None:
    """The peer closed, or reset us: say nothing more and wait for stragglers (§10.2.2)."""
    if state.closing is None and not state.closed:
        _begin(state, error_code, frame_type, reason, by_peer=True)
        state.close_at_us = until_us
        report(state)


def end(state: ConnectionState, error_code: int, frame_type: int, reason: str) -> None:
    """Over at once, without a word to the peer."""
    if state.closing is None:
        _begin(state, error_code, frame_type, reason, by_peer=False)
    state.close_due = False
    report(state)
    state.closed = True


def report(state: ConnectionState) -> None:
    """Queue the application's event, once."""
    closing = state.closing
    if closing is not None and not closing.reported:
        closing.reported = True
        state.events.append(TerminatedEvent(closing.error_code, closing.frame_type, closing.reason))


def on_packets(state: ConnectionState, count: int) -> None:
    """Datagrams came while closing: each doubling of their number is answered (§10.2.1)."""
    if state.closing is not None and not state.closing.by_peer:
        before = state.close_packets
        state.close_packets = before + count
        if state.close_packets.bit_length() > before.bit_length():
            state.close_due = True


def on_timer(state: ConnectionState, now_us: int) -> None:
    """The closing or draining period may be over."""
    if state.close_at_us != NEVER and now_us >= state.close_at_us:
        report(state)
        state.closed = True


def _begin(
    state: ConnectionState, error_code: int, frame_type: int, reason: str, *, by_peer: bool
) -> None:
    state.closing = CloseState(
        error_code=error_code,
        frame_type=frame_type,
        reason=reason,
        by_peer=by_peer,
        reported=False,
    )
    state.close_due = False
