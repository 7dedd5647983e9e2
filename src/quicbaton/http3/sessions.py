"""WebTransport sessions and their streams (draft-ietf-webtrans-http3).

A session is an Extended CONNECT request. Its streams begin with its ID and then carry a program's
bytes. The session's own stream carries capsules. When the session ends, its streams end, too.
"""

from __future__ import annotations

from typing import Final

from quicbaton import limits
from quicbaton.errors import StreamStateError
from quicbaton.http3 import capsules, qlog, webtransport
from quicbaton.http3 import state as s
from quicbaton.http3.base import Http3Base
from quicbaton.http3.codes import ErrorCode, FrameType, StreamType
from quicbaton.http3.errors import (
    BufferedStreamRejectedError,
    IdError,
    MessageError,
    SessionGoneError,
)
from quicbaton.http3.events import (
    DatagramReceived,
    H3Event,
    WebTransportSessionClosed,
    WebTransportSessionDraining,
    WebTransportStreamDataReceived,
)
from quicbaton.http3.frames import encode_frame
from quicbaton.http3.state import Http3Stream
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.state import NONE

_WANTED_CAPSULES: Final = frozenset(
    (capsules.DATAGRAM, capsules.CLOSE_SESSION, capsules.DRAIN_SESSION)
)


class WebTransportSide(Http3Base):
    """Sessions of one connection, as far as HTTP/3 knows them."""

    # --- for the program ------------------------------------------------------------------------

    def create_webtransport_stream(self, session_id: int, is_unidirectional: bool = False) -> int:
        """Open a stream of a session. The program writes to it with `send_stream_data` of the QUIC
        connection.

        Raises StreamStateError when there is no such session (any more).
        """
        stream_id: int = self._quic.get_next_available_stream_id(
            is_unidirectional=is_unidirectional
        )
        self.begin_webtransport_stream(session_id, stream_id)
        return stream_id

    def begin_webtransport_stream(self, session_id: int, stream_id: int) -> None:
        """Make a stream on which we have written nothing part of a session.

        Raises StreamStateError when there is no such session (any more).
        """
        if session_id not in self._state.sessions:
            raise StreamStateError(f"stream {session_id} is no open WebTransport session")
        qlog.log_stream_type(self._quic_logger, stream_id, StreamType.WEBTRANSPORT)
        is_unidirectional = bool(stream_id & 2)
        kind = StreamType.WEBTRANSPORT if is_unidirectional else FrameType.WEBTRANSPORT_STREAM
        self._quic.send_stream_data(stream_id, encode_varint(kind) + encode_varint(session_id))
        stream = s.new_stream(
            s.WEBTRANSPORT, receive=s.ENDED if is_unidirectional else s.HEAD, link=session_id
        )
        stream.send = s.BODY
        self._add_stream(stream_id, stream)

    def close_webtransport_session(self, session_id: int, code: int = 0, reason: str = "") -> None:
        """End a session with a program's code and reason. Its streams are reset, except those that
        the program has ended before: bytes that were sent in full are not taken back."""
        self._send_capsule(
            session_id, capsules.CLOSE_SESSION, webtransport.encode_close(code, reason), ended=True
        )
        for stream_id, stream in self._members(session_id):
            if stream.send != s.ENDED and not self._can_send(stream_id):
                self._end_sending(stream_id, stream)
        self._leave_session(session_id, self._streams[session_id])

    def abort_webtransport_session(self, session_id: int) -> None:
        """Break off a session and its streams with an error, which no client takes for a regular
        end."""
        if session_id in self._state.sessions:
            self._abort(session_id, self._streams[session_id], ErrorCode.H3_INTERNAL_ERROR)

    def drain_webtransport_session(self, session_id: int) -> None:
        """Ask the peer to end a session at its convenience."""
        self._send_capsule(session_id, capsules.DRAIN_SESSION, b"", ended=False)

    def _send_capsule(self, session_id: int, kind: int, value: bytes, *, ended: bool) -> None:
        if session_id not in self._state.sessions or self._streams[session_id].send != s.BODY:
            raise StreamStateError(f"stream {session_id} is no open WebTransport session")
        frame = encode_frame(FrameType.DATA, capsules.encode_capsule(kind, value))
        self._quic.send_stream_data(session_id, frame, ended)

    # --- streams --------------------------------------------------------------------------------

    def _begin_webtransport(
        self, stream_id: int, stream: Http3Stream, session_id: int, rest: bytes, ended: bool
    ) -> list[H3Event]:
        """The header of a WebTransport stream has come. If its session has not, the stream waits
        for it, within bounds ("Buffering Incoming Streams")."""
        if session_id & 3:
            raise IdError("a WebTransport session is a client's bidirectional stream")
        stream.kind = s.WEBTRANSPORT
        stream.link = session_id
        if session_id not in self._state.sessions:
            if not self._is_awaited(session_id):
                raise SessionGoneError("the stream's session is over")
            if self._count_early() >= limits.MAX_EARLY_STREAMS:
                raise BufferedStreamRejectedError("too many streams without a session")
            stream.flags |= s.EARLY
        if not rest and not ended:
            return []
        return self._on_webtransport_data(stream_id, stream, rest, ended)

    def _on_webtransport_data(
        self, stream_id: int, stream: Http3Stream, data: bytes, ended: bool
    ) -> list[H3Event]:
        if stream.flags & s.EARLY:
            if stream.held is None:
                stream.held = bytearray()
            stream.held += data
            self._count_held(len(data))
            stream.flags |= s.FIN_HELD * ended
            return []
        session_id = stream.link
        if ended:
            self._end_receiving(stream_id, stream)
        return [
            WebTransportStreamDataReceived(
                data=data, stream_id=stream_id, stream_ended=ended, session_id=session_id
            )
        ]

    def _begin_session(self, session_id: int) -> list[H3Event]:
        """A request for a session has come. Returns the events of streams that came before it."""
        self._state.sessions[session_id] = s.Http3Session(NONE, 0, None)
        events: list[H3Event] = []
        for stream_id, other in list(self._streams.items()):
            if other.flags & s.EARLY and other.link == session_id:
                data, ended = bytes(other.held or b""), bool(other.flags & s.FIN_HELD)
                other.flags = 0
                self._hold(other, b"")
                events += self._on_webtransport_data(stream_id, other, data, ended)
        return events

    def _is_awaited(self, session_id: int) -> bool:
        """Whether a session that does not exist may still come."""
        if self._is_client:
            return False
        request = self._streams.get(session_id)
        if request is None:
            return not self._is_finished(session_id)
        return request.receive == s.HEAD and request.kind == s.REQUEST

    def _count_early(self) -> int:
        """The number of streams that wait for their session. Those that wait in vain are ended
        first."""
        early = [
            (stream_id, stream)
            for stream_id, stream in self._streams.items()
            if stream.flags & s.EARLY
        ]
        vain = [item for item in early if not self._is_awaited(item[1].link)]
        for stream_id, stream in vain:
            self._abort(stream_id, stream, ErrorCode.WEBTRANSPORT_SESSION_GONE)
        return len(early) - len(vain)

    # --- a WebTransport session's own stream ----------------------------------------------------

    def _read_session(
        self, stream_id: int, stream: Http3Stream, content: bytes, events: list[H3Event]
    ) -> None:
        """Read the capsules on a session's CONNECT stream (RFC 9297 §3).

        A server reads them before it has accepted the session, although "Creating a New Session"
        would have it wait: no capsule changes its meaning with the acceptance.
        """
        session = self._state.sessions[stream_id]
        whole, session.capsule_held, session.capsule_type, session.capsule_left = (
            capsules.read_capsules(
                content,
                session.capsule_held,
                session.capsule_type,
                session.capsule_left,
                _WANTED_CAPSULES.__contains__,
                capsules.CLOSE_SESSION,
            )
        )
        for capsule in whole:
            if not capsule.value:
                self._spend_idle_frame()
            if capsule.kind == capsules.DATAGRAM:
                events.append(DatagramReceived(capsule.value, stream_id))
            elif capsule.kind == capsules.DRAIN_SESSION:
                events.append(WebTransportSessionDraining(stream_id))
            else:
                code, reason = webtransport.decode_close(capsule.value)
                events += self._session_ended(stream_id, code, reason)
                # "Session Termination": nothing may follow but the stream's end.
                stream.receive_left = 0
                if session.capsule_held:
                    raise MessageError("something follows the end of a WebTransport session")

    def _session_ended(self, session_id: int, code: int, reason: str) -> list[H3Event]:
        """End a session that the peer has ended ("Session Termination")."""
        stream = self._streams[session_id]
        self._end_session(session_id)
        if stream.send == s.BODY:
            self._say_last(session_id, b"")
            self._end_sending(session_id, stream)
        elif stream.send == s.HEAD:
            # An end without a response would be a malformed one.
            self._quic.reset_stream(session_id, ErrorCode.H3_REQUEST_CANCELLED)
            self._end_sending(session_id, stream)
        return [WebTransportSessionClosed(session_id, code, reason)]

    def _leave_session(self, session_id: int, stream: Http3Stream) -> None:
        """This side has ended a session's stream, so the session is over. Bytes that the peer still
        sends there, before it has noticed, are dropped."""
        self._end_session(session_id)
        stream.kind = s.IGNORED
        self._end_sending(session_id, stream)

    def _refuse_tunnel(self, stream_id: int, stream: Http3Stream) -> None:
        """The response to CONNECT is no success: it is an ordinary response, and there is no
        session."""
        stream.flags = stream.flags & ~s.TUNNEL | s.REFUSED
        if stream_id in self._state.sessions:
            self._end_session(stream_id)

    def _end_session(self, session_id: int) -> None:
        """End a WebTransport session and its streams ("Session Termination")."""
        del self._state.sessions[session_id]
        for stream_id, stream in self._members(session_id):
            self._abort(stream_id, stream, ErrorCode.WEBTRANSPORT_SESSION_GONE)

    def _members(self, session_id: int) -> list[tuple[int, Http3Stream]]:
        return [
            (stream_id, stream)
            for stream_id, stream in self._streams.items()
            if stream.kind == s.WEBTRANSPORT and stream.link == session_id
        ]

    def _abort(self, stream_id: int, stream: Http3Stream, error_code: int) -> None:
        if stream_id in self._state.sessions:
            self._end_session(stream_id)
        super()._abort(stream_id, stream, error_code)
