"""What BBR knows of the path: how much it delivers per second, and holds in flight (draft §5.5)."""

from __future__ import annotations

from typing import Final

from quicbaton import limits
from quicbaton.transport.loss import pacing
from quicbaton.transport.loss.bbr.sampling import Sample
from quicbaton.transport.loss.bbr.state import NONE, BbrState, Rate
from quicbaton.transport.state import CongestionState

#: §2.8: what remains of the short-term bounds at least, after a round with losses.
BETA: Final = 0.7
#: §2.8: the share of the long-term bound that is left to others.
HEADROOM: Final = 0.15
#: §2.8: the least window, in datagrams, so that a peer that acknowledges every other packet does
#: not stop us.
MIN_PIPE_DATAGRAMS: Final = 4
#: §2.14.1.
MIN_RTT_WINDOW_US: Final = 10_000_000
#: §2.14.2: the least time between two probes of the round trip.
PROBE_RTT_INTERVAL_US: Final = 5_000_000
#: §2.11: rounds over which lumps of ACKs are remembered.
EXTRA_ACKED_ROUNDS: Final = 10
#: What the pacer may let out at once, at most: a turn's trains.
_MAX_QUANTUM_BYTES: Final = limits.MAX_TRAINS_PER_TURN * limits.MAX_TRAIN_BYTES


# --- getters ------------------------------------------------------------------------------------


def max_rate(bbr: BbrState) -> Rate:
    """BBR.max_bw: the highest rate of delivery in this cycle of probing and the one before."""
    previous, present = bbr.max_rates
    return present if present > previous else previous


def rate(bbr: BbrState) -> Rate:
    """BBR.bw: the rate of delivery to go by (BoundBWForModel, §5.5.10.3)."""
    highest = max_rate(bbr)
    bound = bbr.rate_shortterm
    return highest if bound == NONE or highest < bound else bound


def bdp_bytes(state: CongestionState, bbr: BbrState, at_rate: Rate) -> Rate:
    """What the path holds in flight without a queue (BDPMultiple, §5.6.4.2)."""
    if bbr.min_rtt_us == NONE:
        return pacing.initial_window_bytes(state.datagram_bytes)
    return at_rate * bbr.min_rtt_us


def min_pipe_bytes(state: CongestionState) -> int:
    return MIN_PIPE_DATAGRAMS * state.datagram_bytes


def quantized_bytes(state: CongestionState, bbr: BbrState, wanted_bytes: Rate) -> int:
    """Enough in flight for trains to be worth their name (QuantizationBudget, §5.6.4.2; §5.6.3).

    Our pacer lets out what is sent in two milliseconds at once: an event loop wakes no oftener.
    """
    quantum = min(bbr.pacing_rate * pacing.BUCKET_US, _MAX_QUANTUM_BYTES)
    datagram = state.datagram_bytes
    wanted = int(max(wanted_bytes, quantum, MIN_PIPE_DATAGRAMS * datagram))
    return wanted + 2 * datagram if bbr.phase == "up" else wanted


def target_bytes(state: CongestionState, bbr: BbrState, at_rate: Rate) -> int:
    """Inflight(1.0): in flight where no queue is left (§5.6.4.2)."""
    return quantized_bytes(state, bbr, bdp_bytes(state, bbr, at_rate))


def with_headroom_bytes(state: CongestionState, bbr: BbrState) -> int:
    """InflightWithHeadroom (§5.3.3.9): the long-term bound, less some room for others; or NONE."""
    bound = bbr.inflight_longterm
    if bound == NONE:
        return NONE
    headroom = max(state.datagram_bytes, int(HEADROOM * bound))
    return max(bound - headroom, min_pipe_bytes(state))


def max_inflight_bytes(state: CongestionState, bbr: BbrState, gain: float) -> int:
    """UpdateMaxInflight (§5.6.4.2): `gain` times what the path holds, and the lumps in which ACKs
    come."""
    wanted = gain * bdp_bytes(state, bbr, rate(bbr))
    return quantized_bytes(state, bbr, wanted + (bbr.extra_acked[0] if bbr.extra_acked else 0))


# --- each ACK, in the draft's order -------------------------------------------------------------


def note_latest(bbr: BbrState, sample: Sample) -> None:
    """UpdateLatestDeliverySignals (§5.5.10.3)."""
    bbr.rate_latest = max(bbr.rate_latest, sample.rate)
    bbr.inflight_latest = max(bbr.inflight_latest, sample.delivered_bytes)
    if sample.prior_bytes >= bbr.loss_round_end_bytes:
        bbr.loss_round_end_bytes = bbr.delivered_bytes
        sample.loss_round_start = True


