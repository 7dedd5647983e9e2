"""Real processes, killed and stopped at every step of a handoff, and links cut.

Each cell's client, libcurl, ends with the right hash or with a close that it was told of, and no
packet number is used twice: invariants 1, 3 and 5, seen from outside.
"""

from __future__ import annotations

import pytest

from tests.processes.cells import CELLS, FAULTS, STILL_SHORT_S, HandoffCell, Outcome, run_cell
from tests.processes.harness import World
from tests.processes.matrix import Outcomes, run_cells, selected

pytestmark = pytest.mark.process

_AT_ONCE = 10


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, world_of_cells: World
) -> Outcomes[HandoffCell, Outcome]:
    cells = selected(request)
    return run_cells("handoff", world_of_cells, cells, run_cell, _AT_ONCE, FAULTS)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_client_gets_all_or_is_told_and_nobody_sends_twice(
    cell: HandoffCell, outcomes: Outcomes[HandoffCell, Outcome]
) -> None:
    outcome = outcomes.of(cell)
    outcome.verdict.assert_one_sender(may_reset=True)
    assert outcome.client in ("whole", "reset", "closed"), outcome.error
    if cell.survives and outcome.in_time and outcome.stopped_s < STILL_SHORT_S:
        assert outcome.client == "whole", outcome.error
    if outcome.client == "whole" and cell.fault != "KILL":
        assert outcome.handed_on
