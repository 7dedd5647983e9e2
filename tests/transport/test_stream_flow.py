"""Credit, limits, and peers that exceed them (RFC 9000 §4)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from quicbaton import limits
from quicbaton.errors import TransportError
from quicbaton.transport import frames as f
from quicbaton.transport.state import (
    StreamDataEvent,
    StreamResetEvent,
)
from tests.transport.states import connection_state
from tests.transport.stream_wire import Node, Packet, exchange, pair

CLIENT_BIDI, SERVER_BIDI, CLIENT_UNI, SERVER_UNI = range(4)


def body(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def frame_types(packets: list[Packet]) -> list[int]:
    return [frame[0] for packet in packets for frame in packet.frames]


@contextmanager
def refuses(code: int) -> Iterator[None]:
    with pytest.raises(TransportError) as caught:
        yield
    assert caught.value.error_code == code


def violations() -> list[object]:
    """(name, what the server receives, error code): stream 0 has b"data", stream 4 ended at 4."""
    return [
        pytest.param(action, code, id=name)
        for name, action, code in (
            ("data beyond the final size", lambda s: s.on_stream(4, 4, b"x", False, 0), 6),
            ("another final size", lambda s: s.on_stream(4, 0, b"dat", True, 0), 6),
            ("reset of another size", lambda s: s.on_reset_stream(4, 0, 5), 6),
            ("FIN below what came", lambda s: s.on_stream(0, 0, b"dat", True, 0), 6),
            ("reset below what came", lambda s: s.on_reset_stream(0, 0, 3), 6),
            ("more than the stream's limit", lambda s: s.on_stream(0, 1000, b"x", False, 0), 3),
            ("reset beyond the stream's limit", lambda s: s.on_reset_stream(0, 0, 1001), 3),
            ("too many streams", lambda s: s.on_stream(8 * 4, 0, b"", False, 0), 4),
            ("too many streams by stop", lambda s: s.on_stop_sending(8 * 4, 0), 4),
            ("too many unidirectional", lambda s: s.on_reset_stream(8 * 4 + 2, 0, 0), 4),
            ("data on our stream", lambda s: s.on_stream(3, 0, b"x", False, 0), 5),
            ("reset of our stream", lambda s: s.on_reset_stream(3, 0, 0), 5),
            ("complaint on our stream", lambda s: s.on_stream_data_blocked(3, 0), 5),
            ("stop of its own stream", lambda s: s.on_stop_sending(2, 0), 5),
            ("limit for its own stream", lambda s: s.on_max_stream_data(2, 1), 5),
            ("data on a stream we have not opened", lambda s: s.on_stream(1, 0, b"", False, 0), 5),
            ("stop of a stream we have not opened", lambda s: s.on_stop_sending(1, 0), 5),
            ("limit for one we have not opened", lambda s: s.on_max_stream_data(1, 1), 5),
            ("more streams than can be", lambda s: s.on_max_streams(False, (1 << 60) + 1), 7),
        )
    ]


@pytest.mark.parametrize(("action", "code"), violations())
def test_a_violation_closes_the_connection_with_the_code_of_the_rfc(action, code) -> None:
    server = Node(connection_state(stream_window=1000, streams=8))
    server.streams.write(SERVER_UNI, b"open", fin=False)
    server.streams.on_stream(0, 0, b"data", False, 0)
    server.streams.on_stream(4, 0, b"data", True, 0)
    with refuses(code):
        action(server.streams)


def test_all_streams_together_may_not_exceed_the_connections_limit() -> None:
    server = Node(connection_state(stream_window=1000, connection_window=1500))
    server.streams.on_stream(0, 999, b"x", False, 0)  # counted by the highest offset
    server.streams.on_stream(4, 499, b"x", False, 0)
    with refuses(f.FLOW_CONTROL_ERROR):
        server.streams.on_stream(8, 0, b"x", False, 0)


def test_endless_gaps_close_the_connection() -> None:
    server = Node(connection_state())
    with refuses(f.INTERNAL_ERROR):
        for index in range(limits.MAX_STREAM_SEGMENTS + 1):
            server.streams.on_stream(0, 2 * index + 1, b"x", False, 0)


def test_one_long_gap_costs_few_objects() -> None:
    server = Node(connection_state())
    for index in range(1, 700):
        server.streams.on_stream(0, 1000 * index, bytes(1000), False, 0)
    half = server.state.streams[0].receive
    assert half is not None
    assert len(half.segments) < 50


def test_a_peer_that_skips_ids_costs_a_counter() -> None:
    server = Node(connection_state(streams=1 << 30))
    server.streams.on_stream(4 * ((1 << 30) - 1), 0, b"x", True, 0)
    assert len(server.state.streams) == 1
    assert server.state.flow.peer_streams_seen == [1 << 30, 0]
    server.streams.write(4 * 1000, b"opened by the higher one", fin=False)


def test_the_streams_limit_holds_new_data_back_and_is_reported_once() -> None:
    client, server = pair(stream_window=500)
    client.streams.write(CLIENT_BIDI, body(2000), fin=True)
    packets = client.packets()
    assert client.state.flow.send_used == 500
    assert frame_types(packets).count(f.STREAM_DATA_BLOCKED) == 1
    for packet in packets:
        client.lost(packet)
    packets = client.packets()  # retransmission needs no credit
    assert frame_types(packets).count(f.STREAM_DATA_BLOCKED) == 1
    for packet in packets:
        server.receive(packet.payload)
    exchange(client, server)
    assert bytes(server.received[CLIENT_BIDI]) == body(2000)


def test_the_connections_limit_holds_new_data_back_but_not_retransmission_or_fin() -> None:
    client, server = pair(stream_window=1000, connection_window=1000)
    client.streams.write(0, body(600), fin=False)
    client.streams.write(4, body(600), fin=False)
    packets = client.packets()
    assert client.state.flow.send_used == 1000
    assert frame_types(packets).count(f.DATA_BLOCKED) == 1
    assert not client.streams.has_due()
    client.lost(packets[0])
    assert client.streams.has_due()
    (again,) = client.packets()
    assert again.run is None or again.run[2] > 0
    client.streams.write(8, b"", fin=True)
    assert client.streams.has_due()
    assert frame_types(client.packets()) == [f.STREAM]
    client.streams.on_max_data(1200)
    client.streams.on_max_data(1100)  # never falls
    client.packets()
    assert client.state.flow.send_used == 1200
    assert server.state.flow.receive_limit == 1000


def test_credit_follows_what_the_application_takes() -> None:
    server = Node(connection_state(stream_window=1000, connection_window=10_000))
    server.streams.on_stream(0, 0, body(600), False, 0)
    assert not server.streams.has_due()
    server.advance(10_000_000)
    server.take_events()
    (packet,) = server.packets()
    assert packet.frames == [(f.MAX_STREAM_DATA, 0, 1600, 0, 0)]


def test_a_paused_stream_gets_no_credit_until_it_is_resumed() -> None:
    server = Node(connection_state(stream_window=1000, connection_window=1000))
    server.streams.on_stream(0, 0, body(600), False, 0)
    server.streams.pause_reading(0)
    server.take_events()
    (packet,) = server.packets()
    assert packet.frames == [(f.MAX_DATA, 1600, 0, 0, 0)]  # for other streams
    server.streams.resume_reading(0, 10_000_000)
    (packet,) = server.packets()
    assert packet.frames == [(f.MAX_STREAM_DATA, 0, 1600, 0, 0)]


def test_paused_streams_take_nothing_from_the_others_up_to_a_limit() -> None:
    size = limits.MAX_WITHHELD_BYTES * 2 // 5
    server = Node(connection_state(stream_window=size, connection_window=size * 3 // 2))
    for stream_id in (0, 4, 8):
        server.streams.on_stream(stream_id, 0, bytes(size), False, 0)
        server.streams.pause_reading(stream_id)
        server.take_events()
        server.packets()
    assert server.state.flow.receive_withheld == 3 * size
    assert 3 * size < server.state.flow.receive_limit <= 4 * size
    server.move()
    server.streams.stop(0, 7)  # nobody will read it: that is credit, too
    server.streams.on_reset_stream(4, 7, size)
    server.streams.resume_reading(8, 0)
    server.packets()
    assert server.state.flow.receive_withheld == 0
    assert server.state.flow.receive_limit >= size * 9 // 2


def test_a_paused_stream_that_ended_is_kept_until_it_is_resumed() -> None:
    client, server = pair()
    client.streams.write(CLIENT_UNI, b"x" * 10, fin=True)
    client.packets()
    server.streams.on_stream(CLIENT_UNI, 0, b"x" * 5, False, 0)
    server.streams.pause_reading(CLIENT_UNI)
    server.streams.on_stream(CLIENT_UNI, 5, b"x" * 5, True, 0)
    server.take_events()
    server.streams.on_stream(CLIENT_UNI, 5, b"x" * 5, True, 0)  # a copy does not resume it
    assert CLIENT_UNI in server.state.streams
    server.streams.resume_reading(CLIENT_UNI, 0)
    assert server.state.streams == {}


def test_a_window_used_up_quickly_doubles_and_slowly_stays() -> None:
    for elapsed_us, expected in ((1_000, 2000), (10_000_000, 1000)):
        server = Node(connection_state(stream_window=1000, connection_window=1000))
        server.streams.on_stream(0, 0, body(600), False, 0)
        server.advance(elapsed_us)
        server.take_events()
        half = server.state.streams[0].receive
        assert half is not None
        assert half.window_bytes == expected
        assert server.state.flow.window_bytes >= expected


def test_windows_stop_growing_at_their_limits() -> None:
    server = Node(connection_state(stream_window=1 << 20, connection_window=1 << 20))
    offset = 0
    for _ in range(400):
        server.streams.on_stream(0, offset, bytes(400_000), False, 0)
        offset += 400_000
        server.take_events()
        server.packets()
    half = server.state.streams[0].receive
    assert half is not None
    assert half.window_bytes == limits.MAX_STREAM_WINDOW_BYTES
    assert server.state.flow.window_bytes == limits.MAX_CONNECTION_WINDOW_BYTES


def test_a_lost_limit_is_repeated_only_while_it_is_the_latest() -> None:
    server = Node(connection_state(stream_window=1000, connection_window=1000))
    server.streams.on_stream(0, 0, body(600), False, 0)
    server.take_events()
    (first,) = server.packets()
    server.streams.on_stream(0, 600, body(1400), False, 0)
    server.take_events()
    (second,) = server.packets()
    server.lost(first)
    assert not server.streams.has_due()
    server.lost(second)
    (again,) = server.packets()
    assert again.frames == second.frames
    server.streams.on_stream(0, 2000, b"", True, 0)
    server.lost(again)
    assert frame_types(server.packets()) == [f.MAX_DATA]  # the stream needs no more


def test_streams_beyond_the_peers_limit_wait_for_it() -> None:
    client, server = pair(streams=2)
    for ordinal in range(5):
        client.streams.write(4 * ordinal, b"request", fin=True)
    client.streams.reset(16, 3)  # nothing of it may be sent either
    packets = client.packets()
    assert {frame[1] for packet in packets for frame in packet.frames if frame[0] == f.STREAM} == {
        0,
        4,
    }
    assert frame_types(packets).count(f.STREAMS_BLOCKED_BIDI) == 1
    client.move()
    for packet in packets:
        server.receive(packet.payload)
        client.acked(packet)
    for _ in range(3):
        exchange(client, server)
        for stream_id in list(server.state.streams):
            server.streams.write(stream_id, b"", fin=True)
    exchange(client, server)
    assert server.received.keys() == {0, 4, 8, 12}
    assert StreamResetEvent(16, 3) in server.events
    assert server.state.flow.peer_streams_closed == [5, 0]
    assert client.state.streams == server.state.streams == {}


def test_max_streams_grows_as_the_peers_streams_finish() -> None:
    client, server = pair(streams=4)
    for ordinal in range(100):
        client.streams.write(4 * ordinal + 2, b"datum", fin=True)
    exchange(client, server)
    assert len(server.ended) == 100
    assert server.state.flow.peer_streams_limit[1] == 104
    assert server.state.finished[CLIENT_UNI] == [0, 100]
    assert client.state.finished[CLIENT_UNI] == [0, 100]


def test_frames_that_were_not_answered_yet_survive_a_move() -> None:
    client, server = pair(stream_window=400)
    client.streams.write(0, body(1000), fin=True)
    for packet in client.packets():
        server.receive(packet.payload)
        client.acked(packet)
    server.take_events()
    server.streams.stop(0, 4)
    client.move()
    server.move()
    assert server.streams.has_control_due()
    exchange(client, server)
    assert StreamResetEvent(0, 4) in server.events


def test_frames_of_one_stream_that_nobody_has_taken_become_one_event() -> None:
    server = Node(connection_state())
    for index in range(5):
        server.streams.on_stream(0, 10 * index, bytes(10), index == 4, 0)
    assert server.state.events == [StreamDataEvent(0, bytes(50), True)]