def advance_latest(bbr: BbrState, sample: Sample) -> None:
    """AdvanceLatestDeliverySignals (§5.5.10.3)."""
    if sample.loss_round_start:
        bbr.rate_latest = sample.rate
        bbr.inflight_latest = sample.delivered_bytes


def count_rounds(bbr: BbrState, sample: Sample) -> None:
    """UpdateRound (§5.5.1)."""
    if sample.prior_bytes >= bbr.round_end_bytes:
        start_round(bbr)
        bbr.round_count += 1
        bbr.rounds_since_probe += 1
        sample.round_start = True


def start_round(bbr: BbrState) -> None:
    bbr.round_end_bytes = bbr.delivered_bytes


def update_max_rate(bbr: BbrState, sample: Sample) -> None:
    """UpdateMaxBw (§5.5.5): a sample that the application has limited counts only as a higher
    one."""
    measured = sample.rate
    if measured > bbr.max_rates[1] and (not sample.app_limited or measured >= max_rate(bbr)):
        bbr.max_rates[1] = measured


def advance_max_rates(bbr: BbrState) -> None:
    """AdvanceMaxBwFilter (§5.5.6). A cycle without a sample does not count as one."""
    if bbr.max_rates[1]:
        bbr.max_rates = [bbr.max_rates[1], 0]


def update_aggregation(state: CongestionState, bbr: BbrState, sample: Sample) -> None:
    """UpdateACKAggregation (§5.5.9): how much more is acknowledged at once than the rate says."""
    expected = rate(bbr) * (sample.now_us - bbr.extra_acked_since_us)
    delivered = bbr.extra_acked_delivered
    if delivered <= expected:
        delivered = 0
        expected = 0
        bbr.extra_acked_since_us = sample.now_us
    delivered += sample.acked_bytes
    bbr.extra_acked_delivered = delivered
    extra = min(int(delivered - expected), state.window_bytes)
    # The largest of the last rounds first. What is smaller than a later one never counts again.
    kept = bbr.extra_acked
    while kept and kept[-2] <= extra:
        del kept[-2:]
    kept += (extra, bbr.round_count)
    # In startup only the round itself counts.
    rounds = EXTRA_ACKED_ROUNDS if bbr.full_reached else 1
    while kept[1] <= bbr.round_count - rounds:
        del kept[:2]


def update_min_rtt(bbr: BbrState, sample: Sample) -> bool:
    """UpdateMinRTT (§5.3.4.3). True when the round trip should be probed."""
    now_us = sample.now_us
    expired = now_us > bbr.probe_rtt_min_at_us + PROBE_RTT_INTERVAL_US
    rtt_us = sample.rtt_us
    shortest = bbr.probe_rtt_min_us
    if rtt_us and (shortest == NONE or rtt_us < shortest or expired):
        bbr.probe_rtt_min_us = shortest = rtt_us
        bbr.probe_rtt_min_at_us = now_us
    if shortest != NONE and (
        bbr.min_rtt_us == NONE
        or shortest < bbr.min_rtt_us
        or now_us > bbr.min_rtt_at_us + MIN_RTT_WINDOW_US
    ):
        bbr.min_rtt_us = shortest
        bbr.min_rtt_at_us = bbr.probe_rtt_min_at_us
    return expired


# --- losses -------------------------------------------------------------------------------------


def note_loss(bbr: BbrState) -> None:
    """NoteLoss (§5.5.10.2): a round of losses lasts from its first one for a round trip."""
    if not bbr.loss_in_round:
        bbr.loss_in_round = True
        bbr.loss_round_end_bytes = bbr.delivered_bytes


def lower_bounds(state: CongestionState, bbr: BbrState) -> None:
    """A round had losses, and we did not look for more: go by what it has delivered
    (InitLowerBounds and LossLowerBounds, §5.5.10.3).

    A marked packet is delivered, so a round with marks delivers what it would without them: then
    the bounds are cut as CUBIC cuts its window (§3.7, RFC 9438 §4.6).
    """
    bound = max_rate(bbr) if bbr.rate_shortterm == NONE else bbr.rate_shortterm
    marked = bbr.marked_in_round
    bbr.rate_shortterm = max(0 if marked else bbr.rate_latest, BETA * bound)
    inflight = state.window_bytes if bbr.inflight_shortterm == NONE else bbr.inflight_shortterm
    bbr.inflight_shortterm = max(0 if marked else bbr.inflight_latest, int(BETA * inflight))


def forget_shortterm(bbr: BbrState) -> None:
    """ResetShortTermModel (§5.5.10.3)."""
    bbr.rate_shortterm = NONE
    bbr.inflight_shortterm = NONE


def forget_congestion(bbr: BbrState) -> None:
    """ResetCongestionSignals (§5.5.10.3)."""
    bbr.loss_in_round = bbr.marked_in_round = False
    bbr.rate_latest = 0
    bbr.inflight_latest = 0
