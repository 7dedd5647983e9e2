"""A page in a real browser, for tests: a process that evaluates scripts from its stdin."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

#: Hang guards: nothing waits so long unless it is broken.
_ANSWER_S = 60.0
_END_S = 10.0
_LOOK_S = 0.1


class Page:
    """An open page."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(expression).encode() + b"\n")
        return await self.answer()

    async def until(self, expression: str) -> None:
        """Evaluate it again until it is something that JavaScript holds for true."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                while not await self.evaluate(f"Boolean({expression})"):
                    await asyncio.sleep(_LOOK_S)
                return
        text = await self.evaluate("document.body.innerText")
        raise AssertionError(f"never came: {expression}; the page says: {text}")

    def kill(self) -> None:
        """End the browser with all its processes before any of them can say a word."""
        processes = _with_descendants(self._process.pid)
        for end in (signal.SIGSTOP, signal.SIGKILL):
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, end)

    async def answer(self) -> Any:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _ANSWER_S)
        assert line, "the browser ended"
        answer = json.loads(line)
        assert "value" in answer, answer
        return answer["value"]


def _with_descendants(pid: int) -> list[int]:
    """Parents first. Browsers put theirs into process groups of their own."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text(encoding="latin-1").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, ())
    return found


@asynccontextmanager
async def open_page(command: Sequence[str]) -> AsyncIterator[Page]:
    """A page that the command has opened in a browser of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        page = Page(process)
        await page.answer()
        yield page
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_S)
        # What it has started, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
