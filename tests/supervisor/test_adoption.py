"""The last supervisor's workers as a new one finds them, while these come and go."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quicbaton.errors import ConfigurationError
from quicbaton.service.node.control import Control
from quicbaton.service.peers import channel as channel_module
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel, Listener, PeerCredentials
from quicbaton.service.supervisor import adoption
from quicbaton.service.supervisor.adoption import Found, find_workers
from tests.processes.harness import accepts_nobody

SILENT_S = 5.0
#: Listens, and says no more.
_SILENT = """
import socket, sys, time
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen(8)
print(flush=True)
time.sleep(600)
"""


@contextmanager
def a_process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


class FakeWorker:
    """Answers a supervisor's questions in the name of the process `pid`."""

    def __init__(self, pid: int, state: str) -> None:
        self.pid = pid
        self.roster = os.memfd_create("roster")
        os.write(self.roster, str(pid).encode())
        #: Called once it has said how it is.
        self.then: Callable[[], object] = lambda: None
        self._state = state

    def listen(self, path: Path) -> Listener:
        tasks: set[asyncio.Task[None]] = set()

        def spawn(work: Callable[[], object]) -> None:
            task = asyncio.ensure_future(work())  # type: ignore[call-overload]
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        control = Control(
            {c.WorkerStatus: self._status, c.PassRoster: self._pass_roster},
            open_link=lambda channel, _rest: channel.abort(),
            spawn=spawn,
        )
        return Listener(path, control.on_channel)

    async def _status(self, _channel: Channel, _frame: c.WorkerStatus) -> c.Frame:
        self.then()
        return c.WorkerState(
            worker=0,
            pid=self.pid,
            state=self._state,
            version="test",
            sockets=[],
            connections=0,
            handshakes=0,
            accepted=0,
            tossed=0,
            reset=0,
            unlisted=0,
            requests=0,
        )

    async def _pass_roster(self, channel: Channel, _frame: c.PassRoster) -> None:
        channel.write_descriptors(c.encode(c.SocketOf(0, 1)), [self.roster])


def hang_up(channel: Channel) -> None:
    asyncio.get_running_loop().call_soon(channel.close)


def let_go(found: list[Found]) -> None:
    for one in found:
        os.close(one.roster)
        os.close(one.pidfd)


async def test_a_roster_is_that_of_the_process_that_said_who_it_is(tmp_path: Path) -> None:
    """Another's would have the clients of a living worker reset when its predecessor has ended."""
    tmp_path.chmod(0o700)
    with a_process("sleep", "600") as child:
        path = tmp_path / f"4433-{child.pid}.sock"
        old, new = FakeWorker(child.pid, "departing"), FakeWorker(os.getpid(), "serving")
        listeners = [old.listen(path)]
        # The successor takes its path between two questions.
        old.then = lambda: listeners.append(new.listen(path))
        found = await find_workers(tmp_path / "4433.sock", SILENT_S)
        assert [one.state.pid for one in found] == [child.pid]
        assert os.pread(found[0].roster, 20, 0) == str(child.pid).encode()
        let_go(found)
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize("state", ["arriving", "serving"])
async def test_a_path_is_removed_when_nobody_is_about_to_take_it(
    state: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    left = tmp_path / "4433-1.sock"
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(left))
    worker = FakeWorker(os.getpid(), state)
    listener = worker.listen(tmp_path / f"4433-{os.getpid()}.sock")
    # A worker that takes over listens at its predecessor's path as soon as that has ended.
    let_go(await find_workers(tmp_path / "4433.sock", SILENT_S))
    assert left.exists() is (state == "arriving")
    listener.close()


async def test_a_silent_worker_is_killed_and_never_another_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "4433-1.sock"
    with (
        a_process("sleep", "600") as stranger,
        a_process(sys.executable, "-c", _SILENT, str(path)) as silent,
    ):
        assert silent.stdout is not None
        silent.stdout.readline()
        # As if it had ended by the time of the kill, and its number were in use again.
        credentials = PeerCredentials(stranger.pid, os.getuid())
        monkeypatch.setattr(channel_module, "peer_credentials", lambda _sock: credentials)
        async with asyncio.timeout(20.0):
            assert await find_workers(tmp_path / "4433.sock", 0.05) == []
        assert stranger.poll() is None
        assert silent.wait() != 0
    assert not path.exists()


async def test_a_worker_that_accepts_nobody_is_no_reason_to_start_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped, say, and more commands wait than its queue takes."""
    monkeypatch.setattr(channel_module, "CONNECT_S", 0.05)
    path = tmp_path / "4433-1.sock"
    with accepts_nobody(path):
        with pytest.raises(ConfigurationError, match="end it"):
            await adoption.find_workers(tmp_path / "4433.sock", 0.05)
        assert path.exists()


async def test_a_process_that_hangs_up_is_not_taken_for_dead(tmp_path: Path) -> None:
    """The roster that systemd has kept would have its clients reset."""
    tmp_path.chmod(0o700)
    listener = Listener(tmp_path / "4433-1.sock", hang_up)
    with pytest.raises(ConfigurationError, match="end it"):
        await find_workers(tmp_path / "4433.sock", 0.05)
    listener.close()
