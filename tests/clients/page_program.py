"""The ASGI program behind pages of tests. `POST /early/STATUS` answers and reads nothing; `/down`,
`POST /up` and WebTransport `/session` last until the client is gone; `/seen` lists which of these
have begun and ended so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

_PIECE = bytes(100_000)
_SEEN: dict[str, list[str]] = {"begun": [], "gone": []}


def configure(configuration: Any) -> None:
    """A client that says nothing for so long is gone."""
    configuration.idle_timeout = 3.0


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        raise NotImplementedError("nothing to start")
    name, _, argument = scope["path"].strip("/").partition("/")
    match name:
        case "early":
            await _answer(send, scope["http_version"].encode(), status=int(argument))
        case "seen":
            await _answer(send, json.dumps(_SEEN).encode())
        case "down" | "up" | "session":
            _SEEN["begun"].append(name)
            await _LASTING[name](receive, send)
            _SEEN["gone"].append(name)
        case _:
            await _answer(send, b"<!doctype html><link rel=icon href=data:,>", kind=b"text/html")


async def _down(_receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    try:
        while True:
            await send({"type": "http.response.body", "body": _PIECE, "more_body": True})
    except OSError:
        pass  # the client is gone (ASGI HTTP 2.4)


async def _up(receive: Any, _send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0.1)  # it shall last


async def _session(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "webtransport.accept"})
    while (await receive())["type"] != "webtransport.disconnect":
        pass


_LASTING = {"down": _down, "up": _up, "session": _session}


async def _answer(
    send: Any, body: bytes, *, status: int = 200, kind: bytes = b"text/plain"
) -> None:
    headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
