"""Congestion control that takes losses for the sign of a full queue: what Reno and CUBIC share.

They differ in how they grow the window in congestion avoidance and how far a congestion event cuts
it. The rest is common to both (RFC 9002 §7, RFC 9406):

    slow start ── RTT rises (HyStart++) ──► conservative slow start ── 5 rounds ──► avoidance
        ▲  ▲                                   │                                      ▲
        │  └────────── RTT falls back ─────────┘       loss: window cut ──────────────┘
        └── persistent congestion: two datagrams          (from any of the three)

Everything that a textbook adds up packet by packet is computed for all bytes of an ACK at once: one
aggregated ACK grows the window as the separate ones would have (within the datagram's rounding that
Reno's counter keeps).

Bytes sent before a recovery period neither grow nor cut the window (RFC 9002 §7.3.2). An ACK
reports old and new bytes as one sum, so the old ones still in flight are counted when the period
begins (`recovery_flight_bytes`) and taken off first.

After a handoff nothing here needs to be told but the time (`on_resumed`): CUBIC's clock does not
run while nobody may send.
"""

from __future__ import annotations

from quicbaton.transport.loss import hystart
from quicbaton.transport.loss.congestion import MINIMUM_WINDOW_DATAGRAMS, CongestionController
from quicbaton.transport.loss.late import UndoState
from quicbaton.transport.state import NEVER, NONE, CongestionState, SentRun


class LossBased(CongestionController):
    """An algorithm says how the window grows in avoidance (`_grow`) and how far a congestion event
    cuts it (`_cut`)."""

    # --- the sender -----------------------------------------------------------------------------

    def on_turn_ended(self, app_limited: bool, out_of_data: bool) -> None:
        state = self._state
        if state.app_limited != app_limited:  # a read is four times cheaper than a write
            state.app_limited = app_limited

    # --- loss detection -------------------------------------------------------------------------

    def on_acked(
        self,
        acked_bytes: int,
        newest: SentRun,
        largest_number: int,
        next_number: int,
        latest_rtt_us: int,
        smoothed_rtt_us: int,
        min_rtt_us: int,
        now_us: int,
    ) -> None:
        """No algorithm here needs `min_rtt_us`: HyStart++ keeps the minimum of each round."""
        state = self._state
        self._leave_flight(acked_bytes)
        older = state.recovery_flight_bytes
        if older:
            spent = min(older, acked_bytes)
            state.recovery_flight_bytes = older - spent
            acked_bytes -= spent
        if newest.at_us < state.recovery_started_us or not acked_bytes:
            return

        if state.threshold_bytes == NONE:
            hystart.observe(state, largest_number, next_number, latest_rtt_us)
        if state.app_limited:
            # RFC 9002 §7.8: a window that was not used was not tested. RFC 9438 §4.2:
            # nor does t go on.
            if state.cubic_updated_us != NEVER:
                state.cubic_updated_us = now_us
            return
        threshold = state.threshold_bytes
        if threshold == NONE or state.window_bytes < threshold:
            acked_bytes = _grow_in_slow_start(state, acked_bytes)
            if not acked_bytes:
                return
        self._grow(acked_bytes, smoothed_rtt_us, now_us)

    def on_lost(self, lost: list[SentRun], lost_bytes: int, now_us: int) -> None:
        """Cuts the window once per recovery period (RFC 9002 §7.3.2)."""
        self._respond(lost_bytes, lost[-1].at_us, now_us)

    def on_late(self, late_bytes: int, declared_at_us: int, now_us: int) -> None:
        """Takes the cut back once everything for which it was made has arrived (RFC 9438 §4.9.2,
        in the spirit of RFC 4015)."""
        state = self._state
        undo = state.undo
        if undo is None or declared_at_us < state.recovery_started_us:
            return
        undo.lost_bytes -= late_bytes
        if undo.lost_bytes <= 0:
            _take_back(state, undo, now_us)

    def on_congestion_marked(self, newest_sent_at_us: int, now_us: int) -> None:
        # RFC 9002 §7.1, §B.7: as a loss of the largest packet acknowledged.
        self._respond(0, newest_sent_at_us, now_us)

    def on_persistent_congestion(self, now_us: int) -> None:
        state = self._state
        state.window_bytes = MINIMUM_WINDOW_DATAGRAMS * state.datagram_bytes
        # Appendix B.8: the recovery period is over, so the next ACK grows the window.
        state.recovery_started_us = NEVER
        state.recovery_flight_bytes = 0
        state.acked_bytes = 0
        # RFC 9438 §4.8: the next congestion avoidance starts with K = 0 where it stands.
        state.cubic_window_max = 0
        state.cubic_updated_us = NEVER
        state.cubic_carry = 0
        state.undo = None
        # A bucket filled for the old window would burst into a path that just failed.
        state.pacing_tokens_bytes = min(state.pacing_tokens_bytes, state.window_bytes)
        state.pacing_updated_us = now_us

    # --- the path -------------------------------------------------------------------------------

    def set_datagram_bytes(self, datagram_bytes: int) -> None:
        state = self._state
        if datagram_bytes == state.datagram_bytes:
            return
        state.datagram_bytes = datagram_bytes
        minimum = MINIMUM_WINDOW_DATAGRAMS * datagram_bytes
        state.window_bytes = max(state.window_bytes, minimum)
        if state.threshold_bytes != NONE:
            state.threshold_bytes = max(state.threshold_bytes, minimum)
        # CUBIC's curve counts in datagrams: it is drawn anew, from here to the same W_max.
        state.cubic_updated_us = NEVER

    def on_resumed(self, now_us: int) -> None:
        """The time in transit moves no curve."""
        state = self._state
        if state.cubic_updated_us != NEVER:
            state.cubic_updated_us = now_us

    # --- the algorithms -------------------------------------------------------------------------

    def _grow(self, acked_bytes: int, smoothed_rtt_us: int, now_us: int) -> None:
        """Grow the window in congestion avoidance."""
        raise NotImplementedError

    def _cut(self) -> int:
        """The window that a congestion event leaves, before its minimum applies."""
        raise NotImplementedError

    # --- helpers, in reading order --------------------------------------------------------------

    def _respond(self, lost_bytes: int, newest_sent_at_us: int, now_us: int) -> None:
        """The response to congestion that a packet sent at `newest_sent_at_us` met."""
        state = self._state
        in_flight = self._leave_flight(lost_bytes)
        # Appendix B.5 counts a packet sent in the very instant that recovery began as old. Our
        # clock stands still during a turn, so that instant is when the first packets of the
        # period are sent: they count as new.
        if newest_sent_at_us < state.recovery_started_us:
            state.recovery_flight_bytes = max(state.recovery_flight_bytes - lost_bytes, 0)
            if not lost_bytes:
                state.undo = None  # a mark confirms what the losses said
            elif state.undo is not None:
                state.undo.lost_bytes += lost_bytes
            return
        # A mark was no mistake.
        state.undo = _present(state, lost_bytes) if lost_bytes else None
        window = max(self._cut(), MINIMUM_WINDOW_DATAGRAMS * state.datagram_bytes)
        state.window_bytes = window
        state.threshold_bytes = window
        state.hystart_css_rounds = NONE
        state.recovery_started_us = now_us
        state.recovery_flight_bytes = in_flight


