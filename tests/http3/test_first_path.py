"""Reading the first request's path without taking the request."""

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, encode_frame
from hypothesis import given
from hypothesis import strategies as st

from quicbaton.http3 import first_path
from quicbaton.http3.qpack import encode_fields
from quicbaton.limits import MAX_HELD_REQUEST_BYTES
from quicbaton.transport.state import DatagramEvent, Event, StreamDataEvent, StreamResetEvent


def request(path: str, method: str = "GET") -> bytes:
    headers = [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", b"test")]
    headers.append((b":path", path.encode()))
    return encode_frame(FrameType.HEADERS, encode_fields(headers))


def came(stream_id: int, data: bytes) -> StreamDataEvent:
    return StreamDataEvent(stream_id, data, end_stream=False)


def test_it_is_the_path_of_the_first_whole_request() -> None:
    settings = came(2, b"\x00" + encode_frame(FrameType.SETTINGS, b""))
    others: list[Event] = [settings, DatagramEvent(b"/x"), StreamResetEvent(8, 0)]
    assert first_path(others) is None
    assert first_path([*others, came(4, request("/a")), came(0, request("/b"))]) == "/a"
    assert first_path([came(0, request("/begun")[:-1]), came(4, request("/whole"))]) == "/whole"


@given(st.lists(st.integers(1, 60), max_size=5).map(sorted))
def test_a_request_may_come_in_pieces(cuts: list[int]) -> None:
    data = request("/some/long/path?with=query") + encode_frame(FrameType.DATA, b"body")
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    events = [came(0, piece) for piece in pieces]
    assert first_path(events) == "/some/long/path?with=query"
    assert first_path([came(0, data[:10])]) is None


def test_frames_of_unknown_kinds_are_skipped() -> None:
    grease = encode_uint_var(0x21) + encode_uint_var(3) + b"abc"
    assert first_path([came(0, grease)]) is None
    assert first_path([came(0, grease + request("/a"))]) == "/a"


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(FrameType.DATA, b"no headers before"),
        encode_frame(FrameType.HEADERS, b"\xff\xff\xff\xff no header block"),
        encode_frame(FrameType.HEADERS, b"\x02\x00\x80"),  # of a dynamic table
        encode_uint_var(FrameType.HEADERS) + encode_uint_var(MAX_HELD_REQUEST_BYTES + 1),
        encode_uint_var(0x21) + encode_uint_var(MAX_HELD_REQUEST_BYTES + 1),
        request("").replace(b":path", b":nope"),
    ],
)
def test_what_is_no_request_has_no_path(data: bytes) -> None:
    assert first_path([came(0, data)]) == ""
