"""More and fewer workers, under live downloads."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.command_line import check_whole, wait_for
from tests.supervisor.service_home import FILE_BYTES, Service, ServiceHome, is_alive

pytestmark = pytest.mark.process


def scale(home: ServiceHome, workers: int) -> None:
    done = home.run("scale", str(workers), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["workers"] == workers


def inodes(pid: int) -> set[str]:
    """The sockets that a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        name = os.readlink(link)
        if name.startswith("socket:"):
            found.add(name[8:-1])
    return found


def udp_sockets(port: int) -> list[str]:
    """The inodes of all sockets at a UDP port of this machine."""
    lines = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
    rows = [line.split() for line in lines]
    return [row[9] for row in rows if row[1].endswith(f":{port:04X}")]


def test_workers_come_and_go_under_live_downloads(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin", each=2)
    for workers in (4, 1, 3):
        before = service.pids()
        scale(home, workers)
        after = service.pids()
        assert len(after) == workers
        assert after[: len(before)] == before[: len(after)]
        for gone in before[workers:]:
            wait_for(lambda gone=gone: is_alive(gone), lambda alive: not alive)
        downloads += service.download_everywhere("file.bin")
    # Packets come to the worker that has their connection, as if there had always been so many.
    tossed = [worker["tossed"] for worker in service.status()]
    for download in service.download_everywhere("file.bin"):
        check_whole(download, content)
    for download in downloads:
        check_whole(download, content)
    assert [worker["tossed"] for worker in service.status()] == tossed
    # One socket for each, which all of them hold.
    sockets = set(udp_sockets(service.port))
    assert len(sockets) == 3
    assert all(sockets <= inodes(pid) for pid in service.pids())
    assert home.run("reload").returncode == 0
    assert len(service.pids()) == 3


def test_a_worker_that_does_not_come_up_changes_nothing(home: ServiceHome) -> None:
    (home.path / "sited.py").write_text(_PROGRAM)
    service = home.service(1, "--app", "sited:Site")
    before = service.pids()
    (home.path / "sited.py").write_text("raise RuntimeError('broken')")
    done = home.run("scale", "3", "--json")
    assert done.returncode == 1
    assert "RuntimeError: broken" in json.loads(done.stderr)["message"]
    assert service.pids() == before
    assert len(udp_sockets(service.port)) == 1
    (home.path / "sited.py").write_text(_PROGRAM)
    scale(home, 2)
    assert len(service.pids()) == 2


_PROGRAM = """
from quicbaton.asyncio import QuicConnectionProtocol

class Site(QuicConnectionProtocol):
    pass
"""


@pytest.mark.parametrize("workers", ["0", "65"])
def test_a_number_that_cannot_be_is_refused(home: ServiceHome, workers: str) -> None:
    home.service(1)
    done = home.run("scale", workers, "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"] == "workers"


def test_the_next_supervisor_has_the_number_that_it_is_told(home: ServiceHome) -> None:
    """The one before died; its workers are adopted, and then as many as the command says."""
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin")
    scale(home, 3)
    downloads += service.download_everywhere("file.bin")
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    again: Service = home.service(2, port=service.port)
    assert len(again.pids()) == 2
    for download in downloads:
        check_whole(download, content)


def test_an_upgrade_keeps_the_number(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(1)
    scale(home, 2)
    downloads = service.download_everywhere("file.bin")
    assert home.run("upgrade").returncode == 0
    assert len(service.pids()) == 2
    for download in downloads:
        check_whole(download, content)


def test_workers_that_were_to_go_stay_where_nobody_would_take_over(home: ServiceHome) -> None:
    """All that would stay are down: nothing changes, and those that live go on."""
    (home.path / "sited.py").write_text(_PROGRAM)
    service = home.service(2, "--app", "sited:Site")
    first, second = service.pids()
    (home.path / "sited.py").write_text("raise RuntimeError('broken')")
    os.kill(first, signal.SIGKILL)
    wait_for(service.status, lambda workers: workers[0]["state"] == "backing off")
    done = home.run("scale", "1", "--json")
    assert json.loads(done.stderr)["error"] == "no_worker"
    (home.path / "sited.py").write_text(_PROGRAM)
    assert service.pids()[1] == second
