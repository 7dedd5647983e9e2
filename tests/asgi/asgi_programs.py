"""ASGI programs of the tests, as users write them."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

STARTED: list[str] = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    """By path: `/hello`, `/scope`, `/hash`, `/large/BYTES`, `/slow/PIECES`, `/raise`,
    `/raise-late`, `/nothing`, `/bad-field`, `/short`, `/trailers`, `/hints`, `/dated`, `/wait`."""
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
        return
    name, _, argument = scope["path"].strip("/").partition("/")
    await _PATHS[name](scope, receive, send, argument)


async def _lifespan(scope: Any, receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        STARTED.append(message["type"])
        if message["type"] == "lifespan.startup":
            scope["state"]["word"] = "from startup"
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _start(send: Any, status: int = 200, **more: Any) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers, **more})


async def _end(send: Any, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body})


async def _hello(scope: Any, receive: Any, send: Any, _: str) -> None:
    await _start(send)
    await _end(send, b"hello " + scope["state"]["word"].encode())


async def _scope(scope: Any, receive: Any, send: Any, _: str) -> None:
    shown = {key: scope[key] for key in sorted(scope) if key not in ("state", "asgi")}
    await _start(send)
    await _end(send, repr(shown).encode())


async def _hash(scope: Any, receive: Any, send: Any, _: str) -> None:
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        digest.update(message["body"])
        more = message["more_body"]
    await _start(send)
    await _end(send, digest.hexdigest().encode())


async def _large(scope: Any, receive: Any, send: Any, size: str) -> None:
    await _start(send)
    await _end(send, pattern(int(size)))


async def _slow(scope: Any, receive: Any, send: Any, pieces: str) -> None:
    await _start(send)
    for number in range(int(pieces)):
        await asyncio.sleep(0.05)
        body = b"%05d\n" % number * 1000
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await _end(send, b"")


async def _raise(scope: Any, receive: Any, send: Any, _: str) -> None:
    raise ValueError("a mistake of the program")


async def _raise_late(scope: Any, receive: Any, send: Any, _: str) -> None:
    await _start(send)
    await send({"type": "http.response.body", "body": b"some", "more_body": True})
    raise ValueError("a mistake of the program")


async def _nothing(scope: Any, receive: Any, send: Any, _: str) -> None:
    pass


async def _bad_field(scope: Any, receive: Any, send: Any, _: str) -> None:
    headers = [(b"x-bad", b"one\r\nx-two: two")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await _end(send, b"body")


async def _short(scope: Any, receive: Any, send: Any, _: str) -> None:
    """Less than it has said."""
    headers = [(b"content-length", b"100")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await _end(send, b"body")


async def mounted(scope: Any, receive: Any, send: Any) -> None:
    """A program that says where it is."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await _start(send)
    await _end(send, f"{scope['root_path']} {scope['path']}".encode())


async def _trailers(scope: Any, receive: Any, send: Any, _: str) -> None:
    await _start(send, trailers=True)
    await _end(send, b"body")
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"7")]})


async def _hints(scope: Any, receive: Any, send: Any, _: str) -> None:
    await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
    await _start(send)
    await _end(send, b"body")


async def _dated(scope: Any, receive: Any, send: Any, _: str) -> None:
    headers = [(b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await _end(send, b"long ago")


async def _wait(scope: Any, receive: Any, send: Any, _: str) -> None:
    """Until the client is gone."""
    await _start(send)
    await send({"type": "http.response.body", "body": b"waiting", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    STARTED.append("disconnected")
    try:
        await _end(send, b"nobody reads it")
    except OSError:
        STARTED.append("refused")
        raise


def pattern(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


_PATHS = {
    "hello": _hello,
    "scope": _scope,
    "hash": _hash,
    "large": _large,
    "slow": _slow,
    "raise": _raise,
    "raise-late": _raise_late,
    "nothing": _nothing,
    "bad-field": _bad_field,
    "short": _short,
    "trailers": _trailers,
    "hints": _hints,
    "dated": _dated,
    "wait": _wait,
}
