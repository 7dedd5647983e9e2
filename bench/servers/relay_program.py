"""An ASGI program whose streams are relayed when their connection moves.

* `POST /echo` sends every piece of its body back as it comes.
* `GET /BYTES` answers with the block of `bench.servers.handoff_server`, over and over.
"""

from typing import Any

from bench.servers.handoff_server import Content

_CONTENT = Content()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """By path."""
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/echo":
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await _send(send, message.get("body", b""))
    else:
        offset, end = 0, int(scope["path"][1:])
        while offset < end:
            piece = _CONTENT.piece(offset, end)
            await _send(send, piece)
            offset += len(piece)
    await send({"type": "http.response.body"})


async def _send(send: Any, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
