"""HTTP/3 over one QUIC connection (RFC 9114), with the names of aioquic's `H3Connection`.

    event ─► handle_event ─► receiving ─► messages, control ─► events for the program
    program ─► sending ─► the QUIC connection

Beside `H3Connection` this module has the names that programs import from `aioquic.h3.connection`.
"""

from __future__ import annotations

from typing import Any, Final

from quicbaton.http3 import state as s
from quicbaton.http3.codes import (
    H3_ALPN,
    RESERVED_FRAME_TYPES,
    RESERVED_SETTINGS,
    ErrorCode,
    FrameType,
    Setting,
    StreamType,
)
from quicbaton.http3.errors import (
    FrameUnexpected,
    MessageError,
    ProtocolError,
    SettingsError,
)
from quicbaton.http3.fields import (
    is_interim_response,
    validate_push_promise_headers,
    validate_request_headers,
    validate_response_headers,
    validate_trailers,
)
from quicbaton.http3.frames import encode_frame, encode_settings, parse_settings
from quicbaton.http3.receiving import ReceivingSide
from quicbaton.http3.sending import SendingSide
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.state import NONE
from quicbaton.transport.streams.turns import CONTROL_URGENCY

__all__ = [
    "H3_ALPN",
    "RESERVED_FRAME_TYPES",
    "RESERVED_SETTINGS",
    "ErrorCode",
    "FrameType",
    "FrameUnexpected",
    "H3Connection",
    "MessageError",
    "ProtocolError",
    "Setting",
    "SettingsError",
    "StreamType",
    "encode_frame",
    "encode_settings",
    "is_interim_response",
    "parse_settings",
    "validate_push_promise_headers",
    "validate_request_headers",
    "validate_response_headers",
    "validate_trailers",
]

#: Pushes that our client takes (RFC 9114 §7.2.7): as many as aioquic's.
_MAX_PUSH_ID: Final = 8


class H3Connection(ReceivingSide, SendingSide):
    """One HTTP/3 connection, of a server or a client. Its whole state is data, so it moves.

    `quic` is a promoted `Connection`, or any object with `configuration.is_client`, `_quic_logger`,
    `_remote_max_datagram_frame_size`, `get_next_available_stream_id`, `send_stream_data`,
    `reset_stream`, `stop_stream`, `close` and `send_datagram_frame`.

    There is no QPACK dynamic table. The price is that a client's requests are all as long as the
    first.
    """

    def __init__(self, quic: Any, enable_webtransport: bool = False) -> None:
        is_client = quic.configuration.is_client
        datagrams = enable_webtransport or bool(
            getattr(quic.configuration, "max_datagram_frame_size", None)
        )
        state = s.new_state(
            flags=s.OFFERS_WEBTRANSPORT * enable_webtransport | s.OFFERS_DATAGRAMS * datagrams,
            max_push_id=_MAX_PUSH_ID if is_client else NONE,
        )
        self._attach(quic, state)
        settings = encode_frame(FrameType.SETTINGS, encode_settings(self.sent_settings))
        if is_client:
            settings += encode_frame(FrameType.MAX_PUSH_ID, encode_varint(_MAX_PUSH_ID))
        state.local_control_stream = self._open_uni_stream(
            StreamType.CONTROL, encode_varint(StreamType.CONTROL) + settings
        )
        # Settings, GOAWAY and credit for pushes must not wait behind the requests they are about.
        self._prioritize(state.local_control_stream, CONTROL_URGENCY, False)
        state.local_encoder_stream = self._open_uni_stream(
            StreamType.QPACK_ENCODER, encode_varint(StreamType.QPACK_ENCODER)
        )
        state.local_decoder_stream = self._open_uni_stream(
            StreamType.QPACK_DECODER, encode_varint(StreamType.QPACK_DECODER)
        )

    def use_quic(self, quic: Any) -> None:
        """Go on over another QUIC connection object: a stand-in, or the object that follows the
        present one."""
        self._quic = quic
        self._quic_logger = quic._quic_logger

    def begun(self, stream_id: int) -> bytes | None:
        """The bytes, possibly none, of a stream that may yet turn out to be a WebTransport
        session's. None for a stream that is known to be something else, or that we opened."""
        if stream_id & 1 != self._is_client:
            return None
        stream = self._streams.get(stream_id)
        if stream is None:
            return None if self._is_critical(stream_id) else b""
        begins = stream.kind == s.UNTYPED or (
            stream.kind == s.REQUEST
            and stream.receive == s.HEAD
            and stream.frame_type == NONE
            and not stream.flags & s.BEGUN
        )
        return bytes(stream.held or b"") if begins else None

    def forget_begun(self, stream_id: int) -> None:
        """Forget a stream that had only begun: another object has it now."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._hold(stream, b"")

    def rest_moved(self) -> None:
        """Another object has all streams but some. Forget those that had only begun."""
        for stream_id in list(self._streams):
            if self.begun(stream_id) is not None:
                self.forget_begun(stream_id)

    def ignore(self, stream_id: int) -> None:
        """A stream that was another object's has been answered in full. Bytes that still come
        before QUIC has finished with it are no request."""
        if stream_id not in self._streams and not self._is_finished(stream_id):
            stream = s.new_stream(s.IGNORED, send=s.ENDED)
            stream.flags = s.STOPPED
            self._add_stream(stream_id, stream)

    # --- names of aioquic's, by which its own tests look inside ---------------------------------

    @property
    def _stream(self) -> dict[int, s.Http3Stream]:
        state = self._state
        critical = (state.peer_control_stream, state.peer_encoder_stream, state.peer_decoder_stream)
        return self._streams | {
            stream_id: s.new_stream(s.IGNORED) for stream_id in critical if stream_id != NONE
        }

    @property
    def _local_control_stream_id(self) -> int:
        return self._state.local_control_stream

    @property
    def _max_push_id(self) -> int | None:
        return None if self._state.max_push_id == NONE else self._state.max_push_id
