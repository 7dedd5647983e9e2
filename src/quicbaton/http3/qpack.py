"""QPACK with the static table alone (RFC 9204): nothing that would have to move.

We announce a table capacity of zero and no blocked streams, so the peer's encoder may insert
nothing (§3.2.3, §2.1.2). Our encoder inserts nothing whatever the peer offers (§2.1.1 leaves it
free). lsqpack codes the field sections, in 2 µs for a request; in plain Python the Huffman coding
alone would take longer. Without a dynamic table a section means the same wherever it comes, so a
connection can remember those that it repeats (`sections`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import pylsqpack

from quicbaton.http3.codes import FrameType
from quicbaton.http3.errors import (
    FieldSectionTooLargeError,
    ProtocolError,
    QpackDecoderStreamError,
    QpackDecompressionFailed,
    QpackEncoderStreamError,
)
from quicbaton.http3.fields import (
    Fields,
    RequestHead,
    ResponseHead,
    request_head,
    response_head,
    size_of,
)
from quicbaton.http3.frames import encode_frame, pull_header
from quicbaton.limits import (
    MAX_COUNTED_SECTION_BYTES,
    MAX_FIELD_SECTION_BYTES,
    MAX_FIELDS,
)

Headers = list[tuple[bytes, bytes]]

#: RFC 9204 §4.3.1: Set Dynamic Table Capacity to zero, the one instruction without effect.
_SET_CAPACITY_ZERO: Final = b"\x20"
#: RFC 9204 §4.4.2: Stream Cancellation is 01xxxxxx, an integer with a 6-bit prefix.
_CANCELLATION: Final = 0x40
_CANCELLATION_MASK: Final = 0xC0
_PREFIX_FULL: Final = 0x3F
#: Continuation bytes of a 62-bit stream ID (RFC 7541 §5.1: 7 bits each).
_MAX_CONTINUATION: Final = 9

#: RFC 9204 §4.5: a prefix and no field; some peers send it for trailers. lsqpack raises an error.
_EMPTY_SECTION: Final = b"\0\0"

_decoder = pylsqpack.Decoder(0, 0)
_encoder = pylsqpack.Encoder()


def decode_fields(block: bytes) -> Headers:
    """The fields of an encoded field section.

    Raises QpackDecompressionFailed, also for any use of a dynamic table, and
    FieldSectionTooLargeError for more fields or bytes than we take (RFC 9114 §4.2.2).
    """
    if len(block) > MAX_COUNTED_SECTION_BYTES:
        _check_count(block)
    if block == _EMPTY_SECTION:
        return []
    try:
        _, fields = _decoder.feed_header(0, block)
    except (pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked):
        raise QpackDecompressionFailed from None
    size = size_of(fields)
    if len(fields) > MAX_FIELDS or size > MAX_FIELD_SECTION_BYTES:
        raise FieldSectionTooLargeError(f"{len(fields)} fields of {size} bytes are too many")
    return fields


def encode_fields(fields: Fields) -> bytes:
    """The encoded field section, with the static table and literals.

    Raises FieldSectionTooLargeError for a name or value that lsqpack does not take: 64 KiB.
    """
    try:
        _, block = _encoder.encode(0, list(fields))
    except ValueError as error:
        raise FieldSectionTooLargeError(str(error)) from None
    return block


# --- messages ------------------------------------------------------------------------------------


class DecodedRequest(NamedTuple):
    """A request's header section, with its meaning. Not to be changed: it may be remembered."""

    fields: Fields
    head: RequestHead


class EncodedResponse(NamedTuple):
    """A response's header section, encoded, with its meaning."""

    frame: bytes
    head: ResponseHead
    size: int  # of its fields, as RFC 9114 §4.2.2 counts them


def decode_request(block: bytes) -> DecodedRequest:
    """A request's fields and their meaning. Raises as `decode_fields` does, and MessageError for a
    malformed request."""
    fields = decode_fields(block)
    return DecodedRequest(fields, request_head(fields))


def whole_request(stream: bytes) -> DecodedRequest | None:
    """The request in a stream that consists of one HEADERS frame, as nearly every GET does. None
    for a longer stream, and for one with an error or something unusual."""
    header = pull_header(stream, 0)
    if header is None or header[0] != FrameType.HEADERS or header[2] + header[1] != len(stream):
        return None
    try:
        request = decode_request(stream[header[2] :])
    except ProtocolError:
        return None
    head = request.head
    return None if head.method == b"CONNECT" or head.content_length > 0 else request


