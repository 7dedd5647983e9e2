"""A supervisor whose workers end, fall silent or fail between two of its steps."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import IdLayout
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError
from quicbaton.service.supervisor import ending
from quicbaton.service.supervisor import supervisor as module
from quicbaton.service.supervisor.group import Group
from quicbaton.service.supervisor.reload import Reloads, Reread
from quicbaton.service.supervisor.roster import make_roster
from quicbaton.service.supervisor.scaling import Scaling
from quicbaton.service.supervisor.spawn import Process, Spawner
from quicbaton.service.supervisor.supervisor import Settings, Supervisor
from quicbaton.service.supervisor.worker_slot import WorkerSlot
from tests.supervisor.service_home import no_figures

#: Ends in good order when its standard input does.
_PATIENT = (sys.executable, "-c", "import sys; sys.stdin.read()")


class Kept:
    """The rosters that systemd would keep."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def keep(self, name: str, descriptor: int) -> None:
        self.names.add(name)

    def drop(self, name: str) -> None:
        self.names.remove(name)


class Patient(Spawner):
    """Its processes do nothing, and know no commands."""

    def __init__(self) -> None:
        self.figures = no_figures()
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, worker: int, on_exit: Callable[[Process], None]) -> Process:
        child = subprocess.Popen(_PATIENT, stdin=subprocess.PIPE)
        self.children.append(child)
        words = os.memfd_create("words")
        os.write(words, b"its last words")
        return Process(
            child.pid, Path("nowhere"), make_roster(1), on_exit, child=child, words=words
        )

    async def remove_dead_sockets(self) -> None:
        """They have none."""


Answers = Callable[[Process], Awaitable[Any]]


