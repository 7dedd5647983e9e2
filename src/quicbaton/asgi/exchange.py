"""A program at work on one request: a task between its awaits and the events of HTTP/3.

The client gets credit for content only after the program has taken it with `receive()`, and
`send()` waits while the stream's buffer is full. So windows bound the memory, whatever either side
does.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

from quicbaton.asgi.scope import Application, Message, Scope
from quicbaton.asyncio import access
from quicbaton.asyncio.requests import RequestCount
from quicbaton.errors import GivenAwayError, StreamStateError
from quicbaton.files.dates import http_date
from quicbaton.files.downloads import Download

_LOG: Final = logging.getLogger("quicbaton.asgi")

Fields = list[tuple[bytes, bytes]]
#: Errors by which a connection says that a stream, or the connection itself, is over.
CLIENT_GONE: Final = (StreamStateError, GivenAwayError)

#: RFC 9114 §4.2: HTTP/3 has no such fields; programs that were written for HTTP/1.1 may send them.
_FIELDS_TO_DROP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)


class ClientGoneError(OSError):
    """`send()` was called for a client that is gone (ASGI HTTP 2.4)."""


class Arrived(NamedTuple):
    """A request's content as far as it has come."""

    body: bytes
    ended: bool


class Wire(Protocol):
    """Calls that an exchange makes to its connection. After a move they reach the present one."""

    def send_headers(self, stream_id: int, fields: Fields, *, ended: bool) -> None: ...
    def send_data(self, stream_id: int, data: bytes, *, ended: bool) -> None: ...
    def room_bytes(self, stream_id: int) -> int: ...
    def pause_reading(self, stream_id: int) -> None: ...
    def resume_reading(self, stream_id: int) -> None: ...
    def open_file(self, stream_id: int, path: str) -> Download: ...
    def open_part(
        self, stream_id: int, descriptor: int, offset: int, count: int | None
    ) -> Download: ...
    def send_file(self, download: Download) -> None: ...
    def abort(self, stream_id: int) -> None: ...
    def may_begin(self, stream_id: int) -> bool: ...
    def keep(self, grown_bytes: int) -> None: ...
    def over(self, stream_id: int) -> None: ...
    def connection_name(self) -> str: ...
    @property
    def requests(self) -> RequestCount: ...


