"""The receiving side: QUIC's events in, HTTP/3's out (RFC 9114 §4, §6).

Streams of all kinds arrive here. `messages` reads a request's frames, `control` the peer's control
stream, and `sessions` passes the bytes of WebTransport streams on. Work is linear in the bytes that
come: an unfinished field section is kept once, DATA is passed on as it comes, and frames of unknown
types are skipped as they stream.
"""

from __future__ import annotations

from typing import Final

from aioquic.quic.events import (
    DatagramFrameReceived,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from quicbaton import limits
from quicbaton.http3 import qlog
from quicbaton.http3 import state as s
from quicbaton.http3.base import Http3Base
from quicbaton.http3.codes import ErrorCode, StreamType
from quicbaton.http3.control import CRITICAL, ControlStream
from quicbaton.http3.errors import (
    ClosedCriticalStream,
    DatagramError,
    DatagramStreamError,
    ExcessiveLoadError,
    IdError,
    ProtocolError,
    StreamCreationError,
    StreamError,
)
from quicbaton.http3.events import (
    DatagramReceived,
    H3Event,
    WebTransportSessionClosed,
)
from quicbaton.http3.frames import pull_varint
from quicbaton.http3.messages import MessageReader
from quicbaton.http3.rates import rate
from quicbaton.http3.state import Http3Stream
from quicbaton.transport.state import NONE

_REQUESTS: Final = rate(per_s=limits.REQUESTS_PER_S, burst=limits.REQUEST_BURST)


class ReceivingSide(MessageReader, ControlStream, Http3Base):
    """`handle_event` and what follows from it."""

    def handle_event(self, event: QuicEvent) -> list[H3Event]:
        """Take an event of QUIC. Returns the events for the program.

        An error of the peer is answered here: on its stream where RFC 9114 makes it a stream error,
        else by closing the connection.
        """
        if self._state.flags & s.DONE:
            return []
        stream_id = NONE
        ended = False
        try:
            if isinstance(event, StreamDataReceived):
                stream_id = event.stream_id
                ended = event.end_stream
                stream = self._streams.get(stream_id)
                return (
                    self._on_first_data(stream_id, event.data, ended)
                    if stream is None
                    else self._on_data(stream_id, stream, event.data, ended)
                )
            if isinstance(event, DatagramFrameReceived):
                return self._on_datagram(event.data)
            if isinstance(event, (StreamReset, StopSendingReceived)):
                stream_id = event.stream_id
                if self.watch is not None:
                    self.watch.on_gone(stream_id)
                is_reset = isinstance(event, StreamReset)
                return self._on_reset(stream_id) if is_reset else self._on_stop(stream_id)
        except StreamError as error:
            try:
                return self._fail_stream(stream_id, error, ended=ended)
            except ExcessiveLoadError as too_many:
                self._close(too_many)
        except ProtocolError as error:
            self._close(error)
        return []

    # --- streams --------------------------------------------------------------------------------

    def _on_first_data(self, stream_id: int, data: bytes, ended: bool) -> list[H3Event]:
        """Take bytes of a stream that HTTP/3 does not know."""
        stream: Http3Stream | None
        if not stream_id & 2:
            stream = self._open_bidi(stream_id, ended)
            if stream is not None and ended and not self._is_client:
                whole = self._whole_request(data)
                if whole is not None:
                    return self._on_whole_request(stream_id, stream, whole)
        elif self._is_critical(stream_id):
            return self._on_critical(stream_id, data, ended)
        else:
            stream = self._open_uni(stream_id)
        return [] if stream is None else self._on_data(stream_id, stream, data, ended)

    def _on_data(
        self, stream_id: int, stream: Http3Stream, data: bytes, ended: bool
    ) -> list[H3Event]:
        kind = stream.kind
        if kind <= s.PUSH:  # a request's or a push's frames
            return self._read_message(stream_id, stream, data, ended)
        if kind == s.WEBTRANSPORT:
            return self._on_webtransport_data(stream_id, stream, data, ended)
        if kind == s.UNTYPED:
            return self._read_type(stream_id, stream, data, ended)
        if ended:
            self._end_receiving(stream_id, stream)
        return []

    def _open_bidi(self, stream_id: int, ended: bool) -> Http3Stream | None:
        """Take the first bytes of a bidirectional stream; None for one that is not served."""
        if stream_id & 1:
            # RFC 9114 §6.1: a server opens one only by an extension, and a client's own answers
            # come on streams that it has opened.
            if not self._is_client or not self._webtransport:
                raise StreamCreationError("a bidirectional stream from a server")
            stream = s.new_stream(s.REQUEST, send=s.BODY)
            self._add_stream(stream_id, stream)
            return stream
        state = self._state
        if (self._is_client or stream_id < state.next_request_id) and self._is_finished(stream_id):
            return None  # late bytes of a stream that has ended
        if self._is_client:
            stream = s.new_stream(s.REQUEST)
            self._add_stream(stream_id, stream)
            return stream
        self._spend_request()
        if 0 <= state.goaway_sent <= stream_id:
            # §5.2: it was not processed in any way, and the client is told so. A client that sends
            # more than were on their way ignores the GOAWAY.
            self._spend_cancelled()
            self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
            if not ended:
                stream = s.new_stream(s.IGNORED, send=s.ENDED)
                self._add_stream(stream_id, stream)
                self._stop(stream_id, stream, ErrorCode.H3_REQUEST_REJECTED)
            return None
        if stream_id >= state.next_request_id:
            state.next_request_id = stream_id + 4
        stream = s.new_stream(s.REQUEST)
        self._add_stream(stream_id, stream)
        return stream

    def _open_uni(self, stream_id: int) -> Http3Stream | None:
        if stream_id & 1 != self._is_client:
            return None  # our own: nothing comes on it
        stream = s.new_stream(s.UNTYPED, send=s.ENDED)
        self._add_stream(stream_id, stream)
        return stream

    def _read_type(
        self, stream_id: int, stream: Http3Stream, data: bytes, ended: bool
    ) -> list[H3Event]:
        """Read a unidirectional stream's type (RFC 9114 §6.2), and the ID that some types have
        after it."""
        if stream.held:
            data = bytes(stream.held) + data
        pulled = pull_varint(data, 0)
        link = NONE
        if pulled is not None and pulled[0] in (StreamType.PUSH, StreamType.WEBTRANSPORT):
            second = pull_varint(data, pulled[1])
            kind = pulled[0]
            if kind == StreamType.PUSH and not self._is_client:
                raise StreamCreationError("Clients must not open push streams")  # §6.2.2
            pulled = None if second is None else (kind, second[1])
            link = NONE if second is None else second[0]
        if pulled is None:
            if ended:
                # §6.2: a stream that ends within its header is no error.
                self._end_receiving(stream_id, stream)
            else:
                self._hold(stream, data)
            return []
        self._hold(stream, b"")
        kind, at = pulled
        qlog.log_stream_type(self._quic_logger, stream_id, kind)
        rest = data[at:]
        if kind in CRITICAL:
            del self._streams[stream_id]
            self._begin_critical(stream_id, kind)
            return self._on_critical(stream_id, rest, ended) if rest or ended else []
        if kind == StreamType.PUSH:
            return self._begin_push(stream_id, stream, link, rest, ended)
        if kind == StreamType.WEBTRANSPORT and self._webtransport:
            return self._begin_webtransport(stream_id, stream, link, rest, ended)
        # §6.2: an unknown type is allowed. Its bytes are dropped as they come.
        self._spend_idle_frame()
        stream.kind = s.IGNORED
        if ended:
            self._end_receiving(stream_id, stream)
        return []

    def _begin_push(
        self, stream_id: int, stream: Http3Stream, push_id: int, rest: bytes, ended: bool
    ) -> list[H3Event]:
        if not 0 <= push_id <= self._state.max_push_id:
            raise IdError("Push ID exceeds the maximum push ID")  # §4.6
        if self._state.push_streams >> push_id & 1:
            raise IdError("Push ID is used by two streams")  # §4.6
        self._state.push_streams |= 1 << push_id
        stream.kind = s.PUSH
        stream.link = push_id
        return self._read_message(stream_id, stream, rest, ended) if rest or ended else []

    # --- datagrams, resets ----------------------------------------------------------------------

    def _on_datagram(self, data: bytes) -> list[H3Event]:
        """Take an HTTP datagram (RFC 9297 §2.1)."""
        pulled = pull_varint(data, 0)
        if pulled is None:
            raise DatagramError("Could not parse quarter stream ID")
        quarter, at = pulled
        if quarter >= 1 << 60:
            raise DatagramError("a quarter stream ID beyond all streams")
        stream_id = 4 * quarter
        stream = self._streams.get(stream_id)
        if stream is None or stream.kind != s.REQUEST or stream.receive > s.BODY:
            return []  # §2.1: for a stream that has not come, or whose direction is over
        if not stream.flags & s.TUNNEL:
            if stream.receive == s.HEAD or stream.flags & s.REFUSED:
                return []  # not known yet what the request is, or not known that there is none
            # §2: no other method has a use for datagrams.
            return self._fail_stream(stream_id, DatagramStreamError("no request for datagrams"))
        return [DatagramReceived(data=data[at:], stream_id=stream_id)]

    def _on_reset(self, stream_id: int) -> list[H3Event]:
        if self._is_critical(stream_id):
            raise ClosedCriticalStream("Resetting a critical stream is not allowed")  # §6.2.1
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id & 3 or self._is_client or self._is_finished(stream_id):
                return []
            stream = self._open_bidi(stream_id, True)
            if stream is None:
                return []
        if stream.flags & s.EARLY:
            # When its session comes, it must not hear of the incomplete header.
            self._end_receiving(stream_id, stream)
            self._abort(stream_id, stream, ErrorCode.WEBTRANSPORT_BUFFERED_STREAM_REJECTED)
            return []
        self._note_cancelled(stream_id, stream)
        events: list[H3Event] = []
        if stream_id in self._state.sessions:
            events = self._session_ended(stream_id, 0, "")
        elif (
            stream.kind == s.REQUEST
            and not self._is_client
            and stream.receive == s.HEAD
            and stream.send != s.ENDED
        ):
            # §4.1: the program was not told of the request, so it will not answer it.
            self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_INCOMPLETE)
            self._end_sending(stream_id, stream)
        self._end_receiving(stream_id, stream)
        return events

    def _on_stop(self, stream_id: int) -> list[H3Event]:
        state = self._state
        if stream_id in (
            state.local_control_stream,
            state.local_decoder_stream,
            state.local_encoder_stream,
        ):
            raise ClosedCriticalStream("Stopping a critical stream is not allowed")  # §6.2.1
        stream = self._streams.get(stream_id)
        if stream is None:
            known = self._is_client or stream_id < state.next_request_id
            if stream_id & 3 or known or self._is_finished(stream_id):
                return []  # over, as far as HTTP/3 goes
            # A request that is given up before it comes counts as one all the same.
            stream = self._open_bidi(stream_id, True)
            if stream is None:
                return []
        self._note_cancelled(stream_id, stream)
        # The transport has reset the stream already.
        if stream_id in state.sessions:
            self._leave_session(stream_id, stream)
            self._stop(stream_id, stream, ErrorCode.WEBTRANSPORT_SESSION_GONE)
            return [WebTransportSessionClosed(stream_id, 0, "")]
        self._end_sending(stream_id, stream)
        return []

    # --- what it costs --------------------------------------------------------------------------

    def _spend_request(self) -> None:
        now_us = getattr(self._quic, "clock_us", NONE)  # `_clock_us` without a call
        if now_us != NONE:
            whole_at_us = _REQUESTS.spend(self._state.requests_at_us, now_us)
            if whole_at_us < 0:
                raise ExcessiveLoadError("too many requests at once")
            self._state.requests_at_us = whole_at_us
