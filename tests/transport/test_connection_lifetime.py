"""How connections live and end: idle, kept alive, closed, reset, worn out, fenced off."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.quic.events import ConnectionTerminated, PingAcknowledged

from quicbaton.errors import CallerError
from quicbaton.testing import CLIENT_ADDRESS, Conditions, EndOptions, Kind, Pair, move
from quicbaton.transport import frames as f
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.state import NEVER
from tests.transport.forge import Forger, state_of

PEERS: list[Kind] = ["aioquic", "quicbaton"]


def new_pair(client: Kind = "quicbaton", server: Kind = "quicbaton", **configuration: Any) -> Pair:
    pair = Pair(
        client=EndOptions(client, configuration=configuration),
        server=EndOptions(server, configuration=configuration),
    )
    pair.connect()
    return pair


def settled(client: Kind = "quicbaton", server: Kind = "quicbaton", **configuration: Any) -> Pair:
    pair = new_pair(client, server, **configuration)
    pair.run(seconds=1)
    pair.client.take_events()
    pair.server.take_events()
    return pair


def terminated(end: Any) -> ConnectionTerminated | None:
    found = [event for event in end.take_events() if isinstance(event, ConnectionTerminated)]
    assert len(found) <= 1
    return found[0] if found else None


def sent_by(pair: Pair, side: str) -> list[float]:
    """The times at which that side sends from now on."""
    times: list[float] = []

    def note(direction: str, data: bytes, now: float) -> bytes:
        if direction == side:
            times.append(now)
        return data

    pair.link.intercept = note
    return times


# --- idle ---------------------------------------------------------------------------------------


def test_an_idle_connection_ends_silently_at_both_sides() -> None:
    pair = settled(idle_timeout=5.0)
    times = sent_by(pair, "server")
    start = pair.now
    pair.run(lambda: pair.server.connection.closed and pair.client.connection.closed, seconds=20)
    assert 3.5 < pair.now - start <= 5.1
    assert not times
    for end in (pair.client, pair.server):
        event = terminated(end)
        assert event is not None
        assert event.reason_phrase == "Idle timeout"


def test_the_smaller_idle_timeout_counts() -> None:
    pair = Pair(client=EndOptions(configuration={"idle_timeout": 2.0}))
    pair.connect()
    pair.run(lambda: pair.server.connection.closed, seconds=5)


def test_idle_time_goes_on_across_moves() -> None:
    pair = settled(idle_timeout=5.0)
    start = pair.now
    for _ in range(3):
        pair.run(seconds=1)
        move(pair.server)
    pair.run(lambda: pair.server.connection.closed, seconds=5)
    assert pair.now - start <= 5.1


def test_traffic_restarts_the_idle_timer() -> None:
    pair = settled(idle_timeout=5.0)
    for uid in range(4):
        pair.run(seconds=4)
        pair.client.connection.send_ping(uid)
    pair.run(seconds=0.2)
    assert not pair.server.connection.closed


@pytest.mark.parametrize("interval_s", [-1.0, 1e14, float("inf"), float("nan")])
def test_a_keep_alive_interval_is_one_that_a_state_can_hold(interval_s: float) -> None:
    pair = Pair()
    pair.connect()
    with pytest.raises(CallerError, match="keep-alive"):
        pair.server.connection.set_keep_alive(interval_s)


@pytest.mark.parametrize("client", PEERS)
def test_keep_alive_keeps_alive_across_moves(client: Kind) -> None:
    pair = settled(client, idle_timeout=5.0)
    pair.server.connection.set_keep_alive(2.0)
    times = sent_by(pair, "server")
    for _ in range(10):
        pair.run(seconds=3)
        move(pair.server)
    assert not pair.server.connection.closed
    assert 10 <= len(times) <= 40


def test_keep_alive_towards_a_dead_peer_ends_by_the_idle_timeout() -> None:
    pair = settled(idle_timeout=5.0)
    pair.server.connection.set_keep_alive(1.0)
    times = sent_by(pair, "server")
    note = pair.link.intercept
    assert note is not None
    pair.link.intercept = lambda *datagram: note(*datagram) and None
    pair.run(lambda: pair.server.connection.closed, seconds=20)
    assert len(times) < 30  # PINGs at the pace of the PTO, not without pause


def test_a_negative_keep_alive_is_refused() -> None:
    with pytest.raises(CallerError):
        settled().server.connection.set_keep_alive(-1)


# --- closing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", PEERS)
@pytest.mark.parametrize("frame_type", [None, 0x08])
def test_a_close_reaches_the_peer_with_code_and_reason(
    client: Kind, frame_type: int | None
) -> None:
    pair = settled(client)
    pair.server.connection.close(error_code=0x77, frame_type=frame_type, reason_phrase="enough")
    pair.run(seconds=5)  # aioquic tells its program when it has drained
    for end in (pair.client, pair.server):
        event = terminated(end)
        assert event is not None
        assert (event.error_code, event.frame_type, event.reason_phrase) == (
            0x77,
            frame_type,
            "enough",
        )
    pair.run(lambda: pair.server.connection.closed, seconds=5)
    assert pair.server.get_timer() is None


def test_a_draining_end_sends_nothing() -> None:
    pair = settled()
    pair.client.connection.send_stream_data(0, bytes(100_000))
    pair.server.connection.close()
    pair.run(seconds=0.0105)
    assert state_of(pair.client).closing is not None
    times = sent_by(pair, "client")
    pair.run(lambda: pair.client.connection.closed, seconds=5)
    assert not times


def test_a_closing_end_answers_ever_more_rarely() -> None:
    pair = settled()
    forger = Forger(pair.server, CLIENT_ADDRESS)
    pair.server.connection.close()
    pair.transmit()
    times = sent_by(pair, "server")
    for _ in range(64):
        forger.send(b"\x01")
        pair.transmit()
    assert len(times) == 7  # after 1, 2, 4, ... 64 packets (RFC 9000 §10.2.1)


def test_a_lost_close_is_repeated_when_the_peer_goes_on() -> None:
    pair = settled("aioquic")
    pair.link.intercept = lambda direction, data, now: None
    pair.server.connection.close(error_code=5)
    pair.transmit()
    pair.link.intercept = None
    pair.client.connection.send_ping(1)
    pair.run(seconds=5)
    event = terminated(pair.client)
    assert event is not None
    assert event.error_code == 5


def test_commands_on_a_closing_connection_do_nothing() -> None:
    pair = settled()
    connection = pair.server.connection
    connection.close()
    connection.close(error_code=9)
    connection.send_stream_data(1, b"x")
    connection.send_datagram_frame(b"x")
    connection.send_ping(1)
    pair.run(seconds=0.2)
    event = terminated(pair.client)
    assert event is not None
    assert event.error_code == 0


# --- stateless reset ----------------------------------------------------------------------------


def test_a_stateless_reset_ends_the_connection_silently() -> None:
    pair = settled()
    token = state_of(pair.client).ids.peer[0].token
    assert len(token) == 16
    times = sent_by(pair, "client")
    pair.client.receive(b"\x40" + bytes(24) + token, pair.server.address, pair.now)
    event = terminated(pair.client)
    assert event is not None
    assert "reset" in event.reason_phrase
    pair.run(lambda: pair.client.connection.closed, seconds=5)
    assert not times


@pytest.mark.parametrize("wrong", ["token", "short", "of a spare ID"])
def test_what_only_looks_like_a_reset_does_not(wrong: str) -> None:
    pair = settled()
    ids = state_of(pair.client).ids.peer
    token = ids[0].token
    data = {
        "token": bytes(25) + bytes(16),
        "short": b"\x40" + bytes(3) + token,
        "of a spare ID": b"\x40" + bytes(24) + ids[-1].token,
    }[wrong]
    pair.client.receive(data, pair.server.address, pair.now)
    assert state_of(pair.client).closing is None


def test_a_reset_token_is_known_after_a_move() -> None:
    pair = settled()
    token = state_of(pair.client).ids.peer[0].token
    move(pair.client)
    pair.client.receive(b"\x40" + bytes(24) + token, pair.server.address, pair.now)
    assert state_of(pair.client).closing is not None


# --- the end of the handshake -------------------------------------------------------------------


def test_handshake_done_is_repeated_until_it_is_acknowledged() -> None:
    pair = Pair(Conditions(delay_s=0.02), client="aioquic")
    lost = 0

    def lose(direction: str, data: bytes, now: float) -> bytes | None:
        nonlocal lost
        if direction == "server" and pair.server.is_up and lost < 6:
            lost += 1
            return None
        return data

    pair.link.intercept = lose
    pair.connect()
    assert lost == 6
    pair.run(seconds=1)
    assert state_of(pair.server).handshake_done_acked


def test_handshake_done_is_repeated_by_the_next_owner() -> None:
    pair = Pair(Conditions(delay_s=0.02), client="aioquic")
    pair.link.intercept = lambda direction, data, now: (
        None if direction == "server" and pair.server.is_up else data
    )
    pair.client.connection.connect(("192.0.2.2", 443), now=pair.now)
    pair.run(lambda: pair.server.is_up, seconds=1)
    for _ in range(3):
        pair.run(seconds=0.1)
        move(pair.server)
    assert not pair.client.is_up
    pair.link.intercept = None
    pair.run(lambda: pair.client.is_up, seconds=5)


def test_late_handshake_datagrams_are_ignored() -> None:
    pair = Pair(Conditions(delay_s=0.02), client="aioquic")
    seen: list[bytes] = []

    def record(direction: str, data: bytes, now: float) -> bytes:
        if direction == "client":
            seen.append(data)
        return data

    pair.link.intercept = record
    pair.connect()
    move(pair.server)
    before = state_of(pair.server).numbers.largest_received
    for data in seen:
        pair.server.receive(data, CLIENT_ADDRESS, pair.now)
    assert state_of(pair.server).closing is None
    assert state_of(pair.server).numbers.largest_received >= before


# --- duplicates, second senders, worn out keys --------------------------------------------------


def test_every_old_datagram_again_after_a_move_changes_nothing() -> None:
    pair = Pair(client="aioquic")
    seen: list[bytes] = []

    def record(direction: str, data: bytes, now: float) -> bytes:
        if direction == "client":
            seen.append(data)
        return data

    pair.link.intercept = record
    pair.connect()
    pair.client.connection.send_stream_data(0, bytes(50_000), end_stream=True)
    pair.client.connection.send_datagram_frame(b"once")
    pair.run(seconds=1)
    pair.server.take_events()
    move(pair.server)
    used = state_of(pair.server).flow.receive_used
    for data in seen:
        pair.server.receive(data, CLIENT_ADDRESS, pair.now)
    assert pair.server.take_events() == []
    assert state_of(pair.server).flow.receive_used == used
    assert state_of(pair.server).numbers.ack_at_us == NEVER


def test_an_ack_for_a_skipped_number_silences_for_good() -> None:
    pair = settled()
    pair.server.connection.send_stream_data(1, bytes(100_000))
    move(pair.server)
    numbers = state_of(pair.server).numbers
    skipped = numbers.skipped[-2]
    pair.transmit()
    times = sent_by(pair, "server")
    Forger(pair.server, CLIENT_ADDRESS).send(b"\x02" + encode_varint(skipped) + b"\0\0\0")
    assert pair.server.connection.closed
    pair.client.connection.send_ping(1)
    pair.run(seconds=10)
    assert not times
    event = terminated(pair.server)
    assert event is not None
    assert "another process" in event.reason_phrase


def test_two_owners_are_found_out_by_the_peers_acks() -> None:
    """The reason for skipping: the old owner, thawed by mistake, goes on sending."""
    pair = settled()
    baton = pair.cluster.pack(pair.server.connection, now=pair.now)
    old = pair.cluster.unpack(baton, now=pair.now).connection
    new = pair.cluster.unpack(baton, now=pair.now).connection
    # The old owner does not know of the handoff, so it skips nothing.
    old._state.numbers.next_number = new._state.numbers.skipped[-2]
    old._state.numbers.skipped.clear()
    old.send_ping(1)
    for data, _ in old.datagrams_to_send(pair.now):
        pair.client.receive(data, pair.server.address, pair.now)
    new.send_ping(1)
    for data, _ in new.datagrams_to_send(pair.now):
        pair.client.receive(data, pair.server.address, pair.now)
    for data, _ in pair.client.datagrams_to_send(pair.now):
        new.receive_datagram(data, CLIENT_ADDRESS, pair.now)
    pair.client.connection.send_ping(7)
    for data, _ in pair.client.datagrams_to_send(pair.now):
        new.receive_datagram(data, CLIENT_ADDRESS, pair.now)
    assert new.closed
    assert new.datagrams_to_send(pair.now + 1) == []


def test_a_worn_out_key_that_cannot_be_updated_closes_the_connection() -> None:
    pair = settled()
    protection = state_of(pair.server).protection
    protection.sent_with_key = (1 << 23) - 1024  # RFC 9001 §6.6, less what closing needs
    protection.update_allowed_at_us = 1 << 60
    state_of(pair.server).numbers.next_number += 1 << 23
    move(pair.server)
    pair.server.connection.send_ping(1)
    pair.run(seconds=1)
    event = terminated(pair.client)
    assert event is not None
    assert event.error_code == f.AEAD_LIMIT_REACHED


def test_a_worn_key_is_updated_in_time() -> None:
    pair = settled()
    state_of(pair.server).protection.sent_with_key = 1 << 22
    state_of(pair.server).numbers.next_number += 1 << 22
    move(pair.server)
    pair.server.connection.send_ping(1)
    pair.run(seconds=1)
    assert any(isinstance(event, PingAcknowledged) for event in pair.server.take_events())
    assert pair.nonces.generations("server") == {0, 1}


def test_what_was_reset_is_not_counted_among_what_a_snapshot_carries() -> None:
    pair = Pair()
    pair.connect()
    server = pair.server.connection
    server.send_stream_data(1, bytes(1000))
    server.send_stream_data(5, bytes(10))
    assert server.buffered_bytes() == 1010
    server.reset_stream(1, 0)
    assert server.buffered_bytes() == 10
