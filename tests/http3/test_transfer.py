"""An HTTP/3 connection that moves at every event behaves like one that stays."""

from __future__ import annotations

import pytest
from aioquic.h3.connection import H3Connection as AioquicH3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.events import StopSendingReceived, StreamDataReceived, StreamReset
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import ValidationError, msgpack

from quicbaton.errors import RefusedError
from quicbaton.http3 import H3Connection, Http3State, export_state, restore
from quicbaton.http3.codes import ErrorCode, Setting
from quicbaton.http3.events import StreamFailed
from tests.http3.http3_wire import End, Quic, exchange

GET = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.test"),
    (b":path", b"/index.html"),
    (b"user-agent", b"a test"),
]
POST = [(b":method", b"POST"), *GET[1:], (b"content-length", b"11")]
OK = [(b":status", b"200"), (b"server", b"quicbaton")]
CONNECT = [
    (b":method", b"CONNECT"),
    (b":protocol", b"webtransport"),
    *GET[1:4],
]

#: The applications' steps, by name.
STEPS = st.sampled_from(
    [
        "get",
        "post",
        "finish_post",
        "hints",
        "respond",
        "body",
        "end",
        "trailers",
        "push",
        "datagram",
        "session",
        "wt_data",
        "wt_end",
        "reset",
        "stop",
    ]
)


class Script:
    """Runs steps over a client and a server; every random choice is in the arguments."""

    def __init__(self, moving: bool) -> None:
        self.client = End(True, moving, enable_webtransport=True)
        self.server = End(False, moving, enable_webtransport=True)
        self.requests: list[int] = []
        self.posts: list[int] = []
        self.responding: list[int] = []
        self.sessions: list[int] = []
        self.wt_streams: list[int] = []

    def run(self, steps: list[str], sizes: list[int]) -> None:
        exchange(self.client, self.server, sizes)
        for step in steps:
            self.client.move()
            self.server.move()
            getattr(self, step)()
            exchange(self.client, self.server, sizes)

    def outcome(self) -> tuple[object, ...]:
        return (
            self.client.seen,
            self.server.seen,
            self.client.quic.closed,
            self.server.quic.closed,
            self.client.h3.received_settings,
            self.server.h3.received_settings,
            self.client.h3.sent_settings,
        )

    def _open(self, headers: list[tuple[bytes, bytes]], end: bool) -> int:
        stream_id = self.client.quic.get_next_available_stream_id()
        self.client.h3.send_headers(stream_id, headers, end_stream=end)
        return stream_id

    def get(self) -> None:
        self.requests.append(self._open(GET, True))

    def post(self) -> None:
        stream_id = self._open(POST, False)
        self.client.h3.send_data(stream_id, b"hello ", end_stream=False)
        self.posts.append(stream_id)

    def finish_post(self) -> None:
        if self.posts:
            stream_id = self.posts.pop()
            self.client.h3.send_data(stream_id, b"world", end_stream=True)
            self.requests.append(stream_id)

    def hints(self) -> None:
        if self.requests:
            self.server.h3.send_headers(self.requests[0], [(b":status", b"103")])

    def respond(self) -> None:
        if self.requests:
            stream_id = self.requests.pop(0)
            self.server.h3.send_headers(stream_id, OK)
            self.responding.append(stream_id)

    def body(self) -> None:
        if self.responding:
            self.server.h3.send_data(self.responding[0], b"x" * 100, end_stream=False)

    def end(self) -> None:
        if self.responding:
            self.server.h3.send_data(self.responding.pop(0), b"", end_stream=True)

    def trailers(self) -> None:
        if self.responding:
            stream_id = self.responding.pop(0)
            self.server.h3.send_headers(stream_id, [(b"digest", b"abc")], end_stream=True)

    def push(self) -> None:
        if self.responding and self.server.h3._state.next_push_id < 8:
            stream_id = self.server.h3.send_push_promise(self.responding[0], GET)
            self.server.h3.send_headers(stream_id, OK)
            self.server.h3.send_data(stream_id, b"pushed", end_stream=True)

    def datagram(self) -> None:
        if self.sessions:
            self.client.h3.send_datagram(self.sessions[-1], b"unreliable")

    def session(self) -> None:
        self.sessions.append(self._open(CONNECT, False))

    def wt_data(self) -> None:
        if self.sessions:
            is_uni = len(self.wt_streams) % 2 == 0
            end = self.server if is_uni else self.client
            stream_id = end.h3.create_webtransport_stream(self.sessions[0], is_uni)
            end.quic.send_stream_data(stream_id, b"web transport")
            self.wt_streams.append(stream_id)

    def wt_end(self) -> None:
        if self.wt_streams:
            stream_id = self.wt_streams.pop()
            end = self.server if stream_id & 1 else self.client
            end.quic.send_stream_data(stream_id, b"bye", end_stream=True)

    def reset(self) -> None:
        if self.posts:
            self.client.quic.reset_stream(self.posts.pop(), ErrorCode.H3_REQUEST_CANCELLED)

    def stop(self) -> None:
        if self.responding:
            stream_id = self.responding.pop()
            self.client.quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(STEPS, max_size=14), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4)
)
def test_moving_at_every_event_changes_nothing(steps: list[str], sizes: list[int]) -> None:
    staying, moving = Script(moving=False), Script(moving=True)
    staying.run(steps, sizes)
    moving.run(steps, sizes)
    assert moving.outcome() == staying.outcome()
    assert staying.client.quic.closed is None
    assert staying.server.quic.closed is None


