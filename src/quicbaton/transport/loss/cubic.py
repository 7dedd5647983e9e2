"""CUBIC's congestion avoidance (RFC 9438)."""

from __future__ import annotations

from math import cbrt, expm1
from typing import Final

from quicbaton.transport.loss.loss_based import LossBased
from quicbaton.transport.state import NEVER, CongestionState

#: RFC 9438 §4.6: what a congestion event leaves of the window.
CUBIC_BETA: Final = 0.7
#: RFC 9438 §4.1, §5.1: aggressiveness, in segments per cubic second.
CUBIC_C: Final = 0.4
#: RFC 9438 §4.3: Reno's increase per round trip, scaled for a cut to 0.7 instead of 0.5.
CUBIC_ALPHA: Final = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA)
#: RFC 9438 §4.2: t must not include long periods without growth. ACKs of a busy sender come at
#: least every round trip. Time beyond two round trips, and beyond this much for scheduling on very
#: short paths, was a pause.
CUBIC_LONGEST_STEP_US: Final = 100_000


class Cubic(LossBased):
    """Grows along a cubic curve of time towards the window of the last loss, and beyond."""

    def _grow(self, acked_bytes: int, smoothed_rtt_us: int, now_us: int) -> None:
        """Follow the curve, or Reno's line where that is above it (RFC 9438 §4.2 to §4.5)."""
        state = self._state
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

    def _cut(self) -> int:
        """RFC 9438 §4.6 and §4.7."""
        state = self._state
        window = state.window_bytes
        # Fast convergence: a window that did not get back to W_max makes room for others.
        shrinking = window < state.cubic_window_max
        state.cubic_window_max = window * (1 + CUBIC_BETA) / 2 if shrinking else float(window)
        state.cubic_prior_window = window
        state.cubic_updated_us = NEVER  # the next epoch begins with the first ACK after recovery
        state.cubic_carry = 0
        return int(window * CUBIC_BETA)


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
