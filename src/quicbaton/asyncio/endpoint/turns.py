"""The order of service: no connection keeps the others of its process waiting.

Theory of operation. A batch of datagrams comes grouped by owner. Each owner gets its share of them
processed at once, as long as the batch has not taken a turn's time; the others wait in line. The
owners in line take turns, and between two turns the event loop reads the socket. So an owner that
is not in line is served before them.

An owner's share is as many datagrams as fit a turn at the cost of its last ones. An upload's share
is larger than that of an owner whose cost is unknown, since larger batches are cheaper to serve. An
owner with a smaller share stands in line from the beginning, unless it is alone. A cost that rises
counts at once; it falls with each datagram that takes less. A new connection has to prove itself:
its first share is small. Bulk transfers do not pass the line either: hundreds of them are served in
the order in which their datagrams come, and end together.

So the wait of a connection that asks for little is about a turn, whatever the others send, and
costly connections share the remaining time among themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from time import perf_counter
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.limits import (
    BULK_SHARE_DATAGRAMS,
    MAX_SHARE_DATAGRAMS,
    MAX_WAITING_DATAGRAMS,
    MAX_WAITING_PER_OWNER,
    TURN_S,
)

#: How many cheap datagrams nearly make up for expensive ones: those of a page load.
_MEMORY_DATAGRAMS: Final = 8

#: A datagram of an owner that can have a full share takes no longer.
_ORDINARY_COST_S: Final = TURN_S / MAX_SHARE_DATAGRAMS

#: The least, however costly: a first flight of two datagrams is one step for its handshake.
_LEAST_DATAGRAMS: Final = 2

OwnerT = TypeVar("OwnerT", bound=Hashable)


class Turns(Generic[OwnerT]):
    """Calls `serve(owner, datagrams)` for one owner after the other, never for long, and
    `serve_late(datagrams)` for those of one owner that have waited. `is_bulk(owner)`: it sends or
    receives bulk data."""

    def __init__(
        self,
        serve: Callable[[OwnerT, list[Datagram]], None],
        serve_late: Callable[[list[Datagram]], None],
        is_bulk: Callable[[OwnerT], bool],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._serve = serve
        self._serve_late = serve_late
        self._is_bulk = is_bulk
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        #: The owners that wait, in the order in which they are served, with their datagrams.
        self._line: dict[OwnerT, deque[Datagram]] = {}
        #: Seconds per datagram, of owners that cannot have a full share, or can have a larger one.
        self._costs: WeakKeyDictionary[OwnerT, float] = WeakKeyDictionary()
        self._next: asyncio.Handle | None = None
        self._waiting = 0
        #: Datagrams for which there was no room in line: lost, as in any receive buffer that
        #: overflows.
        self.dropped = 0

    def __len__(self) -> int:
        """The number of datagrams that wait."""
        return self._waiting

    def holds(self, owner: OwnerT) -> bool:
        """Whether datagrams of the owner wait."""
        return owner in self._line

    def expect(self, owner: OwnerT, share: int) -> None:
        """`share` datagrams of the owner, which is new, may fill a turn."""
        self._costs[owner] = TURN_S / share

    def take(self, groups: dict[OwnerT, list[Datagram]]) -> None:
        """Serve owners, or have them stand in line."""
        # No other waits for the time that the share of a lone one takes.
        alone = len(groups) == 1 and not self._line
        until_s = 0.0 if alone else self._clock() + TURN_S
        for owner, group in groups.items():
            late = until_s and self._clock() > until_s
            share = self._share(owner)
            costly = share < MAX_SHARE_DATAGRAMS
            waits = owner in self._line or (costly and not alone)
            if late or waits or (self._line and self._is_bulk(owner)):
                self._stand_in_line(owner, group)
                continue
            if len(group) > share:
                self._stand_in_line(owner, group[share:])
                group = group[:share]  # noqa: PLW2901 - the rest is in line
            self._serve_timed(owner, group, late=False, costly=costly)

    def clear(self) -> None:
        """Serve no owner any more."""
        self._line.clear()
        self._waiting = 0
        if self._next is not None:
            self._next.cancel()
            self._next = None

    # --- helpers, in reading order --------------------------------------------------------------

    def _stand_in_line(self, owner: OwnerT, group: list[Datagram]) -> None:
        waiting = self._line.get(owner)
        if waiting is None:
            waiting = self._line[owner] = deque()
        room = min(MAX_WAITING_PER_OWNER, MAX_WAITING_DATAGRAMS // len(self._line)) - len(waiting)
        if len(group) > room:
            self.dropped += len(group) - max(0, room)
            group = group[: max(0, room)]
        waiting.extend(group)
        self._waiting += len(group)
        if self._next is None:
            self._next = self._loop.call_soon(self._serve_line)

    def _serve_line(self) -> None:
        """One turn: a share of each owner, in a circle as long as another is expected to fit."""
        self._next = None
        until_s = self._clock() + TURN_S
        expected_s = 0.0
        while self._line and self._clock() + expected_s <= until_s:
            owner = next(iter(self._line))
            waiting = self._line.pop(owner)
            group = [waiting.popleft() for _ in range(min(self._share(owner), len(waiting)))]
            self._waiting -= len(group)
            if waiting:
                self._line[owner] = waiting  # behind all others
            if group:
                expected_s = self._serve_timed(owner, group, late=True, costly=True)
        if self._line and self._next is None:
            self._next = self._loop.call_soon(self._serve_line)

    def _share(self, owner: OwnerT) -> int:
        """The number of datagrams of the owner that fill a turn."""
        if owner not in self._costs:
            return MAX_SHARE_DATAGRAMS
        fitting = int(TURN_S / self._costs[owner])
        return min(max(_LEAST_DATAGRAMS, fitting), BULK_SHARE_DATAGRAMS)

    def _serve_timed(
        self, owner: OwnerT, group: list[Datagram], *, late: bool, costly: bool
    ) -> float:
        """Serve datagrams. Returns the seconds that it took."""
        begun_s = self._clock()
        if late:
            self._serve_late(group)
        else:
            self._serve(owner, group)
        spent_s = self._clock() - begun_s
        if costly or spent_s > TURN_S or len(group) >= MAX_SHARE_DATAGRAMS:
            self._learn(owner, spent_s / len(group), len(group))
        return spent_s

    def _learn(self, owner: OwnerT, spent_s: float, count: int) -> None:
        """Learn an owner's cost: `count` datagrams have just taken `spent_s`."""
        if type(owner).__weakrefoffset__ == 0:
            return  # a sleeper's: it becomes a session by its first datagram
        cost_s = self._costs.get(owner, _ORDINARY_COST_S)
        if spent_s < cost_s:
            # Expensive ones are forgiven soon; a larger share has to be deserved in the long run.
            memory = _MEMORY_DATAGRAMS if cost_s > _ORDINARY_COST_S else BULK_SHARE_DATAGRAMS
            spent_s = cost_s + (spent_s - cost_s) * min(1.0, count / memory)
        if spent_s > _ORDINARY_COST_S or count >= MAX_SHARE_DATAGRAMS:
            self._costs[owner] = spent_s
        else:
            self._costs.pop(owner, None)
