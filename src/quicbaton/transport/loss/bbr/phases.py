"""BBR's phases: when each begins and what ends it (draft §5.3, §5.4)."""

from __future__ import annotations

from typing import Final

from quicbaton.transport.loss.bbr import model, sampling
from quicbaton.transport.loss.bbr.sampling import Sample
from quicbaton.transport.loss.bbr.state import NONE, BbrState, Phase, Rate
from quicbaton.transport.state import CongestionState, SentRun

#: §5.6.1: times the rate of delivery.
PACING_GAINS: Final[dict[Phase, float]] = {
    "startup": 2.77,
    "drain": 0.5,
    "down": 0.9,
    "cruise": 1.0,
    "refill": 1.0,
    "up": 1.25,
    "probe_rtt": 1.0,
}
#: §5.6.1: times what the path holds in flight.
WINDOW_GAINS: Final[dict[Phase, float]] = {
    "startup": 2.0,
    "drain": 2.0,
    "down": 2.0,
    "cruise": 2.0,
    "refill": 2.0,
    "up": 2.25,
    "probe_rtt": 0.5,
}
#: §2.8: the share of a round's packets that may be lost while we look for more.
LOSS_THRESHOLD: Final = 0.02
#: §5.3.1.3: runs of packets that a round must lose for startup to end.
STARTUP_LOSS_RANGES: Final = 6
#: §5.3.1.2: the pipe is full after so many rounds that deliver less than so much more.
FULL_ROUNDS: Final = 3
FULL_GROWTH: Final = 1.25
#: §5.3.2: rounds after which drain ends in any case.
DRAIN_ROUNDS: Final = 3
#: §2.14.2.
PROBE_RTT_US: Final = 200_000
#: §5.3.3.8: between two probes there are two to three seconds, or as many rounds as Reno would need
#: to fill the pipe, up to 63.
PROBE_WAIT_US: Final = 2_000_000
PROBE_WAIT_SPREAD_US: Final = 1_000_000
RENO_ROUNDS: Final = 63
#: §5.3.3.9: the bound never rises by more than 2^30 datagrams in a round.
_MAX_UP_ROUNDS: Final = 30

_CYCLE: Final = frozenset({"down", "cruise", "refill", "up"})
_PROBING: Final = frozenset({"startup", "refill", "up"})


def in_cycle(bbr: BbrState) -> bool:
    """IsInAProbeBWState."""
    return bbr.phase in _CYCLE


def is_probing(bbr: BbrState) -> bool:
    """IsProbingBW (§5.3.3.9): losses are part of what is tried."""
    return bbr.phase in _PROBING


# --- startup and drain --------------------------------------------------------------------------


def check_full(bbr: BbrState, sample: Sample) -> None:
    """CheckFullBWReached (§5.3.1.2): three rounds that deliver hardly more than those before."""
    if bbr.full_now or not sample.round_start or sample.app_limited:
        return
    if sample.rate >= bbr.full_rate * FULL_GROWTH:
        forget_full(bbr, sample.rate)
        return
    bbr.full_rounds += 1
    if bbr.full_rounds >= FULL_ROUNDS:
        bbr.full_now = bbr.full_reached = True


def forget_full(bbr: BbrState, baseline: Rate) -> None:
    """ResetFullBW, and go on from `baseline`."""
    bbr.full_rate = baseline
    bbr.full_rounds = 0
    bbr.full_now = False


def check_startup(state: CongestionState, bbr: BbrState, sample: Sample) -> None:
    """CheckStartupDone (§5.3.1.1, §5.3.1.3)."""
    if bbr.phase != "startup":
        return
    if sample.loss_round_start:
        # A round of losses is over: there was a first one when it began.
        if bbr.loss_ranges >= STARTUP_LOSS_RANGES and is_too_high(sample):
            fill_by_congestion(state, bbr)
        bbr.loss_ranges = 0
    if bbr.full_reached:
        bbr.phase = "drain"
        bbr.drain_started_round = bbr.round_count


def fill_by_congestion(state: CongestionState, bbr: BbrState) -> None:
    """Congestion, and not the rate, says that the pipe is full (§5.3.1.3)."""
    bbr.full_now = bbr.full_reached = True
    bbr.undo_phase = "startup"
    bdp = int(model.bdp_bytes(state, bbr, model.rate(bbr)))
    bbr.inflight_longterm = max(bdp, bbr.inflight_latest)


