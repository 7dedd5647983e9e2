"""Limits on a peer, a path or an unproved address."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from quicbaton import limits
from quicbaton.testing import Conditions, Pair, move
from quicbaton.transport import frames as f
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.state import Address
from tests.transport.forge import Forger, state_of

_CONGESTION_EXPERIENCED = 3


def settled() -> Pair:
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    return pair


def doubt_address_of_client(pair: Pair, received_bytes: int) -> None:
    """Leave the server with an active path whose address is not proved (RFC 9000 §8.1)."""
    path = state_of(pair.server).paths[0]
    path.validated = False
    path.received_bytes = received_bytes
    path.sent_bytes = 0


# --- anti-amplification -------------------------------------------------------------------------


def test_probes_obey_the_anti_amplification_limit() -> None:
    pair = settled()
    server, state = pair.server.connection, state_of(pair.server)
    stream_id = server.get_next_available_stream_id(is_unidirectional=True)
    server.send_stream_data(stream_id, bytes(100_000))
    doubt_address_of_client(pair, 600)
    state.recovery.probes_due = 2
    trains = server.trains_to_send(pair.now)
    assert 0 < sum(len(train.data) for train in trains) <= 1800


@pytest.mark.parametrize("received", [1, 40, 200])
def test_a_close_obeys_the_anti_amplification_limit(received: int) -> None:
    pair = settled()
    doubt_address_of_client(pair, received)
    pair.server.connection.close(7, reason_phrase="x" * 150)
    trains = pair.server.connection.trains_to_send(pair.now)
    assert sum(len(train.data) for train in trains) <= 3 * received
    assert bool(trains) == (received == 200)


@pytest.mark.parametrize("received", range(20, 120, 10))
def test_an_ack_that_is_due_is_sent_or_waits_for_the_peer(received: int) -> None:
    """An ACK of many ranges does not fit what anti-amplification leaves: no timer spins on it."""
    pair = settled()
    server = pair.server.connection
    forger = Forger(pair.server, pair.client.address)
    for _ in range(limits.MAX_ACK_RANGES_SENT):
        forger.number += 1
        forger.send(bytes([f.PING]))
    doubt_address_of_client(pair, received)
    trains = server.trains_to_send(pair.now)
    assert sum(len(train.data) for train in trains) <= 3 * received
    assert server.get_timer() > pair.now


# --- memory -------------------------------------------------------------------------------------


def test_repeated_crypto_frames_behind_a_gap_are_bounded() -> None:
    pair = settled()
    state = state_of(pair.server)
    forger = Forger(pair.server, pair.client.address)
    for _ in range(limits.MAX_CRYPTO_SEGMENTS + 1):
        assert state.closing is None
        forger.send(bytes([f.CRYPTO, 1]) + encode_varint(1000) + bytes(1000))
    assert state.closing is not None
    assert state.closing.error_code == f.CRYPTO_BUFFER_EXCEEDED


def test_answers_to_challenges_wait_for_acks() -> None:
    """RFC 9000 §8.2.2: a PATH_RESPONSE is subject to congestion control."""
    pair = settled()
    server, state = pair.server.connection, state_of(pair.server)
    forger = Forger(pair.server, pair.client.address)
    for number in range(1000):
        forger.send(bytes([f.PATH_CHALLENGE]) + number.to_bytes(8))
        server.trains_to_send(pair.now)
    assert state.congestion.in_flight_bytes <= 2 * state.congestion.window_bytes
    assert len(state.recovery.sent) < 50
    assert 0 < len(state.paths[0].responses) <= limits.MAX_PENDING_PATH_RESPONSES


@pytest.mark.parametrize("frames", [1, 100])
@pytest.mark.parametrize("probing", [True, False])
def test_a_flood_of_challenges_from_many_addresses_is_answered_within_all_limits(
    frames: int, probing: bool
) -> None:
    """RFC 9000 §8.1, §8.2.2: one response to a challenge at most, and to an address that is not
    proved three times what came from it, whatever is sent there. A move changes nothing of it."""
    pair = settled()
    forger = Forger(pair.server, pair.client.address)
    got: Counter[Address] = Counter()
    came: Counter[Address] = Counter()
    packets = 0
    for number in range(400):
        forger.source = (f"203.0.113.{number % 20}", 53)
        payload = b"".join(
            bytes([f.PATH_CHALLENGE]) + (number * frames + one).to_bytes(8) for one in range(frames)
        )
        packet = forger.packet(payload if probing else payload + bytes([f.PING]))
        came[forger.source] += len(packet)
        pair.server.receive(packet, forger.source, pair.now)
        for train in pair.server.connection.trains_to_send(pair.now):
            got[train.remote] += len(train.data)
            packets += len(train.datagrams())
        assert all(len(path.responses) <= 8 for path in state_of(pair.server).paths)
        if number % 100 == 99:
            pair.server = forger.victim = move(pair.server)
        pair.now += 0.001
    assert all(got[address] <= 3 * came[address] for address in came)
    assert packets <= 3 * 400  # of a challenge back, of the answers, of an ACK
    assert len(state_of(pair.server).paths) <= limits.MAX_PATHS
    assert len(state_of(pair.server).recovery.sent) < 500


def test_a_peer_that_acknowledges_nothing_gets_no_more_than_there_is_room_to_remember() -> None:
    pair = settled()
    server, state = pair.server.connection, state_of(pair.server)
    state.congestion.window_bytes = limits.MAX_FLIGHT_BYTES
    for uid in range(limits.MAX_SENT_RUNS + 10):
        server.send_ping(uid)
        server.trains_to_send(pair.now)
    assert len(state.recovery.sent) == limits.MAX_SENT_RUNS
    pair.run(seconds=10)
    assert state.closing is None
    assert state.recovery.sent == []
    assert state.pings_due == []


def test_too_many_records_of_probes_and_answers_close_the_connection() -> None:
    pair = settled()
    server, state = pair.server.connection, state_of(pair.server)
    for _ in range(2 * limits.MAX_SENT_RUNS + 1):
        state.recovery.probes_due = 1
        server.trains_to_send(pair.now)
    Forger(pair.server, pair.client.address).send(bytes([f.PING]))
    assert state.closing is not None
    assert state.closing.error_code == f.INTERNAL_ERROR


# --- ACKs and streams ---------------------------------------------------------------------------


def test_congestion_experienced_is_acknowledged_at_once() -> None:
    """RFC 9000 §13.2.1."""
    pair = settled()
    server, state = pair.server.connection, state_of(pair.server)
    forger = Forger(pair.server, pair.client.address)
    forger.send(bytes([f.PING]))
    server.trains_to_send(pair.now)
    for ecn, waits in ((1, True), (_CONGESTION_EXPERIENCED, False)):
        packet = forger.packet(bytes([f.PING]))
        server.receive_datagram(packet, pair.client.address, pair.now, ecn=ecn)
        assert (state.numbers.ack_at_us > state.clock_us) == waits
        state.numbers.unacked_eliciting = 0


def test_a_stream_that_we_skipped_is_open_to_the_peer() -> None:
    """RFC 9000 §2.1: opening a stream opens all lower ones of its type."""
    pair = settled()
    server, state = pair.server.connection, state_of(pair.server)
    server.send_stream_data(9, b"third of its type")
    forger = Forger(pair.server, pair.client.address)
    forger.send(bytes([f.STOP_SENDING, 1, 0]))
    assert state.closing is None
    forger.send(bytes([f.STOP_SENDING, 13, 0]))
    assert state.closing is not None
    assert state.closing.error_code == f.STREAM_STATE_ERROR


# --- MTU ----------------------------------------------------------------------------------------


def test_a_download_survives_a_path_that_loses_its_mtu() -> None:
    """With nothing but full-sized packets in flight no ACK ever tells of a loss: RFC 8899 §4.3."""
    pair = settled()
    server = pair.server.connection
    size = 600_000
    server.send_stream_data(1, bytes(size), end_stream=True)
    pair.run(seconds=0.05)
    assert state_of(pair.server).paths[0].mtu_bytes > 1300
    pair.link.change(Conditions(mtu_bytes=1300))

    def arrived() -> bool:
        stream = state_of(pair.client).streams.get(1)
        return stream is None or (stream.receive is not None and stream.receive.final == size)

    pair.run(arrived, seconds=10)
    assert state_of(pair.server).paths[0].mtu_bytes <= 1300


# --- endings ------------------------------------------------------------------------------------


def test_a_close_that_finds_the_key_worn_out_is_sent() -> None:
    """RFC 9001 §6.6: the last packets of a key are for saying that the connection is over."""
    pair = settled()
    server, state = pair.server.connection, state_of(pair.server)
    state.protection.sent_with_key = (1 << 23) - 1024
    state.protection.send_acked = False
    server.close(7)
    assert len(server.trains_to_send(pair.now)) == 1


def test_a_moved_client_lets_session_tickets_go() -> None:
    pair = settled()
    baton = pair.cluster.pack(pair.client.connection, now=pair.now)
    connection = pair.cluster.unpack(baton, now=pair.now).connection
    pair.client.resume(connection, None, b"")
    Forger(pair.client, pair.server.address).send(bytes([f.CRYPTO, 0, 4]) + b"\4\0\0\0")
    assert connection._state.closing is None


def test_the_id_limit_of_the_handshake_holds_at_an_owner_with_another_one() -> None:
    pair = settled()
    state = state_of(pair.server)
    state.local = replace(state.local, active_connection_id_limit=limits.MAX_PEER_IDS + 2)
    baton = pair.cluster.pack(pair.server.connection, now=pair.now)
    pair.server.resume(pair.cluster.unpack(baton, now=pair.now).connection, None, b"")
    state = state_of(pair.server)
    forger = Forger(pair.server, pair.client.address)
    sequence = state.ids.peer_seen[-1]
    for _ in range(state.local.active_connection_id_limit - len(state.ids.peer)):
        forger.send(bytes([f.NEW_CONNECTION_ID, sequence, 0, 8]) + bytes([sequence] * 24))
        sequence += 1
        assert state.closing is None
    forger.send(bytes([f.NEW_CONNECTION_ID, sequence, 0, 8]) + bytes([sequence] * 24))
    assert state.closing is not None
    assert state.closing.error_code == f.CONNECTION_ID_LIMIT_ERROR
