"""The supervisor becomes another program, in its process, under live downloads."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.command_line import GUARD_S, check_whole, wait_for
from tests.supervisor.service_home import FILE_BYTES, Service, ServiceHome, is_alive

pytestmark = pytest.mark.process


def began_at(pid: int) -> bytes:
    """What the process executes, as its arguments say."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def events(text: str) -> list[str]:
    return [json.loads(line)["event"] for line in text.splitlines()]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_an_upgrade_replaces_the_supervisor_and_then_the_workers(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin", each=2)
    pid = service.process.pid
    before = service.pids()
    opened = []
    for _ in range(3):
        done = home.run("upgrade", "--json")
        assert done.returncode == 0, done.stderr
        said = events(done.stdout)
        assert said[0] == "supervisor_replaced"
        assert said[-1] == "reloaded"
        after = service.pids()
        assert not set(before) & set(after)
        ready = service.wait_for("ready")
        assert (ready["pid"], ready["sockets"]) == (pid, service.ready["sockets"])
        for old in before:
            # Not even as a zombie: they were the children of the program before.
            wait_for(Path(f"/proc/{old}").exists, lambda exists: not exists)
        before = after
        opened.append(descriptors(pid))
    assert b"-m\0quicbaton\0" in began_at(pid)
    wait_for(lambda: descriptors(pid), lambda number: number <= opened[0])
    downloads += service.download_everywhere("file.bin")
    for download in downloads:
        check_whole(download, content)
    os.kill(before[0], signal.SIGKILL)
    wait_for(service.pids, lambda pids: pids[0] != before[0])
    assert home.run("stop").returncode == 0


def test_a_program_that_could_not_serve_does_not_become_the_supervisor(home: ServiceHome) -> None:
    (home.path / "sited.py").write_text(_PROGRAM)
    service = home.service(1, "--app", "sited:Site")
    pid, before = service.process.pid, service.pids()
    command = began_at(pid)
    (home.path / "sited.py").write_text("raise RuntimeError('broken')")
    done = home.run("upgrade", "--json")
    assert done.returncode == 1
    failure = json.loads(done.stderr)
    assert failure["error"] == "not_ready"
    assert "cannot import sited: RuntimeError: broken" in failure["message"]
    assert began_at(pid) == command
    assert service.pids() == before


def test_an_upgrade_to_another_service_is_refused(home: ServiceHome) -> None:
    file = home.path / "quicbaton.toml"
    options = 'folder = "files"\nhost = "127.0.0.1"\nport = 0\nworkers = 1\njson = true\n'
    file.write_text(options)
    service = home.service_of_file()
    file.write_text(options + 'control = "elsewhere.sock"\n')
    done = home.run("upgrade", "--json")
    assert json.loads(done.stderr)["error"] == "needs_restart"
    file.write_text(options + 'metrics = "0"\n')
    assert home.run("upgrade", "--json").returncode == 0
    assert service.wait_for("metrics")["port"]


_PROGRAM = """
from quicbaton.asyncio import QuicConnectionProtocol

class Site(QuicConnectionProtocol):
    pass
"""


def test_a_signal_during_an_upgrade_is_not_lost(home: ServiceHome) -> None:
    home.write("file.bin", 10)
    service: Service = home.service(1)
    pid = service.process.pid
    upgrade = home.start("quicbaton", "upgrade")
    wait_for(lambda: b"-m\0quicbaton\0" in began_at(pid), bool)
    os.kill(pid, signal.SIGTERM)
    assert service.process.wait() == 0
    assert not any(is_alive(worker) for worker in home.worker_pids())
    upgrade.wait()


_SLOW_TO_TRY = """
import os, time
while os.path.exists("slow"):
    open("tried", "w").close()
    time.sleep(0.02)
"""


def test_a_stop_while_the_new_program_is_tried_is_not_lost(home: ServiceHome) -> None:
    (home.path / "sited.py").write_text(_PROGRAM)
    service = home.service(1, "--app", "sited:Site")
    (home.path / "slow").touch()
    (home.path / "sited.py").write_text(_SLOW_TO_TRY + _PROGRAM)
    upgrade = home.start("quicbaton", "upgrade", "--json")
    wait_for((home.path / "tried").exists, bool)
    os.kill(service.process.pid, signal.SIGTERM)
    service.wait_for("stopping")
    (home.path / "slow").unlink()
    assert service.process.wait(GUARD_S) == 0
    _, errors = upgrade.communicate(timeout=GUARD_S)
    assert upgrade.returncode == 1
    assert json.loads(errors.splitlines()[-1])["error"] == "stopping"
    assert not home.worker_pids()
