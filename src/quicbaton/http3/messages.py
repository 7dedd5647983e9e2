"""Reading requests, responses and pushes: frames, and the order in which they may come.

RFC 9114 §4.1: a header section (of responses: any number of interim ones first), content, trailers.
`Http3Stream.receive` is the phase that the message has reached.
"""

from __future__ import annotations

from typing import Final

from quicbaton import limits
from quicbaton.http3 import qlog, qpack, webtransport
from quicbaton.http3 import state as s
from quicbaton.http3.codes import RESERVED_FRAME_TYPES, FrameType
from quicbaton.http3.errors import (
    FieldSectionTooLargeError,
    FrameError,
    FrameUnexpected,
    IdError,
    MessageError,
    RequestIncompleteError,
    RequestRejectedError,
    StreamCreationError,
    StreamError,
)
from quicbaton.http3.events import (
    DataReceived,
    H3Event,
    HeadersReceived,
    PushPromiseReceived,
)
from quicbaton.http3.fields import (
    RequestHead,
    ResponseHead,
    validate_push_promise_headers,
    validate_trailers,
)
from quicbaton.http3.frames import pull_header, pull_varint
from quicbaton.http3.priority import Priority
from quicbaton.http3.qpack import DecodedRequest
from quicbaton.http3.sessions import WebTransportSide
from quicbaton.http3.state import Http3Stream
from quicbaton.transport.state import NONE

#: Frames of messages, as plain integers: looking up an enumeration's member costs 0.2 µs.
_DATA: Final = int(FrameType.DATA)
_HEADERS: Final = int(FrameType.HEADERS)
_PUSH_PROMISE: Final = int(FrameType.PUSH_PROMISE)
_WEBTRANSPORT_STREAM: Final = int(FrameType.WEBTRANSPORT_STREAM)
#: The frames with a field section.
_SECTIONS: Final = (_HEADERS, _PUSH_PROMISE)
#: Events that can say that a message has ended.
_ENDING: Final = (HeadersReceived, DataReceived)
#: Frames that belong on the control stream (RFC 9114 §7.2), those that belong nowhere, and promises
#: where they are not expected.
_MISPLACED: Final = RESERVED_FRAME_TYPES | {
    FrameType.CANCEL_PUSH,
    FrameType.SETTINGS,
    FrameType.PUSH_PROMISE,
    FrameType.GOAWAY,
    FrameType.MAX_PUSH_ID,
    FrameType.PRIORITY_UPDATE,
    FrameType.PRIORITY_UPDATE_PUSH,
}


