"""Real processes that hand over by a shared SQLite store, killed and stopped between its steps.

Each cell's client, libcurl, ends with the right hash or with a close that it was told of, and no
packet number is used twice.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time

import pytest
from cells import FAULTS, Outcome
from harness import SHORT_WAITS, World
from matrix import grid, run_cells, selected
from shared_cells import STEPS, Cell, run_cell
from wire import Relay, check

from quicbaton.asyncio.stores import SqliteStore
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.ownership.store import EntryState, Found

pytestmark = pytest.mark.process

_AT_ONCE = 8
_GUARD_S = 60.0
_Outcomes = dict[Cell, Outcome | AssertionError]
CELLS = [Cell(step, victim, fault) for step in STEPS for victim, fault in FAULTS]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: CertificateFiles,
) -> _Outcomes:
    world = World(tmp_path_factory.mktemp("shared"), certificate)
    return run_cells("shared store", world, selected(request), run_cell, _AT_ONCE, _table)


def _table(outcomes: dict[Cell, Outcome]) -> str:
    texts = {
        (cell.step, f"{cell.victim} {cell.fault}"): outcome.client
        for cell, outcome in outcomes.items()
    }
    return grid(STEPS, [f"{victim} {fault}" for victim, fault in FAULTS], texts)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_client_gets_all_or_is_told_and_nobody_sends_twice(
    cell: Cell, outcomes: _Outcomes
) -> None:
    outcome = outcomes[cell]
    if isinstance(outcome, AssertionError):
        raise outcome
    verdict = outcome.verdict
    assert not verdict.reused
    assert not verdict.strange
    assert verdict.packets
    assert outcome.client in ("whole", "reset", "closed"), outcome.error
    if cell.survives:
        assert outcome.client == "whole", outcome.error


def test_a_download_changes_hands_by_the_store_again_and_again(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async def test(world: World) -> None:
        path = world.folder / "owners"
        options = {"store": f"sqlite:{path}"}
        first = await world.start(**options)
        ring = [first, *[await world.start("join", first, **options) for _ in range(2)]]
        async with (
            Relay(await first.port()) as relay,
            world.curl(relay.port, 1_200_000, rate=600_000) as curl,
        ):
            connection = await first.the_connection()
            store = SqliteStore(path)
            for hop in range(6):
                await curl.received(100_000 * (hop + 1))
                answer = await ring[hop % 3].hand_over(connection, ring[(hop + 1) % 3])
                assert answer.ok, answer
                found = await store.read(bytes.fromhex(connection))
                assert isinstance(found, Found)
                assert found.entry is not None
                assert found.entry.state is EntryState.HELD
                assert found.entry.term == hop + 2
                assert found.entry.holder.name == ring[(hop + 1) % 3].options.control
            await curl.end()
            assert curl.whole
            keys = [Path(first.options.keylog)]
            assert not check(relay.sent, relay.client_id_bytes, keys).reused
            await store.aclose()

    run(test, tmp_path, certificate)


def test_full_store_keeps_the_connection_where_it_is(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async def test(world: World) -> None:
        path = world.folder / "owners"
        first = await world.start(store=f"sqlite:{path}")
        second = await world.start("join", first, store=f"sqlite:{path}")
        async with world.curl(await first.port(), 600_000, rate=400_000) as curl:
            connection = await first.the_connection()
            await curl.received(40_000)
            store = SqliteStore(path)
            # Somebody holds the file, for longer than anybody waits.
            store._db.execute("BEGIN IMMEDIATE")
            answer = await first.hand_over(connection, second)
            assert not answer.ok
            assert answer.code in ("store_locked", "deadline")
            store._db.execute("ROLLBACK")
            assert (await first.hand_over(connection, second)).ok
            await curl.end()
            assert curl.whole
            await store.aclose()

    run(test, tmp_path, certificate)


def test_process_without_the_store_takes_over_by_the_source(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async def test(world: World) -> None:
        path = world.folder / "owners"
        first = await world.start(store=f"sqlite:{path}", waits=SHORT_WAITS)
        second = await world.start("join", first)
        async with world.curl(await first.port(), 400_000, rate=400_000) as curl:
            connection = await first.the_connection()
            await curl.received(40_000)
            assert (await first.hand_over(connection, second)).ok
            await curl.end()
            assert curl.whole
            store = SqliteStore(path)
            assert await store.read(bytes.fromhex(connection)) == Found(None)
            assert await store.sweep(time()) == 0
            await store.aclose()

    run(test, tmp_path, certificate)


def run(test, folder: Path, certificate: CertificateFiles) -> None:  # type: ignore[no-untyped-def]
    async def guarded() -> None:
        async with asyncio.timeout(_GUARD_S), World(folder, certificate) as world:
            await test(world)

    asyncio.run(guarded())
