"""One process's part in a shared ownership store, with real machines and stores that fail."""

import asyncio
from collections.abc import Callable
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

from quicbaton.baton.versions import FORMAT_VERSION
from quicbaton.handoff import ForwardingState, GivingByStore, GivingState, Outcome, Waits
from quicbaton.handoff import effects as fx
from quicbaton.handoff.events import DeadlinePassed, Event, Received, Sealed, Start
from quicbaton.handoff.messages import Accept
from quicbaton.handoff.store_questions import AskStore
from quicbaton.ownership import Ledger
from quicbaton.ownership.store import Close, Found, Operation, Result
from quicbaton.routing.quic_lb import IdLayout, Place
from quicbaton.routing.route import Drop, DropReason, Local, route
from quicbaton.routing.table import RoutingTable
from quicbaton.service.moving.context import HandoffContext
from quicbaton.service.moving.deadlines import Deadlines
from quicbaton.service.moving.handoff import Handoff
from quicbaton.service.moving.incoming import Handoffs, IncomingHandoff
from quicbaton.service.moving.link_waiters import LinkWaiters
from quicbaton.service.moving.outgoing import OutgoingHandoff
from quicbaton.service.moving.store_client import StoreClient
from quicbaton.service.moving.timelines import Timelines
from quicbaton.service.peers.names import Names
from quicbaton.service.stores import MemoryStore
from tests.asyncio.loopback import expect_problems

#: Parts that these handoffs do not come to use.
STANDS_FOR_NOTHING: Any = None
CID = b"connection"
WAITS = Waits(frozen_s=0.3)


class Source:
    """The handoff of a connection by a process that uses the store; no network, no connection."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = StoreClient(store)
        ledger = Ledger()
        ledger.own(CID)
        machine = GivingByStore(
            CID,
            b"h" * 16,
            ledger,
            incarnation=self.store.incarnation,
            store_id=self.store.store_id,
            waits=WAITS,
        )
        #: The calls, in order.
        self.done: list[str] = []
        self._context = HandoffContext(
            endpoint=STANDS_FOR_NOTHING,
            mover=cast(Any, self),
            names=Names("S"),
            relays=STANDS_FOR_NOTHING,
            waiters=LinkWaiters(lambda _name: None),
            forwarders=STANDS_FOR_NOTHING,
            timelines=Timelines(STANDS_FOR_NOTHING),
            store=self.store,
            file_format=FORMAT_VERSION,
            feed=self._feed,
            closed=lambda _name: None,
        )
        self._context.links[1] = cast(Any, self)
        self.handoff = OutgoingHandoff(self._context, machine, None)
        self._deadlines = Deadlines(self._on_due)
        self.is_crowded = False
        self.waiter = self.handoff.wait()

    @property
    def state(self) -> GivingState | ForwardingState:
        return self.handoff.machine.state

    def publish(self) -> None:
        self.handoff.feed(Start(1, "S", "D", 100, FORMAT_VERSION, cutover_pending=False))
        self.handoff.feed(Received(1, Accept(CID, b"h" * 16, proxy=False)))

    def close(self) -> None:
        self._deadlines.close()
        self.store.close()

    def _on_due(self, handoffs: list[Handoff]) -> None:
        for handoff in handoffs:
            handoff.feed(DeadlinePassed())

    def _feed(self, handoff: Handoff, event: Event) -> None:
        now_us = round(monotonic() * 1e6)
        handoff.handle(event, now_us)
        self._deadlines.set(handoff, handoff.machine.get_timer())

    # --- as the link ---

    def send(self, message: Any) -> None:
        self.done.append(type(message).__name__)

    send_unhurried = send

    # --- as the mover ---

    def freeze(self, _connection_id: bytes, _strays: Any) -> Any:
        return SimpleNamespace(
            parting=["first", "second"], descriptors=(), passed=None, frozen_at_us=0
        )

    def snapshot(self, frozen: Any, _copying: Any, *, may_relay: bool) -> Any:
        return frozen

    def seal(self, *_arguments: Any) -> Sealed:
        return Sealed(b"b" * 16, b"d" * 32, b"sealed")

    def send_last_train(self, frozen: Any) -> None:
        if frozen.parting:
            self.done.append(frozen.parting.pop(0))

    def thaw(self, _frozen: Any) -> Any:
        return SimpleNamespace(process=lambda: None)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_last_trains_are_out_before_the_offer_is_made() -> None:
    class Slow(MemoryStore):
        async def perform(self, operation: Operation) -> Result:
            source.done.append(type(operation).__name__)
            return await super().perform(operation)

    source = Source(Slow())
    source.publish()
    await until(lambda: source.state is GivingState.FROZEN)
    assert source.done == ["Offer", "first", "second", "Publish", "Baton"]
    source.close()


async def test_adapter_that_raises_leaves_the_outcome_unknown_and_is_reported() -> None:
    class Broken(MemoryStore):
        async def perform(self, operation: Operation) -> Result:
            raise ZeroDivisionError("an adapter's bug")

    problems = expect_problems()
    source = Source(Broken())
    source.publish()
    # It is looked up and tried again until the frozen connection's time is over.
    result = await source.waiter
    assert (result.outcome, result.code) == (Outcome.KEPT, "deadline")
    assert source.state is GivingState.KEPT
    source.close()
    assert len(problems) > 1
    assert {type(one) for one in problems} == {ZeroDivisionError}


def test_ids_that_were_held_for_a_connection_that_stays_elsewhere_are_never_reset() -> None:
    """A connection is offered back to the process that issued its client's IDs, in vain."""
    here = Place(1, 2)
    cid = IdLayout().encode(here, bytes(9))
    table: RoutingTable[Any] = RoutingTable(IdLayout(), here)
    table.withhold_resets(cid, 600.0)
    connection = SimpleNamespace(connection_ids=lambda: [cid])
    context: Any = SimpleNamespace(
        endpoint=SimpleNamespace(table=table),
        mover=SimpleNamespace(discard=lambda _rebuilt: None),
        store=SimpleNamespace(ask=lambda _asker, _effect: None),
        names=Names("D"),
        timelines=Timelines(STANDS_FOR_NOTHING),
        links={},
        feed=lambda _handoff, _event: None,
    )
    machine: Any = SimpleNamespace(connection_id=CID, ended=False)
    handoff = IncomingHandoff(context, Handoffs(), machine, source="S")
    rebuilt: Any = SimpleNamespace(connection=connection)
    handoff._rebuilt = rebuilt
    handoff.PERFORMERS[AskStore](handoff, AskStore(Close(CID, 1, b"")))
    datagram = (b"\x40" + cid).ljust(60, b"\x99")
    assert isinstance(route(datagram, table, 1.0, may_reset=True), Local)
    handoff.PERFORMERS[fx.Discard](handoff, fx.Discard(CID))
    assert route(datagram, table, 1.0, may_reset=True) == Drop(DropReason.TOMBSTONE)


async def test_closed_connection_closes_its_entry() -> None:
    store = MemoryStore()
    source = Source(store)
    source.publish()
    await until(lambda: source.state is GivingState.FROZEN)
    source.store.closed(CID)
    source.store.closed(b"one without an entry")

    async def state() -> str:
        found = await store.read(CID)
        assert isinstance(found, Found)
        assert found.entry is not None
        return found.entry.state.value

    while await state() != "closed":
        await asyncio.sleep(0.001)
    source.close()
