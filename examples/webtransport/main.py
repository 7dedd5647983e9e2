"""A WebTransport session that echoes datagrams and streams, and a page that watches it."""

import hashlib
import os
import ssl
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route


async def app(scope, receive, send):
    """Sessions are an extension of ASGI, which Starlette knows nothing of."""
    if scope["type"] == "webtransport":
        await session(receive, send)
    else:
        await pages(scope, receive, send)


async def session(receive, send):
    """Streams come back as they are, datagrams with the process before them."""
    await receive()
    await send({"type": "webtransport.accept"})
    while (message := await receive())["type"] != "webtransport.disconnect":
        if message["type"] == "webtransport.datagram.receive":
            data = b"%d %s" % (os.getpid(), message["data"])
            await send({"type": "webtransport.datagram.send", "data": data})
        elif message["type"] == "webtransport.stream.receive":
            echo = {key: message[key] for key in ("stream", "data", "end_stream")}
            await send({"type": "webtransport.stream.send", **echo})


async def page(_: Request) -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


async def process(request: Request) -> JSONResponse:
    """Who answers requests, and the SHA-256 of its certificate, which a browser takes for a session
    instead of an authority's signature."""
    certificate = request.scope["extensions"]["tls"]["server_cert"]
    told = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest() if certificate else ""
    headers = {"cache-control": "no-store"}
    return JSONResponse({"pid": os.getpid(), "certificate": told}, headers=headers)


pages = Starlette(routes=[Route("/", page), Route("/process", process)])
