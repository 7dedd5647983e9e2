"""The contract for every adapter of the shared ownership store. A new adapter joins `ADAPTERS`."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from quicbaton.limits import STORE_ENTRY_LIFETIME_S, STORE_TOMBSTONE_LIFETIME_S
from quicbaton.ownership.store import (
    Close,
    Conflict,
    Done,
    EntryState,
    Failed,
    Found,
    Holder,
    Publish,
    Store,
)
from quicbaton.service.stores import MemoryStore, SqliteStore
from tests.ownership.store_checks import (
    FAR,
    NOW,
    OFFERED,
    PUBLISH,
    SOURCE,
    Clock,
    Make,
    entry_of,
)
from tests.ownership.store_process import BATON, CID, DIGEST, TOKEN, take

ADAPTERS: dict[str, Callable[[Path, Clock], Store]] = {
    "memory": lambda _folder, clock: MemoryStore(clock=clock),
    "sqlite": lambda folder, clock: SqliteStore(folder / "owners", clock=clock, timeout_s=60.0),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=ADAPTERS)
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Make:
    return lambda: ADAPTERS[request.param](tmp_path, clock)


# --- entries --------------------------------------------------------------------------------------


async def test_handoff_from_publish_to_close(make: Make) -> None:
    with contextlib.closing(make()) as store:
        assert await store.read(CID) == Found(None)
        assert await store.perform(PUBLISH) == Done(OFFERED)
        assert await store.read(CID) == Found(OFFERED)
        taken = entry_of(await store.perform(take("D")))
        assert taken is not None
        assert (taken.state, taken.term, taken.holder.name) == (EntryState.HELD, 2, "D")
        assert await store.read(CID) == Found(taken)
        # The next one takes the connection on.
        again = Publish(CID, 2, taken.holder, b"n" * 16, DIGEST)
        assert isinstance(await store.perform(again), Done)
        assert isinstance(await store.perform(Close(CID, 2, taken.holder)), Done)
        tombstone = entry_of(await store.read(CID))
        assert tombstone is not None
        assert tombstone.state is EntryState.CLOSED
        assert await store.perform(take("E")) == Conflict(tombstone)
        assert await store.perform(PUBLISH) == Conflict(tombstone)


async def test_every_operation_asked_twice_is_done_once(make: Make) -> None:
    with contextlib.closing(make()) as store:
        for operation in (PUBLISH, take("D"), Close(CID, 2, take("D").taker)):
            assert await store.perform(operation) == await store.perform(operation)


async def test_conflict_changes_nothing_and_shows_what_stands(make: Make) -> None:
    with contextlib.closing(make()) as store:
        assert await store.perform(take("D")) == Conflict(None)
        await store.perform(PUBLISH)
        taken = entry_of(await store.perform(take("D")))
        for operation in (take("E"), PUBLISH, Close(CID, 1, SOURCE), Close(CID, 2, SOURCE)):
            assert await store.perform(operation) == Conflict(taken)
        assert await store.read(CID) == Found(taken)


async def test_of_many_tasks_that_take_one_offer_one_gets_it(make: Make) -> None:
    with contextlib.closing(make()) as store:
        await store.perform(PUBLISH)
        names = [f"D{number}" for number in range(50)]
        results = await asyncio.gather(*(store.perform(take(name)) for name in [*names, "S"]))
        winners = [result for result in results if isinstance(result, Done)]
        assert len(winners) == 1
        assert all(entry_of(result) == winners[0].entry for result in results)
        assert await store.read(CID) == Found(winners[0].entry)


async def test_connections_do_not_touch_each_other(make: Make) -> None:
    with contextlib.closing(make()) as store:
        names = [b"%d" % number for number in range(40)]
        offers = [Publish(name, 1, SOURCE, name.ljust(16), DIGEST) for name in names]
        await asyncio.gather(*(store.perform(offer) for offer in offers))
        await store.perform(Close(names[0], 1, SOURCE))
        found = [entry_of(await store.read(name)) for name in names]
        states = [entry and (entry.state.value, entry.baton_id) for entry in found]
        assert states[0] == ("closed", b"0".ljust(16))
        assert states[1:] == [("offered", name.ljust(16)) for name in names[1:]]


async def test_store_has_an_id_of_its_own(make: Make) -> None:
    with contextlib.closing(make()) as store:
        other = MemoryStore()
        assert len(store.store_id) == 16
        assert store.store_id != other.store_id


# --- forgetting -----------------------------------------------------------------------------------


async def test_old_entries_are_swept_and_give_nothing_to_anybody(make: Make, clock: Clock) -> None:
    with contextlib.closing(make()) as store:
        await store.perform(PUBLISH)
        clock.now += STORE_ENTRY_LIFETIME_S / 2
        await store.perform(Publish(b"younger", 1, SOURCE, BATON, DIGEST))
        assert await store.sweep(NOW + STORE_ENTRY_LIFETIME_S - 1) == 0
        assert await store.sweep(NOW + STORE_ENTRY_LIFETIME_S + 1) == 1
        assert await store.read(CID) == Found(None)
        assert await store.perform(take("D")) == Conflict(None)
        assert entry_of(await store.read(b"younger")) is not None
        # Its owner, which was not replaced, hands it over as before.
        assert isinstance(await store.perform(PUBLISH), Done)


async def test_tombstones_are_swept_before_the_rest(make: Make, clock: Clock) -> None:
    with contextlib.closing(make()) as store:
        await store.perform(PUBLISH)
        await store.perform(Close(CID, 1, SOURCE))
        await store.perform(Publish(b"open", 1, SOURCE, BATON, DIGEST))
        assert await store.sweep(clock.now + STORE_TOMBSTONE_LIFETIME_S + 1) == 1
        assert await store.read(CID) == Found(None)
        assert entry_of(await store.read(b"open")) is not None


async def test_dead_owner_s_connections_are_closed_and_its_offers_left(make: Make) -> None:
    with contextlib.closing(make()) as store:
        for name in (b"held", b"offered", b"living"):
            await store.perform(Publish(name, 1, SOURCE, BATON, DIGEST))
        dead, living = take("D").taker, Holder("D", b"l" * 16)
        for name, taker in ((b"held", dead), (b"living", living)):
            operation = take("D")
            await store.perform(
                type(operation)(name, 1, "S", BATON, DIGEST, taker),
            )
        assert await store.forget_owner("D", living.incarnation) == 1
        assert await store.forget_owner("S") == 0
        states = [entry_of(await store.read(name)) for name in (b"held", b"offered", b"living")]
        assert [entry and entry.state.value for entry in states] == ["closed", "offered", "held"]
        assert await store.forget_owner("D") == 1


# --- tokens ---------------------------------------------------------------------------------------


async def test_of_many_who_spend_one_token_one_may(make: Make) -> None:
    with contextlib.closing(make()) as store:
        spent = await asyncio.gather(*(store.spend(TOKEN, FAR) for _ in range(50)))
        assert sum(spent) == 1
        assert await store.spend(b"another", FAR)


async def test_swept_token_stays_spent_however_the_clocks_go(make: Make) -> None:
    with contextlib.closing(make()) as store:
        assert await store.spend(TOKEN, NOW)
        assert await store.sweep(NOW - 1) == 0
        # By somebody whose clock is an hour ahead; then by one that is right.
        assert await store.sweep(NOW + 3600) == 1
        assert await store.sweep(NOW - 1) == 0
        assert not await store.spend(TOKEN, NOW)
        assert not await store.spend(b"another", NOW + 3600)
        assert await store.spend(b"another", NOW + 3601)


# --- bounds ---------------------------------------------------------------------------------------


async def test_full_memory_store_refuses_and_loses_nothing() -> None:
    with contextlib.closing(MemoryStore(max_entries=1)) as store:
        await store.perform(PUBLISH)
        full = await store.perform(Publish(b"another", 1, SOURCE, BATON, DIGEST))
        assert isinstance(full, Failed)
        assert full.code == "store_full"
        assert isinstance(await store.perform(take("D")), Done)
        assert await store.spend(TOKEN, FAR)
        assert not await store.spend(b"another", FAR)