def connected(**options: object) -> tuple[End, End]:
    client, server = End(True, False, **options), End(False, False, **options)
    exchange(client, server)
    return client, server


def test_idle_state_is_small() -> None:
    _, server = connected(enable_webtransport=True)
    assert len(msgpack.encode(export_state(server.h3))) < 80


def test_idle_state_with_a_browsers_settings_stays_below_100_bytes() -> None:
    _, server = connected()
    state = export_state(server.h3)
    # Chromium: QPACK, field section size, datagrams, and two greased identifiers of 62 bits.
    state.received_settings = {1: 65_536, 6: 262_144, 7: 100, 0x33: 1, 2**61 + 33: 2**31, 2**60: 9}
    assert len(msgpack.encode(state)) < 100


def test_restoring_sends_nothing_and_sets_every_attribute() -> None:
    _, server = connected()
    quic = Quic(is_client=False)
    restored = restore(quic, export_state(server.h3))
    assert quic.outbox == []
    assert vars(server.h3).keys() == vars(restored).keys()


def test_no_table_is_offered_and_none_used() -> None:
    client, server = connected()
    assert client.h3.sent_settings is not None
    assert client.h3.sent_settings[Setting.QPACK_MAX_TABLE_CAPACITY] == 0
    assert client.h3.sent_settings[Setting.QPACK_BLOCKED_STREAMS] == 0
    for _ in range(20):
        stream_id = client.quic.get_next_available_stream_id()
        client.h3.send_headers(stream_id, GET, end_stream=True)
        exchange(client, server)
    instructions = {server.h3._state.peer_encoder_stream, server.h3._state.peer_decoder_stream}
    assert instructions == {6, 10}
    assert sum(isinstance(event, HeadersReceived) for event in server.seen) == 20


def test_peer_with_a_table_of_its_own_is_served_without_using_it() -> None:
    ours, theirs = End(True, True), End(False, False)
    theirs.quic.outbox.clear()
    theirs.h3 = AioquicH3Connection(theirs.quic)  # type: ignore[assignment]
    exchange(ours, theirs)
    for _ in range(5):
        stream_id = ours.quic.get_next_available_stream_id()
        ours.h3.send_headers(stream_id, GET, end_stream=True)
        exchange(ours, theirs)
        theirs.h3.send_headers(stream_id, OK, end_stream=True)
        exchange(ours, theirs)
    assert len(ours.seen) == len(theirs.seen) == 5
    assert ours.quic.closed is theirs.quic.closed is None


@pytest.mark.parametrize(
    ("kind", "data", "error"),
    [
        (2, b"\x3f\x01", ErrorCode.QPACK_ENCODER_STREAM_ERROR),  # capacity 32
        (2, b"\x20\x20\x41x\x01y", ErrorCode.QPACK_ENCODER_STREAM_ERROR),  # an insertion
        (3, b"\x80", ErrorCode.QPACK_DECODER_STREAM_ERROR),  # section acknowledgement
        (3, b"\x01", ErrorCode.QPACK_DECODER_STREAM_ERROR),  # insert count increment
        (3, b"\x7f" + b"\xff" * 10, ErrorCode.QPACK_DECODER_STREAM_ERROR),
    ],
)
def test_use_of_a_table_that_was_not_offered_is_an_error(
    kind: int, data: bytes, error: ErrorCode
) -> None:
    server = End(False, True)
    server.handle(StreamDataReceived(bytes([kind]) + data, False, 2))
    assert server.quic.closed is not None
    assert server.quic.closed[0] == error


def test_harmless_qpack_instructions_in_pieces_are_ignored() -> None:
    server = End(False, True)
    # Capacity zero; cancellations of stream 4 and, in pieces, of stream 2^20.
    server.handle(StreamDataReceived(b"\x02\x20", False, 6))
    for piece in (b"\x03", b"\x44\x7f", b"\xc1\xff", b"\x3f\x44"):
        server.handle(StreamDataReceived(piece, False, 10))
    assert server.quic.closed is None
    assert export_state(server.h3).decoder_held == b""


def test_half_a_cancellation_moves() -> None:
    server = End(False, True)
    server.handle(StreamDataReceived(b"\x03\x7f\xc1", False, 10))
    assert export_state(server.h3).decoder_held == b"\x7f\xc1"


