"""Field sections and the instruction streams of QPACK.

The first byte gives the kind of the rest.
"""

from __future__ import annotations

from typing import Final

from quicbaton.http3.errors import (
    FieldSectionTooLargeError,
    MessageError,
    QpackDecoderStreamError,
    QpackDecompressionFailed,
    QpackEncoderStreamError,
)
from quicbaton.http3.qpack import (
    check_decoder_stream,
    check_encoder_stream,
    decode_fields,
    decode_response,
    encode_fields,
)
from quicbaton.http3.sections import KnownSections
from quicbaton.limits import FIELD_OVERHEAD_BYTES, MAX_FIELD_SECTION_BYTES, MAX_FIELDS
from tests.fuzz.fuzzing import Reader, at_most, only

_CALLS: Final = 2_000
#: A field of one byte is decoded and checked by some thirty calls.
_CALLS_PER_BYTE: Final = 60


def target(data: bytes) -> None:
    reader = Reader(data)
    kind = reader.byte() % 5
    rest = reader.rest()
    with at_most(_CALLS + _CALLS_PER_BYTE * len(rest)):
        if kind == 0:
            with only(QpackDecompressionFailed, FieldSectionTooLargeError):
                fields = decode_fields(rest)
                size = sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in fields)
                assert size <= MAX_FIELD_SECTION_BYTES
                assert len(fields) <= MAX_FIELDS
                assert decode_fields(encode_fields(fields)) == fields
        elif kind in (1, 2):
            decode = KnownSections().request if kind == 1 else decode_response
            with only(QpackDecompressionFailed, FieldSectionTooLargeError, MessageError):
                # Whether it is remembered or not.
                assert decode(rest) == decode(rest) == decode(rest)
        elif kind == 3:
            with only(QpackEncoderStreamError):
                check_encoder_stream(rest)
                assert set(rest) <= {0x20}
        else:
            _read_decoder_stream(rest)


def _read_decoder_stream(data: bytes) -> None:
    """Wherever it is cut, the same is left, or it is refused."""
    ends = []
    for step in (len(data) or 1, 1):
        held = b""
        try:
            for at in range(0, len(data), step):
                held = check_decoder_stream(held + data[at : at + step])
                assert len(held) <= 10, "half an instruction at most"
            ends.append(held)
        except QpackDecoderStreamError:
            ends.append(None)
    assert ends[0] == ends[1]


def seeds() -> list[bytes]:
    request = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"a.example"),
        (b":path", b"/index.html"),
        (b"user-agent", b"fuzz/1"),
        (b"priority", b"u=1, i"),
    ]
    response = [(b":status", b"200"), (b"content-length", b"12"), (b"x", b"\x80\xff")]
    blocks = [encode_fields(fields) for fields in (request, response, [(b"a", b"b")] * 20)]
    literal = b"\0\0\x27\x00name\x05value"
    return [
        *(bytes([kind]) + block for kind in range(3) for block in [*blocks, literal, b"", b"\0\0"]),
        b"\x00\0\0" + b"\xd9" * 300,
        b"\x00\x02\0\x80",
        b"\x03\x20\x20",
        b"\x03\x3f\xe1\x1f",
        b"\x04\x40\x7f\xff\xff\x01\x41",
        b"\x04\x7f" + b"\xff" * 12,
    ]
