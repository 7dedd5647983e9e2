"""Nobody reads what a service says, or can: its connections live and move all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from tests.cli.command_line import GUARD_S, check_whole, wait_for
from tests.supervisor.pipes import fill
from tests.supervisor.service_home import FILE_BYTES, ServiceHome, is_alive

pytestmark = pytest.mark.process


@pytest.mark.parametrize("fate", ["gone", "stuck"])
def test_a_service_whose_reader_is_no_reader_reloads_and_stops(
    home: ServiceHome, fate: str
) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2, "--log-level", "debug")
    downloads = service.download_everywhere("file.bin")
    for pipe in (service.process.stdout, service.process.stderr):
        assert pipe is not None
        if fate == "gone":
            pipe.close()
        else:
            fill(service.process.pid, pipe.fileno())
    done = home.run("reload", str(service.port))
    assert done.returncode == 0, done.stderr
    pids = service.pids()
    for download in downloads:
        check_whole(download, content)
    service.process.terminate()
    assert service.process.wait(GUARD_S) == 0
    wait_for(lambda: [pid for pid in pids if is_alive(pid)], lambda alive: not alive)


def test_full_disks_under_logs_of_qlog_and_keys_are_counted(home: ServiceHome) -> None:
    qlog = home.path / "qlog"
    content = home.write("file.bin", 100_000)
    service = home.service(1, "--qlog", qlog, "--keylog", "/dev/full")
    qlog.rmdir()
    copy = home.path / "copy"
    url = f"https://localhost:{service.port}/file.bin"
    home.json("get", url, "--ca", home.ca, "-o", copy)
    assert copy.read_bytes() == content
    worker = Path(service.status()[0]["control"])
    counters = asyncio.run(ask(worker, c.ReadFigures(), c.Figures)).counters
    assert counters["keys_lost"] > 0
    assert counters["qlog_records_lost"] > 0
