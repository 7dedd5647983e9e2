"""GOAWAY: a stopping server's message, and its treatment of requests that come too late."""

from __future__ import annotations

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, encode_frame
from aioquic.h3.events import HeadersReceived
from aioquic.quic.events import StopSendingReceived, StreamDataReceived, StreamReset

from quicbaton.http3.errors import GoawayError
from quicbaton.http3.events import GoawayReceived
from tests.http3.http3_wire import End, exchange

_REQUEST = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/"),
]
_CONTROL_STREAM = 3


def request(client: End, *, ended: bool = True) -> int:
    stream_id = client.quic.get_next_available_stream_id()
    client.h3.send_headers(stream_id, _REQUEST, end_stream=ended)
    return stream_id


def goaway(stream_id: int) -> StreamDataReceived:
    frame = encode_frame(FrameType.GOAWAY, encode_uint_var(stream_id))
    return StreamDataReceived(data=frame, end_stream=False, stream_id=_CONTROL_STREAM)


def pair() -> tuple[End, End]:
    client, server = End(True, False), End(False, False)
    exchange(client, server)
    return client, server


def test_a_first_goaway_refuses_nothing_and_the_final_one_names_the_next_request() -> None:
    client, server = pair()
    first = request(client)
    exchange(client, server)
    server.h3.send_goaway(final=False)
    assert server.quic.outbox == [goaway((1 << 62) - 4)]
    exchange(client, server)
    second = request(client)
    exchange(client, server)
    server.h3.send_goaway(final=True)
    assert server.quic.outbox == [goaway(second + 4)]
    exchange(client, server)
    served = [event.stream_id for event in server.seen if isinstance(event, HeadersReceived)]
    assert served == [first, second]
    server.h3.send_goaway(final=True)
    assert server.quic.outbox == []


def test_a_request_after_the_final_goaway_is_rejected_and_not_processed() -> None:
    client, server = pair()
    server.h3.send_goaway(final=True)
    exchange(client, server)
    # A client that does not listen.
    client.h3._state.goaway_received = -1
    whole, unfinished = request(client), request(client, ended=False)
    client.h3.send_data(unfinished, b"body", end_stream=False)
    events, client.quic.outbox = client.quic.outbox, []
    for event in events:
        server.handle(event)
    assert server.seen == []
    rejected = ErrorCode.H3_REQUEST_REJECTED
    assert server.quic.outbox == [
        StreamReset(error_code=rejected, stream_id=whole),
        StreamReset(error_code=rejected, stream_id=unfinished),
        StopSendingReceived(error_code=rejected, stream_id=unfinished),
    ]


def test_a_request_that_had_begun_is_served_to_its_end() -> None:
    client, server = pair()
    running = request(client, ended=False)
    exchange(client, server)
    server.h3.send_goaway(final=True)
    exchange(client, server)
    client.h3.send_data(running, b"the rest", end_stream=True)
    exchange(client, server)
    server.h3.send_headers(running, [(b":status", b"200")], end_stream=True)
    exchange(client, server)
    (answer,) = [event for event in client.seen if isinstance(event, HeadersReceived)]
    assert answer.stream_id == running
    assert answer.stream_ended


def test_a_final_goaway_moves_and_is_never_raised() -> None:
    client, server = pair()
    server.quic.peer_streams = 2
    server.h3.send_goaway(final=True)
    exchange(client, server)
    server.moving = True
    server.move()
    server.h3.send_goaway(final=False)
    server.h3.send_goaway(final=True)
    assert server.quic.outbox == []
    server.handle(StreamDataReceived(data=b"a request", end_stream=True, stream_id=8))
    assert server.seen == []
    assert server.quic.outbox == [
        StreamReset(error_code=ErrorCode.H3_REQUEST_REJECTED, stream_id=8)
    ]


def test_nothing_is_kept_of_requests_that_were_rejected() -> None:
    _, server = pair()
    server.h3.send_goaway(final=True)
    for number in range(1000):
        server.handle(StreamDataReceived(data=b"x", end_stream=True, stream_id=4 * number))
    assert server.h3._state.streams == {}


def test_a_client_learns_of_goaway_and_asks_for_nothing_more() -> None:
    client, server = pair()
    running = request(client, ended=False)
    exchange(client, server)
    server.h3.send_goaway(final=True)
    exchange(client, server)
    assert client.seen == [GoawayReceived(running + 4)]
    with pytest.raises(GoawayError):
        request(client)
    client.h3.send_data(running, b"", end_stream=True)


def test_a_goaway_that_is_raised_closes_the_connection() -> None:
    client, server = pair()
    server.h3.send_goaway(final=True)
    exchange(client, server)
    client.handle(goaway(8))
    assert client.quic.closed == (ErrorCode.H3_ID_ERROR, "GOAWAY cannot be raised")