def check_drain(state: CongestionState, bbr: BbrState, sample: Sample) -> None:
    """CheckDrainDone (§5.3.2)."""
    if bbr.phase != "drain":
        return
    if (
        state.in_flight_bytes <= model.target_bytes(state, bbr, model.rate(bbr))
        or bbr.round_count > bbr.drain_started_round + DRAIN_ROUNDS
    ):
        start_down(bbr, sample.now_us)


# --- the cycle: down, cruise, refill, up --------------------------------------------------------


def start_down(bbr: BbrState, now_us: int) -> None:
    """StartProbeBW_DOWN (§5.3.3.9), with PickProbeWait."""
    model.forget_congestion(bbr)
    bbr.probe_up_acked_per_step = NONE
    # Flows that share a bottleneck should not probe in step. What each has delivered up to which
    # microsecond differs between them: that is chance enough.
    chance = (now_us * 2_654_435_761 + bbr.delivered_bytes * 40_503) >> 8
    bbr.rounds_since_probe = chance & 1
    bbr.probe_wait_us = PROBE_WAIT_US + (chance >> 1) % PROBE_WAIT_SPREAD_US
    bbr.cycle_started_us = now_us
    bbr.ack_phase = "stopping"
    model.start_round(bbr)
    bbr.phase = "down"


def start_refill(bbr: BbrState) -> None:
    """StartProbeBW_REFILL (§5.3.3.9)."""
    model.forget_shortterm(bbr)
    bbr.probe_up_rounds = 0
    bbr.probe_up_acked = 0
    bbr.probe_cautious = False
    bbr.ack_phase = "refilling"
    model.start_round(bbr)
    bbr.phase = "refill"


def start_up(state: CongestionState, bbr: BbrState, sample: Sample) -> None:
    """StartProbeBW_UP (§5.3.3.9)."""
    bbr.probe_sampled = True
    bbr.ack_phase = "starting"
    model.start_round(bbr)
    forget_full(bbr, sample.rate)
    bbr.phase = "up"
    _steepen(state, bbr)


def update_cycle(state: CongestionState, bbr: BbrState, sample: Sample) -> None:
    """UpdateProbeBWCyclePhase (§5.3.3.9)."""
    if not bbr.full_reached or _adapt_longterm(state, bbr, sample):
        return
    phase = bbr.phase
    if phase in ("down", "cruise"):
        if _is_time_to_probe(state, bbr, sample.now_us):
            start_refill(bbr)
        elif phase == "down" and _is_drained(state, bbr):
            bbr.phase = "cruise"
    elif phase == "refill":
        if sample.round_start:
            start_up(state, bbr, sample)
    elif phase == "up" and _is_time_to_go_down(state, bbr, sample):
        bbr.probe_too_high = False  # no high loss, so far
        start_down(bbr, sample.now_us)


def is_too_high(sample: Sample) -> bool:
    """IsInflightTooHigh (§5.5.10.2)."""
    return sample.lost_bytes > sample.in_flight_bytes * LOSS_THRESHOLD


def on_probe_lost(state: CongestionState, bbr: BbrState, run: SentRun, now_us: int) -> None:
    """HandleLostPacket (§5.5.10.2), of what was sent while we looked for more."""
    mark = run.delivery
    if mark is None:
        return
    lost_bytes = bbr.lost_bytes - mark[3]
    in_flight_bytes = mark[4]
    if lost_bytes <= in_flight_bytes * LOSS_THRESHOLD:
        return
    # InflightAtLoss: a train may hold many packets, and the first of them fitted.
    size = run.count * run.size
    before = in_flight_bytes - size
    lost_before = lost_bytes - size
    fitted = (LOSS_THRESHOLD * before - lost_before) / (1 - LOSS_THRESHOLD)
    on_too_high(state, bbr, int(before + fitted), app_limited=mark[5], now_us=now_us)


def on_too_high(
    state: CongestionState, bbr: BbrState, in_flight_bytes: int, *, app_limited: bool, now_us: int
) -> None:
    """HandleInflightTooHigh (§5.5.10.2). It is done once for each probe."""
    bbr.probe_too_high = True
    bbr.probe_sampled = False
    if not app_limited:
        kept = int(_wanted_bytes(state, bbr) * model.BETA)
        bbr.inflight_longterm = max(in_flight_bytes, kept)
    if bbr.phase == "up":
        bbr.undo_phase = "up"
        start_down(bbr, now_us)


