"""Moves at the worst moments, each in the middle of something that the next owner must finish."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from quicbaton.testing import Conditions, EndOptions, Kind, Packet, Pair, StuckError, move
from quicbaton.transport import frames as f
from quicbaton.transport.state import NEVER, ConnectionState
from tests.moves.traffic import (
    Traffic,
    alive,
    arrived,
    content,
    log,
    reply_bytes,
    traffic,
    traffic_pair,
)

PEERS: list[Kind] = ["aioquic", "quicbaton"]


def state(pair: Pair, side: str = "server") -> ConnectionState:
    found: ConnectionState = getattr(pair, side).connection._state
    return found


def settle(pair: Pair, seconds: float = 1.0) -> None:
    pair.run(seconds=seconds)


def finish(pair: Pair, uploads: dict[int, int]) -> None:
    """All of these client streams arrive, and what is answered to them."""
    replies = {stream: reply_bytes(stream) for stream in uploads if not stream & 2}
    pair.run(
        lambda: (
            not alive(pair) or (arrived(pair.server, uploads) and arrived(pair.client, replies))
        ),
        seconds=60,
    )
    assert alive(pair)


def limit_ids(quic: Any) -> None:
    quic._local_active_connection_id_limit = 2


# --- key updates --------------------------------------------------------------------------------


@pytest.mark.parametrize("initiator", ["client", "server"])
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("moment", range(8))
def test_a_key_update_goes_on_across_a_move(peer: Kind, initiator: str, moment: int) -> None:
    """The moment is a number of events after the update began: on the way out, after it was
    received, half answered, answered, with packets of the old phase still under way."""
    pair = traffic_pair(peer, conditions=Conditions(delay_s=0.02, jitter_s=0.005))
    upload = traffic(pair.client).open(60_000, end=False)
    traffic(pair.server).open(60_000)
    pair.run(seconds=0.07)
    getattr(pair, initiator).connection.request_key_update()
    for _ in range(moment):
        pair.step()
    move(pair.server, transit_s=0.003)
    traffic(pair.client).write(upload, 40_000, end=True)
    finish(pair, {upload: 100_000})
    settle(pair, 5)
    assert pair.nonces.generations("client") == pair.nonces.generations("server") == {0, 1}
    move(pair.server)
    assert not state(pair).protection.failed_decryptions
    pair.server.connection.request_key_update()
    finish(pair, {traffic(pair.client).open(5_000): 5_000})
    assert pair.nonces.generations("client") == {0, 1, 2}


def test_key_updates_in_every_round_trip_with_moves_in_between() -> None:
    pair = traffic_pair(conditions=Conditions(delay_s=0.01))
    uploads = {}
    updates = 0
    for _ in range(100):
        uploads[traffic(pair.client).open(5_000)] = 5_000
        pair.run(seconds=0.02)
        move(pair.server)
        protection = state(pair).protection
        if protection.send_acked and protection.update_allowed_at_us <= state(pair).clock_us:
            pair.server.connection.request_key_update()
            updates += 1
        move(pair.client)
    finish(pair, uploads)
    assert updates > 5
    assert len(pair.nonces.generations("server")) == updates + 1


# --- paths and connection IDs -------------------------------------------------------------------


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("moment", range(10))
def test_a_path_validation_goes_on_across_a_move(peer: Kind, moment: int) -> None:
    pair = traffic_pair(peer, conditions=Conditions(delay_s=0.02))
    settle(pair)
    address = pair.rebind(("198.51.100.9", 40_000))  # another host: congestion starts anew
    upload = traffic(pair.client).open(50_000)
    for _ in range(moment):
        pair.step()
    move(pair.server, transit_s=0.01)
    finish(pair, {upload: 50_000})
    path = state(pair).paths[0]
    assert path.remote == address
    assert path.validated


def test_an_unvalidated_path_gets_three_times_what_it_sent_probes_included() -> None:
    pair = traffic_pair(conditions=Conditions(delay_s=0.02))
    traffic(pair.server).open(300_000)
    pair.run(seconds=0.1)
    pair.rebind(("198.51.100.9", 40_000))
    # The client hears nothing and says little, so that nothing but the limit holds the server.
    pair.link.intercept = lambda direction, data, now: None if direction == "server" else data
    pair.client.connection.send_ping(1)
    checked = 0
    for _ in range(60):
        pair.step()
        path = state(pair).paths[0]
        if path.remote[0] == "198.51.100.9" and not path.validated:
            assert path.sent_bytes <= 3 * path.received_bytes
            checked += 1
        move(pair.server)
    assert checked > 10


@pytest.mark.parametrize("lost", [2, 3, 6])
def test_a_validated_path_outlives_the_loss_of_full_sized_challenges(lost: int) -> None:
    """The address answered a small challenge; those of 1200 bytes are lost a few times."""
    pair = traffic_pair(conditions=Conditions(delay_s=0.02))
    settle(pair)
    pair.rebind()
    left = lost

    def lose_large(direction: str, data: bytes, now: float) -> bytes | None:
        nonlocal left
        if direction == "server" and len(data) == 1200 and left:
            left -= 1
            return None
        return data

    pair.link.intercept = lose_large
    pair.client.connection.send_ping(1)
    pair.run(seconds=30)
    pair.client.connection.send_ping(2)
    pair.run(lambda: log(pair.client).pings == [1, 2], seconds=5)
    assert alive(pair)
    assert left == 0
    assert state(pair).paths[0].full_size_validated


@pytest.mark.parametrize("peer", PEERS)
def test_a_cutover_with_a_peer_that_holds_two_ids(peer: Kind) -> None:
    options = {"configure": limit_ids} if peer == "aioquic" else {}
    pair = traffic_pair(peer, conditions=Conditions(delay_s=0.03), client_options=options)
    uploads = {}
    for _ in range(4):
        uploads[traffic(pair.client).open(30_000)] = 30_000
        before = set(pair.server.connection.connection_ids())
        move(pair.server, transit_s=0.001, begin_cutover=True)
        pair.run(lambda: not pair.server.connection.cutover_pending, seconds=2)
        settle(pair)
        assert not before & set(pair.server.connection.connection_ids())
    finish(pair, uploads)


@pytest.mark.parametrize("peer", PEERS)
def test_a_retirement_is_acknowledged_without_delay(peer: Kind) -> None:
    pair = traffic_pair(peer)
    settle(pair)
    move(pair.server, begin_cutover=True)
    pair.run(lambda: not pair.server.connection.cutover_pending, seconds=2)
    pair.run(seconds=0.001)
    assert state(pair).local.max_ack_delay_ms > 1
    assert state(pair).numbers.ack_at_us == NEVER


@pytest.mark.parametrize("moment", range(8))
def test_a_retirement_under_way_goes_on_across_moves(moment: int) -> None:
    conditions = Conditions(delay_s=0.02, loss=0.2)
    pair = traffic_pair("aioquic", conditions=conditions, client_options={"configure": limit_ids})
    pair.run(seconds=0.5)
    move(pair.server, begin_cutover=True)
    upload = traffic(pair.client).open(20_000)
    for _ in range(moment):
        pair.step()
        move(pair.server)
    pair.run(lambda: not pair.server.connection.cutover_pending, seconds=30)
    finish(pair, {upload: 20_000})


def test_a_client_without_connection_ids_is_found_across_moves() -> None:
    pair = Pair(
        client=EndOptions("aioquic", create=Traffic, configuration={"connection_id_length": 0}),
        server=EndOptions(create=Traffic),
    )
    pair.connect()
    upload = traffic(pair.client).open(50_000)
    pair.run(seconds=0.03)
    move(pair.server, begin_cutover=True)
    pair.rebind()
    pair.run(seconds=0.03)
    move(pair.server)
    finish(pair, {upload: 50_000})


# --- time ---------------------------------------------------------------------------------------


def download_s(peer: Kind, *, handoffs: bool) -> float:
    """How long 900,000 bytes take at a round trip of 300 ms."""
    pair = traffic_pair(peer, conditions=Conditions(delay_s=0.15))
    start = pair.now
    stream = traffic(pair.server).open(900_000)
    while not arrived(pair.client, {stream: 900_000}):
        if handoffs:
            cutover = not pair.server.connection.cutover_pending
            move(pair.server, transit_s=0.002, begin_cutover=cutover)
            assert pair.now < start + 10
        with contextlib.suppress(StuckError):
            pair.run(lambda: arrived(pair.client, {stream: 900_000}), seconds=0.2)
    assert alive(pair)
    assert state(pair).recovery.smoothed_rtt_us < 450_000
    return pair.now - start


@pytest.mark.parametrize("peer", PEERS)
def test_handoffs_every_200_ms_at_a_round_trip_of_300_cost_little(peer: Kind) -> None:
    assert download_s(peer, handoffs=True) < 1.05 * download_s(peer, handoffs=False)


def test_a_long_transit_is_no_sample_and_no_persistent_congestion() -> None:
    pair = traffic_pair("aioquic", conditions=Conditions(delay_s=0.02))
    stream = traffic(pair.server).open(900_000)
    pair.run(seconds=0.3)
    before = state(pair).recovery.smoothed_rtt_us
    window = state(pair).congestion.window_bytes
    move(pair.server, transit_s=3.0)
    assert state(pair).recovery.smoothed_rtt_us < 1.5 * before + 50_000
    pair.run(seconds=0.2)
    # Two datagrams would be the minimum window, after persistent congestion.
    assert state(pair).congestion.window_bytes > window // 3
    pair.run(lambda: arrived(pair.client, {stream: 900_000}), seconds=30)


@pytest.mark.parametrize("peer", PEERS)
def test_a_move_in_a_blackout_with_probes_under_way(peer: Kind) -> None:
    pair = traffic_pair(peer, conditions=Conditions(delay_s=0.02))
    upload = traffic(pair.client).open(50_000)
    down = traffic(pair.server).open(50_000)
    pair.run(seconds=0.05)
    pair.link.intercept = lambda direction, data, now: None
    for _ in range(5):
        pair.run(seconds=0.35)
        assert state(pair).recovery.pto_count > 0
        move(pair.server, transit_s=0.01)
    pair.link.intercept = None
    finish(pair, {upload: 50_000})
    pair.run(lambda: arrived(pair.client, {down: 50_000}), seconds=10)
    assert state(pair).congestion.window_bytes > 4 * 1452


def test_deadlines_that_passed_in_transit_begin_anew() -> None:
    pair = traffic_pair(conditions=Conditions(delay_s=0.02))
    settle(pair)
    pair.link.intercept = lambda direction, data, now: None
    pair.server.connection.send_ping(1)
    pair.transmit()
    pto_s = pair.server.connection.get_timer() - pair.now
    move(pair.server, transit_s=pto_s * 3)
    assert pair.server.connection.get_timer() == pytest.approx(pair.now + pto_s, abs=0.002)


def test_frequent_handoffs_do_not_put_off_the_probe_timeout() -> None:
    """A PTO of half a second and more, a handoff every 100 ms, and the last packet is lost."""
    pair = traffic_pair(conditions=Conditions(delay_s=0.15))
    settle(pair)
    pair.link.intercept = lambda direction, data, now: None
    stream = traffic(pair.server).open(500)
    pair.transmit()
    pair.link.intercept = None
    for _ in range(20):
        pair.run(seconds=0.1)
        move(pair.server)
    assert arrived(pair.client, {stream: 500})


def test_frequent_handoffs_do_not_put_off_a_path_validation() -> None:
    pair = traffic_pair(conditions=Conditions(delay_s=0.05))
    settle(pair)
    address = pair.rebind(("198.51.100.9", 40_000))
    first = True

    def lose_the_first(direction: str, data: bytes, now: float) -> bytes | None:
        nonlocal first
        lost, first = first and direction == "server", first and direction == "client"
        return None if lost else data

    pair.link.intercept = lose_the_first
    pair.client.connection.send_ping(1)
    for _ in range(40):
        pair.run(seconds=0.1)
        move(pair.server)
    path = state(pair).paths[0]
    assert path.remote == address
    assert path.full_size_validated


def test_a_ping_is_acknowledged_once_though_a_probe_follows_it() -> None:
    pair = traffic_pair(conditions=Conditions(delay_s=0.02))
    settle(pair)
    pair.link.change(Conditions(delay_s=0.5))  # longer than the PTO: a needless probe
    pair.server.connection.send_ping(1)
    pair.run(seconds=3)  # the application complains of a second event
    assert log(pair.server).pings == [1]


# --- things in flight ---------------------------------------------------------------------------


def test_an_mtu_probe_in_flight_is_counted_at_the_next_owner() -> None:
    pair = traffic_pair("aioquic", conditions=Conditions(delay_s=0.05))
    pair.run(lambda: bool(state(pair).paths[0].mtu_probe_bytes), seconds=1)
    assert state(pair).paths[0].mtu_bytes == 1200
    move(pair.server)
    pair.run(seconds=0.2)
    assert state(pair).paths[0].mtu_bytes == 1452


def test_a_lost_mtu_probe_is_counted_at_the_next_owner() -> None:
    pair = traffic_pair("aioquic", conditions=Conditions(delay_s=0.05, mtu_bytes=1300))
    sizes: list[int] = []
    for uid in range(200):
        pair.run(seconds=0.03)
        move(pair.server)
        sizes.append(state(pair).paths[0].mtu_bytes)
        if state(pair).paths[0].mtu_at_us > 0:
            break
        pair.server.connection.send_ping(uid)
    assert 1280 <= sizes[-1] <= 1300


@pytest.mark.parametrize("peer", PEERS)
def test_a_fin_not_yet_acknowledged_is_sent_again_by_the_next_owner(peer: Kind) -> None:
    pair = traffic_pair(peer)
    settle(pair)
    pair.link.intercept = lambda direction, data, now: None
    stream = traffic(pair.server).open(100)
    bare = traffic(pair.server).open(0)
    pair.transmit()
    assert state(pair).recovery.sent
    move(pair.server)
    pair.link.intercept = None
    pair.run(lambda: arrived(pair.client, {stream: 100, bare: 0}), seconds=5)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("lose", [False, True])
def test_a_reset_and_a_stop_go_on_across_a_move(peer: Kind, lose: bool) -> None:
    pair = traffic_pair(peer)
    ours = traffic(pair.server).open(1000, end=False)
    theirs = traffic(pair.client).open(1000, end=False)
    settle(pair)
    if lose:
        pair.link.intercept = lambda direction, data, now: None
    pair.server.connection.reset_stream(ours, 5)
    pair.server.connection.stop_stream(theirs, 6)
    if lose:
        pair.transmit()
        pair.link.intercept = None
    move(pair.server)
    pair.run(lambda: log(pair.client).streams[ours].reset_code == 5, seconds=5)
    pair.run(lambda: log(pair.client).stopped == {theirs: 6}, seconds=5)
    # aioquic and we answer STOP_SENDING by a reset, which a discarding reader need not report.
    settle(pair, 3)
    assert alive(pair)


@pytest.mark.parametrize("peer", PEERS)
def test_streams_that_wait_for_a_limit_go_on_after_a_move(peer: Kind) -> None:
    def few(quic: Any) -> None:
        quic._local_max_streams_bidi.value = quic._local_max_streams_bidi.sent = 2
        quic._local_max_streams_uni.value = quic._local_max_streams_uni.sent = 2

    pair = traffic_pair(peer, client_options={"configure": few})
    streams = [traffic(pair.server).open(3000) for _ in range(9)]
    blocked: list[int] = []
    pair.nonces.on_packet = lambda packet: note_blocked(packet, blocked)
    flow = state(pair).flow
    assert flow.own_streams_opened[0] == 9
    assert flow.own_streams_limit[0] == 2
    move(pair.server)
    pair.step()
    move(pair.server)
    pair.run(lambda: arrived(pair.client, dict.fromkeys(streams, 3000)), seconds=10)
    assert blocked


def note_blocked(packet: Packet, blocked: list[int]) -> None:
    if packet.direction == "server" and bytes([f.STREAMS_BLOCKED_BIDI]) in packet.payload:
        blocked.append(packet.number)


@pytest.mark.parametrize("client", PEERS)
def test_full_windows_open_again_after_a_move(client: Kind) -> None:
    """The server's application reads nothing until its connection has moved."""
    options = {"configuration": {"max_data": 30_000, "max_stream_data": 20_000}}
    pair = Pair(
        client=EndOptions(client, create=Traffic),
        server=EndOptions(create=None, **options),  # type: ignore[arg-type]
    )
    pair.connect()
    streams = [traffic(pair.client).open(50_000) for _ in range(2)]
    settle(pair, 2)
    assert state(pair).flow.receive_used == 30_000
    got = dict.fromkeys(streams, b"")
    ended: set[int] = set()
    for _ in range(500):
        move(pair.server)
        event = pair.server.connection.next_event()
        stream_id = getattr(event, "stream_id", None)
        if stream_id is not None:
            got[stream_id] += event.data
            ended |= {stream_id} if event.end_stream else set()
        pair.run(seconds=0.005)
        if ended == set(streams):
            break
    assert got == {stream: content(stream, "client", 0, 50_000) for stream in streams}


