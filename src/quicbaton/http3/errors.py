"""Faults of a message, a stream or a connection of HTTP/3 (RFC 9114 §8).

An error has a scope. A malformed message (RFC 9114 §4.1.2) is the fault of one stream, which is
reset. Every other error concerns the connection. Both kinds are raised where the fault is seen, and
`H3Connection.handle_event` turns them into frames. Programs see only errors of their own calls:
they asked for a frame that the stream's state forbids.
"""

from __future__ import annotations

from quicbaton.errors import CallerError, QuicbatonError, StreamStateError
from quicbaton.http3.codes import ErrorCode
from quicbaton.reasons import Reason


class ProtocolError(QuicbatonError):
    """A rule of HTTP/3 was broken, by the peer or by the calling program; see the module's head.

    `error_code` is the code that the peer is told.
    """

    code = Reason.HTTP3
    error_code = ErrorCode.H3_GENERAL_PROTOCOL_ERROR

    def __init__(self, reason_phrase: str = "") -> None:
        super().__init__(reason_phrase)
        self.reason_phrase = reason_phrase


class StreamError(ProtocolError):
    """The fault of one stream. The stream is reset, and the connection goes on."""


class MessageError(StreamError):
    """A malformed request or response (RFC 9114 §4.1.2)."""

    error_code = ErrorCode.H3_MESSAGE_ERROR


class FieldSectionTooLargeError(StreamError):
    """The field section has more or larger fields than we take (RFC 9114 §4.2.2)."""

    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class StreamOverloadError(StreamError):
    """There is no room for the unfinished frame on this stream."""

    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class RequestIncompleteError(StreamError):
    """A request stream ended before its request was complete (RFC 9114 §4.1)."""

    error_code = ErrorCode.H3_REQUEST_INCOMPLETE


class RequestRejectedError(StreamError):
    """The request was not processed in any way, and may be sent elsewhere (RFC 9114 §4.1.1)."""

    error_code = ErrorCode.H3_REQUEST_REJECTED


class BufferedStreamRejectedError(StreamError):
    """A WebTransport stream came before its session, and there is no room to keep it."""

    error_code = ErrorCode.WEBTRANSPORT_BUFFERED_STREAM_REJECTED


class SessionGoneError(StreamError):
    """The session of a WebTransport stream is over."""

    error_code = ErrorCode.WEBTRANSPORT_SESSION_GONE


class DatagramStreamError(StreamError):
    """A datagram came for a request that has no use for it (RFC 9297 §2)."""

    error_code = ErrorCode.H3_DATAGRAM_ERROR


class GoawayError(CallerError):
    """The server is going away and takes no new requests (RFC 9114 §5.2): use another
    connection."""

    code = Reason.GOAWAY


# --- the connection's: names of aioquic ---------------------------------------------------------


class QpackDecompressionFailed(ProtocolError):  # noqa: N818
    error_code = ErrorCode.QPACK_DECOMPRESSION_FAILED


class QpackDecoderStreamError(ProtocolError):
    error_code = ErrorCode.QPACK_DECODER_STREAM_ERROR


class QpackEncoderStreamError(ProtocolError):
    error_code = ErrorCode.QPACK_ENCODER_STREAM_ERROR


class ClosedCriticalStream(ProtocolError):  # noqa: N818
    error_code = ErrorCode.H3_CLOSED_CRITICAL_STREAM


class DatagramError(ProtocolError):
    error_code = ErrorCode.H3_DATAGRAM_ERROR


class ExcessiveLoadError(ProtocolError):
    """The peer repeats something that costs us more than it costs the peer."""

    error_code = ErrorCode.H3_EXCESSIVE_LOAD


class FrameError(ProtocolError):
    error_code = ErrorCode.H3_FRAME_ERROR


class FrameUnexpected(ProtocolError):  # noqa: N818
    error_code = ErrorCode.H3_FRAME_UNEXPECTED


class StreamOverError(FrameUnexpected, StreamStateError):
    """A program writes to a stream that it has ended, or that the peer has given up. It is an error
    under two names: aioquic's, and that of our transport's streams."""

    code = Reason.STREAM_STATE


class IdError(ProtocolError):
    error_code = ErrorCode.H3_ID_ERROR


class MissingSettingsError(ProtocolError):
    error_code = ErrorCode.H3_MISSING_SETTINGS


class SettingsError(ProtocolError):
    error_code = ErrorCode.H3_SETTINGS_ERROR


class StreamCreationError(ProtocolError):
    error_code = ErrorCode.H3_STREAM_CREATION_ERROR
