"""HTTP/1.1 (RFC 9112) by h11: one request after the other, and WebSockets (RFC 6455)."""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import Any, Final

import h11
from wsproto.utilities import generate_accept_token

from quicbaton.asgi.exchange import Fields
from quicbaton.asgi.http import HttpExchange
from quicbaton.asgi.tcp.connection import Serving, TcpConnection
from quicbaton.asgi.websocket import WebSocketExchange
from quicbaton.errors import StreamStateError
from quicbaton.limits import (
    MAX_DRAINED_BYTES,
    MAX_FIELD_SECTION_BYTES,
    MAX_FIELDS,
    TCP_HEAD_S,
    TCP_LINGER_S,
)

_WEBSOCKET_VERSION: Final = b"13"
_PHRASES: Final = {int(status): status.phrase.encode() for status in HTTPStatus}


class Http1Connection(TcpConnection):
    """Requests have numbers, in order, where HTTP/2 has streams: the program of one may still run
    when the next has begun."""

    def __init__(self, serving: Serving, name: str, on_over: Any) -> None:
        super().__init__(serving, name, on_over)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_FIELD_SECTION_BYTES)
        self._last = 0
        #: The request whose response has not ended; 0: none.
        self._current = 0
        #: The key that a WebSocket's client sent, until it is accepted.
        self._websocket_key = b""
        self._is_websocket = False
        #: The response has a length, or an end, that leaves no place for trailers.
        self._is_chunked = False
        #: Bytes of a request that have come since its response ended.
        self._drained_bytes = 0

    def begin(self) -> None:
        self.arm_timer(self.serving.keep_alive_s, self.close)

    def retire(self) -> None:
        """Close, but not under a request. A client that waits between two requests has a moment for
        the next one, which is answered with the word to close (RFC 9112 §9.6)."""
        self.retired = True
        if self._last and not self._current and not self._is_draining and not self.is_closing:
            self.arm_timer(TCP_LINGER_S, self.close)

    # --- from the transport ---------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        if self.is_leaving:
            return
        if self._is_websocket:
            self._feed(data, ended=False)
            return
        waits = not self._current and self._h11.their_state is h11.IDLE
        if waits and not self._h11.trailing_data[0]:
            self.arm_timer(TCP_HEAD_S, self.close)  # the first bytes of a request
        self._h11.receive_data(data)
        self._work()

    # --- the request ----------------------------------------------------------------------------

    def _work(self) -> None:
        while not self.is_closing:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint)
                return
            if isinstance(event, h11.Request):
                self._begin_request(event)
            elif isinstance(event, h11.Data):
                self._feed(bytes(event.data), ended=False)
            elif isinstance(event, h11.EndOfMessage):
                self._feed(b"", ended=True)
                if not self._current:
                    self._go_on()
            elif event is h11.PAUSED:
                if self._h11.trailing_data[0]:
                    self.pause(h11.PAUSED)  # the next request waits, with the client
                return
            else:
                return

    def _begin_request(self, request: h11.Request) -> None:
        self.stop_timer()
        target = _Target(request)
        if target.status or len(request.headers) > MAX_FIELDS:
            self._refuse(target.status or HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        if self._h11.they_are_waiting_for_100_continue:
            self.write(
                self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )
        scope = self.scope(target.fields, request.http_version.decode())
        # RFC 8297 §3: to clients of HTTP/1.1 a 103 may be the answer itself.
        scope["extensions"].pop("http.response.early_hint", None)
        if request.http_version < b"1.1":
            scope["extensions"].pop("http.response.trailers", None)
        self._last += 1
        self._current = self._last
        self._websocket_key = target.websocket_key
        exchange = (
            WebSocketExchange(self, self._current, scope)
            if target.websocket_key
            else HttpExchange(self, self._current, scope, ended=False)
        )
        self.run(exchange)

    def _feed(self, data: bytes, *, ended: bool) -> None:
        if self._is_draining:
            self._drain(len(data))
            return
        exchange = self.exchanges.get(self._current)
        if exchange is not None and not (ended and self._websocket_key):
            exchange.feed(data, ended=ended)

    @property
    def _is_draining(self) -> bool:
        """Whether a response has ended before its request."""
        return not self._current and self._h11.their_state is h11.SEND_BODY

    def _drain(self, size: int) -> None:
        """RFC 9112 §9.3: the next request begins where the body of this one ends. The rest of the
        body is dropped. It has to be read, since some clients read no answer before they have sent
        all."""
        self._drained_bytes += size
        if self._drained_bytes > MAX_DRAINED_BYTES:
            self.close()
        else:
            self.arm_timer(self.serving.keep_alive_s, self.close)

    def _refuse(self, status: int) -> None:
        """Answer something that is no request, or none for us, and close."""
        exchange = self.exchanges.get(self._current)
        if exchange is not None:
            # In the middle of its body: the program has no request to answer.
            self.reset()
            return
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            fields = [(b"content-length", b"0"), (b"connection", b"close")]
            with contextlib.suppress(h11.LocalProtocolError):
                self._send_head(status, fields)
                self._send_event(h11.EndOfMessage())
                self.requests.answered["1.1", int(status)] += 1
        self.close_when_told()

    # --- for exchanges --------------------------------------------------------------------------

    def send_headers(self, stream_id: int, fields: Fields, *, ended: bool) -> None:
        self._check_current(stream_id)
        if not fields or fields[0][0] != b":status":
            # RFC 9112 §7.1.2: trailers come behind chunks.
            self._send_event(h11.EndOfMessage(headers=fields if self._is_chunked else []))
            self._end_response()
            return
        status = int(fields[0][1])
        if status < HTTPStatus.OK:
            return
        if self._websocket_key and status < HTTPStatus.MULTIPLE_CHOICES:
            self._accept_websocket(fields[1:])
            return
        self._websocket_key = b""
        self._send_head(status, fields[1:])
        self._is_chunked = not ended and all(name != b"content-length" for name, _ in fields)
        if ended:
            self.send_data(stream_id, b"", ended=True)

    def send_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        self._check_current(stream_id)
        if self._is_websocket:
            self.write(data)
            if ended:
                self.close_when_told()
            return
        if data:
            self._send_event(h11.Data(data=data))
        if ended:
            self._send_event(h11.EndOfMessage())
            self._end_response()

    def room_bytes(self, stream_id: int) -> int:
        return self.transport_room_bytes()

    def pause_reading(self, stream_id: int) -> None:
        if stream_id == self._current:
            self.pause(stream_id)

    def resume_reading(self, stream_id: int) -> None:
        self.resume(stream_id)
        self.settle()

    def abort(self, stream_id: int) -> None:
        if stream_id == self._current:
            self.reset()

    def over(self, stream_id: int) -> None:
        if stream_id == self._current and not self.is_file(stream_id):
            if self._is_websocket:
                self.close_when_told()
            else:
                self.reset()  # a response that has not ended
        self.forget(stream_id)

    # --- helpers, in reading order --------------------------------------------------------------

    def _check_current(self, stream_id: int) -> None:
        if stream_id != self._current or self.is_closing:
            raise StreamStateError("the connection is closed")

    def _send_head(self, status: int, fields: Fields) -> None:
        fields = self.serving.complete(fields)
        if self.retired and all(name != b"connection" for name, _ in fields):
            fields.append((b"connection", b"close"))
        reason = _PHRASES.get(status, b"")
        self._send_event(h11.Response(status_code=status, headers=fields, reason=reason))

    def _send_event(self, event: Any) -> None:
        """LocalProtocolError for a mistake of the program: content longer or shorter than it has
        said, or a malformed field."""
        for piece in self._h11.send_with_data_passthrough(event) or ():
            self.write(piece)

    def _accept_websocket(self, fields: Fields) -> None:
        """RFC 6455 §4.2.2."""
        headers = [
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", generate_accept_token(self._websocket_key)),
            *fields,
        ]
        self._send_event(h11.InformationalResponse(status_code=101, headers=headers))
        self._websocket_key = b""
        self._is_websocket = True
        early = self._h11.trailing_data[0]
        self.resume(h11.PAUSED)
        if early:
            self._loop.call_soon(self.data_received, early)

    def _end_response(self) -> None:
        self.resume(self._current)
        self._current = 0
        self._drained_bytes = 0
        if self._is_draining:
            self._drain(0)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """The request and its response are over: begin the next one, or close."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            self.close()
            return
        self._h11.start_next_cycle()
        idle_s = TCP_LINGER_S if self.retired else self.serving.keep_alive_s
        self.arm_timer(idle_s, self.close)
        self.resume(h11.PAUSED)
        if self._h11.trailing_data[0]:
            self._loop.call_soon(self._work)


class _Target:
    """The target of a request, in the terms of HTTP/2 and 3. `status`: 0, or the status with which
    the request is refused."""

    def __init__(self, request: h11.Request) -> None:
        self.status = 0
        self.websocket_key = b""
        headers = list(request.headers)
        path, authority = request.target, b""
        if request.method == b"CONNECT":
            self.status = HTTPStatus.NOT_IMPLEMENTED
        elif path[:1] != b"/" and path != b"*":
            # RFC 9112 §3.2.2: the absolute form, whose authority counts more than the Host field.
            _, colons, rest = path.partition(b"://")
            authority, slash, path = rest.partition(b"/")
            path = slash + path or b"/"
            if not colons or not authority:
                self.status = HTTPStatus.BAD_REQUEST
        pseudo = [(b":method", request.method), (b":path", path)]
        if authority:
            pseudo.append((b":authority", authority))
        if _asks_for_websocket(request):
            fields = dict(headers)
            self.websocket_key = fields.get(b"sec-websocket-key", b"")
            if not self.websocket_key:
                self.status = HTTPStatus.BAD_REQUEST
            elif fields.get(b"sec-websocket-version") != _WEBSOCKET_VERSION:
                self.status = HTTPStatus.UPGRADE_REQUIRED
            pseudo.append((b":protocol", b"websocket"))
        self.fields: Fields = [*pseudo, *headers]


def _asks_for_websocket(request: h11.Request) -> bool:
    """RFC 6455 §4.1."""
    if request.method != b"GET" or request.http_version < b"1.1":
        return False
    named: dict[bytes, list[bytes]] = {b"upgrade": [], b"connection": []}
    for name, value in request.headers:
        if name in named:
            named[name] += [word.strip() for word in value.lower().split(b",")]
    return b"websocket" in named[b"upgrade"] and b"upgrade" in named[b"connection"]
