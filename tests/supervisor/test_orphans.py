"""Workers whose supervisor was killed, under the commands of their user."""

from __future__ import annotations

import json

import pytest

from tests.cli.command_line import wait_for
from tests.supervisor.service_home import FILE_BYTES, RATE, ServiceHome

pytestmark = pytest.mark.process


@pytest.mark.parametrize("named", ["by its port", "by its control socket", "not at all"])
def test_orphans_are_shown_and_stopped(home: ServiceHome, named: str) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    download = home.download(service, "file.bin", RATE)
    download.wait_for_bytes(1)
    service.process.kill()
    service.process.wait()
    shown = [json.loads(line) for line in home.run("ps", "--json").stdout.splitlines()]
    assert [one["orphaned"] for one in shown] == [True, True]
    assert sum(len(one["connections"]) for one in shown) == 1
    assert f"quicbaton stop {service.port}" in home.run("ps", str(service.port)).stdout
    name = {"by its port": str(service.port), "by its control socket": str(service.control)}
    server = [name[named]] if named in name else []
    done = home.run("stop", *server, "--grace", "0.2", "--json")
    assert done.returncode == 0, done.stderr
    stopped = json.loads(done.stdout.splitlines()[-1])
    assert (stopped["closed"], stopped["cut"]) == (1, 1)
    wait_for(home.worker_pids, lambda pids: not pids)
    assert not [path for path in service.control.parent.iterdir() if path.is_socket()]


def test_workers_that_have_their_supervisor_are_no_orphans(home: ServiceHome) -> None:
    service = home.service(1)
    assert not home.json("ps")["orphaned"]
    (worker,) = service.status()
    assert not home.json("ps", worker["control"])["orphaned"]
    server = home.serve()
    assert not home.json("ps", server.control)["orphaned"]
    # Two are running: which one is meant?
    assert home.run("stop", "--json").returncode == 0
    assert service.process.wait(60) == 0
    assert server.process.poll() is None
