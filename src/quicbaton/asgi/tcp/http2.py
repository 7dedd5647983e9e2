"""HTTP/2 (RFC 9113) by h2: requests side by side, and WebSockets by Extended CONNECT (RFC 8441).

No response waits here: it writes when the client's windows and the transport have room. The client
gets credit for the bytes that programs have taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

from quicbaton.asgi.exchange import Exchange, Fields
from quicbaton.asgi.http import HttpExchange
from quicbaton.asgi.tcp.connection import Serving, TcpConnection
from quicbaton.asgi.websocket import WebSocketExchange
from quicbaton.errors import StreamStateError
from quicbaton.http3.rates import rate
from quicbaton.limits import (
    CANCELLED_REQUEST_BURST,
    CANCELLED_REQUESTS_PER_S,
    MAX_DRAINED_BYTES,
    MAX_FIELD_SECTION_BYTES,
    MAX_FIELDS,
    MAX_TCP_STREAMS,
    TCP_BUFFER_BYTES,
    TCP_CONNECTION_WINDOW_BYTES,
    TCP_STREAM_WINDOW_BYTES,
)

#: RFC 9113 §6.9.2.
_FIRST_CONNECTION_WINDOW_BYTES: Final = 65_535
_FRAME_HEAD_BYTES: Final = 9
#: RFC 9113 §3.4: a client's first bytes.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS: Final = {
    h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MAX_TCP_STREAMS,
    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: TCP_STREAM_WINDOW_BYTES,
    h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_FIELD_SECTION_BYTES,
    h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
}
_CANCELS: Final = rate(per_s=CANCELLED_REQUESTS_PER_S, burst=CANCELLED_REQUEST_BURST)


class _Stream:
    """A request on the wire."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        #: Bytes that the program has not taken, and for which the client has no new credit.
        self.uncredited_bytes = 0
        self.is_paused = False
        self.request_ended = False
        self.response_ended = False
        #: Bytes that have come since the response ended, and when that was.
        self.drained_bytes = 0
        self.heard_s = 0.0


