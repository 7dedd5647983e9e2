"""A WebTransport session, as messages of an ASGI extension (docs/webtransport.md).

ASGI has no specification of it. These messages are a superset of those that two others describe,
peregrine's server and channels-webtransport, so that programs for either run.

The bytes of each stream wait here for the program, and the stream gives no more credit until the
program has taken them. So a program that is slow on one stream holds up only that stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from enum import Enum, auto
from typing import Any, Final, Protocol

from quicbaton.asgi.exchange import (
    CLIENT_GONE,
    ClientGoneError,
    Exchange,
    Wire,
    bytes_of,
    fields_of,
)
from quicbaton.asgi.http import send_text
from quicbaton.asgi.scope import Message, Scope, quote
from quicbaton.http3.webtransport import from_http_error, to_http_error
from quicbaton.limits import (
    MAX_WAITING_SESSION_BYTES,
    MAX_WAITING_SESSION_DATAGRAMS,
    MAX_WAITING_SESSION_NEWS,
)

_LOG: Final = logging.getLogger("quicbaton.asgi")

_REFUSED: Final = 403
_UNKNOWN_CODE: Final = 0
_ENDED: Final = -1


class SessionWire(Wire, Protocol):
    """The calls that a session makes to its connection beside those of `Wire`."""

    def join(self, stream_id: int, session_id: int) -> None: ...
    def part(self, stream_id: int) -> None: ...
    def stop_code(self, stream_id: int) -> int | None: ...
    async def open_stream(self, session_id: int, *, unidirectional: bool) -> int: ...
    def send_on_stream(self, stream_id: int, data: bytes, *, ended: bool) -> None: ...
    def reset_stream(self, stream_id: int, error_code: int) -> None: ...
    def stop_stream(self, stream_id: int, error_code: int) -> None: ...
    def send_datagram(self, session_id: int, data: bytes) -> None: ...
    def close_session(self, session_id: int, code: int, reason: str) -> None: ...
    def abort_session(self, session_id: int) -> None: ...


class _Stage(Enum):
    CONNECTING = auto()  # the program has yet to accept
    OPEN = auto()
    CLOSED = auto()


class _Stream:
    """One stream of the session: news that wait for the program, and what may still be sent."""

    __slots__ = (
        "credited_bytes",
        "data",
        "is_held",
        "is_paused",
        "is_queued",
        "receives",
        "reset_code",
        "sends",
        "stream_id",
        "was_ended",
        "writing",
    )

    def __init__(self, stream_id: int) -> None:
        is_ours, is_unidirectional = stream_id & 1, stream_id & 2
        self.stream_id = stream_id
        self.sends = bool(is_ours or not is_unidirectional)
        #: The program has yet to be told of the end of the client's bytes.
        self.receives = bool(not is_ours or not is_unidirectional)
        self.data = bytearray()
        #: The bytes of that which came before credit was withheld.
        self.credited_bytes = 0
        self.was_ended = False
        self.reset_code: int | None = None
        self.is_queued = False
        self.is_paused = False
        #: Credit is withheld from the client.
        self.is_held = False
        self.writing = asyncio.Lock()

    @property
    def has_news(self) -> bool:
        over = self.was_ended or self.reset_code is not None
        return self.receives and (bool(self.data) or over)

    @property
    def description(self) -> Message:
        unidirectional = bool(self.stream_id & 2)
        return {
            "stream": self.stream_id,
            "bidirectional": not unidirectional,
            "direction": "unidirectional" if unidirectional else "bidirectional",
            "initiated_by": "server" if self.stream_id & 1 else "client",
        }

    def take(self) -> Message:
        """The next of its news. A reset comes first, then the end that goes with it."""
        if not self.data and self.reset_code is not None and self.reset_code != _ENDED:
            code, self.reset_code = self.reset_code, _ENDED
            return {"type": "webtransport.stream.reset", "stream": self.stream_id, "code": code}
        data = bytes(self.data)
        self.data.clear()
        more = self.reset_code is not None and self.reset_code != _ENDED
        more = more or not (self.was_ended or self.reset_code == _ENDED)
        self.receives = more
        return {
            "type": "webtransport.stream.receive",
            "stream": self.stream_id,
            "data": data,
            "more_data": more,
            "end_stream": not more and self.was_ended,
        }


class WebTransportExchange(Exchange):
    """One session. Its own stream says only how the session begins and ends."""

    wire: SessionWire

    def __init__(self, wire: SessionWire, stream_id: int, scope: Scope) -> None:
        super().__init__(wire, stream_id, scope)
        self._stage = _Stage.CONNECTING
        self._largest_datagram = int(scope["extensions"]["webtransport"]["max_datagram_size"])
        self._streams: dict[int, _Stream] = {}
        #: News that the program has not taken: messages, streams that have news, and None for the
        #: next datagram. The oldest datagram goes when too many wait.
        self._inbox: deque[Message | _Stream | None] = deque(({"type": "webtransport.connect"},))
        self._datagrams: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._farewell: Message = {"type": "webtransport.disconnect", "code": 0, "reason": ""}

    @property
    def stream_ids(self) -> list[int]:
        """The streams of the session that are not over for the program."""
        return list(self._streams)

    # --- from HTTP/3 ----------------------------------------------------------------------------

    def feed(self, data: bytes, *, ended: bool) -> None:
        """Does nothing: only capsules come on the session's own stream, and HTTP/3 reads them."""

    def feed_stream(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """A piece of what the client sends on a stream of the session has come."""
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._join(stream_id)
            self._inbox.append({"type": "webtransport.stream.open", **stream.description})
            self._note_if_stopped(stream)
        if not stream.receives:
            return
        stream.data += data
        stream.was_ended |= ended
        self._waiting_bytes += len(data)
        if not stream.is_held:
            stream.credited_bytes += len(data)
            self.keep(self._kept_bytes + len(data))
        if not ended and not stream.is_held:
            stream.is_held = True
            self.wire.pause_reading(stream_id)
        self._queue(stream)
        self._check_bounds()

    def feed_datagram(self, data: bytes) -> None:
        """Keep a datagram for the program. The oldest goes when too many wait (RFC 9221 §5: they
        are unreliable, and a newer one is worth more)."""
        if len(self._datagrams) >= MAX_WAITING_SESSION_DATAGRAMS:
            self._datagrams.popleft()
        else:
            self._inbox.append(None)
        self._datagrams.append(data)
        self.tell()

    def stream_reset(self, stream_id: int, error_code: int) -> None:
        """The client has broken off its direction of a stream (RESET_STREAM)."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.receives and stream.reset_code is None:
            stream.reset_code = from_http_error(error_code) or _UNKNOWN_CODE
            self._queue(stream)
            self._check_bounds()

    def stream_stopped(self, stream_id: int, error_code: int) -> None:
        """The client wants no more of our direction (STOP_SENDING); the transport has reset it."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.sends:
            stream.sends = False
            code = from_http_error(error_code) or _UNKNOWN_CODE
            self._inbox.append(
                {"type": "webtransport.stream.stop_sending", "stream": stream_id, "code": code}
            )
            self.tell()
            self._room.set()
            self._part_if_over(stream)

    def session_closed(self, code: int, reason: str) -> None:
        """The client has ended the session."""
        self._farewell = {"type": "webtransport.disconnect", "code": code, "reason": reason}
        self._stage = _Stage.CLOSED
        self.disconnect()

    # --- the program's side ---------------------------------------------------------------------

    async def receive(self) -> Message:
        while True:
            while self._inbox:
                item = self._inbox.popleft()
                if item is None:
                    data = self._datagrams.popleft()
                    return {"type": "webtransport.datagram.receive", "data": data}
                if not isinstance(item, _Stream):
                    return item
                item.is_queued = False
                if item.has_news and not item.is_paused:
                    return self._take(item)
            if self.is_disconnected or self._stage is _Stage.CLOSED:
                return self._farewell
            await self.wait_for_news()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._stage is _Stage.CONNECTING:
            self._answer(kind, message)
        elif self._stage is _Stage.CLOSED:
            raise ClientGoneError("the session is closed")
        elif kind == "webtransport.stream.send":
            stream = self._stream(message)
            data = bytes_of(message.get("data", b""), "data")
            await self._send_on(stream, data, ended=bool(message.get("end_stream", False)))
        elif kind == "webtransport.stream.open":
            both = bool(message.get("bidirectional", True))
            stream_id = await self.wire.open_stream(self.stream_id, unidirectional=not both)
            stream = self._join(stream_id)
            self._inbox.append({"type": "webtransport.stream.opened", **stream.description})
            self.tell()
        elif kind == "webtransport.datagram.send":
            self._send_datagram(bytes_of(message.get("data"), "data"))
        elif kind == "webtransport.close":
            self._stage = _Stage.CLOSED
            reason = str(message.get("reason") or "")
            self.wire.close_session(self.stream_id, int(message.get("code") or 0), reason)
            self.tell()
        else:
            self._command(kind, message)

    def conclude(self) -> bool:
        """A program that returns closes its session."""
        if self._stage is _Stage.OPEN:
            self._stage = _Stage.CLOSED
            with contextlib.suppress(*CLIENT_GONE):
                self.wire.close_session(self.stream_id, 0, "")
        return self._stage is _Stage.CLOSED

    def fail(self) -> None:
        """Answer with status 500 before the session is open. Afterwards break it off with an error,
        which no client takes for a regular end."""
        stage, self._stage = self._stage, _Stage.CLOSED
        if self.is_disconnected:
            return
        with contextlib.suppress(*CLIENT_GONE):
            if stage is _Stage.CONNECTING:
                send_text(self, 500, b"Internal Server Error")
            elif stage is _Stage.OPEN:
                self.wire.abort_session(self.stream_id)

    # --- helpers, in reading order --------------------------------------------------------------

    def _join(self, stream_id: int) -> _Stream:
        stream = self._streams[stream_id] = _Stream(stream_id)
        self.wire.join(stream_id, self.stream_id)
        return stream

    def _queue(self, stream: _Stream) -> None:
        if stream.has_news and not stream.is_queued and not stream.is_paused:
            stream.is_queued = True
            self._inbox.append(stream)
            self.tell()

    def _check_bounds(self) -> None:
        if (
            len(self._inbox) - len(self._datagrams) > MAX_WAITING_SESSION_NEWS
            or self._waiting_bytes > MAX_WAITING_SESSION_BYTES
        ):
            _LOG.warning("a WebTransport session sends more than its program takes")
            self.fail()
            self.disconnect()

    def _take(self, stream: _Stream) -> Message:
        self._note_taken(stream)
        message = stream.take()
        if stream.has_news:
            # A stream's next message comes before all others.
            stream.is_queued = True
            self._inbox.appendleft(stream)
        self._let_client_send(stream)
        self._part_if_over(stream)
        return message

    def _note_if_stopped(self, stream: _Stream) -> None:
        """The client may stop a stream before it says to which session it belongs: the program then
        learns it here."""
        if stream.sends and (code := self.wire.stop_code(stream.stream_id)) is not None:
            self.stream_stopped(stream.stream_id, code)

    def _note_taken(self, stream: _Stream) -> None:
        """The program has taken all that waited of a stream."""
        self._waiting_bytes -= len(stream.data)
        self.keep(self._kept_bytes - stream.credited_bytes)
        stream.credited_bytes = 0

    def _let_client_send(self, stream: _Stream) -> None:
        if stream.is_held and not stream.data:
            stream.is_held = False
            self.wire.resume_reading(stream.stream_id)

    def _part_if_over(self, stream: _Stream) -> None:
        if not stream.sends and not stream.receives:
            del self._streams[stream.stream_id]
            self.wire.part(stream.stream_id)

    def _answer(self, kind: str, message: Message) -> None:
        """The program's first message: accept the session, or refuse it."""
        if kind == "webtransport.accept":
            self.status = 200
            fields = [(b":status", b"200"), *fields_of(message)]
            chosen = message.get("subprotocol")
            if chosen is not None:
                if chosen not in self.scope["subprotocols"]:
                    raise ValueError(f"the client has not offered the subprotocol {chosen!r}")
                fields.append((b"wt-protocol", quote(chosen)))
            self.wire.send_headers(self.stream_id, fields, ended=False)
            self._stage = _Stage.OPEN
        elif kind == "webtransport.close":
            # Of the two descriptions one has the status in `status`, the other in `code`.
            code = int(message.get("code") or 0)
            status = int(message.get("status") or _REFUSED)
            send_text(self, code if 400 <= code <= 599 else status, b"")
            self._stage = _Stage.CLOSED
        else:
            raise RuntimeError(f"{kind!r} before the session is accepted")

    def _command(self, kind: str, message: Message) -> None:
        """Perform a message about one stream for which the program need not wait."""
        if kind == "webtransport.stream.reset":
            stream = self._stream(message)
            if stream.sends:
                self._end_sending(stream)
                self.wire.reset_stream(stream.stream_id, _http_error(message))
        elif kind in ("webtransport.stream.stop_receiving", "webtransport.stream.stop_sending"):
            stream = self._stream(message)
            if stream.receives:
                stream.receives = False
                self._note_taken(stream)
                stream.data.clear()
                self.wire.stop_stream(stream.stream_id, _http_error(message))
                self._let_client_send(stream)
                self._part_if_over(stream)
        elif kind == "webtransport.stream.pause":
            paused = self._streams.get(int(message["stream"]))
            if paused is not None:
                paused.is_paused = True
        elif kind == "webtransport.stream.resume":
            resumed = self._streams.get(int(message["stream"]))
            if resumed is not None:
                resumed.is_paused = False
                self._queue(resumed)
        else:
            raise RuntimeError(f"{kind!r} may not come next in a WebTransport session")

    def _stream(self, message: Message) -> _Stream:
        """The stream that a message is about; a closed one if it is over."""
        stream_id = int(message["stream"])
        return self._streams.get(stream_id) or _over(stream_id)

    async def _send_on(self, stream: _Stream, data: bytes, *, ended: bool) -> None:
        """Write what fits, then wait for room."""
        at = 0
        async with stream.writing:
            while True:
                self._room.clear()
                if self.is_disconnected or self._stage is _Stage.CLOSED:
                    raise ClientGoneError("the session is closed")
                self._note_if_stopped(stream)
                if not stream.sends:
                    return  # the program was told, or has ended it itself
                room = self.wire.room_bytes(stream.stream_id)
                if room:
                    piece = data[at : at + room]
                    at += len(piece)
                    last = ended and at == len(data)
                    self.sent_bytes += len(piece)
                    self.wire.send_on_stream(stream.stream_id, piece, ended=last)
                    if last:
                        self._end_sending(stream)
                    if at == len(data):
                        return
                else:
                    await self._room.wait()

    def _end_sending(self, stream: _Stream) -> None:
        stream.sends = False
        self._room.set()
        self._part_if_over(stream)

    def _send_datagram(self, data: bytes) -> None:
        if len(data) > self._largest_datagram:
            raise ValueError(
                f"a datagram of {len(data)} bytes: the scope's extension webtransport says "
                f"max_datagram_size {self._largest_datagram}"
            )
        self.wire.send_datagram(self.stream_id, data)


def _over(stream_id: int) -> _Stream:
    stream = _Stream(stream_id)
    stream.sends = stream.receives = False
    return stream


def _http_error(message: Message) -> int:
    code: Any = message.get("code") or 0
    return to_http_error(int(code))
