"""The ASGI program to which the clients talk. Every response names the process that made it.

`/slow`, `/hash` and `/early` take the name of a gate. They answer slowly, read no more or wait
until the file of that name exists in the folder QUICBATON_GATES, and make a file beside it once
they have begun. So the matrix can act in the middle of a request, on any machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from random import Random
from typing import Any

_PIECE_BYTES = 64 << 10
#: Until its gate is open a download goes so slowly (1 MB/s), and from its half on hardly at all.
_PAUSE_S = 0.02
_SLOW_BYTES = 20_000
_HARDLY_BYTES = 100
#: A request is under way when so much of its body has gone by.
_BEGUN_BYTES = 100_000
EARLY_BODY_BYTES = 200_000


def content(size: int) -> bytes:
    """The body of a download of so many bytes: of each size another."""
    return Random(size).randbytes(size)


class Gate:
    """Closed until the matrix opens it."""

    def __init__(self, name: str) -> None:
        self._path = Path(os.environ["QUICBATON_GATES"], name) if name else None

    @property
    def is_open(self) -> bool:
        return self._path is None or self._path.exists()

    async def opened(self) -> None:
        while not self.is_open:
            await asyncio.sleep(_PAUSE_S)

    def say_begun(self) -> None:
        """One more request that has this gate is under way."""
        if self._path is not None:
            self._path.with_name(f"{self._path.name}.begun.{os.urandom(8).hex()}").touch()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """`GET /bytes/N`, `/slow/GATE/N`, `/long/...`, `/page`; `POST /hash/GATE`, `/early/GATE`."""
    if scope["type"] == "lifespan":
        raise NotImplementedError("nothing to start")
    name, _, rest = scope["path"].strip("/").partition("/")
    gate, _, argument = rest.rpartition("/")
    match name:
        case "bytes":
            await _download(send, content(int(argument)), Gate(""))
        case "slow":
            await _download(send, content(int(argument)), Gate(gate))
        case "long":
            await _answer(send, hashlib.sha256(rest.encode()).hexdigest().encode())
        case "page":
            page = b"<!doctype html><link rel=icon href=data:,><title>quicbaton</title>"
            await _answer(send, page, kind=b"text/html")
        case "hash":
            await _answer(send, await _hash(receive, Gate(argument)))
        case "early":
            await _refuse(send, Gate(argument))
        case _:
            await _answer(send, b"no such thing", status=404)


async def _download(send: Any, body: bytes, gate: Gate) -> None:
    await _start(send, 200, len(body))
    at, begun = 0, False
    while at < len(body):
        if gate.is_open:
            step = _PIECE_BYTES
        else:
            step = _SLOW_BYTES if 2 * at < len(body) else _HARDLY_BYTES
            await asyncio.sleep(_PAUSE_S)
        piece = body[at : at + step]
        at += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        if at >= _BEGUN_BYTES and not begun:
            begun = True
            gate.say_begun()
    await send({"type": "http.response.body", "body": b""})


async def _hash(receive: Any, gate: Gate) -> bytes:
    """The SHA-256 and the length of the request's body."""
    digest, size, more, begun = hashlib.sha256(), 0, True, False
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError(f"the client gave up after {size} bytes")
        digest.update(message["body"])
        size += len(message["body"])
        more = message["more_body"]
        if size >= _BEGUN_BYTES and not begun:
            begun = True
            gate.say_begun()
            await gate.opened()
    return f"{digest.hexdigest()} {size}".encode()


async def _refuse(send: Any, gate: Gate) -> None:
    """413, at once or when the gate opens, with a body; nothing of the request's is read."""
    gate.say_begun()
    await gate.opened()
    await _answer(send, content(EARLY_BODY_BYTES), status=413)


async def _answer(
    send: Any, body: bytes, *, status: int = 200, kind: bytes = b"text/plain"
) -> None:
    await _start(send, status, len(body), kind)
    await send({"type": "http.response.body", "body": body})


async def _start(send: Any, status: int, size: int, kind: bytes = b"text/plain") -> None:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(size).encode()),
        (b"cache-control", b"no-store"),
        (b"x-pid", str(os.getpid()).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
