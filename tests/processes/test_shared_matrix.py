"""Real processes that hand over by a shared SQLite store, killed and stopped between its steps.

Each cell's client, libcurl, ends with the right hash or with a close that it was told of, and no
packet number is used twice.
"""

from __future__ import annotations

import pytest
from cells import FAULTS, Outcome
from harness import World
from matrix import grid, run_cells, selected
from shared_cells import STEPS, Cell, run_cell

from quicbaton.cli.certificate import CertificateFiles

pytestmark = pytest.mark.process

_AT_ONCE = 8
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
