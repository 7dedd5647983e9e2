"""The service to which the clients talk: `quicbaton serve` with two workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from quicbaton.errors import PeerError
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, ask, follow
from tests.clients.matrix.authority import make_certificates

#: A hang guard: nothing waits so long unless it is broken.
GUARD_S = 30.0
_START_S = 90.0
_LOOK_S = 0.01
_PROGRAM = Path(__file__).with_name("program.py")


async def until(look: Callable[[], Awaitable[Any]], what: str, guard_s: float = GUARD_S) -> Any:
    """Look again and again until there is something."""
    found: Any = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(guard_s):
            while not (found := await look()):
                await asyncio.sleep(_LOOK_S)
            return found
    raise AssertionError(f"waited {guard_s:g} s for {what}")


class Worker(msgspec.Struct, frozen=True):
    """A worker process and its control socket."""

    pid: int
    control: Path


class Place(msgspec.Struct, frozen=True):
    """Where a connection is: its owner, its name, and its client's port as the owner sees it."""

    worker: Worker
    name: str
    client_port: int


class Service:
    """`quicbaton serve program:application --workers 2`, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gates = folder / "gates"
        self.port = 0
        #: The authority that its clients are to trust.
        self.authority = Path()
        self._control = Path()
        self._process: asyncio.subprocess.Process
        self._number = 0

    async def __aenter__(self) -> Self:
        (self.folder / "run").mkdir(mode=0o700)
        self.gates.mkdir()
        command = [sys.executable, "-m", "quicbaton", "serve", "program:application"]
        self.authority, chain, key = make_certificates(self.folder)
        options = ["--app-dir", str(_PROGRAM.parent), "--workers", "2", "--json"]
        options += ["--cert", str(chain), "--key", str(key)]
        with (self.folder / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(*command, *options, "--host", "127.0.0.1", "--port", "0"),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "XDG_STATE_HOME": str(self.folder / "state"),
                    "XDG_RUNTIME_DIR": str(self.folder / "run"),
                    "QUICBATON_GATES": str(self.gates),
                },
            )
        try:
            ready = await asyncio.wait_for(self._ready(), _START_S)
        except BaseException:
            await self.__aexit__()
            raise
        self.port = ready["port"]
        self._control = Path(ready["control"])
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), GUARD_S)
        finally:
            # Workers outlive a supervisor that did not end in good order.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _ready(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event: dict[str, Any] = msgspec.json.decode(line)
            if event["event"] == "ready":
                return event
        raise AssertionError(f"the service did not start: {self.log()}")

    def log(self) -> str:
        return (self.folder / "log").read_text()

    async def workers(self) -> Sequence[Worker]:
        service = await ask(self._control, c.ServiceStatus(), c.Service, GUARD_S)
        return [Worker(worker.pid, Path(worker.control)) for worker in service.workers]

    async def accepted(self) -> int:
        """How many connections its present workers have accepted."""
        service = await ask(self._control, c.ServiceStatus(), c.Service, GUARD_S)
        return sum(worker.accepted for worker in service.workers)

    async def places(self, ports: Collection[int]) -> list[Place]:
        """The open connections of clients at these ports."""
        found = {}
        # All processes that there are: during a reload the supervisor names those that it replaces.
        for control in self._control.parent.glob(f"{self.port}-*.sock"):
            with contextlib.suppress(PeerError, CommandFailedError):
                listed = await ask(control, c.ListConnections(), c.Connections, GUARD_S)
                for info in listed.connections:
                    if info.state == "open" and _port(info.peer) in ports:
                        worker = Worker(listed.pid, control)
                        # A new worker listens at its predecessor's path, too.
                        found[listed.pid, info.connection] = Place(
                            worker, info.connection, _port(info.peer)
                        )
        return list(found.values())

    async def hand_over(self, source: Place) -> Worker:
        """Hand it to the other worker, as soon as its client lets us."""
        (destination,) = [w for w in await self.workers() if w.pid != source.worker.pid]

        async def given() -> bool:
            command = c.HandOff(source.name, str(destination.control))
            try:
                await ask(source.worker.control, command, c.Answer, GUARD_S)
            except CommandFailedError as error:
                # It passes by itself: the client has yet to leave the last owner's IDs.
                if error.code != "cutover_pending":
                    raise
                return False
            return True

        await until(given, "a handoff")
        return destination

    async def reload(self) -> list[str]:
        """Replace all workers; the messages of what went wrong."""
        steps: list[Any] = []
        command = c.Reload(health_timeout_s=-1, grace_s=-1)
        await follow(self._control, command, c.Answer, steps.append)
        return [step.message for step in steps if step.phase == "failed"]

    # --- gates ----------------------------------------------------------------------------------

    def gate(self) -> str:
        """A new one, closed."""
        self._number += 1
        return f"gate-{self._number}"

    async def under_way(self, gate: str, count: int = 1) -> None:
        """Wait until so many requests that have this gate are under way."""

        async def begun() -> bool:
            return len(list(self.gates.glob(f"{gate}.begun.*"))) >= count

        await until(begun, f"{count} requests under way")

    def open_gate(self, gate: str) -> None:
        (self.gates / gate).touch()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
