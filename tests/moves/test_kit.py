"""The test kit itself: its link, its checker, and the promises and refusals of `move`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from aioquic.h3.events import DataReceived, HeadersReceived

from quicbaton.errors import CallerError, ConfigurationError, GivenAwayError, RefusedError
from quicbaton.http3 import H3Connection
from quicbaton.reasons import Reason
from quicbaton.testing import (
    Conditions,
    EndOptions,
    Entropy,
    Link,
    NonceReuseError,
    Packet,
    Pair,
    StuckError,
    move,
)
from quicbaton.transport import rangeset
from quicbaton.transport.connection import Connection
from quicbaton.transport.train import Train
from tests.moves.traffic import Traffic, arrived, log, reply_bytes, traffic, traffic_pair

CLIENT = ("192.0.2.1", 1)
SERVER = ("192.0.2.2", 2)


def arrivals(link: Link) -> list[tuple[float, bytes]]:
    out = []
    while (at := link.next_at_s()) is not None:
        out.append((at, link.pop().data))
    return out


def send_many(link: Link, count: int = 200) -> list[bytes]:
    data = [index.to_bytes(2) * 50 for index in range(count)]
    for index, datagram in enumerate(data):
        link.send("client", datagram, CLIENT, SERVER, index * 0.001)
    return data


def test_perfect_link_delivers_in_order_after_its_delay() -> None:
    link = Link(Conditions(delay_s=0.5))
    sent = send_many(link, 3)
    assert arrivals(link) == [(0.5, sent[0]), (0.501, sent[1]), (0.502, sent[2])]


def test_link_loses_repeats_damages_and_reorders_as_told() -> None:
    sent = send_many(Link(Conditions()))
    for conditions, changed in (
        (Conditions(loss=0.3), lambda got: len(got) < len(sent)),
        (Conditions(duplication=0.3), lambda got: len(got) > len(sent)),
        (Conditions(corruption=0.3), lambda got: set(got) != set(sent)),
        (Conditions(jitter_s=0.1), lambda got: got != sent and sorted(got) == sorted(sent)),
        (Conditions(mtu_bytes=99), lambda got: not got),
        (Conditions(rate_bytes_per_s=1000, queue_bytes=1000), lambda got: len(got) < len(sent)),
    ):
        link = Link(conditions, seed=3)
        send_many(link)
        assert changed([data for _, data in arrivals(link)]), conditions


def test_link_of_one_seed_does_the_same_again() -> None:
    conditions = Conditions(loss=0.2, jitter_s=0.1, duplication=0.2, corruption=0.2)
    links = [Link(conditions, seed=seed) for seed in (1, 1, 2)]
    for link in links:
        send_many(link)
    first, again, other = map(arrivals, links)
    assert first == again != other


def test_link_delays_by_its_rate() -> None:
    link = Link(Conditions(delay_s=0, rate_bytes_per_s=1000))
    for _ in range(3):
        link.send("server", bytes(100), SERVER, CLIENT, 5.0)
    assert [at for at, _ in arrivals(link)] == pytest.approx([5.1, 5.2, 5.3])


def test_conditions_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        Conditions(loss=1.5)
    with pytest.raises(ConfigurationError):
        Conditions(delay_s=-1)


def test_intercept_can_lose_a_datagram() -> None:
    link = Link(Conditions())
    link.intercept = lambda direction, data, now: data[:1] if data[0] else None
    link.send("client", b"\0\1", CLIENT, SERVER, 0.0)
    link.send("client", b"\1\1", CLIENT, SERVER, 0.0)
    assert [data for _, data in arrivals(link)] == [b"\1"]


def test_entropy_repeats_and_children_are_independent() -> None:
    assert Entropy(1)(8) == Entropy(1)(8) != Entropy(2)(8)
    parent = Entropy(1)
    child = parent.child("a")(4)
    parent(100)
    assert parent.child("a")(4) == child != parent.child("b")(4)


def test_run_says_when_it_does_not_get_there() -> None:
    pair = traffic_pair()
    with pytest.raises(StuckError):
        pair.run(lambda: False, seconds=0.1)


def test_checker_finds_a_number_that_two_owners_used() -> None:
    pair = traffic_pair()
    pair.run(seconds=0.5)
    cluster, end = pair.cluster, pair.server
    application = b""
    baton = cluster.pack(end.connection, now=pair.now, application=application)
    one, other = (cluster.unpack(baton, now=pair.now).connection for _ in range(2))
    # Forge what must never happen: both owners begin at the same number.
    other._state.numbers.next_number = one._state.numbers.next_number
    one.send_datagram_frame(b"one")
    other.send_datagram_frame(b"other")
    for data, _ in one.datagrams_to_send(pair.now):
        pair.nonces.observe("server", data)
    ((data, _), *_) = other.datagrams_to_send(pair.now)
    with pytest.raises(NonceReuseError):
        pair.nonces.observe("server", data)


def test_checker_shows_what_is_on_the_wire() -> None:
    pair = Pair(client="aioquic")
    packets: list[Packet] = []
    pair.nonces.on_packet = packets.append
    pair.connect()
    pair.run(seconds=0.1)
    pair.server = move(pair.server)
    pair.client.connection.send_ping(1)
    pair.run(seconds=0.1)
    assert {packet.direction for packet in packets} == {"client", "server"}
    assert any(0x1E in packet.payload[:16] for packet in packets)  # HANDSHAKE_DONE
    state = pair.server.connection._state
    skipped = pair.nonces.skipped("server")
    for start, stop in rangeset.pairs(state.numbers.skipped):
        assert set(range(start, stop)) <= skipped
    assert pair.nonces.generations("client") == {0}


# --- move ---------------------------------------------------------------------------------------


def spent_connection() -> Connection:
    pair = traffic_pair()
    connection: Connection = pair.server.connection
    move(pair.server)
    return connection


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "begin_cutover": (),
    "buffered_bytes": (),
    "can_send": (0,),
    "change_connection_id": (),
    "close": (),
    "connection_ids": (),
    "datagrams_to_send": (0.0,),
    "doze": (0.0,),
    "drain_stream": (0, 0),
    "freeze": (0.0,),
    "get_next_available_stream_id": (),
    "get_peer_address": (),
    "get_timer": (),
    "handle_timer": (0.0,),
    "hold_loss": (0.0,),
    "is_congested": (0,),
    "is_loss_due": (0.0,),
    "issued_ids": (),
    "next_event": (),
    "note_kept": (0,),
    "next_event_but_requests": (),
    "next_peer_stream_id": (),
    "on_refused": (Train(b"", 1200, CLIENT, ()), 0.0),
    "parting_trains": (0.0,),
    "pause_reading": (0,),
    "set_priority": (0, 3, True),
    "prepare": (),
    "prepare_to_part": (),
    "quiet_s": (0.0,),
    "rearm": (0.0,),
    "receive_datagram": (b"", CLIENT, 0.0),
    "receive_datagrams": ([b""], CLIENT, 0.0),
    "request_key_update": (),
    "reset_code": (0,),
    "reset_stream": (0, 0),
    "resume_reading": (0,),
    "restore_credit": (),
    "send_buffer_bytes": (0,),
    "send_crypto": (b"",),
    "send_datagram_frame": (b"",),
    "send_new_token": (b"t",),
    "send_ping": (1,),
    "send_room_bytes": (0,),
    "next_ping_uid": (),
    "let_go": (),
    "send_stream_data": (0, b""),
    "set_keep_alive": (1.0,),
    "sleep": (0.0,),
    "speak_first": (),
    "start": (),
    "stay": (),
    "stop_stream": (0, 0),
    "stream_is_finished": (0,),
    "trains_to_send": (0.0,),
    "why_awake": (0.0,),
}


def test_every_method_of_a_moved_connection_raises() -> None:
    connection = spent_connection()
    methods = {
        name
        for name, member in inspect.getmembers(Connection)
        # The latter is what a method of a compiled class is.
        if inspect.isfunction(member) or inspect.ismethoddescriptor(member)
        if not name.startswith("_")
    }
    # What this object has counted stays with it, and is asked for when it is spent.
    methods.remove("take_packets_lost")
    assert methods == set(ARGUMENTS), "a new method needs its arguments in this test"
    for name, arguments in ARGUMENTS.items():
        with pytest.raises(GivenAwayError):
            getattr(connection, name)(*arguments)
    assert "spent" in repr(connection)


def test_an_old_end_is_not_moved_again() -> None:
    pair = traffic_pair()
    old = pair.server
    move(old)
    with pytest.raises(CallerError):
        move(old)


def test_move_refuses_what_cannot_move_and_leaves_it_unharmed() -> None:
    pair = Pair(client="quicbaton", server="aioquic")
    with pytest.raises(RefusedError) as refused:
        move(pair.client)
    assert refused.value.code == "not_ready"
    pair.connect()
    with pytest.raises(CallerError):
        move(pair.server)
    pair.client.connection.close()
    with pytest.raises(RefusedError) as refused:
        move(pair.client)
    assert refused.value.code == "closed"
    assert pair.client.connection.get_timer() is not None


def test_move_refuses_a_second_cutover_while_the_first_is_open() -> None:
    pair = traffic_pair()
    pair.run(seconds=0.1)
    move(pair.server, begin_cutover=True)
    with pytest.raises(RefusedError) as refused:
        move(pair.server, begin_cutover=True)
    assert refused.value.code == "cutover_pending"
    move(pair.server)  # without one it goes
    pair.run(lambda: not pair.server.connection.cutover_pending, seconds=1)
    move(pair.server, begin_cutover=True)


def test_an_application_that_refuses_stays_with_its_owner() -> None:
    class Stubborn(Traffic):
        def export_state(self) -> bytes:
            raise RefusedError("busy", code=Reason.NOT_EXPORTABLE)

    pair = Pair(server=EndOptions(create=Stubborn), client=EndOptions(create=Traffic))
    pair.connect()
    with pytest.raises(RefusedError):
        move(pair.server)
    stream = traffic(pair.client).open(1000)
    pair.run(lambda: arrived(pair.client, {stream: reply_bytes(stream)}), seconds=1)


def test_undelivered_events_move_along() -> None:
    pair = Pair()
    pair.connect()
    pair.client.connection.send_stream_data(0, b"x" * 5000, end_stream=True)
    pair.client.connection.send_datagram_frame(b"d")
    pair.run(seconds=0.5)
    kinds = [type(event).__name__ for event in move(pair.server).take_events()]
    assert "HandshakeCompleted" in kinds
    assert "DatagramFrameReceived" in kinds
    assert kinds.count("StreamDataReceived") >= 1


def test_time_passes_in_transit_and_strays_come_first() -> None:
    pair = traffic_pair()
    pair.run(seconds=0.5)
    stream = traffic(pair.client).open(100_000)
    before = pair.now
    old = pair.server
    new = move(old, transit_s=0.05)
    assert pair.now == pytest.approx(before + 0.05)
    assert old.strays
    assert log(new).streams[stream].received > 0


# --- HTTP/3 -------------------------------------------------------------------------------------


def h3_pair(client: str = "aioquic") -> tuple[Pair, H3Connection]:
    pair = Pair(client=client, server="quicbaton")  # type: ignore[arg-type]
    pair.connect()
    pair.server.http = H3Connection(pair.server.connection)
    return pair, H3Connection(pair.client.connection)


def pump(pair: Pair) -> list[Any]:
    assert pair.server.http is not None
    return [
        http_event
        for event in pair.server.take_events()
        for http_event in pair.server.http.handle_event(event)
    ]


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 40])
def test_a_header_block_cut_in_two_by_a_move_is_read_whole(cut: int) -> None:
    pair, client = h3_pair()
    # What HTTP/3 wants to send, held back to be sent in two pieces.
    written: list[tuple[int, bytes, bool]] = []
    quic = pair.client.connection
    send = quic.send_stream_data
    quic.send_stream_data = lambda stream_id, data, end_stream=False: written.append(
        (stream_id, data, end_stream)
    )
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"server.test"),
        (b":path", b"/a/rather/long/path"),
        (b"x-long", b"v" * 30),
    ]
    client.send_headers(0, headers)
    client.send_data(0, b"body" * 100, end_stream=True)
    data = b"".join(piece for _, piece, _ in written)
    send(0, data[:cut])
    pair.run(seconds=0.1)
    events = pump(pair)
    assert not any(isinstance(event, HeadersReceived) for event in events)
    move(pair.server)
    send(0, data[cut:], end_stream=True)
    pair.run(seconds=0.1)
    move(pair.server)
    events = pump(pair)
    assert [event.headers for event in events if isinstance(event, HeadersReceived)] == [headers]
    body = b"".join(event.data for event in events if isinstance(event, DataReceived))
    assert body == b"body" * 100


def test_a_response_half_sent_goes_on_after_moves() -> None:
    pair, client = h3_pair("quicbaton")
    client.send_headers(
        0,
        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")],
        end_stream=True,
    )
    pair.run(seconds=0.1)
    assert any(isinstance(event, HeadersReceived) for event in pump(pair))
    body = [bytes([index]) * 20_000 for index in range(10)]
    assert pair.server.http is not None
    pair.server.http.send_headers(0, [(b":status", b"200")])
    for index, piece in enumerate(body):
        pair.server.http.send_data(0, piece, end_stream=index == len(body) - 1)
        move(pair.server, transit_s=0.002, begin_cutover=index == 3)
        pair.run(seconds=0.003)
    pair.run(seconds=1)
    events = [
        http_event
        for event in pair.client.take_events()
        for http_event in client.handle_event(event)
    ]
    got = b"".join(event.data for event in events if isinstance(event, DataReceived))
    assert got == b"".join(body)
    assert events[-1].stream_ended
