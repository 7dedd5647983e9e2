"""Keeps and drives the handoff machines of one process, by the contract of `quicbaton.handoff`.

Machines are kept apart: what one of them refuses is not another's business, and what one event
brings about is handled after all its effects were performed.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from quicbaton.errors import QuicbatonError, RefusedError
from quicbaton.handoff import HandoffDestination, HandoffSource, Outcome, SourceState, Waits
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.shared_destination import SharedDestination
from quicbaton.handoff.shared_source import SharedSource
from quicbaton.ownership import Ledger

#: How often deadlines of handoffs are looked at.
_TICK_S: Final = 0.05
#: A look that comes so late shows that this process was stopped, or very busy.
_HELD_UP_US: Final = 100_000

Machine = HandoffSource | HandoffDestination


class Report(NamedTuple):
    """How a handoff ended, for whoever asked for it."""

    outcome: Outcome
    code: str
    message: str


class Member(NamedTuple):
    """What makes this process one of those that use a shared ownership store."""

    store_id: bytes
    #: Drawn at its start.
    incarnation: bytes


class Machines:
    """Sources by connection id, destinations by handoff id.

    `perform` gets their effects one by one and must not raise; `on_refused` is told what a machine
    would not take; `on_forgotten` is called with each machine that has ended.
    """

    def __init__(
        self,
        ledger: Ledger,
        waits: Waits,
        formats: tuple[int, ...],
        *,
        perform: Callable[[Machine, fx.Effect], None],
        on_refused: Callable[[Machine, ev.Event, QuicbatonError], None],
        on_forgotten: Callable[[Machine], None],
        member: Member | None = None,
    ) -> None:
        self._ledger = ledger
        self._member = member
        self._waits = waits
        self._formats = frozenset(formats)
        self._perform = perform
        self._on_refused = on_refused
        self._on_forgotten = on_forgotten
        self._loop = asyncio.get_running_loop()
        self.sources: dict[bytes, HandoffSource] = {}
        self.destinations: dict[bytes, HandoffDestination] = {}
        #: The process at a machine's other end, where there is one.
        self.pids: dict[Machine, int] = {}
        self._waiters: dict[Machine, asyncio.Future[Report]] = {}
        self._inbox: deque[tuple[Machine, ev.Event]] = deque()
        self._busy = False
        self._tick: asyncio.TimerHandle | None = None
        self._tick_at_us = 0
        self._waits_for_links = False

    def new_source(
        self, connection_id: bytes, pid: int | None = None, *, shared: bool = False
    ) -> HandoffSource:
        """Begin to give a connection away, by the shared store or by ourselves.

        RefusedError (`busy`) while that is under way already, since only the machine of a frozen
        connection may commit it.
        """
        known = self.sources.get(connection_id)
        if known is not None:
            if not known.ended:
                raise RefusedError("a handoff of this connection is under way already", code="busy")
            self._forget(known)
        machine = self._make_source(connection_id, os.urandom(16), shared=shared)
        self.sources[connection_id] = machine
        self._add(machine, pid)
        return machine

    def new_destination(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        pid: int | None = None,
        name: str = "",
        *,
        can_send: bool = True,
        shared: bool = False,
    ) -> HandoffDestination:
        """Begin to take a connection over; `name` is what its source knows us by. `can_send`:
        whether we can send from where its client talks to. `shared`: a shared store decides."""
        known = self.destinations.get(handoff_id)
        if known is not None:
            self._forget(known)
        machine: HandoffDestination
        if shared and self._member is not None:
            machine = SharedDestination(
                connection_id,
                handoff_id,
                self._ledger,
                incarnation=self._member.incarnation,
                store_id=self._member.store_id,
                name=name,
                formats=self._formats,
                can_send=can_send,
                waits=self._waits,
            )
        else:
            machine = HandoffDestination(
                connection_id,
                handoff_id,
                self._ledger,
                name=name,
                formats=self._formats,
                can_send=can_send,
                waits=self._waits,
            )
        self.destinations[handoff_id] = machine
        self._add(machine, pid)
        return machine

    def all(self) -> list[Machine]:
        return [*self.sources.values(), *self.destinations.values()]

    def of_process(self, pid: int) -> list[Machine]:
        """Machines whose other end is that process, and that have begun to talk to it."""
        return [
            machine
            for machine in self.all()
            if self.pids.get(machine) == pid and machine.state is not SourceState.IDLE
        ]

    def feed(self, machine: Machine, event: ev.Event) -> None:
        """Give a machine an event; what its effects bring about waits until they are done."""
        self._inbox.append((machine, event))
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                self._handle(*self._inbox.popleft())
        finally:
            self._busy = False

    def wait_for(self, machine: Machine) -> asyncio.Future[Report]:
        """How its handoff ends, when it has."""
        waiter: asyncio.Future[Report] = self._loop.create_future()
        self._waiters[machine] = waiter
        return waiter

    def finish(self, machine: Machine, report: Report) -> None:
        """Tell whoever waits for it."""
        waiter = self._waiters.pop(machine, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(report)

    def close(self) -> None:
        """Let no deadline pass any more."""
        if self._tick is not None:
            self._tick.cancel()

    # --- helpers --------------------------------------------------------------------------------

    def _make_source(
        self, connection_id: bytes, handoff_id: bytes, *, shared: bool
    ) -> HandoffSource:
        if not shared or self._member is None:
            return HandoffSource(connection_id, handoff_id, self._ledger, waits=self._waits)
        return SharedSource(
            connection_id,
            handoff_id,
            self._ledger,
            incarnation=self._member.incarnation,
            store_id=self._member.store_id,
            waits=self._waits,
        )

    def _add(self, machine: Machine, pid: int | None) -> None:
        if pid is not None:
            self.pids[machine] = pid
        if self._tick is None:
            self._schedule()

    def _handle(self, machine: Machine, event: ev.Event) -> None:
        now_us = round(monotonic() * 1e6)
        if (
            machine.state is SourceState.FROZEN
            and _is_late(machine, now_us)
            and not isinstance(event, ev.StrayArrived)  # it waits for the thaw like those before
        ):
            # This process was held up: the destination is discarding, or about to. To commit now
            # would give the connection to nobody.
            self._take(machine, ev.DeadlinePassed(), now_us)
        if not isinstance(event, ev.DeadlinePassed) or _is_late(machine, now_us):
            self._take(machine, event, now_us)

    def _take(self, machine: Machine, event: ev.Event, now_us: int) -> None:
        try:
            effects = machine.handle(event, now_us)
        except QuicbatonError as error:
            # Nothing has changed.
            self._on_refused(machine, event, error)
            return
        for effect in effects:
            self._perform(machine, effect)

    def _on_tick(self) -> None:
        now_us = round(monotonic() * 1e6)
        # What the others sent while this process stood still comes first: it was in time. Once,
        # or a process that is always late would have no deadlines.
        self._waits_for_links = (
            not self._waits_for_links and now_us - self._tick_at_us > _HELD_UP_US
        )
        if not self._waits_for_links:
            for machine in self.all():
                if _is_late(machine, now_us):
                    self.feed(machine, ev.DeadlinePassed())
        for machine in self.all():
            if machine.ended:
                self._forget(machine)
        self._ledger.expire(now_us)
        self._tick = None
        if self.sources or self.destinations:
            self._schedule()

    def _schedule(self) -> None:
        self._tick = self._loop.call_later(_TICK_S, self._on_tick)
        self._tick_at_us = round((monotonic() + _TICK_S) * 1e6)

    def _forget(self, machine: Machine) -> None:
        if isinstance(machine, HandoffSource):
            del self.sources[machine.connection_id]
        else:
            del self.destinations[machine.handoff_id]
        self.pids.pop(machine, None)
        self._on_forgotten(machine)


def _is_late(machine: Machine, now_us: int) -> bool:
    deadline_us = machine.get_timer()
    return deadline_us is not None and now_us >= deadline_us
