"""Limits on a peer's memory and actions (docs/security.md), and that work is linear."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType as PythonFrame
from typing import Any

import pytest
from aioquic.h3.events import HeadersReceived
from aioquic.quic.events import StopSendingReceived, StreamReset
from msgspec import msgpack

from quicbaton import limits
from quicbaton.http3 import export_state, qpack
from quicbaton.http3.codes import ErrorCode, FrameType, Setting
from quicbaton.http3.errors import FieldSectionTooLargeError
from quicbaton.http3.events import StreamFailed
from quicbaton.http3.frames import encode_frame
from quicbaton.transport.frames import encode_varint as v
from tests.http3.http3_wire import End
from tests.http3.violations import GET, OK, POST, SETTINGS, TRAILERS, data, headers

LOAD = ErrorCode.H3_EXCESSIVE_LOAD
#: An indexed field line of the static table: one byte on the wire (RFC 9204 §4.5.2).
ONE_BYTE_FIELD = b"\xd1"


def server(*, moving: bool = False, **options: Any) -> End:
    end = End(False, moving, **options)
    end.feed(2, v(0) + SETTINGS)
    end.take_sent()
    return end


def client() -> End:
    end = End(True, False)
    end.feed(3, v(0) + SETTINGS)
    end.h3.send_headers(0, GET, end_stream=True)
    end.take_sent()
    return end


def calls_of(action: Callable[[], object]) -> int:
    """Calls of Python and C functions: the same on every machine."""
    count = 0

    def note(_frame: PythonFrame, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def is_overloaded(end: End) -> bool:
    return end.quic.closed is not None and end.quic.closed[0] == LOAD


# --- field sections -----------------------------------------------------------------------------


def test_the_limit_of_a_field_section_is_announced() -> None:
    settings = server().h3.sent_settings
    assert settings[Setting.MAX_FIELD_SECTION_SIZE] == limits.MAX_FIELD_SECTION_BYTES == 64 << 10


def test_a_field_section_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    counted = sum(len(name) + len(value) + 32 for name, value in GET)
    room = limits.MAX_FIELD_SECTION_BYTES - counted - len(b"cookie") - 32
    end = server()
    end.feed(0, headers([*GET, (b"cookie", b"x" * room)]), True)
    assert isinstance(end.seen[0], HeadersReceived)
    end.feed(4, headers([*GET, (b"cookie", b"x" * (room + 1))]), True)
    assert len(end.seen) == 1


def test_too_many_fields_are_refused_whatever_their_size() -> None:
    end = server()
    end.feed(0, headers([*GET, *[(b"a", b"")] * (limits.MAX_FIELDS - len(GET))]), True)
    assert isinstance(end.seen[0], HeadersReceived)
    end.feed(4, headers([*GET, *[(b"a", b"")] * (limits.MAX_FIELDS - len(GET) + 1)]), True)
    assert len(end.seen) == 1


def test_a_refusal_forgets_the_request_at_once() -> None:
    end = server(moving=True)
    for number in range(20):
        ended = number % 2 == 0
        end.feed(4 * number, v(FrameType.HEADERS) + v(limits.MAX_FIELD_SECTION_BYTES + 1), ended)
        if not ended:
            assert any(
                event == StopSendingReceived(error_code=ErrorCode.H3_NO_ERROR, stream_id=4 * number)
                for event in end.take_sent()
            )
            end.handle(StreamReset(error_code=ErrorCode.H3_NO_ERROR, stream_id=4 * number))
    assert end.seen == []
    assert export_state(end.h3).streams == {}


def test_a_program_is_told_when_trailers_are_refused() -> None:
    end = server()
    end.feed(0, headers(POST) + v(FrameType.HEADERS) + v(limits.MAX_FIELD_SECTION_BYTES + 1))
    assert isinstance(end.seen[-1], StreamFailed)


def test_where_431_cannot_be_said_the_stream_fails() -> None:
    too_large = v(FrameType.HEADERS) + v(limits.MAX_FIELD_SECTION_BYTES + 1)
    end = server()
    end.feed(0, headers(POST))
    end.h3.send_headers(0, OK)
    end.take_sent()
    end.feed(0, too_large)
    assert StreamReset(error_code=LOAD, stream_id=0) in end.take_sent()
    assert isinstance(end.seen[-1], StreamFailed)
    ours = client()
    ours.feed(0, too_large)
    assert ours.seen == [StreamFailed(0, LOAD, ours.seen[0].reason)]  # type: ignore[attr-defined]


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        def feed_header(self, *_args: object) -> None:
            raise AssertionError("decoded")

    bomb = b"\0\0" + ONE_BYTE_FIELD * (limits.MAX_FIELD_SECTION_BYTES - 2)
    monkeypatch.setattr(qpack, "_decoder", Never())

    def refuse() -> None:
        with pytest.raises(FieldSectionTooLargeError):
            qpack.decode_fields(bomb)

    assert calls_of(refuse) < 2000


# --- what is begun ------------------------------------------------------------------------------


def test_a_frame_that_is_begun_is_held_once_and_by_what_came_of_it() -> None:
    end = server()
    section = headers([*GET, (b"cookie", b"x" * 40_000)])
    end.feed(0, section[:100])
    state = export_state(end.h3)
    assert len(msgpack.encode(state)) < 300
    for at in range(100, len(section) - 1, 7):
        end.feed(0, section[at : min(at + 7, len(section) - 1)])
    assert len(state.streams[0].held or b"") == end.h3._held_bytes < 40_000
    end.feed(0, section[-1:], True)
    assert isinstance(end.seen[0], HeadersReceived)
    assert end.h3._held_bytes == 0


def test_begun_frames_are_bounded_over_all_streams_of_a_connection() -> None:
    end = server(moving=True)
    begun = v(FrameType.HEADERS) + v(60_000) + bytes(59_000)
    fits = limits.MAX_HELD_HTTP_BYTES // 59_000
    for number in range(fits + 3):
        end.feed(4 * number, begun)
    assert end.h3._held_bytes <= limits.MAX_HELD_HTTP_BYTES
    refused = {event.stream_id for event in end.take_sent() if isinstance(event, StreamReset)}
    assert refused == {4 * number for number in range(fits, fits + 3)}
    assert end.seen == []
    # What is given up makes room.
    end.handle(StreamReset(error_code=0, stream_id=0))
    end.feed(400, headers(GET), True)
    assert isinstance(end.seen[-1], HeadersReceived)


@pytest.mark.parametrize(
    "frame",
    [
        headers([*GET, (b"cookie", b"x" * 16_000)]),
        headers(POST) + data(bytes(16_000)),
        headers(POST) + encode_frame(0x21, bytes(16_000)),
        headers(POST) + encode_frame(0x21, b"x") * 5000,
        headers(POST) + data(b"x") * 5000,
    ],
    ids=["section", "content", "grease", "small grease", "small content"],
)
@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_work_is_linear_in_what_comes(frame: bytes, size: int) -> None:
    """Calls per piece and byte do not grow with what has come before; nor does what is copied,
    since what is held grows in place."""

    def calls(sent: bytes) -> int:
        end = server()
        return calls_of(lambda: end.feed(0, sent, size=size))

    half, whole = calls(frame[: len(frame) // 2]), calls(frame)
    assert whole < 2.2 * half + 500


@pytest.mark.parametrize("kind", ["section", "capsule", "early stream"])
def test_what_is_held_grows_in_place(kind: str) -> None:
    end = server(enable_webtransport=True)
    session = [(b":method", b"CONNECT"), (b":protocol", b"webtransport"), *GET[1:]]
    stream_id = 0
    if kind == "section":
        end.feed(0, v(FrameType.HEADERS) + v(40_000) + b"x")
    elif kind == "capsule":
        end.feed(0, headers(session) + v(0) + v(1 << 20) + v(0) + v(4000) + b"x")
    else:
        stream_id = 14
        end.feed(14, v(0x54) + v(0) + b"x")

    def held() -> bytearray | None:
        state = end.h3._state
        return (
            state.sessions[0].capsule_held if kind == "capsule" else state.streams[stream_id].held
        )

    first = held()
    for _ in range(100):
        end.feed(stream_id, b"more")
    assert held() is first
    assert first is not None
    assert len(first) == 401


def test_unknown_frames_are_skipped_as_they_stream() -> None:
    end = server(moving=True)
    end.feed(0, v(0x21) + v(1 << 40))
    for _ in range(50):
        end.feed(0, bytes(10_000))
        assert end.h3._held_bytes == 0
    assert len(msgpack.encode(export_state(end.h3))) < 100
    assert end.quic.closed is None


def test_a_control_frame_without_end_is_skipped_or_refused() -> None:
    end = server(moving=True)
    end.feed(2, v(0x21) + v(1 << 40) + bytes(100_000))
    assert end.h3._state.control_held == b""
    for kind in (FrameType.MAX_PUSH_ID, FrameType.GOAWAY, FrameType.PRIORITY_UPDATE):
        end = server(moving=True)
        end.feed(2, v(kind) + v(1 << 40))
        assert end.quic.closed is not None
    end = End(False, True)
    end.feed(2, v(0) + v(FrameType.SETTINGS) + v(1 << 40))
    assert is_overloaded(end)


def test_qpack_streams_hold_at_most_half_an_instruction() -> None:
    end = server(moving=True)
    end.feed(6, v(2) + b"\x20" * 10_000, size=100)
    end.feed(10, v(3) + b"\x7f\xff\xff" * 3 + b"\x7f\x01", size=1)
    assert len(end.h3._state.decoder_held) <= 10


def test_early_priorities_are_few_and_the_newest_ones() -> None:
    end = server(moving=True)
    for number in range(1000):
        end.feed(2, encode_frame(FrameType.PRIORITY_UPDATE, v(4 * number) + b"u=1"))
    known = export_state(end.h3).priorities
    assert list(known) == [4 * n for n in range(1000 - limits.MAX_EARLY_PRIORITIES, 1000)]
    assert len(msgpack.encode(export_state(end.h3))) < 700


def test_a_capsule_larger_than_we_take_is_refused_before_it_comes() -> None:
    end = server(enable_webtransport=True)
    session = [(b":method", b"CONNECT"), (b":protocol", b"webtransport"), *GET[1:]]
    end.feed(0, headers(session) + data(v(0) + v(limits.MAX_CAPSULE_BYTES + 1)))
    assert isinstance(end.seen[-1], StreamFailed)


# --- how often ----------------------------------------------------------------------------------


def test_more_requests_than_a_core_answers_are_too_many() -> None:
    end = server()
    for number in range(limits.REQUEST_BURST):
        end.feed(4 * number, headers(GET), True)
        end.seen.clear()
    assert end.quic.closed is None
    end.feed(4 * limits.REQUEST_BURST, headers(GET), True)
    assert is_overloaded(end)


def given_up(end: End, number: int, how: str) -> None:
    stream_id = 4 * number
    if how == "stop, then headers":
        end.handle(StopSendingReceived(error_code=0, stream_id=stream_id))
    elif how != "reset at once":
        end.feed(stream_id, headers(GET), "whole" in how)
    if "reset" in how:
        end.handle(StreamReset(error_code=0, stream_id=stream_id))
    if "stop" in how:
        end.handle(StopSendingReceived(error_code=0, stream_id=stream_id))
    end.take_sent()


@pytest.mark.parametrize(
    "how", ["reset", "reset at once", "whole, stop", "reset, stop", "stop, then headers"]
)
def test_rapid_resets_are_too_many_however_they_are_made(how: str) -> None:
    """CVE-2023-44487: once the burst is spent, so many a second; moving changes nothing."""
    end = server(moving=False)
    for number in range(limits.CANCELLED_REQUEST_BURST):
        given_up(end, number, how)
    assert end.quic.closed is None
    end.moving = True
    number = limits.CANCELLED_REQUEST_BURST
    for _ in range(10):
        end.quic.clock_us += 1_000_000 // limits.CANCELLED_REQUESTS_PER_S
        given_up(end, number, how)
        number += 1
    assert end.quic.closed is None
    given_up(end, number, how)
    assert is_overloaded(end)


def test_broken_requests_count_as_given_up() -> None:
    """CVE-2025-8671: a client has us reset streams instead of doing so itself."""
    end = server()
    number = 0
    while end.quic.closed is None:
        assert number <= limits.CANCELLED_REQUEST_BURST
        end.feed(4 * number, headers([*GET, (b"Upper-Case", b"1")]), True)
        number += 1
    assert is_overloaded(end)
    assert number == limits.CANCELLED_REQUEST_BURST + 1


def test_uploads_that_we_stopped_are_not_given_up_by_their_client() -> None:
    end = server()
    for number in range(2 * limits.CANCELLED_REQUEST_BURST):
        stream_id = 4 * number
        end.feed(stream_id, headers(POST) + data(b"begun"))
        end.h3.send_headers(stream_id, [(b":status", b"413")], end_stream=True)
        # RFC 9000 §3.5: the answer to STOP_SENDING is a reset.
        end.handle(StreamReset(error_code=ErrorCode.H3_NO_ERROR, stream_id=stream_id))
    assert end.quic.closed is None
    assert export_state(end.h3).streams == {}


def test_requests_rejected_after_goaway_count() -> None:
    end = server()
    end.h3.send_goaway(final=True)
    for number in range(limits.CANCELLED_REQUEST_BURST):
        end.feed(4 * number, b"", True)
        end.take_sent()
    assert end.quic.closed is None
    end.feed(4 * limits.CANCELLED_REQUEST_BURST, b"", True)
    assert is_overloaded(end)


IDLE = {
    "empty content": (0, headers(POST), data(b"")),
    "grease": (0, headers(POST), v(0x21) + b"\0"),
    "grease on the control stream": (2, b"", v(0x21) + b"\0"),
    "MAX_PUSH_ID": (2, b"", encode_frame(FrameType.MAX_PUSH_ID, v(1))),
    "GOAWAY": (2, b"", encode_frame(FrameType.GOAWAY, v(0))),
    "PRIORITY_UPDATE": (2, b"", encode_frame(FrameType.PRIORITY_UPDATE, v(0))),
}


@pytest.mark.parametrize("kind", IDLE)
def test_frames_that_say_nothing_are_too_many_in_the_end(kind: str) -> None:
    stream_id, before, frame = IDLE[kind]
    end = server()
    if before:
        end.feed(stream_id, before)
    chunk = frame * 1000
    for _ in range(limits.IDLE_FRAME_BURST // 1000 - 1):
        end.feed(stream_id, chunk)
        end.seen.clear()
    assert end.quic.closed is None
    end.feed(stream_id, chunk * 2)
    assert is_overloaded(end)


def test_idle_frames_in_their_time_are_fine() -> None:
    end = server(moving=True)
    end.feed(0, headers(POST))
    for _ in range(50):
        end.quic.clock_us += 1_000_000 * 1000 // limits.IDLE_FRAMES_PER_S
        end.feed(0, (v(0x21) + b"\0") * 1000)
    assert end.quic.closed is None
    assert export_state(end.h3).idle_frames_at_us > 0
    end.quic.clock_us += 60_000_000
    assert export_state(end.h3).idle_frames_at_us == 0


def test_interim_responses_and_unknown_streams_count_as_idle() -> None:
    ours = client()
    hints = headers([(b":status", b"103")]) * 1000
    for _ in range(limits.IDLE_FRAME_BURST // 1000 + 1):
        ours.feed(0, hints)
        ours.seen.clear()
    assert is_overloaded(ours)
    end = server()
    for number in range(limits.IDLE_FRAME_BURST + 1):
        end.feed(14 + 4 * number, v(0x21), True)
    assert is_overloaded(end)


def test_a_quic_without_a_clock_counts_nothing_per_second() -> None:
    end = server()
    del end.quic.clock_us
    end.feed(0, headers(POST))
    for _ in range(30):
        end.feed(0, (v(0x21) + b"\0") * 1000)
    assert end.quic.closed is None


def test_trailers_are_counted_like_any_section() -> None:
    end = server()
    end.feed(0, headers(POST) + headers([*TRAILERS, *[(b"a", b"")] * limits.MAX_FIELDS]))
    assert isinstance(end.seen[-1], StreamFailed)
