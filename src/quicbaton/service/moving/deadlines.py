"""The times at which the handoffs of a process are to be looked at again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from time import monotonic
from typing import Final

from quicbaton.service.moving.handoff import Handoff

#: Deadlines are this coarse, so that many share a timer.
_GRAIN_US: Final = 50_000
#: A timer that fires this late shows that the process was stopped, or very busy.
_HELD_UP_US: Final = 100_000


class Deadlines:
    """Calls `due(handoffs)` with those whose time has come, a little later at most.

    A deadline that moves on costs nothing: the handoff is looked at when the earlier one was due,
    and again at the later one.
    """

    def __init__(self, due: Callable[[list[Handoff]], None]) -> None:
        self._due = due
        #: By the time at which they are looked at, in grains.
        self._buckets: dict[int, set[Handoff]] = {}
        self._bucket_of: dict[Handoff, int] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_bucket = 0
        #: The latest time at which handoffs were looked at.
        self._fired = 0
        self._waits_for_links = False

    def set(self, handoff: Handoff, due_us: int | None) -> None:
        """Look at the handoff at this time of the monotonic clock; None: not at all."""
        if due_us is None:
            self.drop(handoff)
            return
        bucket = due_us // _GRAIN_US + 1
        if bucket <= self._fired:
            bucket = self._fired + 1
        known = self._bucket_of.get(handoff)
        if known is not None:
            if known <= bucket:
                return
            self._buckets[known].discard(handoff)
        self._bucket_of[handoff] = bucket
        if bucket in self._buckets:
            self._buckets[bucket].add(handoff)
            return
        self._buckets[bucket] = {handoff}
        heappush(self._order, bucket)
        self._arm()

    def drop(self, handoff: Handoff) -> None:
        """Do not look at it any more."""
        bucket = self._bucket_of.pop(handoff, None)
        if bucket is not None:
            self._buckets[bucket].discard(handoff)

    def close(self) -> None:
        """Let no deadline pass any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- helpers --------------------------------------------------------------------------------

    def _arm(self) -> None:
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heappop(self._order)]
        if not self._order:
            self.close()
            return
        bucket = self._order[0]
        if self._timer is None or bucket < self._timer_bucket:
            self.close()
            delay_s = bucket * _GRAIN_US / 1e6 - monotonic()
            self._start(bucket, delay_s)

    def _start(self, bucket: int, delay_s: float) -> None:
        self._timer_bucket = bucket
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay_s), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now_us = round(monotonic() * 1e6)
        # Messages that the others sent while this process stood still come first: they were in
        # time. Once only, or a process that is always late would have no deadlines.
        late_us = now_us - self._timer_bucket * _GRAIN_US
        self._waits_for_links = not self._waits_for_links and late_us > _HELD_UP_US
        if self._waits_for_links:
            self._start(self._timer_bucket, _GRAIN_US / 1e6)
            return
        self._fired = now_us // _GRAIN_US
        due: list[Handoff] = []
        while self._order and self._order[0] <= self._fired:
            due += self._buckets.pop(heappop(self._order))
        for handoff in due:
            del self._bucket_of[handoff]
        self._due(due)
        self._arm()
