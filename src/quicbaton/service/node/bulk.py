"""Moving many connections of this process to others: a drain, a share of them, newcomers.

Each connection has a handoff of its own, and a bounded number runs at a time. So the time for which
one connection stands still does not grow with the number that moves. A connection that cannot move
now (its client has not cut over, its request runs) is tried again until the deadline. One that can
never move there is left and named. Each gets its turn, however many there are: the deadline is for
those that wait, not for the number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from math import inf
from time import monotonic
from typing import Final

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.errors import CallerError, QuicbatonError, RefusedError
from quicbaton.handoff import Outcome
from quicbaton.limits import DOZE_AFTER_S, MAX_CONCURRENT_HANDOFFS, MAX_DRAIN_SAMPLES
from quicbaton.reasons import Reason
from quicbaton.service.moving.handoff import HandoffResult
from quicbaton.service.moving.registry import HandoffRegistry
from quicbaton.service.peers.link import Link
from quicbaton.service.timing import RETRY_S, STALLED_S

_MAX_EXAMPLES: Final = 20


class OwnConnections:
    """The connections of a process, for code that moves many of them."""

    def __init__(self, endpoint: Endpoint, handoffs: HandoffRegistry) -> None:
        self._endpoint = endpoint
        self._handoffs = handoffs

    def names(self) -> list[bytes]:
        """The names of all connections, asleep or not."""
        return self._endpoint.names()

    def has(self, name: bytes) -> bool:
        """Whether the connection is here."""
        return self._endpoint.has(name)

    def hand_over(self, name: bytes, link: Link, *, proxy: bool) -> asyncio.Future[HandoffResult]:
        """Hand a connection over. RefusedError (`closed`) when it is no longer here."""
        session = self._endpoint.session_of(name)
        if session is None:
            raise RefusedError("it was closed", code=Reason.CLOSED)
        return self._handoffs.hand_over(session, link, proxy=proxy)

    @contextmanager
    def kept_awake(self) -> Iterator[None]:
        """Meanwhile none begins to doze: to pack a connection that leaves soon is work for
        nothing."""
        self._endpoint.doze_after_s = inf
        try:
            yield
        finally:
            self._endpoint.doze_after_s = DOZE_AFTER_S


class BulkHandoff:
    """Moves connections to `destinations` in turn. `on_done` is called whenever no connection is
    left that may still move."""

    def __init__(
        self,
        connections: OwnConnections,
        link_to: Callable[[str], Awaitable[Link]],
        destinations: Sequence[str],
        *,
        proxy: bool,
        on_done: Callable[[], None],
    ) -> None:
        if not destinations:
            raise CallerError(
                "name at least one process that gets the connections", code=Reason.NO_TO
            )
        self._connections = connections
        self._link_to = link_to
        self._destinations = cycle(destinations)
        self._proxy = proxy
        self._on_done = on_done
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._queued: set[bytes] = set()
        #: Connections that were to move from the beginning and have not had their turn.
        self._untried: set[bytes] = set()
        self._progress_at_s = monotonic()
        #: Connections that could not move. Some are tried again.
        self._resting: set[bytes] = set()
        #: Why a connection could not move at its last try.
        self._reasons: dict[bytes, HandoffResult] = {}
        #: The number of these reasons that are final.
        self._final = 0
        self._over = False
        self.moved = 0
        self.proxied = 0
        self.blackouts_us: list[int] = []

    @property
    def left(self) -> int:
        """The number of connections that were to move and have not so far."""
        return len(self._queued) + len(self._resting)

    @property
    def waiting(self) -> int:
        """The number of these that may still move."""
        return self.left - self._final

    def begin(self, names: Iterable[bytes]) -> None:
        """Move these. Each is tried, even after the deadline."""
        names = list(names)
        self._untried.update(names)
        self.add(names)

    def is_due(self, deadline_s: float) -> bool:
        """Whether time is up: the deadline, by the monotonic clock, has passed, and every
        connection had a turn or none moves any more."""
        now_s = monotonic()
        is_moving = bool(self._untried) and now_s < self._progress_at_s + STALLED_S
        return now_s >= deadline_s and not is_moving

    def add(self, names: Iterable[bytes]) -> None:
        """Move these connections, too, except those that wait or rest already."""
        for name in names:
            if name not in self._queued and name not in self._resting:
                self._queued.add(name)
                self._queue.put_nowait(name)

    def begin_no_more(self) -> None:
        """Let handoffs under way come to their end, and begin no others."""
        self._over = True

    async def work(self) -> None:
        """Move the added connections, for ever. Cancel it to end."""
        with self._connections.kept_awake():
            async with asyncio.TaskGroup() as group:
                for _ in range(MAX_CONCURRENT_HANDOFFS):
                    group.create_task(self._move_from_queue())

    @property
    def kept(self) -> Mapping[bytes, HandoffResult]:
        """Connections that could not move, with the reason of their last completed try."""
        return self._reasons

    def refused(self) -> Counter[str]:
        """The number of connections that were kept, by the reason of their last try."""
        return Counter(report.code.value for report in self._reasons.values())

    def examples(self) -> list[str]:
        """A few of these, by name."""
        kept = list(self._reasons.items())[:_MAX_EXAMPLES]
        return [f"{name.hex()}: {report.message}" for name, report in kept]

    # --- helpers --------------------------------------------------------------------------------

    async def _move_from_queue(self) -> None:
        while True:
            name = await self._queue.get()
            if self._over:
                continue
            report = await self._move(name)
            self._queued.discard(name)
            self._untried.discard(name)
            self._forget_reason(name)
            if report.outcome is Outcome.GIVEN:
                self._count(report)
            elif report.code is not Reason.CLOSED:
                self._resting.add(name)
                self._reasons[name] = report
                if report.code.is_final:
                    self._final += 1
                else:
                    asyncio.get_running_loop().call_later(RETRY_S, self._try_again, name)
            self._tell_if_done()

    async def _move(self, name: bytes) -> HandoffResult:
        try:
            link = await self._link_to(next(self._destinations))
            return await self._connections.hand_over(name, link, proxy=self._proxy)
        except QuicbatonError as error:
            return HandoffResult(Outcome.KEPT, error.code, str(error))

    def _count(self, report: HandoffResult) -> None:
        self._progress_at_s = monotonic()
        if report.code is Reason.PROXIED:
            self.proxied += 1
        else:
            self.moved += 1

    def note_blackout(self, blackout_us: int) -> None:
        """A destination has reported how long a connection stood still."""
        if len(self.blackouts_us) < MAX_DRAIN_SAMPLES:
            self.blackouts_us.append(blackout_us)

    def _try_again(self, name: bytes) -> None:
        self._resting.discard(name)
        if self._connections.has(name):
            self.add([name])
        else:
            self._forget_reason(name)
        self._tell_if_done()

    def _tell_if_done(self) -> None:
        if not self.waiting:
            self._on_done()

    def _forget_reason(self, name: bytes) -> None:
        report = self._reasons.pop(name, None)
        if report is not None and report.code.is_final:
            self._final -= 1
