"""Requests and responses, as two ends of ours see them, moving at every event."""

from __future__ import annotations

import pytest
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import (
    DatagramFrameReceived,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from quicbaton.errors import StreamStateError
from quicbaton.http3 import export_state
from quicbaton.http3.codes import ErrorCode, FrameType
from quicbaton.http3.errors import (
    FieldSectionTooLargeError,
    FrameUnexpected,
    GoawayError,
    MessageError,
)
from quicbaton.http3.events import GoawayReceived, PriorityReceived, StreamFailed
from quicbaton.http3.frames import encode_frame
from quicbaton.http3.priority import Priority
from quicbaton.transport.frames import encode_varint as v
from quicbaton.transport.streams.turns import CONTROL_URGENCY
from tests.http3.http3_wire import End, exchange
from tests.http3.violations import CONNECT, GET, OK, POST, TRAILERS, Fields, data, headers

HEAD: Fields = [(b":method", b"HEAD"), *GET[1:]]
WEBSOCKET: Fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]


def pair() -> tuple[End, End]:
    client, server = End(True, True), End(False, True)
    exchange(client, server)
    client.seen.clear()
    server.seen.clear()
    return client, server


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


def bodies(seen: list[H3Event]) -> bytes:
    return b"".join(event.data for event in seen if isinstance(event, DataReceived))


# --- sequences ----------------------------------------------------------------------------------


def test_hints_come_before_the_response_and_trailers_behind_the_content() -> None:
    client, server = pair()
    client.h3.send_headers(0, GET, end_stream=True)
    exchange(client, server)
    for status in (b"100", b"103", b"103"):
        server.h3.send_headers(0, [(b":status", status)])
    server.h3.send_headers(0, OK)
    server.h3.send_data(0, b"content", end_stream=False)
    server.h3.send_headers(0, TRAILERS, end_stream=True)
    exchange(client, server)
    sections = [dict(event.headers) for event in client.seen if isinstance(event, HeadersReceived)]
    assert [section.get(b":status") for section in sections] == [
        b"100",
        b"103",
        b"103",
        b"200",
        None,
    ]
    assert bodies(client.seen) == b"content"
    assert isinstance(client.seen[-1], HeadersReceived)
    assert client.seen[-1].stream_ended


def test_hints_cannot_be_the_end_nor_come_after_the_response() -> None:
    client, server = pair()
    client.h3.send_headers(0, GET, end_stream=True)
    exchange(client, server)
    with pytest.raises(FrameUnexpected):
        server.h3.send_headers(0, [(b":status", b"103")], end_stream=True)
    server.h3.send_headers(0, OK)
    with pytest.raises(MessageError):  # there it would be trailers
        server.h3.send_headers(0, [(b":status", b"103")])
    server.h3.send_data(0, b"content", end_stream=True)
    exchange(client, server)
    assert bodies(client.seen) == b"content"


def test_content_without_headers_or_behind_trailers_is_refused() -> None:
    client, server = pair()
    with pytest.raises(FrameUnexpected):
        client.h3.send_data(0, b"x", end_stream=False)
    client.h3.send_headers(0, POST)
    client.h3.send_headers(0, TRAILERS)
    with pytest.raises(FrameUnexpected):
        client.h3.send_data(0, b"x", end_stream=False)
    with pytest.raises(FrameUnexpected):
        client.h3.send_headers(0, TRAILERS)
    exchange(client, server)
    assert server.quic.closed is None


def test_request_trailers_are_told() -> None:
    client, server = pair()
    client.h3.send_headers(0, POST)
    client.h3.send_data(0, b"x", end_stream=False)
    client.h3.send_headers(0, TRAILERS, end_stream=True)
    exchange(client, server)
    assert server.seen[-1] == HeadersReceived(TRAILERS, 0, True)


@pytest.mark.parametrize("fields", [[(b":status", b"20")], [*OK, (b"A", b"b")], GET, []])
def test_a_malformed_message_of_our_own_is_refused_and_another_may_follow(fields: Fields) -> None:
    client, server = pair()
    client.h3.send_headers(0, GET, end_stream=True)
    exchange(client, server)
    with pytest.raises(MessageError):
        server.h3.send_headers(0, fields)
    assert server.take_sent() == []
    server.h3.send_headers(0, OK, end_stream=True)
    exchange(client, server)
    assert client.seen == [HeadersReceived(OK, 0, True)]


