"""Counts the requests that a program is begun with."""

from __future__ import annotations

from collections.abc import Awaitable

from quicbaton.asgi.scope import Application, Receive, Scope, Send
from quicbaton.asyncio.requests import RequestCount


class CountedRequests:
    """The program `application`; `count` is the number of its requests so far."""

    def __init__(self, application: Application, count: RequestCount) -> None:
        self._application = application
        self._count = count

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own: each value that the program awaits would pass through it.
        if scope["type"] != "lifespan":
            self._count.total += 1
            self._count.over_tcp += scope["http_version"] != "3"
        return self._application(scope, receive, send)
