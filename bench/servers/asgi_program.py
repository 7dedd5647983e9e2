"""The benchmark's application as a plain ASGI program, which every ASGI server runs.

The same paths as `bench.servers.application`, over the same body.
"""

import os
from typing import Any

from bench.servers.application import CHUNK_BYTES, Content

_CONTENT = Content(int(os.environ["BENCH_BODY_BYTES"]))


async def application(scope: Any, receive: Any, send: Any) -> None:
    """`GET /small`, `GET /body`, `GET /first/N`, `POST /upload`."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["path"] == "/small":
        await _start(send, 200, len(_CONTENT.small))
        await send({"type": "http.response.body", "body": _CONTENT.small})
    elif scope["path"] == "/body":
        await _start(send, 200, len(_CONTENT.body))
        for chunk in _CONTENT.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})
    elif scope["path"].startswith("/first/"):
        await _send_first(send, int(scope["path"].removeprefix("/first/")))
    elif scope["path"] == "/upload":
        answer = await _take_upload(receive)
        await _start(send, 200, len(answer))
        await send({"type": "http.response.body", "body": answer})
    else:
        await _start(send, 404, 0)
        await send({"type": "http.response.body"})


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _start(send: Any, status: int, length: int) -> None:
    headers = [
        (b"content-length", b"%d" % length),
        (b"content-type", b"application/octet-stream"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _send_first(send: Any, length: int) -> None:
    await _start(send, 200, length)
    for start in range(0, length, CHUNK_BYTES):
        chunk = _CONTENT.body[start : min(start + CHUNK_BYTES, length)]
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body"})


async def _take_upload(receive: Any) -> bytes:
    received_bytes, intact, more = 0, True, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"disconnected"
        body = message.get("body", b"")
        intact = intact and _CONTENT.body.startswith(body, received_bytes)
        received_bytes += len(body)
        more = message.get("more_body", False)
    return b"%d" % received_bytes if intact else b"corrupt"
