"""A takeover whose processes are killed and stopped at every step, and whose links are cut.

A client ends with the right hash or with a close that it was told of. The remaining process serves
the port afterwards. No packet number is used twice.
"""

from __future__ import annotations

import pytest

from tests.processes.harness import World
from tests.processes.matrix import Outcomes, run_cells, selected
from tests.processes.takeover_cells import (
    FAULTS,
    TAKEOVER_CELLS,
    TakeoverCell,
    TakeoverOutcome,
    run_takeover_cell,
)

pytestmark = pytest.mark.process

_AT_ONCE = 6


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, world_of_cells: World
) -> Outcomes[TakeoverCell, TakeoverOutcome]:
    cells = selected(request)
    return run_cells("takeover", world_of_cells, cells, run_takeover_cell, _AT_ONCE, FAULTS)


@pytest.mark.parametrize("cell", TAKEOVER_CELLS, ids=str)
def test_clients_get_all_or_are_told_and_the_port_is_served(
    cell: TakeoverCell, outcomes: Outcomes[TakeoverCell, TakeoverOutcome]
) -> None:
    outcome = outcomes.of(cell)
    for verdict in outcome.verdicts:
        verdict.assert_one_sender(may_reset=True)
    assert set(outcome.clients) <= {"whole", "reset", "closed"}, outcome
    if cell.all_survive:
        assert set(outcome.clients) == {"whole"}, outcome
    assert outcome.served, outcome.log