class _FrameSizes:
    """Checks the size of a frame at its beginning (RFC 9113 §4.2). h2 keeps a whole frame before it
    looks."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._left = len(_PREFACE)
        self._head = b""

    def are_legal(self, data: bytes) -> bool:
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
            else:
                step = _FRAME_HEAD_BYTES - len(self._head)
                self._head += data[at : at + step]
            at += step
            if len(self._head) == _FRAME_HEAD_BYTES:
                self._left = int.from_bytes(self._head[:3])
                self._head = b""
                if self._left > self._most_bytes:
                    return False
        return True


class Http2Connection(TcpConnection):
    """Requests run side by side."""

    def __init__(self, serving: Serving, name: str, on_over: Any) -> None:
        super().__init__(serving, name, on_over)
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.local_settings = h2.settings.Settings(client=False, initial_values=_SETTINGS)
        self._sizes = _FrameSizes(self._h2.max_inbound_frame_size)
        self._streams: dict[int, _Stream] = {}
        #: The newest request for which a program was run.
        self._last = 0
        self._said_goodbye = False
        #: When the client may give up requests at the full rate again.
        self._cancels_whole_us = 0

    def begin(self) -> None:
        self._h2.initiate_connection()
        more = TCP_CONNECTION_WINDOW_BYTES - _FIRST_CONNECTION_WINDOW_BYTES
        self._h2.increment_flow_control_window(more)
        self.flush()
        self.arm_timer(self.serving.keep_alive_s, self._say_goodbye)

    def retire(self) -> None:
        """Say GOAWAY (RFC 9113 §6.8). Where no request runs, at once: it tells the client that a
        request on its way was not seen, and the client sends it elsewhere. Where requests run,
        GOAWAY waits until they have ended or the client begins another, since some clients drop
        running requests on GOAWAY."""
        self.retired = True
        if self._last and not self._streams and not self.is_closing:
            self._say_goodbye()

    # --- from the transport ---------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        if self.is_leaving:
            return
        if not self._sizes.are_legal(data):
            self._go_away(ErrorCodes.FRAME_SIZE_ERROR)
            self.close_when_told()
            return
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.flush()
            self.close_when_told()
            return
        for event in events:
            if not self.is_leaving:
                self._on_event(event)
        self.flush()
        if self.held_bytes > 2 * TCP_BUFFER_BYTES:
            # The answers to its PINGs, SETTINGS and requests wait: the client does not read them.
            self.pause(self)

    def resume_writing(self) -> None:
        self.resume(self)
        super().resume_writing()

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._begin_request(event.stream_id, event.headers or [])
        elif isinstance(event, h2.events.DataReceived):
            self._on_data(event)
        elif isinstance(event, h2.events.StreamEnded):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.request_ended = True
                if stream.response_ended:
                    del self._streams[event.stream_id]
                    self._check_idle()
                else:
                    stream.exchange.feed(b"", ended=True)
        elif isinstance(event, h2.events.StreamReset):
            self._on_reset(event.stream_id)
        elif isinstance(event, h2.events.WindowUpdated):
            self.let_write(event.stream_id or None)
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self.let_write()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.close()

    def _on_data(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        size = event.flow_controlled_length
        if stream is None or stream.response_ended:
            self._acknowledge(size, event.stream_id)
            if stream is not None:
                self._note_drained(event.stream_id, stream, size)
            return
        stream.uncredited_bytes += size
        stream.exchange.feed(bytes(event.data or b""), ended=False)
        if not stream.is_paused:
            self._credit(event.stream_id, stream)

    def _on_reset(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        self._credit(stream_id, stream)
        stream.exchange.disconnect()
        self.drop_file(stream_id)
        self._check_idle()
        self._count_cancelled()

    def _count_cancelled(self) -> None:
        """CVE-2023-44487: giving up a request costs the client a frame, and us a request."""
        now_us = int(self._loop.time() * 1_000_000)
        self._cancels_whole_us = _CANCELS.spend(self._cancels_whole_us, now_us)
        if self._cancels_whole_us < 0:
            self._go_away(ErrorCodes.ENHANCE_YOUR_CALM)
            self.close_when_told()

    # --- requests -------------------------------------------------------------------------------

    def _begin_request(self, stream_id: int, headers: Fields) -> None:
        if self._said_goodbye or (self.retired and self._last):
            self._go_away(ErrorCodes.NO_ERROR)
            return
        if len(self.exchanges) >= MAX_TCP_STREAMS:
            # The client has given requests up, their programs still run, and it begins others.
            self._reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            self._count_cancelled()
            return
        self.stop_timer()
        self._last = stream_id
        pseudo = {name: value for name, value in headers if name[:1] == b":"}
        protocol = pseudo.get(b":protocol")
        status = 0
        if pseudo.get(b":method") == b"CONNECT" and protocol != b"websocket":
            status = 501
        elif len(headers) > MAX_FIELDS:
            status = 431
        if status:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self._h2.send_headers(stream_id, [(b":status", b"%d" % status)], end_stream=True)
                self.requests.answered["2", status] += 1
            self._check_idle()
            return
        scope = self.scope(headers, "2")
        exchange = (
            HttpExchange(self, stream_id, scope, ended=False)
            if protocol is None
            else WebSocketExchange(self, stream_id, scope)
        )
        self._streams[stream_id] = _Stream(exchange)
        self.run(exchange)

    # --- for exchanges --------------------------------------------------------------------------

    def send_headers(self, stream_id: int, fields: Fields, *, ended: bool) -> None:
        stream = self._stream(stream_id)
        if fields and fields[0][0] == b":status" and fields[0][1][:1] != b"1":
            fields = self.serving.complete(fields)
        _check(fields)
        with self._errors():
            self._h2.send_headers(stream_id, fields, end_stream=ended)
        self._ended(stream_id, stream, ended=ended)

    def send_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        stream = self._stream(stream_id)
        size = self._h2.max_outbound_frame_size
        with self._errors():
            for at in range(0, len(data), size):
                piece = data[at : at + size]
                last = at + size >= len(data)
                self._h2.send_data(stream_id, piece, end_stream=ended and last)
                self._waiting_bytes += len(piece) + _FRAME_HEAD_BYTES
            if ended and not data:
                self._h2.end_stream(stream_id)
        self.has_written(stream_id)
        self._ended(stream_id, stream, ended=ended)

    def room_bytes(self, stream_id: int) -> int:
        self._stream(stream_id)
        with self._errors():
            window = self._h2.local_flow_control_window(stream_id)
        return max(0, min(window, self.transport_room_bytes()))

    def pause_reading(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.is_paused = True

    def resume_reading(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.is_paused = False
            self._credit(stream_id, stream)
            self._send_soon()

    def abort(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._credit(stream_id, stream)
            self._reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)

    def over(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._credit(stream_id, stream)
            self._send_soon()
            if self.is_file(stream_id):
                pass  # it is being sent
            elif not stream.response_ended:
                self._streams.pop(stream_id)
                self._reset_stream(stream_id, ErrorCodes.CANCEL)
        self.forget(stream_id)
        self._check_idle()

    # --- helpers, in reading order --------------------------------------------------------------

    def _stream(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None or self.is_closing:
            raise StreamStateError("the stream is closed")
        return stream

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise h2's errors as those that mean that the client is gone."""
        try:
            yield
        except h2.exceptions.ProtocolError as error:
            raise StreamStateError(f"the stream is closed: {error}") from error
        finally:
            self._send_soon()

    def _ended(self, stream_id: int, stream: _Stream, *, ended: bool) -> None:
        if ended:
            stream.response_ended = True
            if stream.request_ended:
                del self._streams[stream_id]
            else:
                self._note_drained(stream_id, stream, 0)
                self._stop_if_silent(stream_id)
            self._check_idle()

    def _credit(self, stream_id: int, stream: _Stream) -> None:
        size, stream.uncredited_bytes = stream.uncredited_bytes, 0
        self._acknowledge(size, stream_id)

    def _acknowledge(self, size: int, stream_id: int) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.acknowledge_received_data(size, stream_id)

    def _reset_stream(self, stream_id: int, code: ErrorCodes) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.reset_stream(stream_id, code)
        self._send_soon()

    def _note_drained(self, stream_id: int, stream: _Stream, size: int) -> None:
        """Count bytes that come behind a whole answer. Some clients read none before they have sent
        all."""
        stream.drained_bytes += size
        stream.heard_s = self._loop.time()
        if stream.drained_bytes > MAX_DRAINED_BYTES:
            self._stop_upload(stream_id)

    def _stop_if_silent(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        left_s = stream.heard_s + self.serving.keep_alive_s - self._loop.time()
        if left_s > 0:
            self._loop.call_later(left_s, self._stop_if_silent, stream_id)
        else:
            self._stop_upload(stream_id)

    def _stop_upload(self, stream_id: int) -> None:
        """RFC 9113 §8.1: the answer is whole, and the rest of the request is not needed."""
        if self._streams.pop(stream_id, None) is not None and not self.is_closing:
            self._reset_stream(stream_id, ErrorCodes.NO_ERROR)
            self._check_idle()

    def _check_idle(self) -> None:
        if self.running or self._streams or self.is_closing:
            return
        if self.retired:
            self._say_goodbye()
        else:
            self.arm_timer(self.serving.keep_alive_s, self._say_goodbye)

    def _say_goodbye(self) -> None:
        self._go_away(ErrorCodes.NO_ERROR)
        self.close_when_told()

    def _go_away(self, code: ErrorCodes) -> None:
        """Send GOAWAY without h2, which would send nothing after it."""
        if not self._said_goodbye:
            self._said_goodbye = True
            self.flush()
            self.write(GoAwayFrame(0, last_stream_id=self._last, error_code=code).serialize())

    def _send_soon(self) -> None:
        if not self._waiting:
            self._loop.call_soon(self.flush)
            self._waiting.append(b"")

    def flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._waiting.append(data)
        super().flush()


def _check(fields: Fields) -> None:
    """ValueError for a field that no message may have (RFC 9113 §8.2.1). h2 would find it only
    after it has begun to send."""
    for name, value in fields:
        if not name or any(byte in value for byte in (b"\r", b"\n", b"\0")):
            raise ValueError(f"{name!r} with the value {value!r} is no field")
