"""A WebSocket over an Extended CONNECT stream (RFC 9220), as messages of ASGI (WebSocket 2.4).

Frames are wsproto's business. A message that is too large ends the WebSocket (1009); what the
client sends faster than the program takes waits at the client.
"""

from __future__ import annotations

import contextlib
from collections import deque
from enum import Enum, auto
from typing import Any, Final

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from quicbaton.asgi.exchange import ClientGoneError, Exchange, Wire
from quicbaton.asgi.http import send_text
from quicbaton.asgi.scope import Message, Scope
from quicbaton.errors import StreamStateError
from quicbaton.limits import MAX_WEBSOCKET_MESSAGE_BYTES

_NOT_SAID: Final = 1005  # RFC 6455 §7.1.5: a close frame without a code
_ABNORMAL: Final = 1006  # and no close frame at all


class _Stage(Enum):
    CONNECTING = auto()  # the program has yet to accept
    OPEN = auto()
    DENIED = auto()  # by a response of the program's own, whose body it sends
    CLOSED = auto()


class WebSocketExchange(Exchange):
    """One WebSocket."""

    def __init__(self, wire: Wire, stream_id: int, scope: Scope) -> None:
        super().__init__(wire, stream_id, scope)
        self._stage = _Stage.CONNECTING
        self._frames = Connection(ConnectionType.SERVER)
        self._inbox: deque[Message] = deque([{"type": "websocket.connect"}])
        #: Of a message that has not ended, and how much they are.
        self._parts: list[Any] = []
        self._parts_bytes = 0
        self._code = _ABNORMAL
        self._reason = ""

    def feed(self, data: bytes, *, ended: bool) -> None:
        try:
            self._frames.receive_data(data)
            for event in self._frames.events():
                self._on_frame(event)
        except (RemoteProtocolError, LocalProtocolError) as error:
            self._close(getattr(error, "event_hint", None), CloseReason.PROTOCOL_ERROR)
        if ended:
            self.disconnect()
        self.tell()

    def is_complete(self) -> bool:
        return self._stage is _Stage.CLOSED

    def fail(self) -> None:
        """Status 500 before the WebSocket is open, its close code 1011 afterwards."""
        stage, self._stage = self._stage, _Stage.CLOSED
        if self.is_disconnected or stage is _Stage.CLOSED:
            return
        with contextlib.suppress(StreamStateError):  # the client is gone meanwhile
            if stage is _Stage.CONNECTING:
                send_text(self, 500, b"Internal Server Error")
            elif stage is _Stage.OPEN:
                self._send_close(CloseReason.INTERNAL_ERROR, "")
            else:
                self.wire.abort(self.stream_id)

    async def receive(self) -> Message:
        while not self._inbox:
            if self.is_disconnected or self._stage is _Stage.CLOSED:
                return {
                    "type": "websocket.disconnect",
                    "code": self._code,
                    "reason": self._reason,
                }
            await self.wait_for_news()
        message = self._inbox.popleft()
        if not self._inbox:
            self.let_on()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept" and self._stage is _Stage.CONNECTING:
            self._accept(message)
        elif kind == "websocket.send" and self._stage is _Stage.OPEN:
            text, data = message.get("text"), message.get("bytes")
            event = BytesMessage(bytes(data or b"")) if text is None else TextMessage(text)
            await self.write(self._frames.send(event))
        elif kind == "websocket.close" and self._stage is _Stage.OPEN:
            self._code = message.get("code") or CloseReason.NORMAL_CLOSURE
            self._stage = _Stage.CLOSED
            self._send_close(self._code, message.get("reason") or "")
        elif kind == "websocket.close" and self._stage is _Stage.CONNECTING:
            self._stage = _Stage.CLOSED
            send_text(self, 403, b"Forbidden")
        elif kind == "websocket.http.response.start" and self._stage is _Stage.CONNECTING:
            self._stage = _Stage.DENIED
            fields = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            head = [(b":status", b"%d" % message["status"]), *fields]
            self.wire.send_headers(self.stream_id, head, ended=False)
        elif kind == "websocket.http.response.body" and self._stage is _Stage.DENIED:
            more = message.get("more_body", False)
            await self.write(bytes(message.get("body", b"")), ended=not more)
            if not more:
                self._stage = _Stage.CLOSED
        elif self._stage is _Stage.CLOSED:
            raise ClientGoneError("the WebSocket is closed")
        else:
            raise RuntimeError(f"{kind!r} is not what may come next of a WebSocket")

    # --- helpers, in reading order --------------------------------------------------------------

    def _on_frame(self, event: object) -> None:
        if isinstance(event, (TextMessage, BytesMessage)):
            self._on_message(event)
        elif isinstance(event, Ping):
            self.wire.send_data(self.stream_id, self._frames.send(event.response()), ended=False)
        elif isinstance(event, CloseConnection):
            self._code = int(event.code) if event.code else _NOT_SAID
            self._reason = event.reason or ""
            if self._stage is not _Stage.CLOSED:
                self._stage = _Stage.CLOSED
                with contextlib.suppress(LocalProtocolError, StreamStateError):
                    answer = self._frames.send(event.response())
                    self.wire.send_data(self.stream_id, answer, ended=True)
            self.disconnect()

    def _on_message(self, event: TextMessage | BytesMessage) -> None:
        self._parts.append(event.data)
        self._parts_bytes += len(event.data)
        if self._parts_bytes > MAX_WEBSOCKET_MESSAGE_BYTES:
            self._parts.clear()
            self._close(None, CloseReason.MESSAGE_TOO_BIG)
            return
        if not event.message_finished:
            return
        text = "".join(self._parts) if isinstance(event, TextMessage) else None
        data = b"".join(self._parts) if text is None else None
        self._inbox.append({"type": "websocket.receive", "text": text, "bytes": data})
        self._parts.clear()
        self._parts_bytes = 0
        self.hold_back()

    def _accept(self, message: Message) -> None:
        fields = [(bytes(name), bytes(value)) for name, value in message.get("headers") or ()]
        subprotocol = message.get("subprotocol")
        if subprotocol:
            fields.append((b"sec-websocket-protocol", subprotocol.encode()))
        self._stage = _Stage.OPEN
        self.wire.send_headers(self.stream_id, [(b":status", b"200"), *fields], ended=False)

    def _close(self, hint: object, code: CloseReason) -> None:
        """The client has broken a rule."""
        if self._stage is _Stage.OPEN:
            self._stage = _Stage.CLOSED
            self._code = int(getattr(hint, "code", None) or code)
            with contextlib.suppress(StreamStateError):
                self._send_close(self._code, "")
        self.disconnect()

    def _send_close(self, code: int, reason: str) -> None:
        with contextlib.suppress(LocalProtocolError):  # it is closed already
            frame = self._frames.send(CloseConnection(code, reason))
            self.wire.send_data(self.stream_id, frame, ended=True)
