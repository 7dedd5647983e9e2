"""A WebSocket over an Extended CONNECT stream (RFC 9220), as messages of ASGI (WebSocket 2.4).

wsproto reads and writes the frames. Bytes become messages only as the program takes them. A client
that sends faster fills the stream's window, and then has to wait. A message that is too large ends
the WebSocket (1009).
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from enum import Enum, auto
from typing import Final

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from quicbaton.asgi.exchange import Arrived, ClientGoneError, Exchange, Wire, bytes_of, fields_of
from quicbaton.asgi.http import send_text
from quicbaton.asgi.scope import Message, Scope
from quicbaton.errors import QuicbatonError
from quicbaton.limits import MAX_WEBSOCKET_MESSAGE_BYTES

_NOT_SAID: Final = 1005  # RFC 6455 §7.1.5: a close frame without a code
_ABNORMAL: Final = 1006  # and no close frame at all
#: Bytes parsed at a time: some hundreds of the smallest messages.
_PIECE_BYTES: Final = 4096


class _Stage(Enum):
    CONNECTING = auto()  # the program has yet to accept
    OPEN = auto()
    DENIED = auto()  # by a response of the program's own, whose body it sends
    CLOSED = auto()


class WebSocketExchange(Exchange):
    can_begin_elsewhere = True

    def __init__(self, wire: Wire, stream_id: int, scope: Scope) -> None:
        super().__init__(wire, stream_id, scope)
        self._stage = _Stage.CONNECTING
        self._frames = Connection(ConnectionType.SERVER)
        self._raw = bytearray()  # not parsed yet
        self._raw_ended = False
        #: Messages that the program has not taken.
        self._inbox: deque[str | bytes] = deque()
        self._connect_told = False
        #: The message that has begun and not ended.
        self._text = io.StringIO()
        self._data = bytearray()
        #: Answers to a ping and to a close frame, which wait for the end of a message.
        self._pong: bytes = b""
        self._farewell: bytes = b""
        self._code = _ABNORMAL
        self._reason = ""

    # --- from HTTP/3 ----------------------------------------------------------------------------

    def feed(self, data: bytes, *, ended: bool) -> None:
        self._raw += data
        self._raw_ended |= ended
        if data:
            self.hold_back()
        self._parse()
        self.tell()

    @property
    def held_bytes(self) -> int:
        waiting = sum(len(message) for message in self._inbox)
        return len(self._raw) + len(self._data) + self._text.tell() + waiting

    def arrived(self) -> Arrived:
        return Arrived(bytes(self._raw), self._raw_ended)

    def has_room(self) -> None:
        super().has_room()
        self._send_control()

    # --- the program's side ---------------------------------------------------------------------

    def conclude(self) -> bool:
        return self._stage is _Stage.CLOSED

    def fail(self) -> None:
        """Answer with status 500 before the WebSocket is open, close it with code 1011 afterwards,
        and reset the stream where neither can be said."""
        stage, self._stage = self._stage, _Stage.CLOSED
        if self.is_disconnected:
            return
        try:
            if stage is _Stage.CONNECTING:
                send_text(self, 500, b"Internal Server Error")
            elif stage is _Stage.OPEN and not self.is_writing:
                frame = self._frames.send(CloseConnection(CloseReason.INTERNAL_ERROR))
                self.wire.send_data(self.stream_id, frame, ended=True)
            else:
                self.wire.abort(self.stream_id)
        except (QuicbatonError, LocalProtocolError):
            self.wire.abort(self.stream_id)

    async def receive(self) -> Message:
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        while not self._inbox:
            self._parse()
            if self._inbox:
                break
            if self.is_disconnected or self._stage is _Stage.CLOSED:
                code, reason = self._code, self._reason
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            self.let_on()
            await self.wait_for_news()
        message = self._inbox.popleft()
        self._count_kept()
        text, data = (message, None) if isinstance(message, str) else (None, message)
        return {"type": "websocket.receive", "text": text, "bytes": data}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept" and self._stage is _Stage.CONNECTING:
            self._accept(message)
        elif kind == "websocket.send" and self._stage is _Stage.OPEN:
            text = message.get("text")
            event: Event
            if text is None:
                event = BytesMessage(bytes_of(message.get("bytes"), "bytes"))
            else:
                event = TextMessage(text)
            await self.write(lambda: self._frame(event))
            self._send_control()
        elif kind == "websocket.close" and self._stage is _Stage.OPEN:
            code = int(message.get("code") or CloseReason.NORMAL_CLOSURE)
            close = CloseConnection(code, str(message.get("reason") or ""))
            await self.write(lambda: self._frame(close), ended=True)
            self._code, self._stage = code, _Stage.CLOSED
        elif kind == "websocket.close" and self._stage is _Stage.CONNECTING:
            send_text(self, 403, b"Forbidden")
            self._stage = _Stage.CLOSED
        elif kind == "websocket.http.response.start" and self._stage is _Stage.CONNECTING:
            self.status = int(message["status"])
            head = [(b":status", b"%d" % self.status), *fields_of(message)]
            self.wire.send_headers(self.stream_id, head, ended=False)
            self._stage = _Stage.DENIED
        elif kind == "websocket.http.response.body" and self._stage is _Stage.DENIED:
            body, more = bytes_of(message.get("body", b""), "body"), message.get("more_body", False)
            await self.write(lambda: body, ended=not more)
            if not more:
                self._stage = _Stage.CLOSED
        elif self._stage is _Stage.CLOSED:
            raise ClientGoneError("the WebSocket is closed")
        else:
            raise RuntimeError(f"{kind!r} may not come next in a WebSocket")

    # --- helpers, in reading order --------------------------------------------------------------

    def _frame(self, event: Event) -> bytes:
        """Make a frame only when its turn to be sent has come: the client may have closed
        meanwhile."""
        try:
            return self._frames.send(event)
        except LocalProtocolError as error:
            if self._stage is _Stage.CLOSED:
                raise ClientGoneError("the WebSocket is closed") from error
            raise

    def _accept(self, message: Message) -> None:
        self.status = 200
        fields = [(b":status", b"200"), *fields_of(message)]
        subprotocol = message.get("subprotocol")
        if subprotocol:
            fields.append((b"sec-websocket-protocol", subprotocol.encode()))
        self.wire.send_headers(self.stream_id, fields, ended=False)
        self._stage = _Stage.OPEN

    def _parse(self) -> None:
        """Parse bytes until there is a message that the program has not taken."""
        while self._raw and not self._inbox and self._stage is _Stage.OPEN:
            piece = bytes(self._raw[:_PIECE_BYTES])
            del self._raw[:_PIECE_BYTES]
            try:
                self._frames.receive_data(piece)
                for event in self._frames.events():
                    self._on_frame(event)
            except (RemoteProtocolError, LocalProtocolError):
                self._close(CloseReason.PROTOCOL_ERROR)
        if self._stage in (_Stage.DENIED, _Stage.CLOSED):
            self._raw.clear()
        self._count_kept()
        if self._raw_ended and not self._raw:
            self.disconnect()

    def _count_kept(self) -> None:
        """Count the bytes of whole messages, and of the one that has begun."""
        whole = sum(map(len, self._inbox))
        self.keep(whole + self._text.tell() + len(self._data))

    def _on_frame(self, event: Event) -> None:
        if self._stage is not _Stage.OPEN:
            return
        if isinstance(event, TextMessage):
            self._text.write(event.data)
            if self._is_within(self._text.tell()) and event.message_finished:
                self._inbox.append(self._text.getvalue())
                self._text = io.StringIO()
        elif isinstance(event, BytesMessage):
            self._data += event.data
            if self._is_within(len(self._data)) and event.message_finished:
                self._inbox.append(bytes(self._data))
                self._data.clear()
        elif isinstance(event, Ping):
            self._pong = self._frames.send(event.response())
            self._send_control()
        elif isinstance(event, CloseConnection):
            self._code = int(event.code) if event.code else _NOT_SAID
            self._reason = event.reason or ""
            with contextlib.suppress(LocalProtocolError):
                self._farewell = self._frames.send(event.response())
            self._end()

    def _is_within(self, size: int) -> bool:
        if size <= MAX_WEBSOCKET_MESSAGE_BYTES:
            return True
        self._close(CloseReason.MESSAGE_TOO_BIG)
        return False

    def _close(self, code: CloseReason) -> None:
        """Close the WebSocket, whose client has broken a rule."""
        if self._stage is _Stage.OPEN:
            self._code = int(code)
            with contextlib.suppress(LocalProtocolError):
                self._farewell = self._frames.send(CloseConnection(code))
            self._end()

    def _end(self) -> None:
        """Nothing comes any more, and only the farewell is still sent."""
        self._stage = _Stage.CLOSED
        if self.is_writing:
            # The farewell would be taken for a part of the message that is half sent.
            self.wire.abort(self.stream_id)
        else:
            self._send_control()
        self.disconnect()

    def _send_control(self) -> None:
        """Answer the newest ping (RFC 6455 §5.5.3), and a close frame, between messages."""
        if self.is_writing or self.is_disconnected:
            return
        with contextlib.suppress(QuicbatonError):  # the client is gone meanwhile
            if self._farewell:
                self.wire.send_data(self.stream_id, self._farewell, ended=True)
                self._farewell = b""
            elif self._pong and self.wire.room_bytes(self.stream_id):
                self.wire.send_data(self.stream_id, self._pong, ended=False)
                self._pong = b""
