"""Starts real server processes and clients, sends them commands, stops and kills them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from demo.curl import Outcome, Progress
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import PeerError
from quicbaton.handoff import Waits
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, ask
from tests.processes.moving_server import Options, content

#: A hang guard: nothing waits so long unless it is broken.
GUARD_S = 60.0
_REPOSITORY = Path(__file__).parents[2]
#: Bytes per second of a download that a test does things to.
SLOWLY = 150_000
#: For a whole download: what a test does to it meanwhile may take minutes on a busy machine, and
#: its ends are waited for by the guard.
_DOWNLOAD_S = 300.0
_LOOK_S = 0.005
#: Short, so that a test of what happens after a deadline ends soon.
SHORT_WAITS = Waits(offer_s=1.0, frozen_s=0.4, ready_s=0.8, ask_s=0.8, forward_s=10.0)


@contextlib.contextmanager
def accepts_nobody(path: Path) -> Iterator[socket.socket]:
    """A listener at a control socket's path, with its queue full, as a stopped process has it."""
    with socket.socket(socket.AF_UNIX) as stopped, contextlib.ExitStack() as waiting:
        stopped.bind(str(path))
        stopped.listen(1)
        for _ in range(2):
            waiting.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        yield stopped


async def until(condition: Callable[[], Any], what: str, guard_s: float = GUARD_S) -> Any:
    """Look again and again until `condition()`, which may be a coroutine function, is true."""
    try:
        async with asyncio.timeout(guard_s):
            while True:
                found = condition()
                if isinstance(found, Awaitable):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise AssertionError(f"waited {guard_s:g} s for {what}") from None


class Server:
    """A server process."""

    def __init__(self, pid: int, options: Options) -> None:
        self.pid = pid
        self.options = options
        self.control = Path(options.control)

    def __repr__(self) -> str:
        return f"<Server {self.control.name} pid {self.pid} {self.process_state()}>"

    async def ready(self) -> c.Connections:
        """Wait until it answers."""
        return await self.until(self._answers, "it to answer")

    async def _answers(self) -> c.Connections | None:
        if not self.alive:
            raise AssertionError(f"{self!r} is gone\n{self.log()}")
        with contextlib.suppress(PeerError):
            return await self.list()
        return None

    async def list(self) -> c.Connections:
        """Its connections and counters."""
        return await ask(self.control, c.ListConnections(), c.Connections, GUARD_S)

    async def port(self) -> int:
        """Its UDP port."""
        return int((await self.list()).address.rpartition(":")[2])

    async def the_connection(self) -> str:
        """Its only connection's name, once it is open."""
        return await self.until(self.open_name, "a connection")

    async def open_name(self) -> str:
        """The name of one of its open connections; empty if there is none."""
        open_ones = [info for info in (await self.list()).connections if info.state == "open"]
        return open_ones[0].connection if open_ones else ""

    async def command(self, frame: c.Frame) -> c.Answer:
        """Its answer, whether it is a yes or a no; `link_lost` when it dies over it."""
        try:
            return await ask(self.control, frame, c.Answer, GUARD_S)
        except (CommandFailedError, PeerError) as error:
            return c.Answer(False, error.code, str(error))

    async def hand_over(self, connection: str, to: Server) -> c.Answer:
        return await self.command(c.HandOff(connection, str(to.control)))

    async def hand_over_after_cutover(self, connection: str, to: Server) -> None:
        """Hand over as soon as the client has cut over from the last time."""

        async def given() -> bool:
            answer = await self.hand_over(connection, to)
            assert answer.ok or answer.code == "cutover_pending", answer
            return answer.ok

        await until(given, "a handoff")

    async def cut_over(self) -> None:
        """Wait until its only client uses no connection IDs but its own."""

        async def look() -> bool:
            infos = (await self.list()).connections
            return bool(infos) and not infos[0].cutover_pending

        await self.until(look, "the client's cutover")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has just ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def process_state(self) -> str:
        """The kernel's letter for it: T is stopped; empty when it is gone."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return stat.rpartition(")")[2].split()[0]

    @property
    def alive(self) -> bool:
        return self.process_state() not in ("", "Z", "X")

    @property
    def stopped(self) -> bool:
        return self.process_state() == "T"

    async def gone(self) -> None:
        await self.until(lambda: not self.alive, "its end")

    async def comes_to_a_stop(self) -> None:
        await self.until(lambda: self.stopped, "it to stop")

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Look again and again until `condition()` is true; what it did instead, if it never is."""
        try:
            return await until(condition, what)
        except AssertionError as error:
            if self.alive and not self.stopped:
                self.signal(signal.SIGUSR1)
                await asyncio.sleep(0.2)
            raise AssertionError(f"{self!r}: {error}\n{self.log()}") from None

    def log(self) -> str:
        path = Path(self.options.log)
        return path.read_text() if path.exists() else ""

    def assert_no_mistake(self) -> None:
        """Nothing in its log that must not happen, whatever the others do to it."""
        log = self.log()
        assert "Traceback" not in log, log
        assert "InternalError" not in log, log

    async def settled(self) -> str:
        """How its takeover went."""
        return await self.line("settled", "gave up")

    async def line(self, *beginnings: str) -> str:
        """The first line of its log that begins so, once it has been written to its end."""

        def find() -> str:
            lines = (x for x in self.log().splitlines(keepends=True) if x.startswith(beginnings))
            return next((x.rstrip() for x in lines if x.endswith("\n")), "")

        return await self.until(find, f"a line {beginnings}")


