"""Real processes, killed and stopped at every step of a handoff, and links cut.

Each cell's client, libcurl, ends with the right hash or with a close that it was told of, and no
packet number is used twice: invariants 1, 3 and 5, seen from outside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from cells import _STILL_SHORT_S, CELLS, Cell, Outcome, run_cell, table
from tables import TABLES
from harness import World

from quicbaton.cli.certificate import CertificateFiles

pytestmark = pytest.mark.process

#: Cells at a time: most of the time each waits for a deadline or for its client's rate.
_AT_ONCE = 8


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: CertificateFiles,
) -> Iterator[dict[Cell, Outcome]]:
    """All cells that this run selects, several at a time."""
    cells = [
        item.callspec.params["cell"]
        for item in request.session.items
        if item.module is request.module and "cell" in item.callspec.params
    ]
    began = time.monotonic()
    found = asyncio.run(_run(cells, World(tmp_path_factory.mktemp("matrix"), certificate)))
    text = table(found)
    print(f"\n{text}")
    TABLES[f"handoff: {len(found)} cells in {time.monotonic() - began:.0f} s"] = text
    yield found


async def _run(cells: list[Cell], world: World) -> dict[Cell, Outcome]:
    turns = asyncio.Semaphore(_AT_ONCE)
    found: dict[Cell, Outcome] = {}

    async def run(cell: Cell) -> None:
        async with turns:
            found[cell] = await run_cell(world, cell)

    async with world, asyncio.TaskGroup() as group:
        for cell in cells:
            group.create_task(run(cell))
    return found


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_client_gets_all_or_is_told_and_nobody_sends_twice(
    cell: Cell, outcomes: dict[Cell, Outcome]
) -> None:
    outcome = outcomes[cell]
    verdict = outcome.verdict
    assert not verdict.reused
    assert not verdict.strange
    assert verdict.packets
    assert outcome.client == "whole" or outcome.told, outcome.error
    if cell.survives and outcome.stopped_s < _STILL_SHORT_S:
        assert outcome.client == "whole", outcome.error
    if outcome.client == "whole" and cell.fault != "KILL":
        assert outcome.handed_on
