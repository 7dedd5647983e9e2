"""A takeover whose processes are killed and stopped at every step, and whose links are cut.

A client ends with the right hash or with a close that it was told of; the port is served
afterwards by the process that is left; and no packet number is used twice.
"""

from __future__ import annotations

import pytest
from harness import World
from matrix import grid, run_cells, selected
from takeover_cells import (
    FAULTS,
    STEPS,
    TAKEOVER_CELLS,
    TakeoverCell,
    TakeoverOutcome,
    run_takeover_cell,
)

from quicbaton.cli.certificate import CertificateFiles

pytestmark = pytest.mark.process

_AT_ONCE = 6
_Outcomes = dict[TakeoverCell, TakeoverOutcome | AssertionError]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: CertificateFiles,
) -> _Outcomes:
    world = World(tmp_path_factory.mktemp("takeovers"), certificate)
    return run_cells("takeover", world, selected(request), run_takeover_cell, _AT_ONCE, _table)


def _table(outcomes: dict[TakeoverCell, TakeoverOutcome]) -> str:
    texts = {
        (cell.step, f"{cell.victim} {cell.fault}"): str(outcome)
        for cell, outcome in outcomes.items()
    }
    return grid(STEPS, [f"{victim} {fault}" for victim, fault in FAULTS], texts)


@pytest.mark.parametrize("cell", TAKEOVER_CELLS, ids=str)
def test_clients_get_all_or_are_told_and_the_port_is_served(
    cell: TakeoverCell, outcomes: _Outcomes
) -> None:
    outcome = outcomes[cell]
    if isinstance(outcome, AssertionError):
        raise outcome
    for verdict in outcome.verdicts:
        assert not verdict.reused
        assert not verdict.strange
        assert verdict.packets
    assert set(outcome.clients) <= {"whole", "reset", "closed"}, outcome
    if cell.all_survive:
        assert set(outcome.clients) == {"whole"}, outcome
    assert outcome.served, outcome.log