def decode_response(block: bytes) -> tuple[Headers, ResponseHead]:
    """A response's fields, and their meaning. Raises as `decode_request` does."""
    fields = decode_fields(block)
    return fields, response_head(fields)


def encode_response(fields: Fields) -> EncodedResponse:
    """A response in its encoded form, with its meaning. Raises MessageError for a malformed one."""
    head = response_head(fields)
    frame = encode_frame(FrameType.HEADERS, encode_fields(fields))
    return EncodedResponse(frame, head, size_of(fields))


def encode_request(fields: Fields) -> tuple[bytes, RequestHead]:
    """A request's HEADERS frame, and its meaning. Raises MessageError for a malformed one."""
    head = request_head(fields)
    return encode_frame(FrameType.HEADERS, encode_fields(fields)), head


# --- the instruction streams --------------------------------------------------------------------


def check_encoder_stream(data: bytes) -> None:
    """Read the peer's encoder stream.

    Raises QpackEncoderStreamError for anything but a table capacity of zero (RFC 9204 §3.2.3).
    """
    if data.strip(_SET_CAPACITY_ZERO):
        raise QpackEncoderStreamError  # an insertion into a table of capacity zero


def check_decoder_stream(data: bytes) -> bytes:
    """Read the peer's decoder stream. It may hold only Stream Cancellations, which have no effect
    here. Returns the unfinished instruction at its end.

    Raises QpackDecoderStreamError for acknowledgements of insertions that were never made (RFC 9204
    §4.4.1, §4.4.3) and for an integer without end.
    """
    at = 0
    while at < len(data):
        if data[at] & _CANCELLATION_MASK != _CANCELLATION:
            raise QpackDecoderStreamError  # insertions that were never made
        end = _end_of_integer(data, at, _PREFIX_FULL)
        if end > len(data):
            break
        at = end
    return data[at:]


def _end_of_integer(data: bytes, at: int, prefix: int) -> int:
    """The position after the integer at `at`; beyond the data when the integer is not whole."""
    if data[at] & prefix != prefix:
        return at + 1
    for end in range(at + 1, at + 1 + _MAX_CONTINUATION):
        if end >= len(data) or data[end] < 0x80:
            return end + 1
    raise QpackDecoderStreamError("an integer is too long")


# --- the size of a section before it is decoded -------------------------------------------------


def _check_count(block: bytes) -> None:
    """FieldSectionTooLargeError for more fields than we take.

    A field may be one byte on the wire and 250 when decoded (RFC 9204 §4.5.2, with the static
    table): 64 KiB of those are 84 ms of work and 16 MB. Counting them up to the limit takes a tenth
    of that. Other errors are left to the decoder.
    """
    at = 2  # the prefix (§4.5.1) has two bytes without a dynamic table
    count = 0
    while at < len(block):
        count += 1
        if count > MAX_FIELDS:
            raise FieldSectionTooLargeError(f"more than {MAX_FIELDS} fields")
        first = block[at]
        if first & 0x80:  # §4.5.2: an indexed field line
            at = _behind_integer(block, at, 0x3F)
        elif first & 0x40:  # §4.5.4: a literal value, the name by reference
            at = _behind_string(block, _behind_integer(block, at, 0x0F), 0x7F)
        elif first & 0x20:  # §4.5.6: literal name and value
            at = _behind_string(block, _behind_string(block, at, 0x07), 0x7F)
        else:
            return  # §4.5.3, §4.5.5: the dynamic table


def _behind_integer(block: bytes, at: int, prefix: int) -> int:
    if at >= len(block) or block[at] & prefix != prefix:
        return at + 1
    at += 1
    while at < len(block) and block[at] & 0x80:
        at += 1
    return at + 1


def _behind_string(block: bytes, at: int, prefix: int) -> int:
    """The position after a string literal, whose length has `prefix` bits in its first byte (RFC
    7541 §5.2)."""
    if at >= len(block):
        return at
    length = block[at] & prefix
    end = at + 1
    if length == prefix:
        shift = 0
        while end < len(block) and shift < 63:
            length += (block[end] & 0x7F) << shift
            shift += 7
            end += 1
            if block[end - 1] < 0x80:
                break
    return end + length
