"""One request and its response, between a program's awaits and the events of HTTP/3.

The client gets credit for what the program has taken with `receive()`, and `send()` waits while
the stream's buffer is full: so memory is bounded by windows, whatever either side does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from enum import Enum, auto
from typing import Any, Final, Protocol

from quicbaton.asgi.scope import Application, Message, Scope
from quicbaton.errors import StreamStateError

_LOG: Final = logging.getLogger("quicbaton.asgi")
_FIELDS_TO_DROP: Final = frozenset({b"transfer-encoding", b"connection", b"keep-alive"})
_SERVER_ERROR: Final = b"Internal Server Error"

Fields = list[tuple[bytes, bytes]]


class ClientGoneError(OSError):
    """`send()` was called for a client that is gone (ASGI HTTP 2.4)."""


class Wire(Protocol):
    """What an exchange does to its connection; always to the present one, should that move."""

    def send_headers(self, stream_id: int, fields: Fields, *, ended: bool) -> None: ...
    def send_data(self, stream_id: int, data: bytes, *, ended: bool) -> None: ...
    def room_bytes(self, stream_id: int) -> int: ...
    def pause_reading(self, stream_id: int) -> None: ...
    def resume_reading(self, stream_id: int) -> None: ...
    def abort(self, stream_id: int) -> None: ...
    def over(self, stream_id: int) -> None: ...


class _Stage(Enum):
    BEFORE = auto()  # nothing of the response is sent
    HEAD = auto()  # the program has given its head, which waits for the first of its body
    BODY = auto()
    TRAILERS = auto()
    DONE = auto()


class Exchange:
    """Runs the program for one request."""

    def __init__(self, wire: Wire, stream_id: int, scope: Scope, *, ended: bool) -> None:
        self._wire = wire
        self._stream_id = stream_id
        self._scope = scope
        self._is_head = scope["method"] == "HEAD"
        self._chunks: deque[bytes] = deque()
        self._body_ended = ended
        self._body_told = False
        self._paused = False
        self._disconnected = False
        self._stage = _Stage.BEFORE
        self._status = 0
        self._head: Fields = []
        self._trailers: Fields = []
        self._wants_trailers = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, application: Application) -> None:
        """Run the program as a task."""
        self._task = asyncio.create_task(self._run(application))

    def cancel(self) -> None:
        """The server ends, and waits for the program no longer."""
        if self._task is not None:
            self._task.cancel()

    # --- from HTTP/3 ----------------------------------------------------------------------------

    def feed(self, data: bytes, *, ended: bool) -> None:
        """A piece of the request's body came. No more credit until the program has taken it."""
        if data:
            self._chunks.append(data)
            if not self._paused and not ended:
                self._paused = True
                self._wire.pause_reading(self._stream_id)
        self._body_ended |= ended
        self._arrived.set()

    def has_room(self) -> None:
        """The stream's buffer has drained."""
        self._room.set()

    def disconnect(self) -> None:
        """The client wants no answer any more, or is gone."""
        self._disconnected = True
        self._arrived.set()
        self._room.set()

    # --- the program's side ---------------------------------------------------------------------

    async def _run(self, application: Application) -> None:
        try:
            await application(self._scope, self._receive, self._send)
        except ClientGoneError:
            pass
        except asyncio.CancelledError:
            self._fail()
            raise
        except Exception as error:
            # The boundary to the program: its mistake costs this request, and is told.
            path = self._scope["path"]
            _LOG.error("the program failed at %s %s", self._scope["method"], path, exc_info=error)
            self._fail()
        else:
            if self._stage is not _Stage.DONE and not self._disconnected:
                _LOG.error(
                    "the program returned without a whole response to %s %s",
                    self._scope["method"],
                    self._scope["path"],
                )
                self._fail()
        finally:
            self._resume()
            self._wire.over(self._stream_id)

    def _fail(self) -> None:
        """An error that the client is told, or a reset where a part of the answer is out: a short
        body must not look like a whole one."""
        if self._disconnected or self._stage is _Stage.DONE:
            return
        begun = self._stage not in (_Stage.BEFORE, _Stage.HEAD)
        self._stage = _Stage.DONE
        if begun:
            self._wire.abort(self._stream_id)
            return
        fields = [
            (b":status", b"500"),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(_SERVER_ERROR)),
        ]
        try:
            self._wire.send_headers(self._stream_id, fields, ended=self._is_head)
            if not self._is_head:
                self._wire.send_data(self._stream_id, _SERVER_ERROR, ended=True)
        except StreamStateError:
            pass  # the client gave it up meanwhile

    async def _receive(self) -> Message:
        if self._body_told:
            # All of the body is told: what is left to say is that the client is gone.
            while not self._disconnected and self._stage is not _Stage.DONE:
                self._arrived.clear()
                await self._arrived.wait()
            return {"type": "http.disconnect"}
        while not self._chunks and not self._body_ended and not self._disconnected:
            self._arrived.clear()
            await self._arrived.wait()
        if self._disconnected and not self._body_ended:
            return {"type": "http.disconnect"}
        body = self._chunks.popleft() if self._chunks else b""
        more = bool(self._chunks) or not self._body_ended
        self._body_told = not more
        if not self._chunks:
            self._resume()
        return {"type": "http.request", "body": body, "more_body": more}

    async def _send(self, message: Message) -> None:
        if self._disconnected:
            raise ClientGoneError("the client is gone")
        kind = message["type"]
        if self._stage is _Stage.DONE:
            raise RuntimeError(f"{kind!r} after the response has ended")
        try:
            if kind == "http.response.start" and self._stage is _Stage.BEFORE:
                self._begin(message)
            elif kind == "http.response.body" and self._stage in (_Stage.HEAD, _Stage.BODY):
                await self._send_body(message.get("body", b""), message.get("more_body", False))
            elif kind == "http.response.trailers" and self._stage is _Stage.TRAILERS:
                self._send_trailers(message)
            elif kind == "http.response.early_hint" and self._stage in (_Stage.BEFORE, _Stage.HEAD):
                links = [(b"link", bytes(link)) for link in message["links"]]
                self._wire.send_headers(
                    self._stream_id, [(b":status", b"103"), *links], ended=False
                )
            else:
                raise RuntimeError(f"{kind!r} is not what comes next of a response")
        except StreamStateError as error:
            self.disconnect()
            raise ClientGoneError("the client is gone") from error

    def _begin(self, message: Message) -> None:
        self._status = int(message["status"])
        fields = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        self._head = [field for field in fields if field[0] not in _FIELDS_TO_DROP]
        self._wants_trailers = bool(message.get("trailers", False))
        self._stage = _Stage.HEAD

    async def _send_body(self, body: Any, more: bool) -> None:
        data = bytes(body)
        ended = not more and not self._wants_trailers
        has_body = not self._is_head and self._status not in (204, 304)
        if self._stage is _Stage.HEAD:
            self._stage = _Stage.BODY
            head = [(b":status", b"%d" % self._status), *self._head]
            self._wire.send_headers(self._stream_id, head, ended=ended and not (has_body and data))
            if ended and not (has_body and data):
                self._end()
                return
        if has_body and (data or ended):
            await self._write(data, ended=ended)
        elif ended:
            self._wire.send_data(self._stream_id, b"", ended=True)
        if ended:
            self._end()
        elif not more:
            self._stage = _Stage.TRAILERS

    async def _write(self, data: bytes, *, ended: bool) -> None:
        """Hand over what fits, and wait for room: whoever sends much in one piece waits here."""
        at = 0
        while True:
            self._room.clear()
            room = self._wire.room_bytes(self._stream_id)
            if self._disconnected:
                raise ClientGoneError("the client is gone")
            if room:
                piece = data if room >= len(data) and not at else data[at : at + room]
                at += len(piece)
                self._wire.send_data(self._stream_id, piece, ended=ended and at == len(data))
                if at == len(data):
                    return
            else:
                await self._room.wait()

    def _send_trailers(self, message: Message) -> None:
        self._trailers += [
            (bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())
        ]
        if message.get("more_trailers", False):
            return
        extensions = self._scope["extensions"]
        if self._trailers and "http.response.trailers" in extensions:
            self._wire.send_headers(self._stream_id, self._trailers, ended=True)
        else:
            self._wire.send_data(self._stream_id, b"", ended=True)
        self._end()

    def _end(self) -> None:
        self._stage = _Stage.DONE
        self._arrived.set()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._wire.resume_reading(self._stream_id)
