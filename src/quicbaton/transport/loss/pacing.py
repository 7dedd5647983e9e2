"""Pacing: how many bytes may leave now (RFC 9002 §7.7).

A token bucket over `CongestionState`. It fills at N × window / smoothed RTT, or as fast as BBR
says. Its capacity is a compromise: the RFC wants bursts no longer than the initial window,
segmentation offload wants long trains (0.38 s of CPU for 90 MB in trains of 48, 0.51 in trains of
4), and a timer that fires late must not cost throughput. So the bucket holds two milliseconds of
the rate, and the initial window at least, and a wait is over while there is room for one more
millisecond: a timer may come that late without a token spilled. From 60 MB/s on a wait brings a
whole train of 44 packets.

Where timers come later still, since the process has other connections to serve, the bucket holds
what flows into it meanwhile, up to a train: the path has had that time to itself. 500 downloads at
once take half as many turns by that. After a pause of the program's there is nothing to make up
for.

Nothing here is called for a packet that carries only ACKs: those are not paced.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from quicbaton.limits import MAX_TRAIN_BYTES
from quicbaton.transport.state import NONE, CongestionState

#: RFC 9002 §6.2.2: the RTT assumed before the first sample.
INITIAL_RTT_US: Final = 333_000
#: N of RFC 9002 §7.7. Slow start doubles the window in a round trip, so it needs 2.
SLOW_START_GAIN: Final = 2.0
AVOIDANCE_GAIN: Final = 1.25
#: How much sending time the bucket holds.
BUCKET_US: Final = 2_000
#: How late a timer may fire for free: the event loop's resolution.
TIMER_SLACK_US: Final = 1_000


def initial_window_bytes(datagram_bytes: int) -> int:
    """The initial window, which is also the burst that any path must bear (RFC 9002 §7.2)."""
    return min(10 * datagram_bytes, max(14_720, 2 * datagram_bytes))


def rate_bytes_per_us(state: CongestionState, smoothed_rtt_us: int) -> float:
    """How fast the bucket fills."""
    bbr = state.bbr
    if bbr is not None and bbr.pacing_rate:
        return bbr.pacing_rate
    window = state.window_bytes
    threshold = state.threshold_bytes
    gain = SLOW_START_GAIN if threshold == NONE or window < threshold else AVOIDANCE_GAIN
    return gain * window / max(smoothed_rtt_us, 1)


def refill(state: CongestionState, smoothed_rtt_us: int, now_us: int, late_us: int = 0) -> int:
    """Credit the time since the last call; returns the whole bytes that may be sent, 0 or more.
    `late_us` is how late the end of a wait is noticed."""
    tokens = state.pacing_tokens_bytes
    elapsed_us = now_us - state.pacing_updated_us
    if elapsed_us > 0:
        rate = rate_bytes_per_us(state, smoothed_rtt_us)
        tokens = min(tokens + rate * elapsed_us, _capacity_bytes(state, rate, late_us))
        state.pacing_tokens_bytes = tokens
        state.pacing_updated_us = now_us
    return int(tokens) if tokens > 0 else 0


def ready_at_us(state: CongestionState, smoothed_rtt_us: int, want_bytes: int, now_us: int) -> int:
    """When to send `want_bytes`; `now_us` if that is now.

    The bucket may never hold so much: then it is when the bucket is as full as it is worth waiting
    for, which is half full at least and never less than five datagrams. So a caller that waits
    compares the time with now, not the budget with `want_bytes`.
    """
    rate = rate_bytes_per_us(state, smoothed_rtt_us)
    capacity = _capacity_bytes(state, rate, 0)
    elapsed_us = max(now_us - state.pacing_updated_us, 0)
    tokens = min(state.pacing_tokens_bytes + rate * elapsed_us, capacity)
    missing = min(want_bytes, capacity - rate * TIMER_SLACK_US) - tokens
    if missing <= 0:
        return now_us
    # A microsecond more than the division says: rounding must not wake the sender for nothing.
    return now_us + ceil(missing / rate) + 1


def _capacity_bytes(state: CongestionState, rate: float, late_us: int) -> int:
    # A whole number: a connection at rest, whose bucket is full, is six bytes smaller by that.
    capacity = max(initial_window_bytes(state.datagram_bytes), int(rate * BUCKET_US))
    if late_us and capacity < MAX_TRAIN_BYTES:
        return min(capacity + int(rate * late_us), MAX_TRAIN_BYTES)
    return capacity
