"""Congestion control: how many bytes may be in flight (RFC 9002 §7, RFC 9438, RFC 9406).

Two algorithms, NewReno and CUBIC, differ in how they grow the window in congestion avoidance and
how far a congestion event cuts it. The rest is common to both:

    slow start ── RTT rises (HyStart++) ──► conservative slow start ── 5 rounds ──► avoidance
        ▲  ▲                                   │                                      ▲
        │  └────────── RTT falls back ─────────┘       loss: window cut ──────────────┘
        └── persistent congestion: two datagrams          (from any of the three)

One call per ACK frame, however much it acknowledges, so everything that a textbook adds up packet
by packet is computed for all acknowledged bytes at once: one aggregated ACK grows the window as
the separate ones would have (within the datagram's rounding that Reno's counter keeps).

Bytes sent before a recovery period neither grow nor cut the window (RFC 9002 §7.3.2). An ACK
reports old and new bytes as one sum, so the old ones still in flight are counted when the period
begins (`recovery_flight_bytes`) and taken off first.

After a handoff nothing here needs to be told but the time (`on_resumed`): CUBIC's clock does not
run while nobody may send.
"""

from __future__ import annotations

from math import cbrt, expm1
from typing import Final, Literal

from quicbaton.errors import ConfigurationError, InternalError
from quicbaton.transport.loss import pacing
from quicbaton.transport.state import NEVER, NONE, CongestionState

#: RFC 9002 §7.2: the smallest window, in datagrams.
MINIMUM_WINDOW_DATAGRAMS: Final = 2

#: RFC 9438 §4.6: what a congestion event leaves of CUBIC's window.
CUBIC_BETA: Final = 0.7
#: RFC 9438 §4.1, §5.1: aggressiveness, in segments per cubic second.
CUBIC_C: Final = 0.4
#: RFC 9438 §4.3: Reno's increase per round trip, scaled for a cut to 0.7 instead of 0.5.
CUBIC_ALPHA: Final = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA)
#: RFC 9438 §4.2: t must not include long periods without growth. ACKs of a busy sender come at
#: least every round trip. Time beyond two round trips, and beyond this much for scheduling on very
#: short paths, was a pause.
CUBIC_LONGEST_STEP_US: Final = 100_000

#: RFC 9406 §4.3. Its L, the cap on growth per ACK, is infinite for a sender that paces.
HYSTART_MIN_RTT_THRESHOLD_US: Final = 4_000
HYSTART_MAX_RTT_THRESHOLD_US: Final = 16_000
HYSTART_MIN_RTT_DIVISOR: Final = 8
HYSTART_RTT_SAMPLES: Final = 8
CSS_GROWTH_DIVISOR: Final = 4
CSS_ROUNDS: Final = 5

_ALGORITHMS: Final[dict[str, Literal["reno", "cubic"]]] = {"reno": "reno", "cubic": "cubic"}


def initial(algorithm: str, datagram_bytes: int, now_us: int) -> CongestionState:
    """The state of an unknown path; `algorithm` is "cubic" or "reno".

    Raises ConfigurationError for another algorithm.
    """
    known = _ALGORITHMS.get(algorithm)
    if known is None:
        raise ConfigurationError(
            f"congestion control must be one of {', '.join(_ALGORITHMS)}, not {algorithm!r}"
        )
    window = pacing.initial_window_bytes(datagram_bytes)
    return CongestionState(
        algorithm=known,
        window_bytes=window,
        threshold_bytes=NONE,
        in_flight_bytes=0,
        abandoned_bytes=0,
        datagram_bytes=datagram_bytes,
        app_limited=False,
        recovery_started_us=NEVER,
        recovery_flight_bytes=0,
        acked_bytes=0,
        cubic_window_max=0,
        cubic_prior_window=0,
        cubic_k_s=0,
        cubic_elapsed_us=0,
        cubic_updated_us=NEVER,
        cubic_reno_window=0,
        cubic_carry=0,
        hystart_round_end=NONE,
        hystart_last_min_rtt_us=NONE,
        hystart_round_min_rtt_us=NONE,
        hystart_samples=0,
        hystart_css_rounds=NONE,
        hystart_css_baseline_us=NONE,
        pacing_tokens_bytes=window,
        pacing_updated_us=now_us,
    )


