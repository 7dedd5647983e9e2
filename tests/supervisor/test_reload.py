"""All workers replaced while clients are served, and new workers that fail."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
from pathlib import Path

import pytest

from quicbaton.cli.certificate import write_self_signed
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from tests.cli.command_line import GUARD_S, Finished, check_whole, wait_for
from tests.supervisor.service_home import FILE_BYTES, ServiceHome, is_alive, last_event

pytestmark = pytest.mark.process

#: A program of a user's own: HTTP/3 that answers with its version.
_PROGRAM = """
from aioquic.h3.events import HeadersReceived
from aioquic.quic.events import ProtocolNegotiated
from quicbaton.asyncio import QuicConnectionProtocol
from quicbaton.http3 import H3Connection

VERSION = b"{version}"


class Version(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        for answer in self._http.handle_event(event) if self._http else ():
            if isinstance(answer, HeadersReceived):
                self._http.send_headers(answer.stream_id, [(b":status", b"200")])
                self._http.send_data(answer.stream_id, VERSION, True)

    def export_state(self):
        return b""


async def health():
    {health}
"""


def write_program(home: ServiceHome, version: str, health: str = "pass") -> None:
    text = _PROGRAM.format(version=version, health=health)
    (home.path / "program.py").write_text(text)


def answer(home: ServiceHome, port: int) -> str:
    """The program's answer to a new client."""
    file = home.path / "answer"
    done = home.run("get", f"https://localhost:{port}/", "--ca", home.ca, "-o", file)
    assert done.returncode == 0, done.stderr
    return file.read_text()


def reload(home: ServiceHome, *arguments: str) -> Finished:
    return home.run("reload", *arguments, "--json")


def test_a_reload_replaces_every_worker_under_live_downloads(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin", each=2)
    for _ in range(2):
        # As often as one likes: the sockets' order is the same after each, so that packets still
        # come to the worker that their connection IDs name.
        before = service.pids()
        names = [service.names(worker) for worker in range(2)]
        done = reload(home, str(service.port))
        assert done.returncode == 0, done.stderr
        assert last_event(done.stdout)["event"] == "reloaded"
        after = service.pids()
        assert not set(before) & set(after)
        assert [service.names(worker) for worker in range(2)] == names
        for pid in before:
            wait_for(lambda pid=pid: is_alive(pid), lambda alive: not alive)
        # Newcomers in the meantime and afterwards.
        downloads += service.download_everywhere("file.bin")
    workers = service.status()
    assert sum(worker["connections"] for worker in workers) == len(downloads)
    for download in downloads:
        check_whole(download, content)
    assert [worker["tossed"] for worker in service.status()] == [0, 0]
    assert [worker["restarts"] for worker in workers] == [0, 0]


def test_sighup_reloads(home: ServiceHome) -> None:
    service = home.service(2)
    before = service.pids()
    service.process.send_signal(signal.SIGHUP)
    assert service.wait_for("reloaded")["ok"]
    assert not set(before) & set(service.pids())


def test_a_reload_runs_the_new_code(home: ServiceHome) -> None:
    write_program(home, "one")
    service = home.service(2, "--app", "program:Version")
    assert answer(home, service.port) == "one"
    write_program(home, "two")
    assert reload(home).returncode == 0
    assert answer(home, service.port) == "two"


#: Faults of new code, and the messages about them.
_BROKEN = {
    "raise ImportError('no such thing')": "no such thing",
    "import sys; sys.exit(3)": "status 3",
    "import os; os.kill(os.getpid(), 9)": "SIGKILL",
    "Version = 3": "no class or function",
    "async def health(): raise RuntimeError('the database is gone')": "database is gone",
    "import time; time.sleep(99)": "not ready within 3 s",
}


def test_workers_with_new_code_that_is_broken_replace_nobody(home: ServiceHome) -> None:
    write_program(home, "one")
    service = home.service(2, "--app", "program:Version")
    before = service.pids()
    for broken, reason in _BROKEN.items():
        write_program(home, "two")
        with (home.path / "program.py").open("a") as file:
            file.write("\n" + broken + "\n")
        timeout = ("--health-timeout", "3") if "within" in reason else ()
        done = reload(home, str(service.port), *timeout)
        assert done.returncode == 1
        error = last_event(done.stderr)["message"]
        assert "worker 0 could not be replaced" in error
        assert reason in error
        assert service.pids() == before
        assert len(home.worker_pids()) == 2
    assert answer(home, service.port) == "one"
    write_program(home, "two")
    assert reload(home).returncode == 0
    assert answer(home, service.port) == "two"


def test_a_later_worker_that_cannot_be_replaced_goes_on(home: ServiceHome) -> None:
    write_program(home, "one")
    service = home.service(2, "--app", "program:Version")
    before = service.pids()
    flag = home.path / "first.pid"
    with (home.path / "program.py").open("a") as file:
        file.write(
            f"\nimport os\nif os.path.exists({str(flag)!r}):\n    raise SystemExit('the second')\n"
            f"open({str(flag)!r}, 'w').close()\n"
        )
    done = reload(home)
    assert done.returncode == 1
    assert "worker 1 could not be replaced" in last_event(done.stderr)["message"]
    assert "the second" in last_event(done.stderr)["message"]
    after = service.pids()
    assert after[0] != before[0]
    assert after[1] == before[1]


def wait_until_exists(path: Path) -> str:
    """What `health` may be: nobody is ready before there is such a file."""
    return f"""import asyncio, os
    while not os.path.exists({str(path)!r}):
        await asyncio.sleep(0.05)"""


def test_a_second_reload_says_what_runs_and_has_its_turn(home: ServiceHome) -> None:
    write_program(home, "one")
    service = home.service(1, "--app", "program:Version")
    go = home.path / "go"
    write_program(home, "two", health=wait_until_exists(go))
    first = home.start("quicbaton", "reload", str(service.port))
    (_, new) = wait_for(home.worker_pids, lambda pids: len(pids) > 1)
    second = home.start("quicbaton", "reload", str(service.port), "--json")
    assert second.stdout is not None
    queued = json.loads(second.stdout.readline())
    assert queued["event"] == "queued"
    assert f"a reload by pid {first.pid} runs since" in queued["message"]
    go.touch()
    assert first.wait(GUARD_S) == 0
    assert second.wait(GUARD_S) == 0
    assert new not in service.pids()


def test_signals_to_reload_have_their_turns_and_further_ones_are_one(home: ServiceHome) -> None:
    write_program(home, "one")
    service = home.service(1, "--app", "program:Version")
    go = home.path / "go"
    write_program(home, "two", health=wait_until_exists(go))
    service.process.send_signal(signal.SIGHUP)
    wait_for(home.worker_pids, lambda pids: len(pids) > 1)
    service.process.send_signal(signal.SIGHUP)
    assert "a reload by SIGHUP runs since" in service.wait_for("queued")["message"]
    service.process.send_signal(signal.SIGHUP)
    service.wait_for("queued")
    go.touch()
    for _ in range(2):
        assert service.wait_for("reloaded")["ok"]
    assert home.run("stop", str(service.port)).returncode == 0
    assert service.process.stdout is not None
    assert "reloaded" not in service.process.stdout.read()


def test_a_stop_ends_a_reload_and_those_that_wait(home: ServiceHome) -> None:
    write_program(home, "one")
    service = home.service(2, "--app", "program:Version")
    write_program(home, "two", health=wait_until_exists(home.path / "never"))
    reloads = [home.start("quicbaton", "reload", str(service.port), "--json")]
    wait_for(home.worker_pids, lambda pids: len(pids) > 2)
    reloads.append(home.start("quicbaton", "reload", str(service.port), "--json"))
    waiting = reloads[1].stdout
    assert waiting is not None
    assert '"queued"' in waiting.readline()

    async def stop_twice() -> list[c.Left]:
        # At once: commands take longer to begin than the service to stop.
        stop = c.Stop(-1.0, "")
        asked = (ask(service.control, stop, c.Left, GUARD_S) for _ in range(2))
        return await asyncio.gather(*asked)

    first, second = asyncio.run(stop_twice())
    assert first == second
    for reload_ in reloads:
        _, errors = reload_.communicate(timeout=GUARD_S)
        assert reload_.returncode == 1
        assert last_event(errors)["error"] == "stopping"
    assert service.process.wait(GUARD_S) == 0
    assert not home.worker_pids()


def test_a_worker_that_dies_in_the_middle_of_its_replacement_is_replaced(
    home: ServiceHome,
) -> None:
    write_program(home, "one")
    service = home.service(2, "--app", "program:Version")
    before = service.pids()
    go = home.path / "go"
    write_program(home, "two", health=wait_until_exists(go))
    first = home.start("quicbaton", "reload", str(service.port), "--json")
    wait_for(home.worker_pids, lambda pids: len(pids) > 2)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: is_alive(before[0]), lambda alive: not alive)
    go.touch()
    out, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert not set(before) & set(service.pids())
    assert answer(home, service.port) == "two"
    assert last_event(out)["event"] == "reloaded"


def test_a_reload_with_half_of_a_renewed_certificate_replaces_nobody(home: ServiceHome) -> None:
    files = write_self_signed(home.path, datetime.datetime.now(datetime.UTC))
    service = home.service(2, "--cert", files.certificate, "--key", files.key)
    home.write("small", 1000)
    pids = service.pids()
    (home.path / "other").mkdir()
    others = write_self_signed(home.path / "other", datetime.datetime.now(datetime.UTC))
    old = files.certificate.read_bytes()
    files.certificate.write_bytes(others.certificate.read_bytes())
    failed = reload(home)
    assert failed.returncode == 1
    assert "no client can shake hands" in failed.stderr + failed.stdout
    assert service.pids() == pids
    files.certificate.write_bytes(old)
    url = f"https://localhost:{service.port}/small"
    done = home.run("get", url, "--ca", files.certificate, "-o", "copy")
    assert done.returncode == 0, done.stderr
    assert reload(home).returncode == 0
    assert not set(pids) & set(service.pids())


def test_certificates_are_read_anew(home: ServiceHome) -> None:
    service = home.service(1)
    # A new one is made where the old one was; workers read it when they begin.
    state = home.ca.parent
    for name in ("cert.pem", "key.pem"):
        (state / name).unlink()
    assert reload(home).returncode == 0
    home.write("small", 1000)
    done = home.run("get", f"https://localhost:{service.port}/small", "--ca", home.ca, "-o", "copy")
    assert done.returncode == 0, done.stderr
