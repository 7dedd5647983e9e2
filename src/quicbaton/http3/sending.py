"""The sending side: messages, datagrams, GOAWAY, priorities, WebTransport (RFC 9114 §4).

Our own messages obey the same rules as the peer's. A malformed one is refused before a byte of it
is written. A body that contradicts its content-length resets its stream, so that a short one never
looks whole.
"""

from __future__ import annotations

from typing import Final

from quicbaton.errors import StreamStateError
from quicbaton.http3 import qlog, qpack, webtransport
from quicbaton.http3 import state as s
from quicbaton.http3.codes import ErrorCode, FrameType, Setting, StreamType
from quicbaton.http3.errors import (
    FieldSectionTooLargeError,
    FrameUnexpected,
    GoawayError,
    MessageError,
    StreamOverError,
)
from quicbaton.http3.exceptions import InvalidStreamTypeError, NoAvailablePushIDError
from quicbaton.http3.fields import (
    Fields,
    size_of,
    validate_push_promise_headers,
    validate_trailers,
)
from quicbaton.http3.frames import encode_frame
from quicbaton.http3.priority import Priority
from quicbaton.http3.sessions import WebTransportSide
from quicbaton.http3.state import Http3Stream
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.state import NONE

#: RFC 9114 §5.2: a first GOAWAY names the highest ID that a request can have.
_MAX_REQUEST_ID: Final = (1 << 62) - 4
#: As a plain integer: looking up an enumeration's member costs 0.2 µs.
_MAX_FIELD_SECTION_SIZE: Final = int(Setting.MAX_FIELD_SECTION_SIZE)
#: Content up to this size is written together with its frame's header; larger is not copied.
_JOINED_BYTES: Final = 4096


