"""The files of control sockets, whatever becomes of the processes that listen there."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.cli.command_line import GUARD_S, wait_for
from tests.supervisor.service_home import FILE_BYTES, RATE, ServiceHome

pytestmark = pytest.mark.process


def sockets(home: ServiceHome) -> list[Path]:
    return [path for path in (home.path / "run").rglob("*") if path.is_socket()]


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
@pytest.mark.parametrize("end", ["stop", "signal", "two signals"])
def test_none_is_left_by_a_server_that_stops(
    home: ServiceHome, workers: tuple[str, ...], end: str
) -> None:
    home.write("file.bin", FILE_BYTES)
    server = home.serve("--grace", "600" if end == "two signals" else "0", *workers)
    download = home.download(server, "file.bin", RATE)
    download.wait_for_bytes(1)
    if end == "stop":
        assert home.run("stop", server.control).returncode == 0
    else:
        server.process.terminate()
    if end == "two signals":
        server.wait_for("waiting")
        server.process.terminate()
    assert server.process.wait(GUARD_S) == 0
    assert sockets(home) == []


def test_a_killed_worker_s_is_removed(home: ServiceHome) -> None:
    service = home.service(2)
    before = service.status()
    assert home.run("reload", str(service.port)).returncode == 0
    killed, _ = service.pids()
    os.kill(killed, signal.SIGKILL)
    wait_for(service.pids, lambda pids: killed not in pids and 0 not in pids)
    mine = [Path(worker["control"]) for worker in service.all_serve()]
    # The other one answers where its predecessor did, too.
    expected = {service.control, *mine, Path(before[1]["control"])}
    assert wait_for(lambda: set(sockets(home)), lambda found: found == expected)


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_those_of_killed_servers_are_removed_by_the_next_start(
    home: ServiceHome, workers: tuple[str, ...]
) -> None:
    server = home.serve(*workers)
    pids = [*home.worker_pids(), server.pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    wait_for(home.worker_pids, lambda pids: not pids)
    assert sockets(home)
    again = home.serve("--host", "127.0.0.1", "--port", str(server.port), *workers)
    assert again.stop() == 0
    assert sockets(home) == []


_BROKEN = ("--app", "broken:Program")


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
@pytest.mark.parametrize("fault", ["program", "metrics"])
def test_none_is_left_by_a_start_that_fails(
    home: ServiceHome, workers: tuple[str, ...], fault: str
) -> None:
    (home.path / "broken.py").write_text("raise RuntimeError('broken')")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        what = _BROKEN if fault == "program" else (home.files, "--metrics", f"127.0.0.1:{port}")
        process = home.start("quicbaton", "serve", *what, "--port", "0", *workers)
        _, errors = process.communicate(timeout=GUARD_S)
    assert process.returncode == 1, errors
    assert sockets(home) == []
    assert home.worker_pids() == []


def test_a_control_socket_may_have_any_name(home: ServiceHome) -> None:
    """The next supervisor finds the workers all the same."""
    control = home.path / "run" / "of-mine" / "service.control"
    service = home.service(1, "--control", control)
    pids = service.pids()
    service.process.kill()
    service.process.wait()
    again = home.service(1, "--control", control, port=service.port)
    assert again.pids() == pids
    assert again.stop() == 0
    assert sockets(home) == []
