"""A limit on the requests that run at once: `quicbaton serve --limit-concurrency`."""

from __future__ import annotations

from typing import Final

from quicbaton.asgi.scope import Application, Receive, Scope, Send

_BUSY: Final = 503
_BODY: Final = b"Service Unavailable"


class LimitedConcurrency:
    """The program `application`, called for at most `limit` requests, WebSockets and sessions at a
    time. Any more are answered with 503 (RFC 9110 §15.6.4)."""

    def __init__(self, application: Application, limit: int) -> None:
        self._application = application
        self._limit = limit
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        elif self._running >= self._limit:
            await _refuse(scope["type"], receive, send)
        else:
            self._running += 1
            try:
                await self._application(scope, receive, send)
            finally:
                self._running -= 1


async def _refuse(kind: str, receive: Receive, send: Send) -> None:
    if kind == "webtransport":
        await receive()
        await send({"type": "webtransport.close", "status": _BUSY})
        return
    prefix = "http.response" if kind == "http" else "websocket.http.response"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_BODY))]
    await send({"type": f"{prefix}.start", "status": _BUSY, "headers": headers})
    await send({"type": f"{prefix}.body", "body": _BODY})
