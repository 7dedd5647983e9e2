"""A chat over WebSocket whose room is larger than a process.

Workers are processes, and after a reload a WebSocket still belongs to the one where it began. So
each message goes to all processes: each has a datagram socket in one folder.
"""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

_ROOM = Path(os.environ.get("CHAT_ROOM") or Path(tempfile.gettempdir(), f"chat-{os.getuid()}"))
_MESSAGE_BYTES = 4_000
_here: set[WebSocket] = set()


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    version = websocket.scope["http_version"]
    await websocket.send_text(f"process {os.getpid()} speaks to you over HTTP/{version}")
    _here.add(websocket)
    try:
        while True:
            say((await websocket.receive_text()).encode()[:_MESSAGE_BYTES])
    except WebSocketDisconnect:
        pass
    finally:
        _here.discard(websocket)


def say(message: bytes) -> None:
    """To all processes, this one included."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        for path in _ROOM.iterdir():
            try:
                sender.sendto(message, str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)  # of a process that has died
            except (BlockingIOError, FileNotFoundError):
                pass  # one that is behind, or has just left


async def listen(own: socket.socket) -> None:
    """Messages of all processes, for all members here."""
    loop = asyncio.get_running_loop()
    while True:
        message = (await loop.sock_recv(own, _MESSAGE_BYTES)).decode("utf-8", "replace")
        await asyncio.gather(*(w.send_text(message) for w in _here), return_exceptions=True)


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    _ROOM.mkdir(mode=0o700, exist_ok=True)
    path = _ROOM / str(os.getpid())
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as own:
        own.bind(str(path))
        listening = asyncio.create_task(listen(own))
        yield
        listening.cancel()
        path.unlink(missing_ok=True)


async def page(_: object) -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


app = Starlette(routes=[Route("/", page), WebSocketRoute("/chat", chat)], lifespan=lifespan)
