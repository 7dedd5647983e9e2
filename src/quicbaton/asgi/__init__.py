"""ASGI 3 programs over HTTP/3, and over TCP beside it (https://asgi.readthedocs.io, specification
2.4 of HTTP).

scope           what a program is told of a request
exchange        a program at work on one request, between its awaits and events of HTTP/3
http            a request and its response
websocket       a WebSocket over Extended CONNECT
webtransport    a WebTransport session, by an extension of ours
state           the part of requests that is data, and moves
lifespan        startup and shutdown of the program
disk            files that a program names as the bodies of its responses
protocol        all of it as a protocol of `quicbaton.asyncio`
tcp             the same over HTTP/1.1 and HTTP/2

A request is a task, and no bytes can carry a task. When its connection moves, its stream is relayed
between the two processes until the task is done (`running_streams`). Bytes that the task has
written move as data, and so does a response that names a file. A program sees no difference:
`http.disconnect` means that the client is gone.
"""

from quicbaton.asgi.disk import whole_disk
from quicbaton.asgi.lifespan import Lifespan
from quicbaton.asgi.protocol import AsgiProtocol

__all__ = ["AsgiProtocol", "Lifespan", "whole_disk"]
