"""Ctrl-C, at any moment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from quicbaton.cli import main
from tests.cli.command_line import GUARD_S, wait_for
from tests.supervisor.service_home import FILE_BYTES, RATE, ServiceHome, service_home

pytestmark = pytest.mark.process

#: Interrupts itself at the import that is named by its number, and runs a command.
_INTERRUPTED_IMPORT = textwrap.dedent(
    """
    import builtins, os, signal, sys
    from quicbaton.cli.entry import run

    left = int(sys.argv.pop(1))
    real = builtins.__import__

    def counting(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **more)

    builtins.__import__ = counting
    sys.exit(run())
    """
)


@pytest.fixture
def home(tmp_path: Path) -> ServiceHome:  # type: ignore[misc]
    with service_home(tmp_path) as made:
        yield made


@pytest.mark.parametrize("imports", [1, 5, 30, 100, 250, 400])
@pytest.mark.parametrize("command", [("ps",), ("top",), ("serve", "."), ("reload",)])
def test_a_command_that_is_interrupted_as_it_begins_is_quiet(
    home: ServiceHome, command: tuple[str, ...], imports: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT, str(imports), *command],
        env=home.environment,
        cwd=home.path,
        capture_output=True,
        text=True,
        timeout=GUARD_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")


def interrupted(process: subprocess.Popen[str], status: int) -> str:
    """Interrupt it; what it still says."""
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=GUARD_S)
    assert (process.returncode, errors) == (status, "")
    return out


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_commands_that_take_long_are_quiet(home: ServiceHome) -> None:
    home.write("file.bin", 200_000_000)
    service = home.service(1)
    url = f"https://localhost:{service.port}/file.bin"
    get = home.start("quicbaton", "get", url, "--ca", home.ca, "-o", "copy")
    wait_for(lambda: list(home.path.glob(".copy.*.part")), bool)
    interrupted(get, 130)
    assert not list(home.path.glob("*copy*"))
    top = home.start("quicbaton", "top", "--interval", "0.05", "--json")
    assert first_line(top)
    interrupted(top, 130)
    assert service.process.poll() is None


_SLOW = """
async def application(scope, receive, send):
    import asyncio, os
    open("begun", "w").close()
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            while message["type"] == "lifespan.startup" and os.path.exists("slow"):
                await asyncio.sleep(0.02)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
"""


def test_a_reload_that_is_interrupted_goes_on_and_one_that_waits_does_not(
    home: ServiceHome,
) -> None:
    (home.path / "slow_app.py").write_text(_SLOW)
    service = home.service(1, "--app", "slow_app:application")
    (old,) = service.pids()
    slow = home.path / "slow"
    slow.touch()
    begun = home.start("quicbaton", "reload", str(service.port), "--json")
    wait_for(home.worker_pids, lambda pids: len(pids) > 1)
    waiting = home.start("quicbaton", "reload", str(service.port), "--json")
    assert json.loads(first_line(waiting))["event"] == "queued"
    assert '"interrupted"' in interrupted(waiting, 130)
    assert "goes on in the service" in interrupted(begun, 130)
    slow.unlink()
    wait_for(service.pids, lambda pids: pids not in ([old], [0]))
    assert home.run("stop", str(service.port)).returncode == 0
    assert service.process.stdout is not None
    said = [json.loads(line)["event"] for line in service.process.stdout]
    assert said.count("worker") == 1


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_server_that_is_interrupted_while_it_starts_ends_in_order(
    home: ServiceHome, workers: tuple[str, ...]
) -> None:
    (home.path / "slow_app.py").write_text(_SLOW)
    (home.path / "slow").touch()
    serve = ("serve", "slow_app:application", "--host", "127.0.0.1", "--port", "0", *workers)
    server = home.start("quicbaton", *serve)
    if workers:
        wait_for(home.worker_pids, lambda pids: len(pids) == 2)
    else:
        wait_for((home.path / "begun").exists, bool)
    interrupted(server, 0)
    assert not home.worker_pids()
    assert not [path for path in (home.path / "run").rglob("*") if path.is_socket()]


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_stop_says_what_it_waits_for_and_a_second_interrupt_ends_it(
    home: ServiceHome, workers: tuple[str, ...]
) -> None:
    home.write("file.bin", FILE_BYTES)
    server = home.serve("--grace", "600", "--no-access-log", *workers)
    download = home.download(server, "file.bin", RATE)
    download.wait_for_bytes(1)
    server.process.send_signal(signal.SIGINT)
    said = server.wait_for("waiting")
    assert said["connections"] == 1
    assert said["seconds_left"] > 500
    interrupted(server.process, 0)
    assert download.process.wait(GUARD_S) != 0
    wait_for(home.worker_pids, lambda pids: not pids)


def test_a_command_to_stop_says_what_it_waits_for(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(1)
    download = home.download(service, "file.bin", RATE)
    download.wait_for_bytes(1)
    stop = home.start("quicbaton", "stop", str(service.port), "--grace", "600", "--json")
    said = json.loads(first_line(stop))
    assert (said["event"], said["connections"]) == ("waiting", 1)
    assert "goes on stopping" in interrupted(stop, 130)
    assert not download.outcome()["error"]
    assert service.process.wait(GUARD_S) == 0


def test_a_coroutine_that_an_interrupt_kept_from_beginning_is_not_mentioned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never() -> None:
        pass

    def run(_reporter: object) -> int:
        begun = never()
        try:
            raise KeyboardInterrupt
        finally:
            assert begun  # the traceback's frame holds it

    monkeypatch.setattr(main, "parse", lambda _arguments: (SimpleNamespace(json=False), run))
    assert main.main([]) == 130
