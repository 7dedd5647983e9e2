"""A program with requests of all kinds, each of which goes on until a file `enough` exists. It
notes in a file `begun` with which requests it has begun."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

_PIECE_BYTES = 200


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError
    kind, name = scope["path"][1:].split("/")
    with open("begun", "a") as notes:
        notes.write(f"{kind}/{name}\n")
    await globals()[f"_{kind}"](receive, send, int(name))


async def _pid(_receive: Any, send: Any, _name: int) -> None:
    await _start(send)
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})


async def _stream(_receive: Any, send: Any, name: int) -> None:
    """Pieces that tell how far it is, and how many there were."""
    await _start(send)
    number = 0
    while not _is_enough():
        piece = b"%d %d\n" % (name, number)
        body = piece * (_PIECE_BYTES // len(piece))
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0.1)
        number += 1
    await send({"type": "http.response.body", "body": b"%d in all" % number})


async def _events(_receive: Any, send: Any, name: int) -> None:
    await _start(send, (b"content-type", b"text/event-stream"))
    number = 0
    while not _is_enough():
        event = b"id: %d\ndata: %d\n\n" % (number, name)
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0.1)
        number += 1
    await send({"type": "http.response.body", "body": b"data: %d in all\n\n" % number})


async def _upload(receive: Any, send: Any, _name: int) -> None:
    digest = hashlib.sha256()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message["body"])
        if not message["more_body"]:
            break
    await _start(send)
    await send({"type": "http.response.body", "body": digest.hexdigest().encode()})


async def _file(_receive: Any, send: Any, _name: int) -> None:
    await _start(send)
    await send({"type": "http.response.pathsend", "path": os.path.abspath("large.bin")})


async def _socket(receive: Any, send: Any, _name: int) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def _session(receive: Any, send: Any, _name: int) -> None:
    await receive()
    await send({"type": "webtransport.accept"})
    bodies: dict[int, bytes] = {}
    while (message := await receive())["type"] != "webtransport.disconnect":
        if message["type"] == "webtransport.stream.receive":
            stream = message["stream"]
            bodies[stream] = bodies.get(stream, b"") + message["data"]
            if message["end_stream"]:
                echo = {"stream": stream, "data": bodies.pop(stream), "end_stream": True}
                await send({"type": "webtransport.stream.send", **echo})


async def _start(send: Any, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def _is_enough() -> bool:
    return os.path.exists("enough")
