"""A client in a process of its own, driven over its stdin: see `conversation.py`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.clients.matrix.service import GUARD_S

#: More than a client waits for a response.
_ANSWER_S = GUARD_S + 15
#: For a client to end in good order.
_END_S = 10.0
_LINE_BYTES = 1 << 20


class Answer(msgspec.Struct, frozen=True):
    """A response, as the client had it."""

    status: int
    pid: int
    size: int
    sha256: str
    text: str
    error: str

    def assert_is(self, body: bytes, status: int = 200) -> None:
        """It came whole."""
        assert not self.error, self.error
        assert self.status == status, f"status {self.status}"
        assert self.size == len(body), f"{self.size} bytes instead of {len(body)}"
        assert self.sha256 == hashlib.sha256(body).hexdigest(), "wrong bytes"


class Reply(msgspec.Struct, frozen=True):
    """A client's answer to a command."""

    answers: list[Answer] = []
    sent: str = ""
    error: str = ""


class DrivenClient:
    """A client's process. `port` is where it is to connect to."""

    def __init__(self, command: Sequence[str], port: int, authority: Path, log: Path) -> None:
        self._command = [*command, "127.0.0.1", str(port), str(authority)]
        self._log = log
        self._base = f"https://127.0.0.1:{port}"
        self._process: asyncio.subprocess.Process
        self.name = ""
        self.can: list[str] = []

    async def __aenter__(self) -> Self:
        # An environment's proxy does not speak UDP.
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment["NODE_EXTRA_CA_CERTS"] = self._command[-1]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LINE_BYTES,
                env=environment,
                start_new_session=True,
            )
        greeting = msgspec.json.decode(await self._line())
        self.name, self.can = greeting["client"], greeting["can"]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _END_S)
        except TimeoutError:
            pass  # its last command hangs
        finally:
            # What it has started, too: a browser that is left behind, say.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def open(self) -> None:
        """Connect, and ask for nothing."""
        await self._do(do="open")

    async def get(self, *paths: str, moving: bool = False) -> list[Answer]:
        """Ask for all of them at once; if `moving`, it goes on from another port meanwhile."""
        urls = [self._base + path for path in paths]
        return (await self._do(do="get", urls=urls, moving=moving)).answers

    async def post(self, path: str, size: int) -> tuple[Answer, str]:
        """Upload so many random bytes; the response, and the SHA-256 of what was sent."""
        reply = await self._do(do="post", url=self._base + path, size=size)
        return reply.answers[0], reply.sent

    async def _do(self, **command: Any) -> Reply:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        reply = msgspec.json.decode(await self._line(), type=Reply)
        assert not reply.error, reply.error
        return reply

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _ANSWER_S)
        assert line, f"the client ended: {self._log.read_text()[-2000:]}"
        return line
