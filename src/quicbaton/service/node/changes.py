"""Waiting until the connections of a process have changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic

from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.endpoint.session import Session


class Changes(Observer):
    """Wakes the one task that waits here. An observer's event wakes it only if `matters()`: one
    look costs as much as a tenth of a handoff."""

    def __init__(self, matters: Callable[[], bool]) -> None:
        self._matters = matters
        self._changed = asyncio.Event()

    def note(self) -> None:
        """Another change, which the task has to look at."""
        self._changed.set()

    async def wait(self, until_s: float) -> None:
        """Return at a change since the last call, or at this time of the monotonic clock."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until_s - monotonic()):
                await self._changed.wait()
        self._changed.clear()

    def on_began(self, session: Session, *, is_new: bool) -> None:
        self._consider()

    def on_ended(self, session: Session) -> None:
        self._consider()

    def on_given(self, connection_id: bytes) -> None:
        self._consider()

    def on_settled(self) -> None:
        self._consider()

    def _consider(self) -> None:
        if self._matters():
            self._changed.set()
