"""Field sections that a connection repeats: what is remembered, by whom, and how much."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from typing import Any

import pytest
from aioquic.h3.events import HeadersReceived
from hypothesis import given
from hypothesis import strategies as st

from quicbaton import limits
from quicbaton.http3 import qpack
from quicbaton.http3.errors import ProtocolError
from quicbaton.http3.events import StreamFailed
from quicbaton.http3.sections import KnownSections
from tests.http3.test_bounds import server
from tests.http3.violations import GET, OK, POST, data, headers

COOKIE = (b"cookie", b"session=0f1e2d3c")


def unlike(stream: bytes, fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The fields, and one more whose value gives them another mark than that of `stream`: there are
    64 marks, by hashes that differ from process to process."""
    for number in range(1000):
        made = [*fields, (b"x-number", b"%d" % number)]
        if hash(tuple(made)) & 63 != hash(stream) & 63:
            return made
    raise AssertionError("a thousand hashes end alike")


class Codec:
    """lsqpack, and how often it was asked."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        self.calls = 0

    def feed_header(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._codec.feed_header(*arguments)

    def encode(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._codec.encode(*arguments)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Codec:
    codec = Codec(qpack._decoder)
    monkeypatch.setattr(qpack, "_decoder", codec)
    return codec


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Codec:
    codec = Codec(qpack._encoder)
    monkeypatch.setattr(qpack, "_encoder", codec)
    return codec


@pytest.mark.parametrize("body", [b"", b"content"])
def test_a_request_that_comes_again_is_decoded_twice_and_then_known(
    decoder: Codec, body: bytes
) -> None:
    end = server()
    request = headers([*(POST if body else GET), COOKIE]) + (data(body) if body else b"")
    for stream_id in range(0, 40, 4):
        end.feed(stream_id, request, True)
    assert decoder.calls == 2
    sections = [event.headers for event in end.seen if isinstance(event, HeadersReceived)]
    assert sections == [[*(POST if body else GET), COOKIE]] * 10


def test_no_connection_knows_what_another_has_sent(decoder: Codec) -> None:
    # Or a client could guess another's cookie, and learn from the time that it takes.
    request = headers([*GET, COOKIE])
    for _ in range(3):
        end = server()
        end.feed(0, request, True)
        end.feed(4, request, True)
    assert decoder.calls == 6


def test_an_answer_that_is_given_again_is_encoded_twice_and_then_known(encoder: Codec) -> None:
    answer = unlike(headers(GET), [*OK, (b"set-cookie", b"secret")])
    for connection in (1, 2):
        end = server()
        for stream_id in range(0, 20, 4):
            end.feed(stream_id, headers(GET), True)
        encoder.calls = 0
        end.take_sent()
        for stream_id in range(0, 20, 4):
            end.h3.send_headers(stream_id, answer, end_stream=True)
        assert encoder.calls == 2, connection
        assert len({event.data for event in end.take_sent()}) == 1  # type: ignore[attr-defined]


def test_a_program_may_change_the_fields_that_it_gets() -> None:
    end = server()
    for stream_id in range(0, 20, 4):
        end.feed(stream_id, headers(GET), True)
        event = end.seen[-1]
        assert isinstance(event, HeadersReceived)
        assert event.headers == GET
        event.headers.clear()


def test_what_was_refused_is_not_remembered() -> None:
    end = server()
    for stream_id in range(0, 40, 4):
        end.feed(stream_id, headers([*GET, (b"A", b"b")]), True)
    assert held_bytes(end.h3._sections) == held_bytes(KnownSections())


def test_sections_that_come_once_are_not_remembered() -> None:
    end = server()
    request = headers([*GET, COOKIE])
    end.feed(0, request, True)
    end.h3.send_headers(0, unlike(request, OK), end_stream=True)
    # One number has grown.
    assert held_bytes(end.h3._sections) <= held_bytes(KnownSections()) + sys.getsizeof(1 << 63)


def test_a_connection_that_repeats_nothing_pays_for_one_small_object() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        many = [KnownSections() for _ in range(1000)]
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown <= 90 * len(many)


@pytest.mark.parametrize("size", [0, 30, 300, 1500, 7000])
def test_remembered_sections_are_bounded_in_bytes(size: int) -> None:
    sections = KnownSections()
    empty = held_bytes(sections)
    for number in range(200):
        value = b"%d" % number + b"x" * size
        request = qpack.encode_request([*GET, (b"x-one", value)])[0]
        block = qpack.encode_fields([*POST, *((b"f%d" % one, b"") for one in range(size % 50))])
        for _ in range(3):
            sections.whole_request(request)
            sections.request(block)
            sections.response([*OK, (b"etag", value)])
            assert held_bytes(sections) - empty <= 1.2 * limits.REMEMBERED_SECTIONS_BYTES


def test_what_a_moved_connection_has_known_stays_behind(decoder: Codec) -> None:
    end = server(moving=True)
    for stream_id in range(0, 20, 4):
        end.feed(stream_id, headers(GET), True)
    assert decoder.calls == 5


_STREAMS = st.sampled_from(
    [
        headers(GET),
        headers([*GET, COOKIE]),
        headers([*GET, (b"priority", b"u=0")]),
        headers([*GET, (b"content-length", b"3")]),
        headers([*GET, (b"Upper", b"")]),
        headers([(b":method", b"HEAD"), *GET[1:]]),
        headers(POST) + data(b"abc"),
        headers([*POST, (b"content-length", b"4")]) + data(b"abc"),
        headers(GET) + headers([(b"x-trailer", b"1")]),
        headers(GET)[:-1],
        b"",
    ]
)


@given(st.lists(_STREAMS, max_size=12))
def test_a_section_means_the_same_however_often_it_comes(streams: list[bytes]) -> None:
    one = server()
    for number, stream in enumerate(streams):
        fresh = server()
        for end in (one, fresh):
            end.seen.clear()
            end.feed(4 * number, stream, True)
            if end.seen and not isinstance(end.seen[-1], StreamFailed):
                end.h3.send_headers(4 * number, OK)
                end.h3.send_data(4 * number, b"body", True)
        assert one.seen == fresh.seen
        assert one.take_sent() == fresh.take_sent()
        assert one.quic.closed == fresh.quic.closed
        if one.quic.closed:
            return


def held_bytes(root: object) -> int:
    """The size of an object and all that it refers to, each counted once."""
    sizes: dict[int, int] = {}
    waiting: list[Any] = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in sizes:
            continue
        sizes[id(one)] = sys.getsizeof(one)
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, (tuple, list)):
            waiting += one
        elif isinstance(one, KnownSections):
            waiting += [held for held in gc.get_referents(one) if not isinstance(held, type)]
    return sum(sizes.values())


def test_a_known_section_is_no_stream_and_a_known_stream_no_section() -> None:
    known = KnownSections()
    stream = headers(GET)
    block = stream[2:]  # behind the frame's type and length
    for _ in range(3):
        assert known.whole_request(stream) is not None
        known.request(block)
    assert known.whole_request(block) is None
    with pytest.raises(ProtocolError):
        known.request(stream)
