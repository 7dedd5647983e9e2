"""WebTransport sessions and their streams (draft-ietf-webtrans-http3), moving at every event."""

from __future__ import annotations

import pytest
from aioquic.h3.events import (
    DatagramReceived,
    H3Event,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.events import StopSendingReceived, StreamDataReceived, StreamReset
from hypothesis import given
from hypothesis import strategies as st

from quicbaton.errors import StreamStateError
from quicbaton.http3 import export_state, webtransport
from quicbaton.http3.capsules import CLOSE_SESSION, encode_capsule
from quicbaton.http3.codes import ErrorCode, FrameType, Setting
from quicbaton.http3.events import (
    StreamFailed,
    WebTransportSessionClosed,
    WebTransportSessionDraining,
)
from quicbaton.limits import MAX_EARLY_STREAMS, MAX_HELD_HTTP_BYTES, MAX_WEBTRANSPORT_SESSIONS
from quicbaton.transport.frames import encode_varint as v
from tests.http3.http3_wire import End, exchange
from tests.http3.violations import GET, OK, SESSION, data, headers

GONE = ErrorCode.WEBTRANSPORT_SESSION_GONE


def pair() -> tuple[End, End]:
    client = End(True, True, enable_webtransport=True)
    server = End(False, True, enable_webtransport=True)
    exchange(client, server)
    return client, server


def session() -> tuple[End, End]:
    """Two ends with the session 0."""
    client, server = pair()
    client.h3.send_headers(0, SESSION)
    exchange(client, server)
    server.h3.send_headers(0, OK)
    exchange(client, server)
    client.seen.clear()
    server.seen.clear()
    return client, server


def received(seen: list[H3Event], stream_id: int) -> tuple[bytes, bool]:
    """The bytes of a stream that came, and whether its end did."""
    events = [
        event
        for event in seen
        if isinstance(event, WebTransportStreamDataReceived) and event.stream_id == stream_id
    ]
    return b"".join(event.data for event in events), any(event.stream_ended for event in events)


def codes_of(sent: list[object], stream_id: int) -> list[tuple[type, int]]:
    return [
        (type(event), event.error_code)
        for event in sent
        if isinstance(event, StreamReset | StopSendingReceived) and event.stream_id == stream_id
    ]


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_client", [True, False])
def test_the_settings_of_all_drafts_are_offered(is_client: bool) -> None:
    settings = End(is_client, False, enable_webtransport=True).h3.sent_settings
    for setting in (
        Setting.H3_DATAGRAM,
        Setting.ENABLE_CONNECT_PROTOCOL,
        Setting.ENABLE_WEBTRANSPORT,
        Setting.WEBTRANSPORT_MAX_SESSIONS_07,
        Setting.WEBTRANSPORT_MAX_SESSIONS_13,
        Setting.WEBTRANSPORT_ENABLED,
    ):
        assert settings[setting] == 1


def test_without_webtransport_none_is_offered() -> None:
    settings = End(False, False).h3.sent_settings
    assert settings.keys().isdisjoint(webtransport.OFFER.keys() - {Setting.H3_DATAGRAM})


@pytest.mark.parametrize("token", [b"webtransport", b"webtransport-h3"])
def test_the_tokens_of_all_drafts_begin_a_session(token: bytes) -> None:
    client, server = pair()
    client.h3.send_headers(0, [SESSION[0], (b":protocol", token), *SESSION[2:]])
    exchange(client, server)
    assert set(export_state(server.h3).sessions) == set(export_state(client.h3).sessions) == {0}


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("is_unidirectional", [True, False])
@pytest.mark.parametrize("sizes", [[1 << 20], [1]])
def test_streams_of_both_kinds_and_both_ends_carry_bytes(
    by_client: bool, is_unidirectional: bool, sizes: list[int]
) -> None:
    client, server = session()
    ours, theirs = (client, server) if by_client else (server, client)
    stream_id = ours.h3.create_webtransport_stream(0, is_unidirectional)
    # What looks like frames is none, in either direction.
    content = headers(GET) + data(b"x") + v(0x41) + v(0)
    ours.quic.send_stream_data(stream_id, content)
    ours.quic.send_stream_data(stream_id, b"!", end_stream=True)
    exchange(client, server, sizes)
    assert received(theirs.seen, stream_id) == (content + b"!", True)
    if not is_unidirectional:
        theirs.quic.send_stream_data(stream_id, content, end_stream=True)
        exchange(client, server, sizes)
        assert received(ours.seen, stream_id) == (content, True)
    for end in (client, server):
        assert set(export_state(end.h3).streams) == {0}


def test_a_stream_outlives_its_reset_half() -> None:
    client, server = session()
    stream_id = client.h3.create_webtransport_stream(0)
    exchange(client, server)
    client.quic.reset_stream(stream_id, webtransport.to_http_error(7))
    exchange(client, server)
    server.quic.send_stream_data(stream_id, b"still here", end_stream=True)
    exchange(client, server)
    assert received(client.seen, stream_id) == (b"still here", True)
    assert set(export_state(server.h3).streams) == {0}


def test_a_stopped_stream_still_carries_the_other_direction() -> None:
    client, server = session()
    stream_id = server.h3.create_webtransport_stream(0)
    exchange(client, server)
    client.quic.stop_stream(stream_id, webtransport.to_http_error(1))
    exchange(client, server)
    client.quic.send_stream_data(stream_id, b"still here", end_stream=True)
    exchange(client, server)
    assert received(server.seen, stream_id) == (b"still here", True)


def test_there_is_no_stream_of_no_session() -> None:
    client, server = pair()
    for end in (client, server):
        with pytest.raises(StreamStateError):
            end.h3.create_webtransport_stream(0)


# --- what comes before its session --------------------------------------------------------------


def test_streams_that_come_before_their_session_wait_for_it() -> None:
    _, server = pair()
    server.feed(4, v(0x41) + v(0) + b"bidirectional", True, size=1)
    server.feed(14, v(0x54) + v(0) + b"uni")
    server.feed(14, b"directional", size=1)
    assert server.seen == []
    server.feed(0, headers(SESSION), size=1)
    assert isinstance(server.seen[0], HeadersReceived)
    assert received(server.seen, 4) == (b"bidirectional", True)
    assert received(server.seen, 14) == (b"unidirectional", False)
    assert server.h3._held_bytes == 0
    server.feed(14, b"!", True)
    assert received(server.seen, 14) == (b"unidirectional!", True)


def test_few_streams_wait_and_not_for_ever() -> None:
    _, server = pair()
    streams = [14 + 4 * number for number in range(MAX_EARLY_STREAMS + 1)]
    for stream_id in streams:
        server.feed(stream_id, v(0x54) + v(0) + b"x")
    rejected = ErrorCode.WEBTRANSPORT_BUFFERED_STREAM_REJECTED
    assert server.take_sent() == [StopSendingReceived(error_code=rejected, stream_id=streams[-1])]
    # The stream that they wait for is none of a session: the next one finds room again.
    server.feed(0, headers(GET))
    server.feed(100, v(0x41) + v(96))
    sent = server.take_sent()
    assert sent == [
        StopSendingReceived(error_code=GONE, stream_id=number) for number in streams[:-1]
    ]
    assert server.h3._held_bytes == 0


def test_bytes_that_wait_are_counted_over_all_streams() -> None:
    _, server = pair()
    server.feed(14, v(0x54) + v(0) + bytes(MAX_HELD_HTTP_BYTES - 10))
    server.feed(18, v(0x54) + v(0) + bytes(11))
    code = ErrorCode.H3_EXCESSIVE_LOAD
    assert server.take_sent() == [StopSendingReceived(error_code=code, stream_id=18)]
    server.feed(0, headers(SESSION))
    assert len(received(server.seen, 14)[0]) == MAX_HELD_HTTP_BYTES - 10
    assert server.h3._held_bytes == 0


def test_a_stream_that_is_reset_before_its_session_is_never_told() -> None:
    _, server = pair()
    server.feed(4, v(0x41) + v(0) + b"bytes")
    server.handle(StreamReset(error_code=1, stream_id=4))
    server.feed(0, headers(SESSION))
    assert [type(event) for event in server.seen] == [HeadersReceived]
    assert set(export_state(server.h3).streams) == {0}


# --- how sessions end ---------------------------------------------------------------------------


def open_streams(client: End, server: End) -> list[int]:
    """A stream of each kind of each end."""
    streams = [
        end.h3.create_webtransport_stream(0, is_uni)
        for end in (client, server)
        for is_uni in (True, False)
    ]
    exchange(client, server)
    client.seen.clear()
    server.seen.clear()
    return streams


@pytest.mark.parametrize("by_client", [True, False])
def test_a_session_is_closed_with_a_code_and_a_reason(by_client: bool) -> None:
    client, server = session()
    streams = open_streams(client, server)
    ours, theirs = (client, server) if by_client else (server, client)
    ours.h3.close_webtransport_session(0, 0xFFFF_FFFF, "grüße")
    exchange(client, server, [1])
    assert WebTransportSessionClosed(0, 0xFFFF_FFFF, "grüße") in theirs.seen
    assert not any(isinstance(event, StreamFailed) for event in client.seen + server.seen)
    for end in (client, server):
        assert end.quic.closed is None
        state = export_state(end.h3)
        assert state.sessions == state.streams == {}
        for stream_id in streams:
            assert end.quic.stream_is_finished(stream_id)
        with pytest.raises(StreamStateError):
            end.h3.create_webtransport_stream(0)
        with pytest.raises(StreamStateError):
            end.h3.close_webtransport_session(0)


def test_all_streams_of_a_session_that_ends_are_reset_and_stopped() -> None:
    client, server = session()
    streams = open_streams(client, server)
    server.h3.close_webtransport_session(0)
    sent: list[object] = list(server.take_sent())
    reset, stop = (StreamReset, int(GONE)), (StopSendingReceived, int(GONE))
    client_uni, client_bidi, server_uni, server_bidi = streams
    assert codes_of(sent, client_uni) == [stop]
    assert codes_of(sent, client_bidi) == [reset, stop]
    assert codes_of(sent, server_uni) == [reset]
    assert codes_of(sent, server_bidi) == [reset, stop]


@pytest.mark.parametrize("by_client", [True, False])
def test_the_end_of_its_stream_closes_a_session_without_a_code(by_client: bool) -> None:
    client, server = session()
    open_streams(client, server)
    ours, theirs = (client, server) if by_client else (server, client)
    ours.h3.send_data(0, b"", end_stream=True)
    exchange(client, server)
    assert theirs.seen[0] == WebTransportSessionClosed(0, 0, "")
    for end in (client, server):
        assert end.quic.closed is None
        assert export_state(end.h3).sessions == export_state(end.h3).streams == {}


@pytest.mark.parametrize("by_client", [True, False])
@pytest.mark.parametrize("how", ["reset", "stop"])
def test_a_reset_or_stop_of_its_stream_closes_a_session(by_client: bool, how: str) -> None:
    client, server = session()
    open_streams(client, server)
    ours, theirs = (client, server) if by_client else (server, client)
    if how == "reset":
        ours.quic.reset_stream(0, ErrorCode.H3_REQUEST_CANCELLED)
    else:
        ours.quic.stop_stream(0, ErrorCode.H3_REQUEST_CANCELLED)
    exchange(client, server)
    assert WebTransportSessionClosed(0, 0, "") in theirs.seen
    for end in (client, server):
        assert export_state(end.h3).sessions == {}


@pytest.mark.parametrize("how", ["end", "reset", "close"])
def test_a_session_that_is_given_up_before_its_answer_gets_none(how: str) -> None:
    client, server = pair()
    client.h3.send_headers(0, SESSION)
    if how == "end":
        client.h3.send_data(0, b"", end_stream=True)
    elif how == "reset":
        client.quic.reset_stream(0, ErrorCode.H3_REQUEST_CANCELLED)
    else:
        client.h3.close_webtransport_session(0, 3, "changed my mind")
    exchange(client, server)
    closed = [event for event in server.seen if isinstance(event, WebTransportSessionClosed)]
    assert [event.code for event in closed] == [3 if how == "close" else 0]
    with pytest.raises(StreamStateError):
        server.h3.send_headers(0, OK)
    assert export_state(server.h3).sessions == export_state(server.h3).streams == {}


@pytest.mark.parametrize("status", [b"404", b"302"])
def test_a_refused_session_is_none_and_its_answer_is_no_capsule(status: bytes) -> None:
    client, server = pair()
    client.h3.send_headers(0, SESSION)
    stream_id = client.h3.create_webtransport_stream(0)
    exchange(client, server)
    server.h3.send_headers(0, [(b":status", status)])
    server.h3.send_data(0, b"\x28\x43 is no capsule", end_stream=True)
    exchange(client, server)
    assert client.quic.closed is None
    assert client.quic.stream_is_finished(stream_id)
    assert client.seen[-1].data == b"\x28\x43 is no capsule"  # type: ignore[attr-defined]
    for end in (client, server):
        assert export_state(end.h3).sessions == export_state(end.h3).streams == {}


def test_streams_of_a_session_that_is_over_are_stopped() -> None:
    _, server = session()
    server.h3.close_webtransport_session(0)
    server.take_sent()
    server.feed(14, v(0x54) + v(0) + b"late")
    server.feed(4, v(0x41) + v(0) + b"late", True)
    assert server.seen == []
    assert server.take_sent() == [
        StopSendingReceived(error_code=GONE, stream_id=14),
        StreamReset(error_code=GONE, stream_id=4),
    ]


def test_a_draining_session_goes_on() -> None:
    client, server = session()
    server.h3.drain_webtransport_session(0)
    exchange(client, server, [1])
    assert client.seen == [WebTransportSessionDraining(0)]
    client.h3.create_webtransport_stream(0)


def test_more_sessions_than_we_take_are_rejected() -> None:
    _, server = pair()
    ids = [4 * number for number in range(MAX_WEBTRANSPORT_SESSIONS + 1)]
    for stream_id in ids:
        server.feed(stream_id, headers(SESSION))
    rejected = ErrorCode.H3_REQUEST_REJECTED
    assert codes_of(list(server.take_sent()), ids[-1]) == [
        (StreamReset, rejected),
        (StopSendingReceived, rejected),
    ]
    assert len(server.seen) == MAX_WEBTRANSPORT_SESSIONS
    server.handle(StreamReset(error_code=0, stream_id=0))
    server.feed(ids[-1] + 4, headers(SESSION))
    assert isinstance(server.seen[-1], HeadersReceived)


# --- capsules -----------------------------------------------------------------------------------


def test_datagrams_come_in_capsules_too() -> None:
    client, server = session()
    capsules = (
        encode_capsule(0, b"one") + encode_capsule(0x21, bytes(5000)) + encode_capsule(0, b"")
    )
    client.h3.send_data(0, capsules, end_stream=False)
    exchange(client, server, [100])
    assert server.seen == [DatagramReceived(b"one", 0), DatagramReceived(b"", 0)]


def test_a_close_that_comes_in_pieces_of_frames_is_one() -> None:
    client, server = session()
    capsule = encode_capsule(CLOSE_SESSION, webtransport.encode_close(5, "bye"))
    for byte in capsule:
        client.h3.send_data(0, bytes([byte]), end_stream=False)
    exchange(client, server)
    assert server.seen[0] == WebTransportSessionClosed(0, 5, "bye")


# --- codes and reasons --------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_a_programs_code_is_the_same_there_and_back(code: int) -> None:
    error_code = webtransport.to_http_error(code)
    assert (error_code - 0x21) % 0x1F != 0  # RFC 9114 §8.1: not a reserved one
    assert webtransport.from_http_error(error_code) == code


def test_the_codes_fill_their_range() -> None:
    """ "Resetting Data Streams" gives both ends."""
    assert webtransport.to_http_error(0) == 0x52E4A40FA8DB
    assert webtransport.to_http_error(2**32 - 1) == 0x52E5AC983162
    for foreign in (0, GONE, 0x52E4A40FA8DA, 0x52E5AC983163, 0x52E4A40FA8F9):
        assert webtransport.from_http_error(foreign) is None


@given(st.integers(0, 2**32 - 1), st.text(max_size=1200))
def test_a_close_says_as_much_of_its_reason_as_fits(code: int, reason: str) -> None:
    told, text = webtransport.decode_close(webtransport.encode_close(code, reason))
    assert told == code
    assert reason.startswith(text)
    assert text == reason or len(text.encode()) > 1020


def test_the_frame_of_a_stream_is_the_drafts() -> None:
    client, _ = session()
    client.h3.create_webtransport_stream(0)
    assert client.quic.outbox == [
        StreamDataReceived(v(FrameType.WEBTRANSPORT_STREAM) + v(0), False, 4)
    ]
