"""An ASGI program whose answers take long, so that a reload of its server may cut them.

* `GET /slow/SECONDS` answers with a body that comes evenly over that many seconds.
* `GET /events/SECONDS` sends server-sent events, numbered from 0, for that long, then one that says
  `end`.
* `GET` of anything else answers with the process's ID, in 1 KB.
* A WebSocket at any path gets its messages back.
"""

import asyncio
import os
from typing import Any

#: The bytes of a download at a time, and how often they come.
PIECE_BYTES = 10_000
EVERY_S = 0.25


def piece(number: int) -> bytes:
    """The bytes of a download that differ from piece to piece."""
    return (b"%09d\n" % number) * (PIECE_BYTES // 10)


def count(seconds: float) -> int:
    """How many pieces or events there are in all."""
    return int(seconds / EVERY_S)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """By the kind of the scope, and its path."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    else:
        kind, _, seconds = scope["path"].strip("/").partition("/")
        if kind == "slow":
            await _slow(send, count(float(seconds)))
        elif kind == "events":
            await _events(send, count(float(seconds)))
        else:
            await _start(send, b"text/plain")
            await send({"type": "http.response.body", "body": (b"%d" % os.getpid()).ljust(1024)})


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _start(send: Any, kind: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", kind), *more]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _slow(send: Any, pieces: int) -> None:
    length = (b"content-length", b"%d" % (pieces * PIECE_BYTES))
    await _start(send, b"application/octet-stream", length)
    for number in range(pieces):
        await send({"type": "http.response.body", "body": piece(number), "more_body": True})
        await asyncio.sleep(EVERY_S)
    await send({"type": "http.response.body"})


async def _events(send: Any, events: int) -> None:
    await _start(send, b"text/event-stream")
    for number in range(events):
        body = b"data: %d\n\n" % number
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(EVERY_S)
    await send({"type": "http.response.body", "body": b"data: end\n\n"})


async def _echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