class MessageReader(WebTransportSide):
    """Reads request and push streams. `ReceivingSide` finds them."""

    def _read_message(
        self, stream_id: int, stream: Http3Stream, data: bytes, ended: bool
    ) -> list[H3Event]:
        """Events for everything that `data` completes. Events before an error of the stream
        count."""
        events: list[H3Event] = []
        try:
            newest = self._read_frames(stream_id, stream, data, ended, events)
            if ended and stream.kind <= s.PUSH:
                self._finish_message(stream_id, stream, newest, events)
        except StreamError as error:
            events += self._fail_stream(stream_id, error, ended=ended)
        return events

    def _whole_request(self, data: bytes) -> DecodedRequest | None:
        """The request in `data`, which is all of its stream, if it is an ordinary one. It need not
        go through its frames one by one: a third of the cost of a GET."""
        if len(data) > limits.MAX_REMEMBERED_SECTION_BYTES or self._quic_logger is not None:
            return None
        return self._sections.whole_request(data)

    def _on_whole_request(
        self, stream_id: int, stream: Http3Stream, whole: DecodedRequest
    ) -> list[H3Event]:
        fields, request = whole
        self._begin_request(stream_id, stream, request)
        stream.receive = s.ENDED
        if self.watch is not None:
            self.watch.on_request(stream_id, fields)
        return [HeadersReceived(list(fields), stream_id, True)]

    def _read_frames(
        self,
        stream_id: int,
        stream: Http3Stream,
        data: bytes,
        ended: bool,
        events: list[H3Event],
    ) -> int:
        """Read as far as `data` goes; it may show that the stream is WebTransport's. Returns the
        newest frame's type."""
        at = 0
        if stream.frame_type == NONE and stream.held is not None:
            data = bytes(stream.held) + data
            self._hold(stream, b"")
        size = len(data)
        frame_type = stream.frame_type
        while at < size:
            if stream.frame_type == NONE:
                header = pull_header(data, at)
                if header is None:
                    self._hold(stream, data[at:])
                    break
                frame_type, left, at = header
                if frame_type == _WEBTRANSPORT_STREAM and self._webtransport:
                    self._check_webtransport(stream_id, stream)
                    events += self._begin_webtransport(stream_id, stream, left, data[at:], ended)
                    break
                self._check_frame(stream_id, stream, frame_type, left)
                stream.frame_type = frame_type
                stream.frame_left = left
                if left and at == size:
                    break
            else:
                frame_type = stream.frame_type
                left = stream.frame_left
            end = min(size, at + left)
            stream.frame_left = left - (end - at)
            if frame_type == _DATA:
                if end > at or not left:
                    # Content that fills a whole event is passed on uncopied.
                    content = data[at:end] if at or end < size else data
                    self._on_content(stream_id, stream, content, events)
            elif frame_type in _SECTIONS:
                self._on_section_data(stream_id, stream, data[at:end], events)
            if not stream.frame_left:
                stream.frame_type = NONE
            at = end
        return frame_type

    def _check_frame(
        self, stream_id: int, stream: Http3Stream, frame_type: int, length: int
    ) -> None:
        """Check that a frame may begin here, before a byte of it is kept (RFC 9114 §4.1, §7)."""
        if frame_type == _DATA:
            if stream.receive != s.BODY:
                raise FrameUnexpected("DATA frame is not allowed in this state")
            if not length:
                self._spend_idle_frame()
        elif frame_type == _HEADERS:
            if stream_id & 1 and stream.kind == s.REQUEST:
                raise StreamCreationError("a bidirectional stream from a server")  # §6.1
            # §4.4: a tunnel has DATA frames only.
            if stream.receive >= s.TRAILED - bool(stream.flags & s.TUNNEL):
                raise FrameUnexpected("HEADERS frame is not allowed in this state")
            _check_section_size(length)
        elif frame_type == _PUSH_PROMISE and stream.kind == s.REQUEST:
            if not self._is_client:
                raise FrameUnexpected("Clients must not send PUSH_PROMISE")  # §7.2.5
            if stream_id & 1 or (stream.flags & s.TUNNEL and stream.receive != s.HEAD):
                raise FrameUnexpected("PUSH_PROMISE frame is not allowed in this state")
            _check_section_size(length)
        elif frame_type in _MISPLACED:
            place = "push" if stream.kind == s.PUSH else "request"
            raise FrameUnexpected(f"Invalid frame type on {place} stream")
        else:
            # §9: a frame of an unknown type is skipped.
            stream.flags |= s.BEGUN
            self._spend_idle_frame()

    def _check_webtransport(self, stream_id: int, stream: Http3Stream) -> None:
        """Check that WebTransport's signal is the first thing on the stream of its opener
        ("Bidirectional Streams")."""
        is_answer = self._is_client and not stream_id & 1
        has_begun = stream.receive != s.HEAD or stream.flags & s.BEGUN
        if is_answer or has_begun or stream.kind == s.PUSH:
            raise FrameError("WEBTRANSPORT_STREAM after something else")
        if stream.send == s.HEAD:
            stream.send = s.BODY

    # --- what the frames say --------------------------------------------------------------------

    def _on_section_data(
        self, stream_id: int, stream: Http3Stream, data: bytes, events: list[H3Event]
    ) -> None:
        """Read more of a field section. It is kept, once, until it is whole."""
        if stream.frame_left:
            if stream.held is None:
                stream.held = bytearray()
            stream.held += data
            self._count_held(len(data))
            return
        if stream.held is not None:
            data = bytes(stream.held) + data
            self._hold(stream, b"")
        self._on_section(stream_id, stream, stream.frame_type, data, events)

    def _on_section(
        self,
        stream_id: int,
        stream: Http3Stream,
        frame_type: int,
        block: bytes,
        events: list[H3Event],
    ) -> None:
        if frame_type == _PUSH_PROMISE:
            events.append(self._read_promise(stream_id, block))
            return
        if stream.receive == s.BODY:
            fields = qpack.decode_fields(block)
            validate_trailers(fields)
            stream.receive = s.TRAILED
        elif self._is_client:
            fields, response = qpack.decode_response(block)
            self._begin_response(stream_id, stream, response)
        else:
            known, request = self._sections.request(block)
            fields = list(known)
            early = self._begin_request(stream_id, stream, request)
            if self.watch is not None:
                self.watch.on_request(stream_id, fields)
            events.append(HeadersReceived(fields, stream_id, False))
            events += early
            qlog.log_headers(self._quic_logger, stream_id, len(block), fields, created=False)
            return
        push_id = stream.link if stream.kind == s.PUSH else None
        events.append(HeadersReceived(fields, stream_id, False, push_id))
        qlog.log_headers(self._quic_logger, stream_id, len(block), fields, created=False)

    def _begin_request(
        self, stream_id: int, stream: Http3Stream, request: RequestHead
    ) -> list[H3Event]:
        """Begin a request whose header section is whole. Returns events that waited for it."""
        is_session = request.protocol in webtransport.PROTOCOLS and self._webtransport
        if is_session and len(self._state.sessions) >= limits.MAX_WEBTRANSPORT_SESSIONS:
            raise RequestRejectedError("too many WebTransport sessions")
        stream.receive = s.BODY
        priority = request.priority
        if self._state.priorities:
            # RFC 9218 §7: a PRIORITY_UPDATE ahead of the request is newer than its header.
            known = self._state.priorities.pop(stream_id, None)
            if known is not None:
                priority = Priority(known >> 1, bool(known & 1))
        self._prioritize(stream_id, *priority)
        if request.method == b"CONNECT":
            stream.flags |= s.TUNNEL
            if is_session:
                return self._begin_session(stream_id)
        elif request.method == b"HEAD":
            stream.flags |= s.HEAD_REQUEST
        if request.content_length != NONE and not stream.flags & s.TUNNEL:
            stream.receive_left = request.content_length
        return []

    def _begin_response(self, stream_id: int, stream: Http3Stream, response: ResponseHead) -> None:
        if response.is_interim:
            stream.flags |= s.INTERIM
            self._spend_idle_frame()
            return
        stream.receive = s.BODY
        if stream.flags & s.TUNNEL:
            if response.status < 300:
                return  # RFC 9110 §9.3.6: a content-length means nothing
            self._refuse_tunnel(stream_id, stream)
        # RFC 9110 §6.4.1: these have no content, whatever their fields say.
        if stream.flags & s.HEAD_REQUEST or response.status in (204, 304):
            stream.receive_left = 0
        elif response.content_length != NONE:
            stream.receive_left = response.content_length

    def _read_promise(self, stream_id: int, payload: bytes) -> H3Event:
        """Read a PUSH_PROMISE frame (RFC 9114 §7.2.5)."""
        pulled = pull_varint(payload, 0)
        if pulled is None:
            raise FrameError("Could not parse PUSH_PROMISE frame")
        push_id, at = pulled
        if push_id > self._state.max_push_id:
            raise IdError("Push ID exceeds the maximum push ID")
        fields = qpack.decode_fields(payload[at:])
        validate_push_promise_headers(fields)
        return PushPromiseReceived(fields, push_id, stream_id)

    def _on_content(
        self, stream_id: int, stream: Http3Stream, content: bytes, events: list[H3Event]
    ) -> None:
        if stream.receive_left != NONE:
            if len(content) > stream.receive_left:
                raise MessageError("content-length does not match data size")
            stream.receive_left -= len(content)
        if stream_id in self._state.sessions:
            self._read_session(stream_id, stream, content, events)
            return
        push_id = stream.link if stream.kind == s.PUSH else None
        events.append(DataReceived(content, stream_id, False, push_id))

    def _finish_message(
        self, stream_id: int, stream: Http3Stream, newest: int, events: list[H3Event]
    ) -> None:
        """End the message: the stream has ended after a frame of type `newest`, if there was
        one."""
        if stream.frame_type != NONE or stream.held is not None:
            raise FrameError("Frame is truncated by the end of the stream")  # RFC 9114 §7.1
        if stream.receive == s.HEAD:
            if stream_id & 1 and stream.kind == s.REQUEST:
                self._end_receiving(stream_id, stream)
                return
            if not self._is_client:
                raise RequestIncompleteError("the stream ends before its request")
            raise MessageError(
                "Interim response cannot end the stream"
                if stream.flags & s.INTERIM
                else "the stream ends before its response"
            )
        if stream.receive_left > 0:
            raise MessageError("content-length does not match data size")
        session = self._state.sessions.get(stream_id)
        if session is not None:
            if session.capsule_type != NONE or session.capsule_held:
                raise MessageError("the stream ends within a capsule")  # RFC 9297 §3.3
            events += self._session_ended(stream_id, 0, "")
        self._end_receiving(stream_id, stream)
        last = events[-1] if events else None
        if newest <= _HEADERS and isinstance(last, _ENDING):
            last.stream_ended = True
        else:
            push_id = stream.link if stream.kind == s.PUSH else None
            events.append(DataReceived(b"", stream_id, True, push_id))


def _check_section_size(length: int) -> None:
    """Raise for a section that is too large even in its encoded form, which is never larger than
    its size (RFC 9114 §4.2.2)."""
    if length > limits.MAX_FIELD_SECTION_BYTES:
        raise FieldSectionTooLargeError(f"a field section of {length} bytes")