class Stage:
    """A supervisor of such processes."""

    def __init__(self, workers: int = 1, spawner: Spawner | None = None) -> None:
        self.kept = Kept()
        self.patient = Patient()
        self.supervisor = Supervisor(
            Group.open("127.0.0.1", 0, workers),
            spawner or self.patient,
            ring=lambda: KeyRing(ClusterKey.generate(os.urandom)),
            settings=Settings(health_timeout_s=30, silent_s=10, takeover_s=60, grace_s=10),
            say=lambda *_what, **_fields: None,
            keeper=self.kept,
        )
        self.slot = self.supervisor.slots[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.supervisor.kill()
        await self.supervisor.close()
        for child in self.patient.children:
            child.kill()
            child.communicate()


def ended(process: Process) -> Awaitable[Any]:
    return asyncio.wait_for(process.exited.wait(), 20.0)


async def test_a_worker_that_ends_right_after_its_answer_is_not_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody would look after it again, nor start another."""
    async with Stage() as stage:
        process = stage.supervisor.new_process(stage.slot)

        async def answer_and_end(*_what: object) -> c.Answer:
            process.signal(signal.SIGKILL)
            await ended(process)
            return c.Answer(True, "ok", "serving")

        monkeypatch.setattr(module, "follow", answer_and_end)
        with pytest.raises(PeerError, match="SIGKILL"):
            await stage.supervisor.begin(stage.slot, process)
        assert stage.slot.current is None


async def test_of_a_worker_that_never_served_nothing_is_kept() -> None:
    async with Stage() as stage:
        before = len(os.listdir("/proc/self/fd"))
        process = stage.supervisor.new_process(stage.slot)
        process.signal(signal.SIGKILL)
        await ended(process)
        for child in stage.patient.children:
            child.communicate()
        assert not stage.kept.names
        assert len(os.listdir("/proc/self/fd")) == before
        assert "its last words" in process.last_words()


@pytest.mark.parametrize("call", ["memfd_create", "pipe", "dup", "pidfd_open"])
async def test_a_worker_that_cannot_be_started_leaves_nothing_behind(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few descriptors may be a matter of seconds: the caller can try again."""
    async with Stage() as stage:
        control = tmp_path / "4433.sock"
        spawner = Spawner("quicbaton", [], stage.supervisor.group, control, no_figures())
        started: list[subprocess.Popen[bytes]] = []
        popen = subprocess.Popen

        def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
            started.append(popen(*arguments, **options))
            return started[-1]

        def refuse(*_arguments: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(subprocess, "Popen", start)
        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(QuicbatonError):
            spawner.start(0, lambda _process: None)
        monkeypatch.undo()
        assert all(child.returncode is not None for child in started)
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_supervisor_that_stood_still_does_not_blame_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was stopped in the middle of a look, and perhaps they were with it."""
    async with Stage() as stage:
        now_s = 0.0
        process = stage.supervisor.new_process(stage.slot)

        async def be_stopped() -> c.WorkerState:
            nonlocal now_s
            now_s += 3600.0
            raise PeerError("it did not answer", code=Reason.DEADLINE)

        monkeypatch.setattr(process, "look", be_stopped)
        monkeypatch.setattr(module, "monotonic", lambda: now_s)
        killed: list[signal.Signals] = []
        monkeypatch.setattr(process, "signal", killed.append)
        looks = 0
        while not killed:
            await stage.supervisor._look(stage.slot, process)
            looks += 1
        monkeypatch.undo()
        # As many as it takes when every one of them lasts as long as it should.
        assert looks == 4


async def test_an_old_process_that_listens_no_more_is_about_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its program may take its time to shut down."""
    async with Stage() as stage:
        process = stage.supervisor.new_process(stage.slot)
        process.be_replaced()
        killed: list[signal.Signals] = []
        monkeypatch.setattr(process, "signal", killed.append)
        for _ in range(20):
            await stage.supervisor._look(stage.slot, process)
        monkeypatch.undo()
        assert not killed
        assert process.silent_s == 0


async def test_a_takeover_that_was_adopted_ends_with_the_new_process_as_the_one_that_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the old one's socket the new one answers."""
    async with Stage() as stage:
        old, new = (stage.supervisor.new_process(stage.slot) for _ in range(2))
        old.begun = new.begun = True
        stage.slot.current = old
        stage.slot.others = {new}

        async def look() -> None:
            old.be_replaced()

        monkeypatch.setattr(old, "look", look)
        await stage.supervisor._look(stage.slot, old)
        assert stage.slot.current is new
        assert stage.slot.others == {old}


async def test_a_worker_that_is_stopping_already_gets_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a signal, or by another `quicbaton stop`."""
    async with Stage() as stage:
        process = stage.supervisor.new_process(stage.slot)
        process.begun = True
        stage.slot.others.discard(process)
        stage.slot.current = process
        asked = asyncio.Event()

        async def refuse(_path: Path, _command: c.Stop, *_what: object) -> c.Left:
            asked.set()
            raise CommandFailedError("this server is stopping already", code=Reason.BUSY)

        monkeypatch.setattr(ending, "ask", refuse)
        stopping = asyncio.create_task(stage.supervisor.stop(10.0, ""))
        await asked.wait()
        await asyncio.sleep(0.05)
        (child,) = stage.patient.children
        assert child.stdin is not None
        child.stdin.close()
        await stopping
        assert child.returncode == 0


async def test_a_reload_starts_no_more_workers_once_the_service_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would outlive it: the command that stops the service knows nothing of them."""
    async with Stage(workers=2) as stage:
        supervisor = stage.supervisor

        async def begin(
            slot: WorkerSlot, process: Process, *_what: object, **_more: object
        ) -> c.Answer:
            slot.current = process
            supervisor.stopping = True
            return c.Answer(True, "ok", "serving")

        async def wait_ready(_process: Process, _timeout_s: float) -> None:
            pass

        monkeypatch.setattr(supervisor, "begin", begin)
        monkeypatch.setattr(Process, "wait_ready", wait_ready)
        scaling = Scaling(supervisor, lambda: IdLayout(cipher=None))
        reloads = Reloads(supervisor, lambda: Reread(lambda: None, 2), scaling)
        answer = await reloads.run(lambda _step: None, by="a test")
        assert answer.code == "stopping"
        assert len(stage.patient.children) == 1


@pytest.mark.parametrize("replaces", [True, False])
async def test_of_two_workers_that_begin_at_once_one_is_told_of_the_other(
    replaces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have died, say, or one is being replaced while the other is started again."""
    async with Stage(workers=2) as stage:
        supervisor = stage.supervisor
        told: dict[int, dict[int, str]] = {}
        both = asyncio.Event()

        async def answer(control: Path, begin: c.Begin, *_what: object) -> c.Answer:
            told[int(control.name)] = begin.workers
            if len(told) == 2:
                both.set()
            await both.wait()
            return c.Answer(True, "ok", "serving")

        monkeypatch.setattr(module, "follow", answer)
        first, second = (supervisor.new_process(slot) for slot in supervisor.slots)
        for process in (first, second):
            process.control = Path(str(process.pid))
        if replaces:
            stage.slot.current = supervisor.new_process(stage.slot)
            stage.slot.current.begun = True
        async with asyncio.TaskGroup() as group:
            for slot, process in zip(supervisor.slots, (first, second), strict=True):
                group.create_task(supervisor.begin(slot, process))
        assert told == {first.pid: {}, second.pid: {0: str(first.control)}}
