"""The supervisor killed and stopped at every named point of a reload: no client ever notices.

The worker that passes the point raises the signal. A killed supervisor is followed by another,
which finds the workers in the state in which the reload has left them, and reloads again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Literal

import pytest

from tests.cli.command_line import check_whole, is_stopped, wait_for
from tests.processes.matrix import TABLES, grid
from tests.processes.takeover_cells import STEPS
from tests.supervisor.service_home import ServiceHome, last_event

pytestmark = pytest.mark.process

Fault = Literal["KILL", "STOP"]
FAULTS: tuple[Fault, ...] = ("KILL", "STOP")
#: More than a client downloads while a cell lasts, most of the time.
_FILE_BYTES = 3_000_000
#: Above every process number that Linux gives.
_NOBODY = 1 << 23


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[tuple[str, str], str]]:
    """The results of the cells, shown at the end of the run."""
    found: dict[tuple[str, str], str] = {}
    yield found
    TABLES[f"supervisor, in a reload: {len(found)} cells"] = grid(STEPS, FAULTS, found)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", STEPS)
def test_a_reload_without_its_supervisor_harms_nobody(
    home: ServiceHome, step: str, fault: Fault, outcomes: dict[tuple[str, str], str]
) -> None:
    outcomes[step, fault] = "FAILED"
    content = home.write("file.bin", _FILE_BYTES)
    victim = home.path / "victim"
    home.environment["QUICBATON_FAILPOINT"] = f"{step}:{fault}:{victim}"
    service = home.service(1)
    victim.write_text(str(service.pid))
    downloads = service.download_everywhere("file.bin")
    reload = home.start("quicbaton", "reload", service.control, "--json")
    if fault == "STOP":
        # Old and new worker may pass the point both: the first stop is the one.
        wait_for(lambda: is_stopped(service.pid), bool)
        victim.write_text(str(_NOBODY))
        os.kill(service.pid, signal.SIGCONT)
        output, errors = reload.communicate()
        assert reload.returncode == 0, output + errors
        outcome = "goes on"
    else:
        service.process.wait()
        victim.write_text(str(_NOBODY))
        reload.communicate()
        assert reload.returncode == 1
        del home.environment["QUICBATON_FAILPOINT"]
        service = home.service(1, port=service.port)
        service.all_serve()
        again = home.run("reload", service.control, "--json")
        assert again.returncode == 0, last_event(again.stdout)
        outcome = "followed"
    for download in downloads:
        check_whole(download, content)
    outcomes[step, fault] = outcome