def test_a_malformed_request_of_our_own_leaves_nothing_behind() -> None:
    client, _ = pair()
    before = export_state(client.h3)
    with pytest.raises(MessageError):
        client.h3.send_headers(0, OK)
    assert client.take_sent() == []
    assert export_state(client.h3) == before
    assert 0 not in before.streams


def test_more_fields_than_the_peer_takes_are_not_sent() -> None:
    client, server = pair()
    many = [*GET, (b"cookie", b"x" * 65_536)]
    with pytest.raises(FieldSectionTooLargeError):
        client.h3.send_headers(0, many)
    client.h3.send_headers(0, [*CONNECT[:1], (b":protocol", b"webtransport"), *GET[1:]])
    exchange(client, server)
    with pytest.raises(FieldSectionTooLargeError):
        server.h3.send_headers(0, [*OK, (b"set-cookie", b"x" * 65_536)])
    server.h3.send_headers(0, OK, end_stream=True)


def test_cookies_stay_apart_and_in_order() -> None:
    client, server = pair()
    crumbs = [*GET, (b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2")]
    client.h3.send_headers(0, crumbs, end_stream=True)
    exchange(client, server)
    assert server.seen == [HeadersReceived(crumbs, 0, True)]


def test_the_program_may_change_what_it_was_given() -> None:
    client, server = pair()
    for stream_id in (0, 4):
        client.h3.send_headers(stream_id, GET, end_stream=True)
        exchange(client, server)
        event = server.seen[-1]
        assert isinstance(event, HeadersReceived)
        assert event.headers == GET
        event.headers.clear()


# --- content and its length ---------------------------------------------------------------------


def test_a_body_that_is_sent_on_head_is_dropped() -> None:
    client, server = pair()
    client.h3.send_headers(0, HEAD, end_stream=True)
    exchange(client, server)
    server.h3.send_headers(0, [*OK, length(7)])
    server.h3.send_data(0, b"con", end_stream=False)
    server.h3.send_data(0, b"tent", end_stream=True)
    exchange(client, server)
    assert bodies(client.seen) == b""
    assert client.seen[0] == HeadersReceived([*OK, length(7)], 0, False)
    assert client.quic.closed is None
    assert not client.h3._state.streams
    assert not server.h3._state.streams


def test_a_body_that_comes_on_head_is_malformed() -> None:
    client, server = pair()
    client.h3.send_headers(0, HEAD, end_stream=True)
    exchange(client, server)
    client.feed(0, headers([*OK, length(1)]) + data(b"x"), True)
    assert isinstance(client.seen[-1], StreamFailed)


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_responses_without_content_have_none(status: bytes) -> None:
    client, server = pair()
    for stream_id in (0, 4):
        client.h3.send_headers(stream_id, GET, end_stream=True)
    exchange(client, server)
    server.h3.send_headers(0, [(b":status", status), length(5)])
    server.h3.send_data(0, b"", end_stream=True)
    server.h3.send_headers(4, [(b":status", status)])
    with pytest.raises(MessageError):
        server.h3.send_data(4, b"x", end_stream=True)
    exchange(client, server)
    assert bodies(client.seen) == b""
    assert client.quic.closed is None


@pytest.mark.parametrize("content", [b"", b"short", b"too long"])
def test_a_wrong_response_of_our_own_is_reset_and_never_looks_whole(content: bytes) -> None:
    client, server = pair()
    client.h3.send_headers(0, GET, end_stream=True)
    client.h3.send_headers(4, GET, end_stream=True)
    exchange(client, server)
    server.h3.send_headers(0, [*OK, length(7)])
    with pytest.raises(MessageError):
        server.h3.send_data(0, content, end_stream=True)
    assert server.quic.outbox[-1] == StreamReset(
        error_code=ErrorCode.H3_INTERNAL_ERROR, stream_id=0
    )
    with pytest.raises(StreamStateError):
        server.h3.send_data(0, b"", end_stream=True)
    exchange(client, server)
    assert not any(getattr(event, "stream_ended", False) for event in client.seen)
    server.h3.send_headers(4, OK, end_stream=True)
    exchange(client, server)
    assert client.seen[-1] == HeadersReceived(OK, 4, True)


def test_a_response_that_ends_short_by_its_headers_or_trailers_is_reset() -> None:
    client, server = pair()
    for stream_id in (0, 4):
        client.h3.send_headers(stream_id, GET, end_stream=True)
    exchange(client, server)
    with pytest.raises(MessageError):
        server.h3.send_headers(0, [*OK, length(7)], end_stream=True)
    server.h3.send_headers(4, [*OK, length(7)])
    server.h3.send_data(4, b"short", end_stream=False)
    with pytest.raises(MessageError):
        server.h3.send_headers(4, TRAILERS, end_stream=True)
    exchange(client, server)
    assert not any(getattr(event, "stream_ended", False) for event in client.seen)


def test_a_wrong_request_of_our_own_is_reset() -> None:
    client, server = pair()
    client.h3.send_headers(0, [*POST, length(3)])
    with pytest.raises(MessageError):
        client.h3.send_data(0, b"four", end_stream=True)
    exchange(client, server)
    assert bodies(server.seen) == b""


def test_what_was_right_before_an_error_counts() -> None:
    """RFC 9114 §4.1.2: a malformed message may be processed before that shows."""
    _, server = pair()
    server.feed(0, headers([*POST, length(3)]) + data(b"ab") + data(b"cd"))
    assert [type(event) for event in server.seen] == [HeadersReceived, DataReceived, StreamFailed]


# --- answers that do not wait -------------------------------------------------------------------


def test_an_early_answer_stops_the_upload_without_an_error() -> None:
    client, server = pair()
    client.h3.send_headers(0, [*POST, length(100)])
    client.h3.send_data(0, b"begun", end_stream=False)
    exchange(client, server)
    server.h3.send_headers(0, [(b":status", b"413"), length(3)])
    server.h3.send_data(0, b"no\n", end_stream=True)
    assert server.quic.outbox[-1] == StopSendingReceived(
        error_code=ErrorCode.H3_NO_ERROR, stream_id=0
    )
    exchange(client, server)
    assert bodies(client.seen) == b"no\n"
    assert client.seen[-1].stream_ended  # type: ignore[attr-defined]
    with pytest.raises(StreamStateError):
        client.h3.send_data(0, b"more", end_stream=False)
    assert not server.h3._state.streams


def test_an_answer_to_a_whole_request_stops_nothing() -> None:
    client, server = pair()
    client.h3.send_headers(0, POST)
    client.h3.send_data(0, b"all", end_stream=True)
    exchange(client, server)
    server.h3.send_headers(0, OK, end_stream=True)
    assert not any(isinstance(event, StopSendingReceived) for event in server.quic.outbox)


def test_a_program_that_answers_a_request_that_was_given_up_gets_a_stream_error() -> None:
    client, server = pair()
    client.h3.send_headers(0, GET, end_stream=True)
    client.h3.send_headers(4, POST)
    exchange(client, server)
    client.quic.stop_stream(0, ErrorCode.H3_REQUEST_CANCELLED)
    client.quic.reset_stream(4, ErrorCode.H3_REQUEST_CANCELLED)
    client.quic.stop_stream(4, ErrorCode.H3_REQUEST_CANCELLED)
    exchange(client, server)
    for stream_id in (0, 4):
        with pytest.raises(StreamStateError):
            server.h3.send_headers(stream_id, OK)
    assert not export_state(server.h3).streams
    assert server.take_sent() == []


# --- tunnels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_fields", [CONNECT, WEBSOCKET])
def test_a_tunnel_carries_bytes_and_each_direction_ends_by_itself(request_fields: Fields) -> None:
    client, server = pair()
    client.h3.send_headers(0, request_fields)
    exchange(client, server)
    server.h3.send_headers(0, [*OK, length(3)])  # means nothing there (RFC 9110 §9.3.6)
    server.h3.send_data(0, b"down and over", end_stream=True)
    exchange(client, server)
    client.h3.send_data(0, b"up", end_stream=False)
    client.h3.send_data(0, b" and away", end_stream=True)
    exchange(client, server)
    assert bodies(client.seen) == b"down and over"
    assert bodies(server.seen) == b"up and away"
    assert not server.h3._state.streams
    assert not client.h3._state.streams


def test_a_tunnel_takes_no_trailers_of_ours() -> None:
    client, server = pair()
    client.h3.send_headers(0, CONNECT)
    with pytest.raises(FrameUnexpected):
        client.h3.send_headers(0, TRAILERS)
    exchange(client, server)
    server.h3.send_headers(0, OK)
    with pytest.raises(FrameUnexpected):
        server.h3.send_headers(0, TRAILERS)


def test_a_refused_tunnel_is_a_response_like_any_other() -> None:
    client, server = pair()
    client.h3.send_headers(0, CONNECT)
    exchange(client, server)
    server.h3.send_headers(0, [(b":status", b"404"), length(3)])
    server.h3.send_data(0, b"no\n", end_stream=False)
    server.h3.send_headers(0, TRAILERS, end_stream=True)
    exchange(client, server)
    assert bodies(client.seen) == b"no\n"
    assert client.seen[-1] == HeadersReceived(TRAILERS, 0, True)


def test_a_refused_tunnel_keeps_its_content_length() -> None:
    client, server = pair()
    client.h3.send_headers(0, CONNECT)
    exchange(client, server)
    server.h3.send_headers(0, [(b":status", b"404"), length(3)])
    with pytest.raises(MessageError):
        server.h3.send_data(0, b"", end_stream=True)


# --- priorities (RFC 9218) ----------------------------------------------------------------------


def test_the_control_stream_is_ahead_of_all_others() -> None:
    client, server = pair()
    for end in (client, server):
        control = end.h3._state.local_control_stream
        assert end.quic.priorities == {control: (CONTROL_URGENCY, False)}


def update(stream_id: int, value: bytes) -> bytes:
    return encode_frame(FrameType.PRIORITY_UPDATE, v(stream_id) + value)


@pytest.mark.parametrize(
    ("fields", "priority"),
    [
        ([], (3, False)),
        ([(b"priority", b"u=1, i")], (1, True)),
        ([(b"priority", b"u=1"), (b"priority", b"i")], (1, True)),
        ([(b"priority", b"\xff")], (3, False)),
    ],
)
def test_a_request_says_its_priority(fields: Fields, priority: tuple[int, bool]) -> None:
    client, server = pair()
    client.h3.send_headers(0, GET + fields, end_stream=True)
    exchange(client, server)
    assert server.quic.priorities[0] == priority


def test_a_later_update_counts_and_is_told() -> None:
    client, server = pair()
    client.h3.send_headers(0, [*GET, (b"priority", b"u=1")], end_stream=True)
    exchange(client, server)
    client.h3.send_priority_update(0, Priority(6, True))
    exchange(client, server)
    assert server.quic.priorities[0] == (6, True)
    assert server.seen[-1] == PriorityReceived(0, 6, True)


def test_an_update_ahead_of_its_request_counts_more_than_that() -> None:
    client, server = pair()
    client.h3.send_priority_update(8, Priority(0, True))
    exchange(client, server)
    assert server.seen == []
    assert export_state(server.h3).priorities == {8: 1}
    client.h3.send_headers(8, [*GET, (b"priority", b"u=7")], end_stream=True)
    exchange(client, server)
    assert server.quic.priorities[8] == (0, True)
    assert export_state(server.h3).priorities == {}


def test_an_update_in_the_middle_of_the_request_counts_more_than_that() -> None:
    _, server = pair()
    request = headers([*GET, (b"priority", b"u=7")])
    server.feed(0, request[:5])
    server.feed(2, update(0, b"u=2"))
    assert server.seen == []
    server.feed(0, request[5:], True)
    assert server.quic.priorities[0] == (2, False)


def test_an_update_for_a_request_that_comes_out_of_order() -> None:
    _, server = pair()
    server.feed(4, headers(GET), True)
    server.feed(2, update(0, b"u=2"))
    server.feed(0, headers(GET), True)
    assert server.quic.priorities[0] == (2, False)
    assert server.quic.priorities[4] == (3, False)


def test_an_update_reaches_a_response_that_the_transport_still_sends() -> None:
    client, server = pair()
    client.h3.send_headers(0, GET, end_stream=True)
    exchange(client, server)
    asked: list[tuple[int, int, bool]] = []
    server.quic.set_priority = lambda *args: asked.append(args)  # type: ignore[method-assign]
    server.h3.send_headers(0, OK, end_stream=True)
    server.feed(2, update(0, b"u=0"))
    assert asked == [(0, 0, False)]
    assert export_state(server.h3).priorities == {}  # nothing of it is to come


def test_the_servers_own_priority_is_obeyed() -> None:
    """RFC 9218 §8."""
    client, server = pair()
    client.h3.send_headers(0, [*GET, (b"priority", b"u=1")], end_stream=True)
    exchange(client, server)
    server.h3.send_headers(0, [*OK, (b"priority", b"u=5, i")])
    assert server.quic.priorities[0] == (5, True)


# --- GOAWAY -------------------------------------------------------------------------------------


def test_a_client_learns_that_its_server_goes_and_sends_no_more_requests() -> None:
    client, server = pair()
    client.h3.send_headers(0, GET, end_stream=True)
    exchange(client, server)
    server.h3.send_goaway(final=True)
    exchange(client, server)
    assert client.seen == [GoawayReceived(4)]
    with pytest.raises(GoawayError):
        client.h3.send_headers(4, GET)
    assert client.take_sent() == []
    server.h3.send_headers(0, OK, end_stream=True)
    exchange(client, server)
    assert client.seen[-1] == HeadersReceived(OK, 0, True)


def test_after_the_first_goaway_requests_on_their_way_are_served() -> None:
    client, server = pair()
    server.h3.send_goaway(final=False)
    client.h3.send_headers(0, GET, end_stream=True)
    exchange(client, server)
    assert HeadersReceived(GET, 0, True) in server.seen


# --- datagrams (RFC 9297) -----------------------------------------------------------------------


def datagram(stream_id: int, payload: bytes = b"payload") -> DatagramFrameReceived:
    return DatagramFrameReceived(v(stream_id // 4) + payload)


def test_datagrams_of_an_open_tunnel_are_told_on_both_sides() -> None:
    client, server = pair()
    client.h3.send_headers(0, WEBSOCKET)
    client.h3.send_datagram(0, b"up")
    exchange(client, server)
    server.h3.send_datagram(0, b"early")
    server.h3.send_headers(0, OK)
    server.h3.send_datagram(0, b"")
    exchange(client, server)
    assert server.seen[-1] == DatagramReceived(b"up", 0)
    told = [event for event in client.seen if isinstance(event, DatagramReceived)]
    assert told == [DatagramReceived(b"early", 0), DatagramReceived(b"", 0)]


def test_datagrams_of_no_stream_and_of_finished_ones_are_dropped() -> None:
    client, server = pair()
    server.handle(datagram(40))
    client.h3.send_headers(0, WEBSOCKET, end_stream=True)
    exchange(client, server)
    server.seen.clear()
    server.handle(datagram(0))
    server.h3.send_headers(0, OK, end_stream=True)
    server.handle(datagram(0))
    assert server.seen == []
    assert server.quic.closed is None


def test_a_datagram_for_what_takes_none_is_its_streams_error() -> None:
    client, server = pair()
    client.h3.send_headers(0, POST)
    client.h3.send_headers(4, POST)
    exchange(client, server)
    server.seen.clear()
    server.handle(datagram(0))
    assert [type(event) for event in server.seen] == [StreamFailed]
    assert StreamReset(error_code=ErrorCode.H3_DATAGRAM_ERROR, stream_id=0) in server.take_sent()
    client.h3.send_data(4, b"on", end_stream=True)
    exchange(client, server)
    assert bodies(server.seen) == b"on"


def test_datagrams_that_crossed_a_refusal_are_dropped() -> None:
    client, server = pair()
    client.h3.send_headers(0, WEBSOCKET)
    exchange(client, server)
    server.h3.send_headers(0, [(b":status", b"404")])
    server.seen.clear()
    server.handle(datagram(0))
    assert server.seen == []
    server.h3.send_data(0, b"no", end_stream=True)
    exchange(client, server)
    assert bodies(client.seen) == b"no"


@pytest.mark.parametrize("frame", [b"", b"\x40", v(1 << 60)])
def test_a_datagram_of_no_possible_stream_closes_the_connection(frame: bytes) -> None:
    _, server = pair()
    server.handle(DatagramFrameReceived(frame))
    assert server.quic.closed is not None
    assert server.quic.closed[0] == ErrorCode.H3_DATAGRAM_ERROR


def test_what_fits_into_a_datagram_is_what_its_stream_leaves() -> None:
    client, _ = pair()
    assert client.h3.max_datagram_bytes(0) == 1199
    assert client.h3.max_datagram_bytes(4 * 64) == 1198


# --- content is not copied ----------------------------------------------------------------------


def test_content_is_passed_on_as_it_came() -> None:
    _, server = pair()
    server.feed(0, headers(POST) + v(0) + v(100_000))
    content = bytes(50_000)
    event = StreamDataReceived(content, False, 0)
    server.moving = False
    server.handle(event)
    last = server.seen[-1]
    assert isinstance(last, DataReceived)
    assert last.data is content
