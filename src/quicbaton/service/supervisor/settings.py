"""What a supervisor is given: its timeouts, and where it reports and keeps things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct


class Settings(Struct, frozen=True):
    """The supervisor's timeouts, in seconds."""

    #: For a new worker to become ready.
    health_timeout_s: float
    #: Without an answer, before a worker is killed.
    silent_s: float
    #: For all connections of one worker to move to the next.
    takeover_s: float
    #: For running requests when the service stops.
    grace_s: float


class Keeper(Protocol):
    """Keeps descriptors for the supervisor's successor: systemd's descriptor store, or nothing."""

    def keep(self, name: str, descriptor: int) -> None: ...
    def drop(self, name: str) -> None: ...


Say = Callable[..., None]
