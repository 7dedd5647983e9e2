"""Scripts of an ASGI program's steps in a request, made at random, and run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

from tests.processes.moving_server import content

Step = list[Any]

_ALL = 10_000_000


def make_script(random: Random) -> list[Step]:
    """Reading and writing in any order and pace; sometimes a mistake at the end."""
    script: list[Step] = []
    if random.random() < 0.3:
        script.append(["hint"])
    if random.random() < 0.7:
        script += _some_reading(random)
    ending = random.choice(["end", "end", "end", "trailers", "fail", "return"])
    script.append(["start", random.choice([200, 201, 404]), ending == "trailers"])
    for _ in range(random.randrange(5)):
        script.append(["send", random.choice([1, 1000, 60_000, 400_000]), True])
        if random.random() < 0.5:
            script += _some_reading(random)
    if ending in ("end", "trailers"):
        script.append(["send", random.choice([0, 1, 5000]), False])
    if ending in ("trailers", "fail"):
        script.append([ending])
    return [*script, ["rest"]] if ending in ("end", "trailers") else script


def _some_reading(random: Random) -> list[Step]:
    pause = ["sleep", random.choice([0, 5, 30])]
    return [pause, ["receive", random.choice([1, 10_000, _ALL])]]


def is_whole(script: list[Step]) -> bool:
    """Whether a response comes of it that a client takes for one."""
    return script[-1] == ["rest"]


async def run_script(script: list[Step], receive: Any, send: Any, transcript: Path) -> None:
    """Writes down what the program sees at each step; how much comes at a time is chance."""
    program = _Program(receive, send)
    try:
        for kind, *arguments in script:
            await getattr(program, kind)(*arguments)
    except Exception as error:
        program.kinds.append(f"{type(error).__name__}: {error}"[:200])
        raise
    finally:
        unfinished = transcript.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(program.kinds))
        unfinished.rename(transcript)


class _Program:
    def __init__(self, receive: Any, send: Any) -> None:
        self._receive_message = receive
        self._send_message = send
        self._more = True
        self._written = 0
        self._size = 0
        self.kinds: list[str] = []

    async def sleep(self, pause_ms: int) -> None:
        await asyncio.sleep(pause_ms / 1000)

    async def receive(self, size: int) -> None:
        """So many bytes at least, if there are as many."""
        wanted = self._size + size
        while self._more and self._size < wanted:
            message = await self._receive_message()
            if message["type"] != "http.request":
                raise AssertionError(f"{message['type']} after {self._size} bytes")
            body = message["body"]
            if body != content(self._size, self._size + len(body)):
                raise AssertionError(f"wrong bytes, {len(body)} at {self._size}")
            self._size += len(body)
            self._more = message["more_body"]
        self.kinds.append(f"{self._size} bytes in all" if size == _ALL else "read")

    async def hint(self) -> None:
        await self._send("http.response.early_hint", links=[b"</a.css>; rel=preload"])

    async def start(self, status: int, trailers: bool) -> None:
        headers = [(b"content-type", b"text/plain")]
        await self._send("http.response.start", status=status, headers=headers, trailers=trailers)

    async def send(self, size: int, more: bool) -> None:
        body = content(self._written, self._written + size)
        self._written += size
        await self._send("http.response.body", body=body, more_body=more)

    async def trailers(self) -> None:
        await self._send("http.response.trailers", headers=[(b"x-size", b"%d" % self._written)])

    async def fail(self) -> None:
        raise ValueError("a mistake of the program")

    async def rest(self) -> None:
        """When all is said there is nothing to come but the end."""
        kind = "http.request"
        while kind == "http.request":
            kind = (await self._receive_message())["type"]
        self.kinds.append(kind)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._send_message({"type": kind, **fields})
        self.kinds.append(kind)