class World:
    """A folder, a ring of cluster keys, and the processes of one test.

    They serve at `address`. `entry` is a command that runs a command elsewhere, on another host.
    """

    #: The process that forks them, and its environment if not ours.
    program = "tests.processes.moving_server"
    environment: dict[str, str] | None = None

    def __init__(
        self,
        folder: Path,
        certificate: CertificateFiles,
        *,
        address: str = "127.0.0.1",
        entry: Sequence[str] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        self.folder = folder
        self.certificate = certificate
        self.address = address
        self._entry = entry
        self.ring = folder / "ring"
        self.ring.write_text(KeyRing(ClusterKey.generate(os.urandom)).encode())
        self.servers: list[Server] = []
        self._numbers = itertools.count()
        self._forker: asyncio.subprocess.Process
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._forker = await asyncio.create_subprocess_exec(
            *self._entry,
            *(sys.executable, "-m", self.program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # On another host its folder is another, too; and CI's runner has a path of its own.
            env={**(self.environment or os.environ), "PYTHONPATH": str(_REPOSITORY)},
            cwd=_REPOSITORY,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self.servers:
            if server.alive:
                server.signal(signal.SIGKILL)
        assert self._forker.stdin is not None
        self._forker.stdin.close()
        await self._forker.wait()

    async def start(self, mode: str = "first", other: Server | None = None, **more: Any) -> Server:
        """Fork a server, and wait until it answers if it is not to take over."""
        server = await self.fork(mode, other, **more)
        if mode != "takeover":
            await server.ready()
        return server

    async def fork(self, mode: str = "first", other: Server | None = None, **more: Any) -> Server:
        name = f"{next(self._numbers)}"
        options = Options(
            mode=mode,
            address=self.address,
            control=str(self.folder / f"{name}.sock"),
            other="" if other is None else str(other.control),
            ring=str(self.ring),
            certificate=str(self.certificate.certificate),
            key=str(self.certificate.key),
            log=str(self.folder / f"{name}.log"),
            keylog=str(self.folder / f"{name}.keys"),
            **more,
        )
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        async with self._turn:
            self._forker.stdin.write(msgspec.json.encode(options) + b"\n")
            answer = await self._forker.stdout.readline()
        assert answer, "the forking process broke off: its stderr says why"
        server = Server(int(answer), options)
        self.servers.append(server)
        return server

    @property
    def keylogs(self) -> list[Path]:
        return [Path(server.options.keylog) for server in self.servers]

    def curl(self, port: int, size: int, *, rate: int = 0) -> Curl:
        """A libcurl process that downloads `size` bytes, `rate` of them per second: see `Curl`."""
        return Curl(self.certificate, port, size, rate)


class RunningWorld(World):
    """Its servers have requests that cannot be exported."""

    program = "tests.processes.running_server"


class Curl:
    """libcurl in a process of its own, downloading; `entry` as `World` has it.

    With a rate it `holds` back the last quarter, most of it, so that the download is under way,
    however long a busy machine takes for what a test does to it, until it may `finish`.
    """

    def __init__(
        self,
        certificate: CertificateFiles,
        port: int,
        size: int,
        rate: int,
        *,
        address: str = "127.0.0.1",
        entry: Sequence[str] = (),
        timeout_s: float = _DOWNLOAD_S,
        holds: bool = True,
    ) -> None:
        self._limited = bool(rate)
        self._hold_at = size * 3 // 4 if rate and holds else 0
        self._arguments = [
            *entry,
            *(sys.executable, "-m", "demo.curl", f"https://{address}:{port}/{size}"),
            *("--ca", str(certificate.certificate), "--timeout", f"{timeout_s:g}"),
            *("--rate", str(rate), "--hold-at", str(self._hold_at)),
        ]
        self._sha256 = self.sha256_of(size)
        self._process: asyncio.subprocess.Process | None = None
        self._lines: asyncio.Task[None]
        self._moved_on = asyncio.Event()
        self.received_bytes = 0
        self.outcome: Outcome | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
            # On another host its folder is another, too.
            env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
        )
        self._lines = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._lines

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def received(self, size: int) -> None:
        """Wait until so much of the body has arrived, or all that it takes for now."""
        size = min(size, self._hold_at or size)
        await until(lambda: self.received_bytes >= size or self._ended(), f"{size} bytes")

    async def finish(self) -> Outcome:
        """Wait for the end of the download, at full speed from now on."""
        assert self._process is not None
        if self._limited:
            # It would end a program that has yet to say what the signal is for.
            await self.received(1)
            if self._process.returncode is None:
                self._process.send_signal(signal.SIGUSR1)
        return await self.end()

    async def end(self) -> Outcome:
        """Wait for an end that comes without more: of a download without a rate, or a bad one."""
        return await until(self._ended, "the client to end", GUARD_S + 5)

    def _ended(self) -> Outcome | None:
        if self._lines.done() and self.outcome is None:
            raise AssertionError("the client's program broke off")
        return self.outcome

    @staticmethod
    def sha256_of(size: int) -> str:
        """The hash of so many bytes of the body."""
        return hashlib.sha256(content(0, size)).hexdigest()

    @property
    def whole(self) -> bool:
        """The body arrived, and its hash is right."""
        outcome = self.outcome
        return outcome is not None and outcome.ok and outcome.sha256 == self._sha256

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = msgspec.json.decode(line, type=Progress | Outcome)
            if isinstance(message, Outcome):
                self.outcome = message
            self.received_bytes = message.received_bytes
