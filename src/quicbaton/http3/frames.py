"""Frames and settings as bytes (RFC 9114 §7)."""

from __future__ import annotations

from quicbaton.http3.codes import RESERVED_SETTINGS
from quicbaton.http3.errors import ExcessiveLoadError, FrameError, SettingsError
from quicbaton.limits import MAX_SETTINGS
from quicbaton.transport.frames import encode_varint


def pull_varint(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """The integer at `at`, and the position after it; None when a part of it has not come yet."""
    if at >= len(data):
        return None
    first = data[at]
    if first < 0x40:
        return first, at + 1
    end = at + (1 << (first >> 6))
    if end > len(data):
        return None
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * (end - at) - 2)) - 1), end


def pull_header(data: bytes, at: int) -> tuple[int, int, int] | None:
    """The type and length of a frame or capsule, and the position after both; None when a part of
    them has not come yet."""
    size = len(data)
    if at + 1 < size and data[at] < 0x40 and data[at + 1] < 0x40:
        return data[at], data[at + 1], at + 2  # the most frequent form, in a third of the time
    kind = pull_varint(data, at)
    length = None if kind is None else pull_varint(data, kind[1])
    return None if kind is None or length is None else (kind[0], *length)


def encode_frame(frame_type: int, frame_data: bytes) -> bytes:
    return b"".join((encode_varint(frame_type), encode_varint(len(frame_data)), frame_data))


def encode_settings(settings: dict[int, int]) -> bytes:
    """The payload of a SETTINGS frame (§7.2.4)."""
    return b"".join(
        encode_varint(identifier) + encode_varint(value) for identifier, value in settings.items()
    )


def parse_settings(data: bytes) -> dict[int, int]:
    """The settings of a SETTINGS frame's payload.

    Raises FrameError when it ends inside an integer, SettingsError for a reserved or repeated
    identifier, ExcessiveLoadError for more settings than any honest peer sends.
    """
    settings: dict[int, int] = {}
    at = 0
    while at < len(data):
        identifier, at = _whole_varint(data, at, "Could not parse SETTINGS frame")
        value, at = _whole_varint(data, at, "Could not parse SETTINGS frame")
        if identifier in RESERVED_SETTINGS:
            raise SettingsError(f"Setting identifier {identifier:#x} is reserved")
        if identifier in settings:
            raise SettingsError(f"Setting identifier {identifier:#x} is included twice")
        if len(settings) == MAX_SETTINGS:
            raise ExcessiveLoadError(f"more than {MAX_SETTINGS} settings")
        settings[identifier] = value
    return settings


def parse_identifier(data: bytes, name: str) -> int:
    """The one integer in the payload of GOAWAY, MAX_PUSH_ID and CANCEL_PUSH (§7.2.3, §7.2.6,
    §7.2.7).

    Raises FrameError if the payload is shorter or longer.
    """
    identifier, end = _whole_varint(data, 0, f"Could not parse {name} frame")
    if end != len(data):
        raise FrameError(f"{name} frame has trailing data")
    return identifier


def _whole_varint(data: bytes, at: int, reason: str) -> tuple[int, int]:
    pulled = pull_varint(data, at)
    if pulled is None:
        raise FrameError(reason)
    return pulled