class CongestionController:
    """Drives a `CongestionState`. It holds nothing of its own: the state is all there is."""

    def __init__(self, state: CongestionState) -> None:
        self._state = state

    # --- getters --------------------------------------------------------------------------------

    def room_bytes(self) -> int:
        """How much more may be in flight. PTO probes may exceed it (RFC 9002 §7.5)."""
        state = self._state
        room = state.window_bytes - state.in_flight_bytes
        return room if room > 0 else 0

    @property
    def app_limited(self) -> bool:
        """The sender had nothing to send, or no flow control credit, with room in the window.

        Waiting for the pacer is not that (RFC 9002 §7.8).
        """
        return self._state.app_limited

    @app_limited.setter
    def app_limited(self, limited: bool) -> None:
        state = self._state
        if state.app_limited != limited:  # a read is four times cheaper than a write
            state.app_limited = limited

    # --- the sender -----------------------------------------------------------------------------

    def on_sent(self, size_bytes: int, next_number: int) -> None:
        """`size_bytes` that count as in flight were sent: a packet, or a whole train.

        They are charged to the pacer too. No algorithm here needs `next_number`.
        """
        state = self._state
        state.in_flight_bytes += size_bytes
        state.pacing_tokens_bytes -= size_bytes

    def pacing_budget_bytes(self, smoothed_rtt_us: int, now_us: int) -> int:
        """How much the pacer lets go now (RFC 9002 §7.7)."""
        return pacing.refill(self._state, smoothed_rtt_us, now_us)

    def pacing_ready_at_us(self, smoothed_rtt_us: int, want_bytes: int, now_us: int) -> int:
        """When to send `want_bytes`, or what the bucket holds if it is less; `now_us`: at once.

        Compare the time with now: a budget below `want_bytes` may be all there ever is.
        """
        return pacing.ready_at_us(self._state, smoothed_rtt_us, want_bytes, now_us)

    # --- loss detection -------------------------------------------------------------------------

    def on_acked(
        self,
        acked_bytes: int,
        newest_sent_at_us: int,
        largest_number: int,
        next_number: int,
        latest_rtt_us: int,
        smoothed_rtt_us: int,
        min_rtt_us: int,
        now_us: int,
    ) -> None:
        """An ACK frame newly acknowledged `acked_bytes` that were in flight, all told.

        `newest_sent_at_us` is when the newest of them was sent, `next_number` the next packet
        number to be sent, `latest_rtt_us` 0 or less where there is no sample. No algorithm here
        needs `min_rtt_us`: HyStart++ keeps the minimum of each round itself.
        """
        state = self._state
        in_flight = state.in_flight_bytes - acked_bytes
        if in_flight < 0:
            # A path was left and returned to: some of these count as abandoned.
            self._take_abandoned(-in_flight)
            in_flight = 0
        state.in_flight_bytes = in_flight

        older = state.recovery_flight_bytes
        if older:
            spent = min(older, acked_bytes)
            state.recovery_flight_bytes = older - spent
            acked_bytes -= spent
        if newest_sent_at_us < state.recovery_started_us or not acked_bytes:
            return

        if state.threshold_bytes == NONE:
            _hystart_observe(state, largest_number, next_number, latest_rtt_us)
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
        if state.algorithm == "cubic":
            _grow_cubic(state, acked_bytes, smoothed_rtt_us, now_us)
        else:
            _grow_reno(state, acked_bytes)

    def on_lost(self, lost_bytes: int, newest_lost_sent_at_us: int, now_us: int) -> None:
        """`lost_bytes` were lost, the newest of them sent at `newest_lost_sent_at_us`.

        Cuts the window once per recovery period (RFC 9002 §7.3.2). With 0 bytes it is the
        response to an increase of the ECN-CE count (§7.1).
        """
        state = self._state
        in_flight = state.in_flight_bytes - lost_bytes
        if in_flight < 0:
            self._take_abandoned(-in_flight)
            in_flight = 0
        state.in_flight_bytes = in_flight
        # Appendix B.5 counts a packet sent in the very instant that recovery began as old. Our
        # clock stands still during a turn, so that instant is when the first packets of the
        # period are sent: they count as new.
        if newest_lost_sent_at_us < state.recovery_started_us:
            state.recovery_flight_bytes = max(state.recovery_flight_bytes - lost_bytes, 0)
            return
        _cut_window(state)
        state.recovery_started_us = now_us
        state.recovery_flight_bytes = in_flight

    def on_persistent_congestion(self, now_us: int) -> None:
        """Nothing got through for long: start over from the minimum window (RFC 9002 §7.6.2)."""
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
        # A bucket filled for the old window would burst into a path that just failed.
        state.pacing_tokens_bytes = min(state.pacing_tokens_bytes, state.window_bytes)
        state.pacing_updated_us = now_us

    def on_discarded(self, size_bytes: int) -> None:
        """`size_bytes` left the flight without a verdict: a lost MTU probe (RFC 9000 §14.4), or
        packets of a path that is not in use any more."""
        state = self._state
        from_abandoned = min(state.abandoned_bytes, size_bytes)
        if from_abandoned:
            state.abandoned_bytes -= from_abandoned
            size_bytes -= from_abandoned
        in_flight = state.in_flight_bytes - size_bytes
        if in_flight < 0:
            raise _ledger_error(-in_flight)
        state.in_flight_bytes = in_flight
        state.recovery_flight_bytes = min(state.recovery_flight_bytes, in_flight)

    # --- the path -------------------------------------------------------------------------------

    def on_path_change(self, datagram_bytes: int, now_us: int, under_way_bytes: int = 0) -> None:
        """The connection uses another path: start over (RFC 9000 §9.4).

        `under_way_bytes` are in flight on that path, which was in use before: they take up room in
        its window. Bytes in flight on others have no part in it. They must still be reported, each
        byte once: with `on_discarded`, or as acked or lost when their path came back.
        """
        state = self._state
        fresh = initial(state.algorithm, datagram_bytes, now_us)
        fresh.in_flight_bytes = under_way_bytes
        fresh.abandoned_bytes = state.abandoned_bytes + state.in_flight_bytes - under_way_bytes
        fresh.recovery_started_us = now_us
        # In place: other parts hold the same state.
        for field in CongestionState.__struct_fields__:
            setattr(state, field, getattr(fresh, field))

    def set_datagram_bytes(self, datagram_bytes: int) -> None:
        """MTU discovery found that the path carries datagrams of this size (RFC 9002 §7.2)."""
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
        """Another process took over: the time in transit moves no curve.

        It does fill the pacer's bucket, as any pause does, to two milliseconds' worth at most: the
        client has been waiting.
        """
        state = self._state
        if state.cubic_updated_us != NEVER:
            state.cubic_updated_us = now_us

    def on_other_host(self, now_us: int) -> None:
        """Datagrams leave from another host now. The window stays, for the client's own link is
        most often the narrow one. The burst that any path must bear goes at once, since the client
        has been waiting, and the rest at its pace over a round trip (RFC 9002 §7.7).
        """
        state = self._state
        state.pacing_tokens_bytes = pacing.initial_window_bytes(state.datagram_bytes)
        state.pacing_updated_us = now_us

    # --- helpers, in reading order --------------------------------------------------------------

    def _take_abandoned(self, size_bytes: int) -> None:
        state = self._state
        if size_bytes > state.abandoned_bytes:
            raise _ledger_error(size_bytes - state.abandoned_bytes)
        state.abandoned_bytes -= size_bytes


