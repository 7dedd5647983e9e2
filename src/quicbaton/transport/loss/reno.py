"""NewReno's congestion avoidance (RFC 9002 §7.3.3)."""

from __future__ import annotations

from quicbaton.transport.loss.loss_based import LossBased


class Reno(LossBased):
    """Grows by one datagram per round trip, and halves."""

    def _grow(self, acked_bytes: int, smoothed_rtt_us: int, now_us: int) -> None:
        """One datagram for each window acknowledged (RFC 9002 §7.3.3)."""
        state = self._state
        acked = state.acked_bytes + acked_bytes
        window = state.window_bytes
        if acked >= window:
            while acked >= window:
                acked -= window
                window += state.datagram_bytes
            state.window_bytes = window
        state.acked_bytes = acked

    def _cut(self) -> int:
        """RFC 9002 §7.3.2."""
        self._state.acked_bytes = 0
        return self._state.window_bytes // 2
