"""Waiting until something about the connections of a process has changed."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.endpoint.session import Session


class Changes(Observer):
    """Wakes the one task that waits here."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def note(self) -> None:
        """Something else has changed that the task is to look at."""
        self._changed.set()

    async def wait(self, until_s: float) -> None:
        """Return when something has changed since the last call, or at this time of the monotonic
        clock."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until_s - monotonic()):
                await self._changed.wait()
        self._changed.clear()

    def on_began(self, session: Session, *, is_new: bool) -> None:
        self.note()

    def on_ended(self, session: Session) -> None:
        self.note()

    def on_given(self, connection_id: bytes) -> None:
        self.note()

    def on_settled(self) -> None:
        self.note()