class Exchange(ABC):
    """Runs the program for one request. Its subclasses say which messages the program sends and
    receives."""

    #: Whether a request with which the program has not begun can begin at another owner, which then
    #: gets what `arrived()` returns.
    can_begin_elsewhere = False

    def __init__(self, wire: Wire, stream_id: int, scope: Scope) -> None:
        self.wire = wire
        self.stream_id = stream_id
        self.scope = scope
        self.is_disconnected = False
        self._paused = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._writing = asyncio.Lock()
        #: Tasks of the program that write more than fits, or wait for such a task.
        self._writers = 0
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._kept_bytes = 0
        #: Status and bytes of the body, for the access log.
        self.status = 0
        self.sent_bytes = 0

    def start(self, application: Application) -> None:
        """Run the program as a task. A second call does nothing."""
        self._task = asyncio.create_task(self._run(application))

    # --- from HTTP/3 ----------------------------------------------------------------------------

    @abstractmethod
    def feed(self, data: bytes, *, ended: bool) -> None:
        """A piece of the request's content has come."""

    def has_room(self) -> None:
        """The stream's buffer has drained: wake the tasks that wait to write."""
        self._room.set()

    def stream_reset(self, stream_id: int, error_code: int) -> None:
        """The client has broken off its request (RESET_STREAM): it wants no answer any more."""
        self.disconnect()

    def stream_stopped(self, stream_id: int, error_code: int) -> None:
        """The client wants no more of the response (STOP_SENDING)."""
        self.disconnect()

    def disconnect(self) -> None:
        """The client wants no answer any more, or is gone."""
        self.is_disconnected = True
        self._news.set()
        self._room.set()

    @property
    def held_bytes(self) -> int:
        """Bytes that have come and that the program has not taken."""
        return 0

    def arrived(self) -> Arrived:
        """The content that has come for a program that has not begun."""
        raise NotImplementedError

    # --- for the kinds --------------------------------------------------------------------------

    @abstractmethod
    async def receive(self) -> Message:
        """The next message for the program."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """A message from the program. StreamStateError means that the client is gone."""

    @abstractmethod
    def conclude(self) -> bool:
        """Called when the program has returned: whether its answer is whole."""

    @abstractmethod
    def fail(self) -> None:
        """Tell the client that the program has made a mistake or ended too early."""

    async def wait_for_news(self) -> None:
        """Wait until something has come or the client is gone."""
        self._news.clear()
        await self._news.wait()

    def tell(self) -> None:
        """Wake the program: something has come."""
        self._news.set()

    def hold_back(self) -> None:
        """Give the client no more credit until `let_on`."""
        if not self._paused:
            self._paused = True
            self.wire.pause_reading(self.stream_id)

    def let_on(self) -> None:
        """Give credit again: the program has taken all that had come."""
        if self._paused:
            self._paused = False
            self.wire.resume_reading(self.stream_id)

    def keep(self, size_bytes: int) -> None:
        """Count `size_bytes` among the bytes that the connection holds: they wait here for the
        program, and the client has new credit for them."""
        if size_bytes != self._kept_bytes:
            self.wire.keep(size_bytes - self._kept_bytes)
            self._kept_bytes = size_bytes

    @property
    def is_writing(self) -> bool:
        """Whether a message is written in part: no other may begin before its rest."""
        return self._writing.locked()

    async def write(self, make: Callable[[], bytes], *, ended: bool = False) -> None:
        """Write what fits, then wait for room. A task that sends much in one piece waits here, and
        so do other tasks of the program whose pieces come after it."""
        if self._writers:
            await self._write_in_turn(make, ended=ended)
            return
        data = make()
        if 0 < len(data) <= self.wire.room_bytes(self.stream_id) and not self.is_disconnected:
            # No other writer waits, and it fits. Locks would cost a small request 2 % of its CPU.
            self.sent_bytes += len(data)
            self.wire.send_data(self.stream_id, data, ended=ended)
        else:
            await self._write_in_turn(lambda: data, ended=ended)

    # --- helpers --------------------------------------------------------------------------------

    async def _write_in_turn(self, make: Callable[[], bytes], *, ended: bool) -> None:
        self._writers += 1
        try:
            async with self._writing:
                await self._write(make(), ended=ended)
        finally:
            self._writers -= 1

    async def _write(self, data: bytes, *, ended: bool) -> None:
        at = 0
        while True:
            self._room.clear()
            if self.is_disconnected:
                raise ClientGoneError("the client is gone")
            room = self.wire.room_bytes(self.stream_id)
            if room:
                piece = data if room >= len(data) and not at else data[at : at + room]
                at += len(piece)
                self.sent_bytes += len(piece)
                self.wire.send_data(self.stream_id, piece, ended=ended and at == len(data))
                if at == len(data):
                    return
            else:
                await self._room.wait()

    async def _run(self, application: Application) -> None:
        if self._has_begun or not self.wire.may_begin(self.stream_id):
            return
        self._has_begun = True
        what = f"{self.scope['type']} {self.scope['path']}"
        begun_s = monotonic()
        try:
            await application(self.scope, self.receive, self._send)
        except ClientGoneError:
            pass
        except asyncio.CancelledError:
            self.fail()
            raise
        except Exception as error:
            # The boundary to the program: its mistake costs this request, and is told.
            _LOG.error("the program failed at %s", what, exc_info=error)
            self.fail()
        else:
            if not self.is_disconnected and not self.conclude():
                _LOG.error("the program returned without a whole response: %s", what)
                self.fail()
        finally:
            self.let_on()
            self.keep(0)
            self.wire.requests.answered[self.scope["http_version"], self.status] += 1
            if access.is_on():
                self._log_access(monotonic() - begun_s)
            self.wire.over(self.stream_id)

    def _log_access(self, seconds: float) -> None:
        scope = self.scope
        query = scope["query_string"]
        access.write(
            scope.get("method", scope["type"].upper()),
            quote(scope["path"]) + (f"?{query.decode('latin-1')}" if query else ""),
            self.status,
            client=scope["client"],
            http_version=scope["http_version"],
            sent_bytes=self.sent_bytes,
            seconds=seconds,
            connection=self.wire.connection_name(),
        )

    async def _send(self, message: Message) -> None:
        if self.is_disconnected:
            raise ClientGoneError("the client is gone")
        try:
            await self.send(message)
        except CLIENT_GONE as error:
            self.disconnect()
            raise ClientGoneError("the client is gone") from error


def fields_of(message: Message) -> Fields:
    """The header fields of a program's message, less those that HTTP/3 does not have."""
    fields: Fields = []
    for said in message.get("headers") or ():
        name, value = said
        if type(name) is not bytes or type(value) is not bytes:
            name, value = bytes_of(name, "headers"), bytes_of(value, "headers")
        name = name.lower()
        if name not in _FIELDS_TO_DROP:
            fields.append((name, value))
    return fields


def dated(fields: Fields) -> Fields:
    """The fields of a response with a Date, unless the program gives one (RFC 9110 §6.6.1). Those
    of 1xx responses and trailers are returned as they are."""
    name, status = fields[0]
    if name != b":status" or status < b"200" or any(name == b"date" for name, _ in fields):
        return fields
    return [*fields, (b"date", http_date(int(time())))]


def bytes_of(value: Any, key: str) -> bytes:
    """The message's bytes at `key`. Raises TypeError for another type: bytes(5) would be five
    zeros."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{key!r} of a message are bytes, not {type(value).__name__}")
    return bytes(value)
