"""HyStart++: leave slow start before the queue overflows (RFC 9406).

Slow start goes on while the threshold is unknown. A round trip that grows from round to round leads
to conservative slow start, and five rounds of that to congestion avoidance.
"""

from __future__ import annotations

from typing import Final

from quicbaton.transport.state import NONE, CongestionState

#: RFC 9406 §4.3. Its L, the cap on growth per ACK, is infinite for a sender that paces.
HYSTART_MIN_RTT_THRESHOLD_US: Final = 4_000
HYSTART_MAX_RTT_THRESHOLD_US: Final = 16_000
HYSTART_MIN_RTT_DIVISOR: Final = 8
HYSTART_RTT_SAMPLES: Final = 8
CSS_GROWTH_DIVISOR: Final = 4
CSS_ROUNDS: Final = 5


def observe(
    state: CongestionState, largest_number: int, next_number: int, latest_rtt_us: int
) -> None:
    """Watch for a round trip that grows from round to round (RFC 9406 §4.2)."""
    if largest_number >= state.hystart_round_end:
        # The RFC ends a round with the ACK for its last byte. One packet later is the first news
        # of the next round even if the whole flight was acknowledged before more was sent.
        _end_round(state, next_number)
    if latest_rtt_us <= 0:
        return
    samples = state.hystart_samples + 1
    state.hystart_samples = samples
    round_min = state.hystart_round_min_rtt_us
    if round_min == NONE or latest_rtt_us < round_min:
        state.hystart_round_min_rtt_us = round_min = latest_rtt_us
    if samples >= HYSTART_RTT_SAMPLES:
        _judge(state, round_min)


def _end_round(state: CongestionState, next_number: int) -> None:
    state.hystart_last_min_rtt_us = state.hystart_round_min_rtt_us
    state.hystart_round_min_rtt_us = NONE
    state.hystart_samples = 0
    state.hystart_round_end = next_number
    rounds = state.hystart_css_rounds
    if rounds == NONE:
        return
    # The round in which the rise was seen counts, although only part of it was conservative.
    if rounds + 1 < CSS_ROUNDS:
        state.hystart_css_rounds = rounds + 1
    else:
        state.hystart_css_rounds = NONE
        state.threshold_bytes = state.window_bytes


def _judge(state: CongestionState, round_min_us: int) -> None:
    if state.hystart_css_rounds != NONE:
        if round_min_us < state.hystart_css_baseline_us:
            # The rise was a passing one: slow start goes on.
            state.hystart_css_rounds = NONE
            state.hystart_css_baseline_us = NONE
        return
    last_us = state.hystart_last_min_rtt_us
    if last_us == NONE or state.app_limited:
        return  # a window that does not grow did not cause the delay
    threshold_us = max(
        HYSTART_MIN_RTT_THRESHOLD_US,
        min(last_us // HYSTART_MIN_RTT_DIVISOR, HYSTART_MAX_RTT_THRESHOLD_US),
    )
    if round_min_us >= last_us + threshold_us:
        state.hystart_css_rounds = 0
        state.hystart_css_baseline_us = round_min_us
