"""Numbers of HTTP/3 and its extensions, under the names that aioquic gave them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: ALPN tokens (RFC 9114 §3.1).
H3_ALPN: Final = ["h3"]


class ErrorCode(IntEnum):
    """RFC 9114 §8.1, RFC 9204 §6, RFC 9297 §5.2, and those of WebTransport over HTTP/3."""

    H3_DATAGRAM_ERROR = 0x33
    H3_NO_ERROR = 0x100
    H3_GENERAL_PROTOCOL_ERROR = 0x101
    H3_INTERNAL_ERROR = 0x102
    H3_STREAM_CREATION_ERROR = 0x103
    H3_CLOSED_CRITICAL_STREAM = 0x104
    H3_FRAME_UNEXPECTED = 0x105
    H3_FRAME_ERROR = 0x106
    H3_EXCESSIVE_LOAD = 0x107
    H3_ID_ERROR = 0x108
    H3_SETTINGS_ERROR = 0x109
    H3_MISSING_SETTINGS = 0x10A
    H3_REQUEST_REJECTED = 0x10B
    H3_REQUEST_CANCELLED = 0x10C
    H3_REQUEST_INCOMPLETE = 0x10D
    H3_MESSAGE_ERROR = 0x10E
    H3_CONNECT_ERROR = 0x10F
    H3_VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202
    WEBTRANSPORT_SESSION_GONE = 0x170D7B68
    WEBTRANSPORT_BUFFERED_STREAM_REJECTED = 0x3994BD84


class FrameType(IntEnum):
    """RFC 9114 §7.2, RFC 9218 §7.2. WEBTRANSPORT_STREAM has no length and is no proper frame."""

    DATA = 0x0
    HEADERS = 0x1
    CANCEL_PUSH = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    GOAWAY = 0x7
    MAX_PUSH_ID = 0xD
    WEBTRANSPORT_STREAM = 0x41
    PRIORITY_UPDATE = 0xF0700
    PRIORITY_UPDATE_PUSH = 0xF0701


class StreamType(IntEnum):
    """The integer at the beginning of a unidirectional stream (RFC 9114 §6.2, RFC 9204 §4.2)."""

    CONTROL = 0
    PUSH = 1
    QPACK_ENCODER = 2
    QPACK_DECODER = 3
    WEBTRANSPORT = 0x54


class Setting(IntEnum):
    """Identifiers of settings. WebTransport's identifier changed with its drafts: each browser
    looks for the one of its draft."""

    QPACK_MAX_TABLE_CAPACITY = 0x1
    MAX_FIELD_SECTION_SIZE = 0x6
    QPACK_BLOCKED_STREAMS = 0x7
    ENABLE_CONNECT_PROTOCOL = 0x8  # RFC 9220 §3
    DUMMY = 0x21  # reserved to exercise that unknown ones are ignored (RFC 9114 §7.2.4.1)
    H3_DATAGRAM = 0x33  # RFC 9297 §2.1.1
    ENABLE_WEBTRANSPORT = 0x2B603742  # draft 2: Chromium and Firefox
    WEBTRANSPORT_MAX_SESSIONS_07 = 0xC671706A  # drafts 7 to 12: Safari
    WEBTRANSPORT_MAX_SESSIONS_13 = 0x14E9CD29  # drafts 13 and 14
    WEBTRANSPORT_ENABLED = 0x2C7CF000  # from draft 15 on


#: Frame types of HTTP/2 that HTTP/3 forbids (RFC 9114 §7.2.8).
RESERVED_FRAME_TYPES: Final = frozenset((0x2, 0x6, 0x8, 0x9))
#: Settings of HTTP/2 that HTTP/3 forbids (RFC 9114 §7.2.4.1).
RESERVED_SETTINGS: Final = frozenset((0x0, 0x2, 0x3, 0x4, 0x5))
