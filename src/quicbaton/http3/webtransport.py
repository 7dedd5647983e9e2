"""WebTransport over HTTP/3 (draft-ietf-webtrans-http3): the numbers that its drafts share and those
that differ, and the errors and capsules of sessions.

Browsers look for the setting of their draft: Chromium and Firefox for draft 2's, Safari for newer
ones. We send all. We announce none of the drafts' flow control, so it is off (draft 15,
"Negotiating the Use of Flow Control"), and newer clients may have one session at a time.
"""

from __future__ import annotations

from typing import Final

from quicbaton.http3.codes import FrameType, Setting, StreamType
from quicbaton.http3.errors import MessageError, SettingsError
from quicbaton.http3.frames import pull_varint
from quicbaton.limits import MAX_CLOSE_REASON_BYTES
from quicbaton.transport.state import NONE

#: The tokens of `:protocol`: up to draft 14, and since.
PROTOCOLS: Final = frozenset((b"webtransport", b"webtransport-h3"))

#: The settings of a server, or a client, that speaks WebTransport.
OFFER: Final[dict[int, int]] = {
    Setting.H3_DATAGRAM: 1,
    Setting.ENABLE_WEBTRANSPORT: 1,
    Setting.WEBTRANSPORT_MAX_SESSIONS_07: 1,
    Setting.WEBTRANSPORT_MAX_SESSIONS_13: 1,
    Setting.WEBTRANSPORT_ENABLED: 1,
}
#: "Resetting Data Streams": the place of a program's 32-bit codes among those of HTTP/3.
_FIRST_CODE: Final = 0x52E4A40FA8DB
_LAST_CODE: Final = 0x52E5AC983162


def check_settings(settings: dict[int, int]) -> None:
    """Raises SettingsError for settings that contradict each other or have no such value."""
    for setting in (Setting.ENABLE_WEBTRANSPORT, Setting.WEBTRANSPORT_ENABLED):
        if settings.get(setting, 0) not in (0, 1):
            raise SettingsError("ENABLE_WEBTRANSPORT setting must be 0 or 1")
    if settings.get(Setting.ENABLE_WEBTRANSPORT) and not settings.get(Setting.H3_DATAGRAM):
        raise SettingsError("ENABLE_WEBTRANSPORT requires H3_DATAGRAM")


def to_http_error(code: int) -> int:
    """The HTTP/3 error code that carries a program's `code` (0 to 2**32 - 1)."""
    return _FIRST_CODE + code + code // 0x1E


def from_http_error(error_code: int) -> int | None:
    """The program's code in a reset or a STOP_SENDING; None for a code that is no program's."""
    if not _FIRST_CODE <= error_code <= _LAST_CODE or (error_code - 0x21) % 0x1F == 0:
        return None
    shifted = error_code - _FIRST_CODE
    return shifted - shifted // 0x1F


def session_of_stream(stream_id: int, data: bytes) -> int | None:
    """The session that a peer's new stream belongs to, which begins with `data`. NONE (-1) if it
    belongs to none, None while its header is not whole."""
    pulled = pull_varint(data, 0)
    if pulled is None:
        return None
    kind = StreamType.WEBTRANSPORT if stream_id & 2 else FrameType.WEBTRANSPORT_STREAM
    if pulled[0] != kind:
        return NONE
    session = pull_varint(data, pulled[1])
    return None if session is None else session[0]


def session_of_datagram(data: bytes) -> int:
    """The request stream that a DATAGRAM frame's payload names (RFC 9297 §2.1); NONE (-1) if
    none."""
    pulled = pull_varint(data, 0)
    return NONE if pulled is None else 4 * pulled[0]


def encode_close(code: int, reason: str) -> bytes:
    """The value of a CLOSE_SESSION capsule. A long reason is cut between two characters."""
    text = reason.encode()[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore")
    return code.to_bytes(4, "big") + text.encode()


def decode_close(value: bytes) -> tuple[int, str]:
    """(code, reason) of a CLOSE_SESSION capsule. Raises MessageError for a malformed value."""
    if not 4 <= len(value) <= 4 + MAX_CLOSE_REASON_BYTES:
        raise MessageError("a CLOSE_SESSION capsule of a forbidden size")
    try:
        return int.from_bytes(value[:4], "big"), value[4:].decode()
    except UnicodeDecodeError:
        raise MessageError("a CLOSE_SESSION capsule whose reason is no UTF-8") from None