def _ledger_error(excess_bytes: int) -> InternalError:
    return InternalError(
        f"{excess_bytes} bytes more left the flight than were sent: "
        "a packet was reported twice, or never counted"
    )


def _grow_in_slow_start(state: CongestionState, acked_bytes: int) -> int:
    """Grow by what was acknowledged (RFC 9002 §7.3.1); returns what is left at the threshold."""
    threshold = state.threshold_bytes
    if threshold == NONE:
        if state.hystart_css_rounds != NONE:
            acked_bytes //= CSS_GROWTH_DIVISOR
        state.window_bytes += acked_bytes
        return 0
    growth = min(acked_bytes, threshold - state.window_bytes)
    state.window_bytes += growth
    return acked_bytes - growth


def _grow_reno(state: CongestionState, acked_bytes: int) -> None:
    """One datagram for each window acknowledged (RFC 9002 §7.3.3)."""
    acked = state.acked_bytes + acked_bytes
    window = state.window_bytes
    if acked >= window:
        while acked >= window:
            acked -= window
            window += state.datagram_bytes
        state.window_bytes = window
    state.acked_bytes = acked


def _grow_cubic(
    state: CongestionState, acked_bytes: int, smoothed_rtt_us: int, now_us: int
) -> None:
    """Follow the cubic curve, or Reno's line where that is above it (RFC 9438 §4.2 to §4.5)."""
    if state.cubic_updated_us == NEVER:
        _begin_epoch(state)
        elapsed_us = 0
    else:
        step_us = max(now_us - state.cubic_updated_us, 0)
        elapsed_us = state.cubic_elapsed_us + min(
            step_us, max(2 * smoothed_rtt_us, CUBIC_LONGEST_STEP_US)
        )
    state.cubic_elapsed_us = elapsed_us
    state.cubic_updated_us = now_us

    datagram = state.datagram_bytes
    window = state.window_bytes + state.cubic_carry
    reno = state.cubic_reno_window
    alpha = 1.0 if reno >= state.cubic_prior_window else CUBIC_ALPHA
    reno += alpha * datagram * acked_bytes / window
    state.cubic_reno_window = reno

    past_k_s = elapsed_us / 1_000_000 - state.cubic_k_s
    w_max = state.cubic_window_max
    if CUBIC_C * datagram * past_k_s**3 + w_max < reno:
        grown = max(window, reno)
    else:
        ahead_s = past_k_s + smoothed_rtt_us / 1_000_000
        target = min(CUBIC_C * datagram * ahead_s**3 + w_max, 1.5 * window)
        # Each datagram acknowledged moves the window by (target - window) / window datagrams.
        # Summed over all that this ACK acknowledges, that closes the gap exponentially.
        grown = window - max(target - window, 0.0) * expm1(-acked_bytes / window)
    whole = int(grown)
    state.window_bytes = whole
    state.cubic_carry = grown - whole


