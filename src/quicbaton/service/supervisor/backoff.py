"""The wait before a worker that died is started again."""

from __future__ import annotations

from quicbaton.limits import RESTART_FIRST_S, RESTART_FORGIVEN_S, RESTART_MOST_S


class Backoff:
    """No wait after a healthy life; else twice as long each time, up to a bound."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def after(self, lived_s: float) -> float:
        """Seconds to wait after a process that was ready for `lived_s` (0: it never was)."""
        if lived_s >= RESTART_FORGIVEN_S:
            self._next_s = 0.0
        wait_s = self._next_s
        self._next_s = min(max(RESTART_FIRST_S, 2 * wait_s), RESTART_MOST_S)
        return wait_s
