"""Handoffs between hosts, whose processes are killed and stopped and whose networks are cut.

At every step, each cell's client, libcurl, ends with the right hash, or with a close that it was
told of, or in silence where no process is left that could tell it. No packet number is used twice.
These are invariants 1, 3 and 5, seen from outside.
"""

from __future__ import annotations

from collections import Counter

import pytest

from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.host_cells import (
    CELLS,
    FAULTS,
    STILL_SHORT_S,
    HostCell,
    HostOutcome,
    Sites,
    run_host_cell,
)
from tests.processes.matrix import Outcomes, run_cells, selected

pytestmark = pytest.mark.process

_AT_ONCE = 8


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    hosts_certificate: CertificateFiles,
) -> Outcomes[HostCell, HostOutcome]:
    cells = selected(request)
    folder = tmp_path_factory.mktemp("hosts")
    sites = Sites(folder, hosts_certificate, "matrix", min(_AT_ONCE, len(cells)))
    return run_cells("handoff between hosts", sites, cells, run_host_cell, _AT_ONCE, FAULTS)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_there_is_one_owner_or_none(
    cell: HostCell, outcomes: Outcomes[HostCell, HostOutcome]
) -> None:
    outcome = outcomes.of(cell)
    outcome.verdict.assert_one_sender(may_reset=True)
    told = ("whole", "reset", "closed", *(["lost"] if cell.may_be_lost else []))
    assert outcome.client in told, outcome.error
    if cell.survives and outcome.in_time and outcome.fault_s < STILL_SHORT_S:
        assert outcome.client == "whole", outcome.error
    if outcome.client == "whole" and cell.fault != "KILL":
        assert outcome.handed_on, Counter(outcome.answers)