class SendingSide(WebTransportSide):
    """The methods that programs call."""

    def send_headers(self, stream_id: int, headers: Fields, end_stream: bool = False) -> None:
        """Send a request, a response (interim ones first, if any), or trailers.

        Raises FrameUnexpected when the stream is past that phase, its subclass StreamOverError when
        the stream has ended, also by a reset or by the peer; MessageError for malformed fields,
        FieldSectionTooLargeError for more than the peer takes, and GoawayError for a request to a
        server that goes away. Then nothing is written.
        """
        known = self._streams.get(stream_id)
        stream = self._new_message(stream_id) if known is None else known
        if stream.send == s.ENDED:
            raise StreamOverError("stream was already ended")
        if stream.send == s.TRAILED or (stream.send == s.BODY and stream.flags & s.TUNNEL):
            raise FrameUnexpected("HEADERS frame is not allowed in this state")
        if stream.send == s.BODY:
            validate_trailers(headers)
            self._check_size(size_of(headers))
            frame = encode_frame(FrameType.HEADERS, qpack.encode_fields(headers))
            phase = s.TRAILED
        elif self._is_client and stream.kind == s.REQUEST:
            frame = self._encode_request(stream_id, stream, headers)
            phase = s.BODY
        else:
            frame, phase = self._encode_response(stream_id, stream, headers, end_stream)
        if known is None:
            self._add_stream(stream_id, stream)
        stream.send = phase
        self._write(stream_id, stream, frame, end_stream)
        if self._quic_logger is not None:
            qlog.log_headers(self._quic_logger, stream_id, len(frame), headers, created=True)
        if self.watch is not None:
            self.watch.on_fields(stream_id, headers, ended=end_stream)

    def send_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Send content, and the message's end if `end_stream`.

        A response to HEAD has no content: it is dropped. Raises FrameUnexpected when no header
        section went ahead or the message has ended, MessageError when a content-length promised
        another size: then the stream is reset.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.send != s.BODY:
            if stream is None:
                is_over = stream_id < self._state.next_request_id or stream_id & 3 != 0
            else:
                is_over = stream.send == s.ENDED
            if is_over:
                raise StreamOverError("stream was already ended")
            raise FrameUnexpected("DATA frame is not allowed in this state")
        if stream.flags & s.HEAD_REQUEST and not self._is_client:
            self._write(stream_id, stream, b"", end_stream)
            if self.watch is not None:
                self.watch.on_content(stream_id, 0, ended=end_stream)
            return
        if stream.send_left != NONE:
            if len(data) > stream.send_left:
                self._fail_message(stream_id, stream)
            stream.send_left -= len(data)
        size = len(data)
        if self._quic_logger is not None:
            qlog.log_data(self._quic_logger, stream_id, size, created=True)
        if size <= _JOINED_BYTES:
            frame = b"".join((b"\0", encode_varint(size), data))
            self._write(stream_id, stream, frame, end_stream)
        else:
            self._quic.send_stream_data(stream_id, b"\0" + encode_varint(size))
            self._write(stream_id, stream, data, end_stream)
        if self.watch is not None:
            self.watch.on_content(stream_id, size, ended=end_stream)

    def send_push_promise(self, stream_id: int, headers: Fields) -> int:
        """Promise a response that was not asked for (RFC 9114 §4.6). Returns its stream's ID.

        Raises InvalidStreamTypeError, NoAvailablePushIDError, and RuntimeError on a client.
        """
        if self._is_client:
            raise RuntimeError("Only servers may send a push promise.")
        if stream_id & 3:
            raise InvalidStreamTypeError(
                "Push promises can only be sent for client-initiated bidirectional streams"
            )
        state = self._state
        # §5.2: a client that goes away names the pushes that it no longer takes.
        if state.next_push_id > state.max_push_id or (
            0 <= state.goaway_received <= state.next_push_id
        ):
            raise NoAvailablePushIDError
        validate_push_promise_headers(headers)
        self._check_size(size_of(headers))
        push_id = state.next_push_id
        state.next_push_id += 1
        prefix = encode_varint(push_id)
        self._quic.send_stream_data(
            stream_id, encode_frame(FrameType.PUSH_PROMISE, prefix + qpack.encode_fields(headers))
        )
        push_stream_id = self._open_uni_stream(
            StreamType.PUSH, encode_varint(StreamType.PUSH) + prefix
        )
        self._add_stream(push_stream_id, s.new_stream(s.PUSH, receive=s.ENDED, link=push_id))
        return push_stream_id

    def send_datagram(self, stream_id: int, data: bytes) -> None:
        """Send an HTTP datagram (RFC 9297 §2.1), unreliably.

        Raises InvalidStreamTypeError for a stream that is no request, and CallerError for a
        datagram that does not fit into a packet: see `max_datagram_bytes`.
        """
        if stream_id & 3:
            raise InvalidStreamTypeError(
                "Datagrams can only be sent for client-initiated bidirectional streams"
            )
        self._quic.send_datagram_frame(encode_varint(stream_id >> 2) + data)

    def max_datagram_bytes(self, stream_id: int) -> int:
        """The largest payload that `send_datagram` takes now; 0 when the peer takes none."""
        limit: int = self._quic.max_datagram_bytes
        return max(0, limit - len(encode_varint(stream_id >> 2)))

    def send_goaway(self, *, final: bool) -> None:
        """Tell a client that this server stops (RFC 9114 §5.2).

        Not `final`: the client is to send no more requests; those on the way are still taken.
        `final`, a round trip later: requests that have not come by now are rejected, and may be
        sent elsewhere. A repeated call sends nothing, nor does one after the connection's end.
        """
        state = self._state
        stream_id = max(self._quic.next_peer_stream_id(), 0) if final else _MAX_REQUEST_ID
        if self._is_done or 0 <= state.goaway_sent <= stream_id:
            return
        state.goaway_sent = stream_id
        self._quic.send_stream_data(
            state.local_control_stream, encode_frame(FrameType.GOAWAY, encode_varint(stream_id))
        )

    def send_priority_update(self, stream_id: int, priority: Priority) -> None:
        """Ask the server for another priority of a request (RFC 9218 §7.2)."""
        self._quic.send_stream_data(
            self._state.local_control_stream,
            encode_frame(FrameType.PRIORITY_UPDATE, encode_varint(stream_id) + priority.encode()),
        )

    # --- helpers --------------------------------------------------------------------------------

    def _new_message(self, stream_id: int) -> Http3Stream:
        """A stream that HTTP/3 does not know, not kept yet: a client's new request, or one that is
        over."""
        if stream_id & 3 or self._is_finished(stream_id):
            raise StreamStateError(f"stream {stream_id} is over, or was never opened")
        if not self._is_client:
            # QUIC knows whether the stream may be written to.
            return s.new_stream(s.REQUEST, receive=s.ENDED)
        if 0 <= self._state.goaway_received <= stream_id:
            raise GoawayError("the server takes no new requests: use another connection")
        return s.new_stream(s.REQUEST)

    def _encode_request(self, stream_id: int, stream: Http3Stream, headers: Fields) -> bytes:
        frame, request = qpack.encode_request(headers)
        self._check_size(size_of(headers))
        if request.method == b"CONNECT":
            stream.flags |= s.TUNNEL
            if request.protocol in webtransport.PROTOCOLS and self._webtransport:
                self._state.sessions[stream_id] = s.Http3Session(NONE, 0, None)
        else:
            if request.method == b"HEAD":
                stream.flags |= s.HEAD_REQUEST
            stream.send_left = request.content_length
        self._state.next_request_id = max(self._state.next_request_id, stream_id + 4)
        return frame

    def _encode_response(
        self, stream_id: int, stream: Http3Stream, headers: Fields, end_stream: bool
    ) -> tuple[bytes, int]:
        """(HEADERS frame, the phase after it)."""
        frame, response, size = self._sections.response(headers)
        self._check_size(size)
        if response.is_interim:
            # §4.1: a final response follows.
            if end_stream:
                raise FrameUnexpected("Interim response cannot end the stream")
            return frame, s.HEAD
        if response.priority is not None:
            # RFC 9218 §8: the server knows better than the client how urgent the response is.
            self._prioritize(stream_id, *response.priority)
        if stream.flags & s.TUNNEL and response.status >= 300:
            self._refuse_tunnel(stream_id, stream)
        if response.status in (204, 304):
            stream.send_left = 0  # RFC 9110 §6.4.1
        elif not stream.flags & (s.TUNNEL | s.HEAD_REQUEST):
            stream.send_left = response.content_length
        return frame, s.BODY

    def _check_size(self, size: int) -> None:
        """RFC 9114 §4.2.2: do not send more fields than the peer takes."""
        settings = self._state.received_settings
        if settings is not None and size > settings.get(_MAX_FIELD_SECTION_SIZE, size):
            raise FieldSectionTooLargeError(f"{size} bytes of fields are more than the peer takes")

    def _write(self, stream_id: int, stream: Http3Stream, data: bytes, ended: bool) -> None:
        if not ended:
            if data:
                self._quic.send_stream_data(stream_id, data)
            return
        if stream.send_left > 0 and not stream.flags & s.HEAD_REQUEST:
            self._fail_message(stream_id, stream)
        self._quic.send_stream_data(stream_id, data, True)
        if stream_id in self._state.sessions:
            self._leave_session(stream_id, stream)
            return
        if (
            not self._is_client
            and stream.receive != s.ENDED
            and stream.kind == s.REQUEST
            and not stream.flags & s.TUNNEL  # each direction of a tunnel ends by itself (§4.4)
        ):
            self._drain(stream_id, stream)
        self._end_sending(stream_id, stream)

    def _fail_message(self, stream_id: int, stream: Http3Stream) -> None:
        """Reset our own malformed message: the peer must not take it for a whole one."""
        self._abort(stream_id, stream, ErrorCode.H3_INTERNAL_ERROR)
        raise MessageError("content-length does not match data size")
