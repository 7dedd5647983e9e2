"""BBR as a congestion controller: from the model to pace and window (draft §5.2, §5.6)."""

from __future__ import annotations

from typing import Final

from quicbaton.errors import InternalError
from quicbaton.transport.loss import pacing
from quicbaton.transport.loss.bbr import model, phases, sampling
from quicbaton.transport.loss.bbr.sampling import Sample
from quicbaton.transport.loss.bbr.state import NONE, BbrState, Rate
from quicbaton.transport.loss.congestion import MINIMUM_WINDOW_DATAGRAMS, CongestionController
from quicbaton.transport.state import CongestionState, SentRun

#: §2.6: we pace by one percent less than the path delivers.
PACING_MARGIN: Final = 0.99


class Bbr(CongestionController):
    """Drives `CongestionState.bbr`.

    ECN (§3.7): a mark counts as a round with losses, and where we look for more, in startup and up,
    as one in which too many were lost.
    """

    def __init__(self, state: CongestionState) -> None:
        super().__init__(state)
        self._bbr = _bbr(state)

    # --- the sender -----------------------------------------------------------------------------

    def on_sent(self, run: SentRun) -> None:
        state, bbr = self._state, self._bbr
        if not state.in_flight_bytes and bbr.app_limited_until:
            self._restart(run.at_us)
        super().on_sent(run)
        sampling.on_sent(state, bbr, run)
        if (
            state.in_flight_bytes + state.datagram_bytes > state.window_bytes
            and bbr.window_full_round != bbr.round_count
        ):
            bbr.window_full_round = bbr.round_count

    def on_turn_ended(self, app_limited: bool, out_of_data: bool) -> None:
        """A receiver that gives no credit is a bottleneck like any other (§4.1.1.3.1)."""
        if app_limited and out_of_data:
            sampling.note_app_limited(self._state, self._bbr)

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
        """UpdateOnACK (§5.2.3)."""
        state, bbr = self._state, self._bbr
        self._leave_flight(acked_bytes)
        if bbr.in_recovery and newest.at_us >= state.recovery_started_us:
            bbr.in_recovery = False
            phases.restore_window(state, bbr)
        sample = sampling.on_acked(bbr, acked_bytes, newest, latest_rtt_us, min_rtt_us, now_us)
        model.note_latest(bbr, sample)
        model.count_rounds(bbr, sample)
        model.update_max_rate(bbr, sample)
        if sample.loss_round_start:
            if bbr.loss_in_round and not phases.is_probing(bbr):
                model.lower_bounds(state, bbr)
            bbr.loss_in_round = bbr.marked_in_round = False
        model.update_aggregation(state, bbr, sample)
        phases.check_full(bbr, sample)
        phases.check_startup(state, bbr, sample)
        phases.check_drain(state, bbr, sample)
        phases.update_cycle(state, bbr, sample)
        expired = model.update_min_rtt(bbr, sample)
        phases.check_probe_rtt(state, bbr, sample, is_expired=expired)
        model.advance_latest(bbr, sample)
        if not bbr.pacing_rate:
            # InitPacingRate (§5.6.2), with the first round trip.
            window = pacing.initial_window_bytes(state.datagram_bytes)
            bbr.pacing_rate = phases.PACING_GAINS["startup"] * window / max(smoothed_rtt_us, 1)
        self._set_pace(phases.PACING_GAINS[bbr.phase])
        self._set_window(sample)

    def on_lost(self, lost: list[SentRun], lost_bytes: int, now_us: int) -> None:
        bbr = self._bbr
        self._leave_flight(lost_bytes)
        self._note_congestion(lost[-1].at_us, now_us)
        if bbr.undo_lost_bytes != NONE:
            bbr.undo_lost_bytes += lost_bytes
        end = NONE
        for run in lost:
            if run.first != end and bbr.phase == "startup":
                bbr.loss_ranges += 1
            end = run.first + run.count
            bbr.lost_bytes += run.count * run.size
            if bbr.probe_sampled:
                phases.on_probe_lost(self._state, bbr, run, now_us)

    def on_late(self, late_bytes: int, declared_at_us: int, now_us: int) -> None:
        state, bbr = self._state, self._bbr
        bbr.lost_bytes -= late_bytes
        bbr.delivered_bytes += late_bytes
        if bbr.undo_lost_bytes == NONE or declared_at_us < state.recovery_started_us:
            return
        bbr.undo_lost_bytes = max(bbr.undo_lost_bytes - late_bytes, 0)
        if not bbr.undo_lost_bytes:
            bbr.undo_lost_bytes = NONE
            phases.take_back(state, bbr)

    def on_congestion_marked(self, newest_sent_at_us: int, now_us: int) -> None:
        state, bbr = self._state, self._bbr
        self._note_congestion(newest_sent_at_us, now_us)
        bbr.undo_lost_bytes = NONE  # a mark was no mistake
        bbr.marked_in_round = True
        if bbr.phase == "startup":
            phases.fill_by_congestion(state, bbr)
        elif bbr.probe_sampled:
            in_flight = state.in_flight_bytes
            phases.on_too_high(state, bbr, in_flight, app_limited=False, now_us=now_us)

    def on_persistent_congestion(self, now_us: int) -> None:
        """The window grows again as in slow start (§5.6.4.4, after an RTO). RFC 9002 §7.6.2 has it
        begin with two datagrams, the draft with one."""
        state, bbr = self._state, self._bbr
        state.window_bytes = MINIMUM_WINDOW_DATAGRAMS * state.datagram_bytes
        bbr.in_recovery = False
        bbr.prior_window = 0
        bbr.undo_lost_bytes = NONE
        # A bucket filled for the old window would burst into a path that just failed.
        state.pacing_tokens_bytes = min(state.pacing_tokens_bytes, state.window_bytes)
        state.pacing_updated_us = now_us

    # --- the path -------------------------------------------------------------------------------

    def on_path_change(self, datagram_bytes: int, now_us: int, under_way_bytes: int = 0) -> None:
        before = self._bbr
        super().on_path_change(datagram_bytes, now_us, under_way_bytes)
        self._bbr = bbr = _bbr(self._state)
        # Packets that are in flight refer to these sums, and may be acknowledged yet.
        bbr.delivered_bytes = bbr.round_end_bytes = before.delivered_bytes
        bbr.loss_round_end_bytes = before.delivered_bytes
        bbr.lost_bytes = before.lost_bytes

    def set_datagram_bytes(self, datagram_bytes: int) -> None:
        state = self._state
        state.datagram_bytes = datagram_bytes
        state.window_bytes = max(state.window_bytes, model.min_pipe_bytes(state))

    def on_resumed(self, now_us: int) -> None:
        """As a restart from idle (§5.4): nothing was sent for a while, and that was not the path.
        What is in flight gives no rate, and what follows it is application-limited."""
        state, bbr = self._state, self._bbr
        bbr.sampled_from_us = now_us
        bbr.delivered_at_us = bbr.first_sent_us = now_us
        sampling.note_app_limited(state, bbr)
        self._restart(now_us)

    # --- helpers, in reading order --------------------------------------------------------------

    def _restart(self, now_us: int) -> None:
        """HandleRestartFromIdle (§5.4.1)."""
        bbr = self._bbr
        bbr.idle_restart = True
        bbr.extra_acked_since_us = now_us
        bbr.extra_acked_delivered = 0
        if phases.in_cycle(bbr):
            self._set_pace(1.0)
        elif bbr.phase == "probe_rtt":
            phases.check_probe_rtt_done(self._state, bbr, now_us)

    def _note_congestion(self, newest_sent_at_us: int, now_us: int) -> None:
        """OnEnterFastRecovery (§5.6.4.4), and the first loss of a round (§5.5.10.2)."""
        state, bbr = self._state, self._bbr
        if newest_sent_at_us >= state.recovery_started_us:
            phases.save(state, bbr)
            bbr.undo_lost_bytes = 0
            bbr.in_recovery = True
            state.recovery_started_us = now_us
        model.note_loss(bbr)

    def _set_pace(self, gain: float) -> None:
        """SetPacingRateWithGain (§5.6.2): while the pipe is not full yet, it only rises."""
        bbr = self._bbr
        pace: Rate = gain * PACING_MARGIN * model.rate(bbr)
        if bbr.full_reached or pace > bbr.pacing_rate:
            bbr.pacing_rate = pace

    def _set_window(self, sample: Sample) -> None:
        """SetCwnd (§5.6.4.6)."""
        state, bbr = self._state, self._bbr
        least = model.min_pipe_bytes(state)
        wanted = model.max_inflight_bytes(state, bbr, phases.WINDOW_GAINS[bbr.phase])
        window = state.window_bytes
        if bbr.full_reached:
            window = min(window + sample.acked_bytes, wanted)
        elif window < wanted or bbr.delivered_bytes < pacing.initial_window_bytes(
            state.datagram_bytes
        ):
            window += sample.acked_bytes
        window = max(window, least)
        if bbr.phase == "probe_rtt":
            window = min(window, phases.probe_rtt_window(state, bbr))
        state.window_bytes = self._bounded(window, least)

    def _bounded(self, window: int, least: int) -> int:
        """BoundCwndForModel (§5.6.4.7)."""
        state, bbr = self._state, self._bbr
        phase = bbr.phase
        bound = NONE
        if phase in ("down", "refill", "up"):
            bound = bbr.inflight_longterm
        elif phase in ("probe_rtt", "cruise"):
            bound = model.with_headroom_bytes(state, bbr)
        if bound != NONE and bound < window:
            window = max(bound, least)
        bound = bbr.inflight_shortterm
        if bound != NONE and bound < window:
            window = max(bound, least)
        return window


def _bbr(state: CongestionState) -> BbrState:
    if state.bbr is None:
        raise InternalError("a connection under BBR has no state of it")
    return state.bbr
