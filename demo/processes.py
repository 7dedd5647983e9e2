"""The cast of the demo: two server processes, and a client that knows nothing of handoffs."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from demo.curl import Outcome, Progress
from quicbaton.errors import PeerError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask

#: The last line of the client has all its samples.
_LINE_BYTES: Final = 64 << 20
#: Connections that come and go are told at `debug`.
_EVENTS: Final = ("--json", "--log-level", "debug")
_START_S: Final = 20.0
_STOP_S: Final = 5.0


class Server:
    """A `quicbaton serve` process."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self._process = process
        self.pid = process.pid
        self.port = int(ready["port"])
        self.control = Path(ready["control"])
        self._resumed_ns = 0
        self._resumed = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def start(cls, folder: Path, *options: str) -> Server:
        """Start a process and wait until it serves."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "quicbaton", "serve", str(folder), *_EVENTS, *options),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                while line := await process.stdout.readline():
                    event = msgspec.json.decode(line, type=dict[str, Any])
                    if event["event"] == "ready":
                        return cls(process, event)
                await process.wait()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        raise PeerError("a server did not start; it has said why above", code=Reason.NOT_READY)

    async def look(self) -> c.Connections:
        """The answer of `quicbaton ps`."""
        return await ask(self.control, c.ListConnections(), c.Connections)

    async def hand_off(self, connection: str, to: Server) -> int:
        """Move a connection; the moment, in ns, at which the other process had resumed it."""
        to._resumed.clear()
        await ask(self.control, c.HandOff(connection, str(to.control)), c.Answer)
        async with asyncio.timeout(_STOP_S):
            await to._resumed.wait()
        return to._resumed_ns

    async def kill(self) -> int:
        """SIGKILL; the moment in ns."""
        at_ns = time.monotonic_ns()
        self._process.kill()
        await self._process.wait()
        return at_ns

    async def stop(self) -> None:
        """End the process if it still runs."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            event = msgspec.json.decode(line, type=dict[str, Any])
            if event["event"] == "resumed":
                self._resumed_ns = int(event["at_ns"])
                self._resumed.set()


class Client:
    """libcurl in a process of its own."""

    def __init__(
        self, process: asyncio.subprocess.Process, on_progress: Callable[[Progress], None]
    ) -> None:
        self._process = process
        self._on_progress = on_progress
        self._news = asyncio.Event()
        self.received_bytes = 0
        #: Set to how the download ended.
        self.outcome: asyncio.Future[Outcome] = asyncio.ensure_future(self._read())

    @classmethod
    async def start(
        cls, arguments: Sequence[str], on_progress: Callable[[Progress], None]
    ) -> Client:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "demo.curl", *arguments),
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        return cls(process, on_progress)

    async def until(self, received_bytes: int) -> bool:
        """Wait until so much has arrived; False when the download ends before."""
        while self.received_bytes < received_bytes and not self.outcome.done():
            self._news.clear()
            waiter = asyncio.ensure_future(self._news.wait())
            await asyncio.wait((waiter, self.outcome), return_when=asyncio.FIRST_COMPLETED)
            waiter.cancel()
        return not self.outcome.done()

    async def stop(self) -> None:
        """End the process if it still runs."""
        self.outcome.cancel()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _read(self) -> Outcome:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = msgspec.json.decode(line, type=Progress | Outcome)
            if isinstance(message, Outcome):
                await self._process.wait()
                return message
            self.received_bytes = message.received_bytes
            self._news.set()
            self._on_progress(message)
        await self._process.wait()
        raise PeerError("the client ended without a word", code=Reason.DIED)