# --- probing for the round trip -----------------------------------------------------------------


def check_probe_rtt(
    state: CongestionState, bbr: BbrState, sample: Sample, *, is_expired: bool
) -> None:
    """CheckProbeRTT (§5.3.4.3)."""
    if bbr.phase != "probe_rtt" and is_expired and not bbr.idle_restart:
        save_window(state, bbr)
        bbr.phase = "probe_rtt"
        bbr.probe_rtt_done_us = NONE
        bbr.ack_phase = "stopping"
        model.start_round(bbr)
    if bbr.phase == "probe_rtt":
        _hold_probe_rtt(state, bbr, sample)
    if sample.delivered_bytes:
        bbr.idle_restart = False


def probe_rtt_window(state: CongestionState, bbr: BbrState) -> int:
    """ProbeRTTCwnd (§5.6.4.5)."""
    half = WINDOW_GAINS["probe_rtt"] * model.bdp_bytes(state, bbr, model.rate(bbr))
    return max(int(half), model.min_pipe_bytes(state))


def check_probe_rtt_done(state: CongestionState, bbr: BbrState, now_us: int) -> None:
    """CheckProbeRTTDone (§5.3.4.3), ExitProbeRTT (§5.3.4.4)."""
    if bbr.probe_rtt_done_us == NONE or now_us <= bbr.probe_rtt_done_us:
        return
    bbr.probe_rtt_min_at_us = now_us
    restore_window(state, bbr)
    model.forget_shortterm(bbr)
    if bbr.full_reached:
        start_down(bbr, now_us)
        bbr.phase = "cruise"
    else:
        bbr.phase = "startup"


def save_window(state: CongestionState, bbr: BbrState) -> None:
    """SaveCwnd (§5.6.4.4): the latest window that neither losses nor probe_rtt has cut."""
    window = state.window_bytes
    is_cut = bbr.in_recovery or bbr.phase == "probe_rtt"
    bbr.prior_window = max(bbr.prior_window, window) if is_cut else window


def restore_window(state: CongestionState, bbr: BbrState) -> None:
    """RestoreCwnd (§5.6.4.4)."""
    state.window_bytes = max(state.window_bytes, bbr.prior_window)


# --- losses that were none ----------------------------------------------------------------------


def save(state: CongestionState, bbr: BbrState) -> None:
    """SaveStateUponLoss (§5.5.11.1)."""
    save_window(state, bbr)
    bbr.undo_phase = ""
    bbr.undo_rate_shortterm = bbr.rate_shortterm
    bbr.undo_inflight_shortterm = bbr.inflight_shortterm
    bbr.undo_inflight_longterm = bbr.inflight_longterm


def take_back(state: CongestionState, bbr: BbrState) -> None:
    """HandleSpuriousLossDetection (§5.5.11.2)."""
    restore_window(state, bbr)
    bbr.in_recovery = False
    bbr.loss_in_round = False
    forget_full(bbr, 0)
    bbr.rate_shortterm = _higher(bbr.rate_shortterm, bbr.undo_rate_shortterm)
    bbr.inflight_shortterm = int(_higher(bbr.inflight_shortterm, bbr.undo_inflight_shortterm))
    bbr.inflight_longterm = int(_higher(bbr.inflight_longterm, bbr.undo_inflight_longterm))
    phase = bbr.undo_phase
    bbr.undo_phase = ""
    if phase == "startup" and bbr.phase != "startup":
        bbr.full_reached = False
        if bbr.phase != "probe_rtt":
            bbr.phase = "startup"
    elif phase == "up" and bbr.phase not in ("up", "probe_rtt"):
        bbr.probe_too_high = False
        start_refill(bbr)


def _higher(bound: Rate, other: Rate) -> Rate:
    """The higher of two bounds, of which NONE is the highest."""
    return NONE if NONE in (bound, other) else max(bound, other)


# --- helpers, in reading order ------------------------------------------------------------------


