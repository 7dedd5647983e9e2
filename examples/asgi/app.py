"""A small ASGI program without a framework: a download, an upload, events, a WebSocket.

    quicbaton serve app:app --app-dir examples/asgi --workers 2

Then, while the last of these runs, `quicbaton reload`:

    curl --http3-only --cacert CERT https://localhost:4433/download/100 | sha256sum
    curl --http3-only --cacert CERT --data-binary @FILE https://localhost:4433/upload
    curl --http3-only --cacert CERT -N https://localhost:4433/events
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

_PIECE = bytes(range(256)) * 256


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request, or one WebSocket."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    else:
        name, _, argument = scope["path"].strip("/").partition("/")
        answer = _ANSWERS.get(name, _not_found)
        await answer(argument, receive, send)


async def _live(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _download(megabytes: str, _receive: Any, send: Any) -> None:
    """So many MB; `send` waits while the client has not taken what there is."""
    size = int(megabytes or "1") * 1_000_000
    await _start(send, [(b"content-length", b"%d" % size)])
    while size:
        piece = _PIECE[:size]
        size -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": size > 0})


async def _upload(_: str, receive: Any, send: Any) -> None:
    """The SHA-256 of what came."""
    digest = hashlib.sha256()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message["body"])
        more = message["more_body"]
    await _start(send, [])
    await send({"type": "http.response.body", "body": digest.hexdigest().encode() + b"\n"})


async def _events(count: str, _receive: Any, send: Any) -> None:
    """A server-sent event five times a second, with the process that made it."""
    await _start(send, [(b"content-type", b"text/event-stream")])
    for number in range(int(count or "1000")):
        body = b"data: %d from process %d\n\n" % (number, os.getpid())
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0.2)
    await send({"type": "http.response.body", "body": b""})


async def _not_found(_: str, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"/download/MB, /upload, /events\n"})


async def _echo(receive: Any, send: Any) -> None:
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            echo = {"text": message.get("text"), "bytes": message.get("bytes")}
            await send({"type": "websocket.send", **echo})


async def _start(send: Any, fields: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": fields})


_ANSWERS = {"download": _download, "upload": _upload, "events": _events}