def test_a_paused_reader_stays_paused_across_a_move() -> None:
    options = {"configuration": {"max_stream_data": 20_000}}
    pair = traffic_pair(server_options=options)
    stream = traffic(pair.client).open(1, end=False)
    settle(pair)
    pair.server.connection.pause_reading(stream)
    traffic(pair.client).write(stream, 100_000, end=True)
    settle(pair)
    assert log(pair.server).streams[stream].received <= 20_001
    move(pair.server)
    settle(pair)
    assert log(pair.server).streams[stream].received <= 20_001
    pair.server.connection.resume_reading(stream)
    finish(pair, {stream: 100_001})


def test_datagrams_that_wait_move_along() -> None:
    pair = traffic_pair("aioquic")
    settle(pair)
    for index in range(20):
        pair.server.connection.send_datagram_frame(bytes([index]) * 300)
    move(pair.server)
    settle(pair)
    assert log(pair.client).datagrams == [bytes([index]) * 300 for index in range(20)]


def test_an_idle_connection_has_nothing_left_over_after_many_moves() -> None:
    pair = traffic_pair()
    uploads = {}
    for _ in range(30):
        uploads[traffic(pair.client).open(2_000)] = 2_000
        move(pair.server)
        move(pair.client)
        pair.run(seconds=0.1)
    finish(pair, uploads)
    settle(pair, 3)
    for side in ("client", "server"):
        ours = state(pair, side)
        assert not ours.streams
        assert not ours.recovery.sent
        assert ours.recovery.eliciting_in_flight == 0
        assert ours.congestion.in_flight_bytes == ours.congestion.abandoned_bytes == 0
        assert ours.recovery.loss_at_us == NEVER
        assert len(ours.numbers.skipped) <= 16