def test_another_librarys_connection_is_refused_and_a_subclass_of_ours_is_kept() -> None:
    class Ours(H3Connection):
        pass

    with pytest.raises(RefusedError) as refusal:
        export_state(AioquicH3Connection(Quic(is_client=False)))  # type: ignore[arg-type]
    assert refusal.value.code == "not_exportable"
    state = export_state(Ours(Quic(is_client=False)))
    assert type(restore(Quic(is_client=False), state, Ours)) is Ours


def test_half_a_header_block_and_half_a_data_frame_move() -> None:
    client, server = connected()
    server.moving = True
    client.h3.send_headers(0, POST)
    client.h3.send_data(0, b"hello world", end_stream=True)
    headers, data = client.quic.outbox
    assert isinstance(headers, StreamDataReceived)
    assert isinstance(data, StreamDataReceived)
    stream = headers.data + data.data
    begin = 0
    for end in (5, len(headers.data), len(headers.data) + 6, len(stream)):
        last = end == len(stream)
        server.handle(StreamDataReceived(stream[begin:end], last, 0))
        begin = end
    assert server.seen[0] == HeadersReceived(headers=POST, stream_id=0, stream_ended=False)
    bodies = [event for event in server.seen if isinstance(event, DataReceived)]
    assert b"".join(event.data for event in bodies) == b"hello world"
    assert bodies[-1].stream_ended


def test_wrong_content_length_is_found_across_a_move() -> None:
    client, server = connected()
    server.moving = True
    client.h3.send_headers(0, POST)
    client.h3.send_data(0, b"too short", end_stream=False)
    exchange(client, server)
    server.handle(StreamDataReceived(b"", True, 0))
    assert server.quic.closed is None
    assert server.seen[-1] == StreamFailed(
        0, ErrorCode.H3_MESSAGE_ERROR, "content-length does not match data size"
    )


def test_datagrams_and_webtransport_streams_go_on() -> None:
    client, server = connected(enable_webtransport=True)
    client.moving = server.moving = True
    client.h3.send_headers(0, CONNECT)
    exchange(client, server)
    stream_id = client.h3.create_webtransport_stream(0)
    client.quic.send_stream_data(stream_id, b"one")
    exchange(client, server, [1])
    client.quic.send_stream_data(stream_id, b"two", end_stream=True)
    client.h3.send_datagram(0, b"datagram")
    exchange(client, server)
    received = [e for e in server.seen if isinstance(e, WebTransportStreamDataReceived)]
    assert b"".join(event.data for event in received) == b"onetwo"
    assert {event.session_id for event in received} == {0}
    assert received[-1].stream_ended
    assert server.seen[-1] == DatagramReceived(data=b"datagram", stream_id=0)


def test_finished_streams_are_forgotten() -> None:
    client, server = connected(enable_webtransport=True)
    for number in range(10):
        stream_id = client.quic.get_next_available_stream_id()
        client.h3.send_headers(stream_id, GET, end_stream=True)
        exchange(client, server)
        server.h3.send_headers(stream_id, OK, end_stream=number % 2 == 0)
        if number % 2:
            server.h3.send_data(stream_id, b"body", end_stream=True)
        exchange(client, server)
    session_id = client.quic.get_next_available_stream_id()
    client.h3.send_headers(session_id, CONNECT)
    exchange(client, server)
    for _ in range(5):
        stream_id = client.h3.create_webtransport_stream(session_id, is_unidirectional=True)
        client.quic.send_stream_data(stream_id, b"all of it", end_stream=True)
        exchange(client, server)
    assert set(server.h3._state.streams) == {session_id}


def test_streams_ended_behind_its_back_are_forgotten_when_quic_knows() -> None:
    client, server = connected()
    finished: set[int] = set()
    server.quic.stream_is_finished = finished.__contains__  # type: ignore[attr-defined]
    for _ in range(200):
        stream_id = client.quic.get_next_available_stream_id()
        client.h3.send_headers(stream_id, GET, end_stream=True)
        exchange(client, server)
        server.quic.reset_stream(stream_id, 1)  # the program resets without asking HTTP/3
        finished.add(stream_id)
        exchange(client, server)
    assert len(server.h3._state.streams) <= 64
    assert export_state(server.h3).streams == {}


def test_state_with_a_missing_or_an_extra_field_is_an_error() -> None:
    encoded = msgpack.decode(msgpack.encode(export_state(connected()[1].h3)))
    for wrong in (encoded[:-1], [*encoded, 0]):
        with pytest.raises(ValidationError):
            msgpack.decode(msgpack.encode(wrong), type=Http3State)


def test_connection_that_failed_stays_failed() -> None:
    server = End(False, True)
    server.handle(StreamDataReceived(b"\x00\x00\x00", False, 2))  # control stream without SETTINGS
    assert server.quic.closed is not None
    server.quic.closed = None
    server.handle(StreamReset(error_code=0, stream_id=2))
    server.handle(StopSendingReceived(error_code=0, stream_id=3))
    assert server.quic.closed is None
