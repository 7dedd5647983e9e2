"""One process's part in a shared ownership store, with real machines and stores that fail."""

import asyncio
from collections.abc import Callable
from time import monotonic
from types import SimpleNamespace
from typing import Any

from quicbaton.asyncio.moving.arrivals import Arrivals
from quicbaton.asyncio.moving.machines import Machine, Machines
from quicbaton.asyncio.moving.shared import SharedOwners
from quicbaton.asyncio.stores import MemoryStore
from quicbaton.handoff import Outcome, SourceState, Waits
from quicbaton.handoff import effects as fx
from quicbaton.handoff.events import Event, Received, Sealed, Start
from quicbaton.handoff.messages import Accept
from quicbaton.ownership import Ledger
from quicbaton.ownership.store import Found, Operation, Result
from quicbaton.routing.quic_lb import IdLayout, Place
from quicbaton.routing.route import Drop, DropReason, Local, route
from quicbaton.routing.table import RoutingTable

CID = b"connection"
WAITS = Waits(frozen_s=0.3)
_GUARD_S = 60.0


class Source:
    """A source machine of a process that uses the store, driven as the runtime does."""

    def __init__(self, store: MemoryStore) -> None:
        self.owners = SharedOwners(store, self._part, lambda _machine: None)
        self.ledger = Ledger()
        self.ledger.own(CID)
        self.machines = Machines(
            self.ledger,
            WAITS,
            (2,),
            perform=self._perform,
            on_refused=self._refused,
            on_forgotten=lambda _machine: None,
            member=self.owners.member,
        )
        self.owners.machines = self.machines
        self.machine = self.machines.new_source(CID, shared=True)
        self.done: list[fx.Effect] = []
        self.refusals: list[Exception] = []

    def publish(self) -> None:
        self._feed(Start(1, "S", "D", 100, 2, (), cutover_pending=False))
        handoff_id = self.machine._handoff_id
        self._feed(Received(1, Accept(CID, handoff_id, relay=False)))
        self._feed(Sealed(b"b" * 16, b"d" * 32, b"sealed"))

    def _feed(self, event: Event) -> None:
        self.machines.feed(self.machine, event)

    def _part(self, _connection_id: bytes) -> None:
        self.done.append(fx.FreezeConnection(b"the last trains"))

    def _perform(self, machine: Machine, effect: fx.Effect) -> None:
        self.done.append(effect)
        performer = self.owners.performers.get(type(effect))
        if performer is not None:
            performer(machine, effect)

    def _refused(self, _machine: Machine, _event: Event, error: Exception) -> None:
        self.refusals.append(error)


def run(test: Callable[[], Any]) -> list[dict[str, Any]]:
    """Run it; what was said to the loop's exception handler."""
    complaints: list[dict[str, Any]] = []

    async def guarded() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        async with asyncio.timeout(_GUARD_S):
            await test()

    asyncio.run(guarded())
    return complaints


async def until(condition: Callable[[], bool]) -> None:
    end = monotonic() + _GUARD_S
    while not condition():
        assert monotonic() < end
        await asyncio.sleep(0.001)


def test_last_trains_are_out_before_the_offer_is_made() -> None:
    async def test() -> None:
        store = MemoryStore()
        source = Source(store)
        source.publish()
        await until(lambda: source.machine.state is SourceState.FROZEN)
        kinds = [type(effect).__name__ for effect in source.done]
        assert kinds == [
            *("Send", "FreezeConnection", "SealBaton", "AskStore", "FreezeConnection", "Send")
        ]
        assert not source.refusals
        source.machines.close()

    assert run(test) == []


def test_adapter_that_raises_leaves_the_outcome_unknown_and_is_reported() -> None:
    class Broken(MemoryStore):
        async def perform(self, operation: Operation) -> Result:
            raise ZeroDivisionError("an adapter's bug")

    async def test() -> None:
        source = Source(Broken())
        source.publish()
        # It is looked up and tried again until the frozen connection's time is over.
        await until(lambda: source.machine.state is SourceState.ABORTED)
        reports = [effect for effect in source.done if isinstance(effect, fx.Report)]
        assert [(report.outcome, report.code) for report in reports] == [(Outcome.KEPT, "deadline")]
        source.machines.close()
        source.owners.close()

    complaints = run(test)
    assert len(complaints) > 1
    assert all(isinstance(context["exception"], ZeroDivisionError) for context in complaints)


def test_ids_that_were_held_for_a_connection_that_stays_elsewhere_are_never_reset() -> None:
    """A connection is offered back to the process that issued its client's IDs, in vain."""
    here = Place(1, 2)
    cid = IdLayout().encode(here, bytes(9))
    table: RoutingTable[Any] = RoutingTable(IdLayout(), here)
    table.bury(cid, 600.0)
    machine: Any = SimpleNamespace(handoff_id=b"h" * 16, connection_id=CID)
    opened: Any = SimpleNamespace(connection=SimpleNamespace(connection_ids=lambda: [cid]))
    parts: Any = SimpleNamespace(table=table, discard=lambda _opened: None)
    arrivals = Arrivals(
        *(parts, parts, parts, parts),
        relays=parts,
        forwarders=parts,
        seekers=parts,
        departures=parts,
        find_link=lambda _number: None,
        on_moved=lambda _name, _resumed: None,
    )
    arrivals._opened[machine.handoff_id] = opened
    arrivals.hold(machine)
    datagram = (b"\x40" + cid).ljust(60, b"\x99")
    assert isinstance(route(datagram, table, 1.0, may_reset=True), Local)
    arrivals.performers[fx.Discard](machine, fx.Discard(CID))
    assert route(datagram, table, 1.0, may_reset=True) == Drop(DropReason.TOMBSTONE)


def test_closed_connection_closes_its_entry() -> None:
    async def test() -> None:
        store = MemoryStore()
        source = Source(store)
        source.publish()
        await until(lambda: source.machine.state is SourceState.FROZEN)
        source.owners.over(CID)
        source.owners.over(b"one without an entry")

        async def state() -> str:
            found = await store.read(CID)
            assert isinstance(found, Found)
            assert found.entry is not None
            return found.entry.state.value

        end = monotonic() + _GUARD_S
        while await state() != "closed":
            assert monotonic() < end
            await asyncio.sleep(0.001)
        source.machines.close()

    assert run(test) == []
