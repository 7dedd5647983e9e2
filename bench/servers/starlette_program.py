"""The benchmark's application in Starlette: the server's share of a framework's request."""

import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from bench.servers.application import Content

_CONTENT = Content(int(os.environ["BENCH_BODY_BYTES"]))
_KIND = "application/octet-stream"


async def _small(_request: Request) -> Response:
    return Response(_CONTENT.small, media_type=_KIND)


async def _body(_request: Request) -> Response:
    length = {"content-length": str(len(_CONTENT.body))}
    return StreamingResponse(_chunks(), headers=length, media_type=_KIND)


async def _chunks() -> AsyncIterator[bytes]:
    for chunk in _CONTENT.chunks:
        yield chunk


async def _upload(request: Request) -> Response:
    received_bytes, intact = 0, True
    async for piece in request.stream():
        intact = intact and _CONTENT.body.startswith(piece, received_bytes)
        received_bytes += len(piece)
    return Response(b"%d" % received_bytes if intact else b"corrupt", media_type=_KIND)


application = Starlette(
    routes=[
        Route("/small", _small),
        Route("/body", _body),
        Route("/upload", _upload, methods=["POST"]),
    ]
)