def _present(state: CongestionState, lost_bytes: int) -> UndoState:
    return UndoState(
        lost_bytes=lost_bytes,
        window_bytes=state.window_bytes,
        threshold_bytes=state.threshold_bytes,
        cubic_window_max=state.cubic_window_max,
        cubic_prior_window=state.cubic_prior_window,
        cubic_k_s=state.cubic_k_s,
        cubic_elapsed_us=state.cubic_elapsed_us,
        cubic_updated_us=state.cubic_updated_us,
        cubic_reno_window=state.cubic_reno_window,
    )


def _take_back(state: CongestionState, undo: UndoState, now_us: int) -> None:
    """Go on from before the cut. What has grown since stays."""
    state.undo = None
    state.window_bytes = max(state.window_bytes, undo.window_bytes)
    threshold = undo.threshold_bytes
    state.threshold_bytes = NONE if threshold == NONE else max(state.threshold_bytes, threshold)
    state.recovery_started_us = NEVER
    state.recovery_flight_bytes = 0
    state.cubic_window_max = undo.cubic_window_max
    state.cubic_prior_window = undo.cubic_prior_window
    state.cubic_k_s = undo.cubic_k_s
    state.cubic_elapsed_us = undo.cubic_elapsed_us
    state.cubic_updated_us = NEVER if undo.cubic_updated_us == NEVER else now_us
    state.cubic_reno_window = undo.cubic_reno_window
    state.cubic_carry = 0


def _grow_in_slow_start(state: CongestionState, acked_bytes: int) -> int:
    """Grow by what was acknowledged (RFC 9002 §7.3.1); returns what is left at the threshold."""
    threshold = state.threshold_bytes
    if threshold == NONE:
        if state.hystart_css_rounds != NONE:
            acked_bytes //= hystart.CSS_GROWTH_DIVISOR
        state.window_bytes += acked_bytes
        return 0
    growth = min(acked_bytes, threshold - state.window_bytes)
    state.window_bytes += growth
    return acked_bytes - growth
