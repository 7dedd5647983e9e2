"""How late an event loop calls its timers: next to never where it is idle, by all that others have
to do where hundreds of connections are busy."""

from __future__ import annotations

from typing import Final

#: The part of a new observation in the estimate.
_GAIN: Final = 1 / 8
#: A process that was stopped for longer is not busy for as long.
_MOST_S: Final = 0.1


class Lateness:
    """An estimate from the timers of all connections of a process."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def note(self, late_s: float) -> None:
        """A timer came so late."""
        self.seconds += (min(max(late_s, 0.0), _MOST_S) - self.seconds) * _GAIN
