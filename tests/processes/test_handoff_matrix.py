"""Real processes, killed and stopped at every step of a handoff, and links cut.

Each cell's client, libcurl, ends with the right hash or with a close that it was told of, and no
packet number is used twice: invariants 1, 3 and 5, seen from outside.
"""

from __future__ import annotations

import pytest
from cells import CELLS, FAULTS, STEPS, STILL_SHORT_S, Cell, Outcome, run_cell
from harness import World
from matrix import grid, run_cells, selected

from quicbaton.cli.certificate import CertificateFiles

pytestmark = pytest.mark.process

_AT_ONCE = 10
_Outcomes = dict[Cell, Outcome | AssertionError]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: CertificateFiles,
) -> _Outcomes:
    world = World(tmp_path_factory.mktemp("handoffs"), certificate)
    return run_cells("handoff", world, selected(request), run_cell, _AT_ONCE, _table)


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
    if cell.survives and outcome.stopped_s < STILL_SHORT_S:
        assert outcome.client == "whole", outcome.error
    if outcome.client == "whole" and cell.fault != "KILL":
        assert outcome.handed_on