def _begin_epoch(state: CongestionState) -> None:
    """A stage of congestion avoidance begins with the window as it is (RFC 9438 §4.2)."""
    window = state.window_bytes
    gap = state.cubic_window_max - window
    if gap > 0:
        state.cubic_k_s = cbrt(gap / (CUBIC_C * state.datagram_bytes))
    else:
        # §4.8, §4.10: no loss told us where the limit is, or the window is beyond it already.
        state.cubic_k_s = 0
        state.cubic_window_max = float(window)
    state.cubic_reno_window = float(window)


def _cut_window(state: CongestionState) -> None:
    """The response to congestion (RFC 9002 §7.3.2, RFC 9438 §4.6 and §4.7)."""
    window = state.window_bytes
    if state.algorithm == "cubic":
        # Fast convergence: a window that did not get back to W_max makes room for others.
        shrinking = window < state.cubic_window_max
        state.cubic_window_max = window * (1 + CUBIC_BETA) / 2 if shrinking else float(window)
        state.cubic_prior_window = window
        state.cubic_updated_us = NEVER  # the next epoch begins with the first ACK after recovery
        state.cubic_carry = 0
        window = int(window * CUBIC_BETA)
    else:
        state.acked_bytes = 0
        window //= 2
    window = max(window, MINIMUM_WINDOW_DATAGRAMS * state.datagram_bytes)
    state.window_bytes = window
    state.threshold_bytes = window
    state.hystart_css_rounds = NONE


def _hystart_observe(
    state: CongestionState, largest_number: int, next_number: int, latest_rtt_us: int
) -> None:
    """Watch for a round trip that grows from round to round (RFC 9406 §4.2)."""
    if largest_number >= state.hystart_round_end:
        # The RFC ends a round with the ACK for its last byte. One packet later is the first news
        # of the next round even if the whole flight was acknowledged before more was sent.
        _hystart_end_round(state, next_number)
    if latest_rtt_us <= 0:
        return
    samples = state.hystart_samples + 1
    state.hystart_samples = samples
    round_min = state.hystart_round_min_rtt_us
    if round_min == NONE or latest_rtt_us < round_min:
        state.hystart_round_min_rtt_us = round_min = latest_rtt_us
    if samples >= HYSTART_RTT_SAMPLES:
        _hystart_judge(state, round_min)


def _hystart_end_round(state: CongestionState, next_number: int) -> None:
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


def _hystart_judge(state: CongestionState, round_min_us: int) -> None:
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