def _adapt_longterm(state: CongestionState, bbr: BbrState, sample: Sample) -> bool:
    """AdaptLongTermModel (§5.3.3.9). True when it has begun a phase."""
    if sample.round_start:
        if bbr.ack_phase == "starting":
            bbr.ack_phase = "feedback"
        elif bbr.ack_phase == "stopping":
            # The last samples of the probe have come.
            bbr.probe_sampled = False
            bbr.ack_phase = "init"
            if in_cycle(bbr):
                if not sample.app_limited:
                    model.advance_max_rates(bbr)
                # §5.3.3.6: the cautious probe went well, so the next one goes on.
                if bbr.probe_cautious and not bbr.probe_too_high:
                    start_refill(bbr)
                    return True
    if bbr.inflight_longterm == NONE or is_too_high(sample):
        return False
    bbr.inflight_longterm = max(bbr.inflight_longterm, sample.in_flight_bytes)
    if bbr.phase == "up":
        _raise_longterm(state, bbr, sample)
    return False


def _raise_longterm(state: CongestionState, bbr: BbrState, sample: Sample) -> None:
    """ProbeInflightLongtermUpward (§5.3.3.9)."""
    if not _fills_window(bbr) or state.window_bytes < bbr.inflight_longterm:
        return
    acked = bbr.probe_up_acked + sample.acked_bytes
    step = bbr.probe_up_acked_per_step
    if acked >= step:
        bbr.inflight_longterm += acked // step * state.datagram_bytes
        acked %= step
    bbr.probe_up_acked = acked
    if sample.round_start:
        _steepen(state, bbr)


def _steepen(state: CongestionState, bbr: BbrState) -> None:
    """RaiseInflightLongtermSlope (§5.3.3.9): by 1, 2, 4, 8 datagrams from round to round."""
    step = state.window_bytes >> bbr.probe_up_rounds
    bbr.probe_up_acked_per_step = max(step, state.datagram_bytes)
    bbr.probe_up_rounds = min(bbr.probe_up_rounds + 1, _MAX_UP_ROUNDS)


def _fills_window(bbr: BbrState) -> bool:
    """C.is_cwnd_limited (§2.1): the window was full in this round or the one before."""
    return bbr.window_full_round != NONE and bbr.round_count - bbr.window_full_round <= 1


def _wanted_bytes(state: CongestionState, bbr: BbrState) -> Rate:
    """TargetInflight (§5.3.3.8.3)."""
    return min(model.bdp_bytes(state, bbr, model.rate(bbr)), state.window_bytes)


def _is_time_to_probe(state: CongestionState, bbr: BbrState, now_us: int) -> bool:
    """IsTimeToProbeBW (§5.3.3.8.3)."""
    if now_us > bbr.cycle_started_us + bbr.probe_wait_us:
        return True
    rounds = min(_wanted_bytes(state, bbr) / state.datagram_bytes, RENO_ROUNDS)
    return bbr.rounds_since_probe >= rounds


def _is_drained(state: CongestionState, bbr: BbrState) -> bool:
    """IsTimeToCruise (§5.3.3.9)."""
    bound = model.with_headroom_bytes(state, bbr)
    in_flight = state.in_flight_bytes
    if bound != NONE and in_flight > bound:
        return False
    return in_flight <= model.target_bytes(state, bbr, model.max_rate(bbr))


def _is_time_to_go_down(state: CongestionState, bbr: BbrState, sample: Sample) -> bool:
    """IsTimeToGoDown (§5.3.3.9)."""
    bound = bbr.inflight_longterm
    if bound != NONE and bbr.probe_too_high and state.in_flight_bytes >= bound:
        # §5.3.3.6: here the last probe lost too much.
        bbr.probe_cautious = True
        return True
    if bound != NONE and _fills_window(bbr) and state.window_bytes >= bound:
        forget_full(bbr, sample.rate)  # the bound and not the path limits the rate
        return False
    return bbr.full_now


def _hold_probe_rtt(state: CongestionState, bbr: BbrState, sample: Sample) -> None:
    """HandleProbeRTT (§5.3.4.3)."""
    # Samples of so small a flight say nothing of the rate.
    sampling.note_app_limited(state, bbr)
    if bbr.probe_rtt_done_us == NONE:
        if state.in_flight_bytes <= probe_rtt_window(state, bbr):
            bbr.probe_rtt_done_us = sample.now_us + PROBE_RTT_US
            bbr.probe_rtt_round_done = False
            model.start_round(bbr)
        return
    if sample.round_start:
        bbr.probe_rtt_round_done = True
    if bbr.probe_rtt_round_done:
        check_probe_rtt_done(state, bbr, sample.now_us)
