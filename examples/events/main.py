"""Server-sent events: numbers, each with the process that made it."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, StreamingResponse
from starlette.routing import Route

_PAUSE_S = 0.2


async def numbers(number: int) -> AsyncIterator[str]:
    while True:
        yield f"id: {number}\ndata: {number} from process {os.getpid()}\n\n"
        number += 1
        await asyncio.sleep(_PAUSE_S)


async def events(request: Request) -> StreamingResponse:
    """All that come after the last one that this client has had."""
    last = request.headers.get("last-event-id", "")
    begin = int(last) + 1 if last.isdecimal() else 0
    headers = {"cache-control": "no-store"}
    return StreamingResponse(numbers(begin), headers=headers, media_type="text/event-stream")


async def page(_: Request) -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


app = Starlette(routes=[Route("/", page), Route("/events", events)])
