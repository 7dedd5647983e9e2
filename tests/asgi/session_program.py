"""A program whose connections tests move: `/pid` by HTTP, and a WebTransport session that sends
back datagrams and streams, unidirectional ones on streams of its own."""

from __future__ import annotations

import os
from typing import Any


async def application(scope: Any, receive: Any, send: Any) -> None:
    match scope["type"]:
        case "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
        case "webtransport":
            await _echo(receive, send)
        case _:
            raise NotImplementedError


async def _echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "webtransport.accept"})
    bodies: dict[int, bytearray] = {}
    waiting: list[bytes] = []

    async def answer(stream: int, body: bytes) -> None:
        message = {"type": "webtransport.stream.send", "stream": stream}
        await send({**message, "data": b"%d " % os.getpid() + body, "end_stream": True})

    while (message := await receive())["type"] != "webtransport.disconnect":
        match message["type"]:
            case "webtransport.stream.receive":
                stream = message["stream"]
                bodies.setdefault(stream, bytearray()).extend(message["data"])
                if message["end_stream"]:
                    body = bytes(bodies.pop(stream))
                    if stream & 2:
                        waiting.append(body)
                        await send({"type": "webtransport.stream.open", "bidirectional": False})
                    else:
                        await answer(stream, body)
            case "webtransport.stream.opened":
                await answer(message["stream"], waiting.pop(0))
            case "webtransport.datagram.receive" if message["data"] == b"close":
                await send({"type": "webtransport.close", "code": 3})
            case "webtransport.datagram.receive":
                await send({"type": "webtransport.datagram.send", "data": message["data"]})
