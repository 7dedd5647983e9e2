"""Real processes that hand over by a shared SQLite store, killed and stopped between its steps.

Each cell's client, libcurl, ends with the right hash or with a close that it was told of, and no
packet number is used twice.
"""

from __future__ import annotations

import pytest

from tests.processes.cells import FAULTS, Outcome
from tests.processes.harness import World
from tests.processes.matrix import Outcomes, run_cells, selected
from tests.processes.shared_cells import CELLS, SharedCell, run_shared_cell

pytestmark = pytest.mark.process

_AT_ONCE = 8


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, world_of_cells: World
) -> Outcomes[SharedCell, Outcome]:
    cells = selected(request)
    return run_cells("shared store", world_of_cells, cells, run_shared_cell, _AT_ONCE, FAULTS)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_client_gets_all_or_is_told_and_nobody_sends_twice(
    cell: SharedCell, outcomes: Outcomes[SharedCell, Outcome]
) -> None:
    outcome = outcomes.of(cell)
    outcome.verdict.assert_one_sender(may_reset=True)
    assert outcome.client in ("whole", "reset", "closed"), outcome.error
    if cell.survives and outcome.in_time:
        assert outcome.client == "whole", outcome.error
