"""Attacks on the transport: the memory that a peer can take, and how the connection ends.

Counts and bytes are asserted, never times. The cost of an ACK is in `test_recovery`, paths are in
`test_paths`, and the memory of all connections together is in `test_budget`.
"""

from __future__ import annotations

import msgspec
import pytest

from quicbaton import limits
from quicbaton.testing import Pair
from quicbaton.transport import frames as f
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.packets.cipher import (
    NONCE_BYTES,
    KeySchedule,
    header_key,
    next_keys,
    suite_of,
)
from quicbaton.transport.state import ConnectionState
from tests.transport.forge import Forger, state_of
from tests.transport.stream_wire import Node, pair

#: Payload bytes of an attacker's packet.
ROOM = 1150
#: How much a connection's encoded state may grow by what costs its peer nothing.
ALLOWED_BYTES = 1500


class Attacker(Forger):
    """A client with a server's attention; `send_all` fills packets with its frames."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.pair.connect()
        self.pair.run(seconds=1)
        self.pair.server.take_events()
        super().__init__(self.pair.server, self.pair.client.address)
        self.state: ConnectionState = state_of(self.pair.server)
        self.state.numbers.skip_at = 1 << 40
        self._acked = self.state.numbers.next_number

    def send_all(self, frames: list[bytes]) -> None:
        """In as few packets as hold them, until the connection closes; the program takes its
        events after each."""
        at = 0
        while at < len(frames) and self.state.closing is None:
            packet = b""
            while at < len(frames) and len(packet) + len(frames[at]) <= ROOM:
                packet += frames[at]
                at += 1
            self.send(packet)
            self.victim.take_events()
            self.victim.connection.trains_to_send(self.pair.now)

    def acknowledge(self) -> None:
        """All that the server has sent since the last time."""
        following = self.state.numbers.next_number
        if following > self._acked:
            self.send(frame(f.ACK, following - 1, 0, 0, following - 1 - self._acked))
            self._acked = following

    def wait(self, seconds: float) -> None:
        """Let time pass for the server alone."""
        self.pair.now += seconds
        self.victim.connection.handle_timer(self.pair.now)
        self.victim.connection.trains_to_send(self.pair.now)

    @property
    def close_code(self) -> int | None:
        return None if self.state.closing is None else self.state.closing.error_code


def frame(*values: int, rest: bytes = b"") -> bytes:
    return b"".join(map(encode_varint, values)) + rest


def stream(stream_id: int, offset: int, data: bytes) -> bytes:
    kind = f.STREAM | f.STREAM_OFF | f.STREAM_LEN
    return frame(kind, stream_id, offset, len(data), rest=data)


def size_of(state: ConnectionState) -> int:
    return len(msgspec.msgpack.encode(state))


# --- memory -------------------------------------------------------------------------------------


def test_gapped_streams_are_bounded_over_all_streams() -> None:
    """Every other byte of many streams: an object of 150 bytes for each byte."""
    attacker = Attacker()
    streams = range(0, 4 * 100, 4)
    attacker.send_all([stream(n, 1 + 2 * at, b"x") for at in range(200) for n in streams])
    assert attacker.close_code == f.INTERNAL_ERROR
    segments = sum(
        len(half.segments)
        for one in attacker.state.streams.values()
        if (half := one.receive) is not None
    )
    assert segments == 0  # a connection that is over keeps nothing
    node = Node(attacker.state)
    assert node.streams.held_bytes() <= 2 * (limits.MAX_CONNECTION_SEGMENTS + 1)


def test_gaps_that_are_filled_or_given_up_count_no_more() -> None:
    attacker = Attacker()
    for first in (0, 40, 80):
        streams = [first + 4 * n for n in range(10)]
        attacker.send_all([stream(n, 1 + 2 * at, b"x") for at in range(400) for n in streams])
        attacker.send_all([stream(n, 0, bytes(801)) for n in streams[:5]])
        attacker.send_all([frame(f.RESET_STREAM, n, 7, 801) for n in streams[5:]])
        attacker.acknowledge()
    assert attacker.close_code is None
    for one in attacker.state.streams.values():
        assert one.receive is not None
        assert one.receive.segments == []


def test_crypto_is_not_hoarded() -> None:
    attacker = Attacker()
    attacker.send_all([frame(f.CRYPTO, 1 + 2 * at, 1, rest=b"x") for at in range(1000)])
    assert attacker.close_code == f.CRYPTO_BUFFER_EXCEEDED
    assert len(attacker.state.crypto.segments) <= limits.MAX_CRYPTO_SEGMENTS


def test_crypto_far_ahead_is_refused() -> None:
    attacker = Attacker()
    attacker.send_all([frame(f.CRYPTO, limits.MAX_CRYPTO_BUFFER_BYTES, 1, rest=b"x")])
    assert attacker.close_code == f.CRYPTO_BUFFER_EXCEEDED


def test_numbers_with_gaps_are_remembered_up_to_a_limit() -> None:
    attacker = Attacker()
    for _ in range(2000):
        attacker.number += 1
        attacker.send(bytes([f.PING]))
        attacker.victim.connection.trains_to_send(attacker.pair.now)
    assert attacker.close_code is None
    assert len(attacker.state.numbers.received) <= 2 * limits.MAX_RECEIVED_RANGES


def test_slow_streams_cost_what_they_sent() -> None:
    """A byte now and then on as many streams as there may be."""
    attacker = Attacker()
    for at in range(20):
        attacker.send_all([stream(4 * n, at, b"x") for n in range(128)])
        attacker.wait(1.0)
        attacker.acknowledge()
    assert attacker.close_code is None
    assert len(attacker.state.streams) == 128
    assert attacker.state.flow.receive_used == 20 * 128
    assert Node(attacker.state).streams.held_bytes() == 0
    attacker.send_all([stream(4 * 128, 0, b"x")])
    assert attacker.close_code == f.STREAM_LIMIT_ERROR


# --- connection IDs -----------------------------------------------------------------------------


def new_id(sequence: int, retire_prior_to: int) -> bytes:
    cid = sequence.to_bytes(8, "big")
    return frame(f.NEW_CONNECTION_ID, sequence, retire_prior_to, rest=b"\x08" + cid + cid + cid)


def test_new_connection_ids_that_retire_one_another_end_the_connection() -> None:
    """CVE-2024-22189: retirements that the peer does not acknowledge."""
    attacker = Attacker()
    first = attacker.state.ids.peer_seen[-1]
    attacker.send_all([new_id(n, n) for n in range(first, first + 1000)])
    assert attacker.close_code == f.CONNECTION_ID_LIMIT_ERROR
    ids = attacker.state.ids
    pending = len(ids.peer_retire_due) + len(ids.peer_retire_unacked)
    assert pending <= limits.MAX_PENDING_RETIREMENTS + 1


def test_new_connection_ids_with_gaps_end_the_connection() -> None:
    attacker = Attacker()
    first = attacker.state.ids.peer_seen[-1] + 1
    attacker.send_all([new_id(n, n) for n in range(first, first + 2000, 2)])
    assert attacker.close_code == f.CONNECTION_ID_LIMIT_ERROR
    assert len(attacker.state.ids.peer_seen) <= 2 * limits.MAX_PENDING_RETIREMENTS + 4


def test_more_connection_ids_than_the_limit_end_the_connection() -> None:
    attacker = Attacker()
    first = attacker.state.ids.peer_seen[-1]
    attacker.send_all([new_id(n, 0) for n in range(first, first + 100)])
    assert attacker.close_code == f.CONNECTION_ID_LIMIT_ERROR
    assert len(attacker.state.ids.peer) <= limits.MAX_PEER_IDS + 1


def test_retiring_all_that_we_issue_costs_a_round_trip_each_time() -> None:
    attacker = Attacker()
    ids = attacker.state.ids
    attacker.send_all([bytes([f.PING])])
    before = size_of(attacker.state)
    for _ in range(300):
        spare = [local.sequence for local in ids.local[1:] if local.sequence < ids.local_sent]
        attacker.send_all([frame(f.RETIRE_CONNECTION_ID, sequence) for sequence in spare] * 3)
        attacker.acknowledge()
        assert len(ids.local) <= limits.MAX_LOCAL_IDS
    assert attacker.close_code is None
    assert size_of(attacker.state) < before + ALLOWED_BYTES
    attacker.send_all([frame(f.RETIRE_CONNECTION_ID, ids.local_sent + 5)])
    assert attacker.close_code == f.PROTOCOL_VIOLATION


# --- floods that change nothing -----------------------------------------------------------------

FLOODS = {
    "ping": lambda _n: bytes([f.PING]),
    "empty stream frame": lambda _n: stream(0, 0, b""),
    "the same byte": lambda _n: stream(0, 0, b"x"),
    "max_data": lambda n: frame(f.MAX_DATA, (1 << 40) + n),
    "max_stream_data": lambda n: frame(f.MAX_STREAM_DATA, 0, (1 << 40) + n),
    "max_streams": lambda n: frame(f.MAX_STREAMS_BIDI, 1000 + n),
    "data_blocked": lambda n: frame(f.DATA_BLOCKED, n),
    "stream_data_blocked": lambda n: frame(f.STREAM_DATA_BLOCKED, 0, n),
    "streams_blocked": lambda n: frame(f.STREAMS_BLOCKED_UNI, n),
    "the same reset": lambda _n: frame(f.RESET_STREAM, 0, 7, 1),
    "the same stop": lambda _n: frame(f.STOP_SENDING, 0, 7),
    "ack of nothing": lambda _n: frame(f.ACK, 0, 0, 0, 0),
    "the same retirement": lambda _n: frame(f.RETIRE_CONNECTION_ID, 1),
    "empty crypto": lambda _n: frame(f.CRYPTO, 0, 0),
    "path challenge": lambda n: bytes([f.PATH_CHALLENGE]) + n.to_bytes(8, "big"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames_without_news_leaves_nothing_behind(name: str) -> None:
    attacker = Attacker()
    attacker.send_all([stream(0, 0, b"x")])
    attacker.acknowledge()
    before = size_of(attacker.state)
    for start in range(0, 10_000, 500):
        attacker.send_all([FLOODS[name](n) for n in range(start, start + 500)])
        attacker.acknowledge()
        assert len(attacker.state.events) <= 4
        assert len(attacker.state.recovery.sent) <= 40
    assert attacker.close_code is None
    assert size_of(attacker.state) < before + ALLOWED_BYTES


def test_stream_limits_of_the_peer_s_cost_nothing_for_streams_that_are_not_there() -> None:
    attacker = Attacker()
    attacker.send_all([frame(f.MAX_STREAMS_BIDI, 1 << 60), frame(f.MAX_STREAMS_UNI, 1 << 60)])
    assert attacker.close_code is None
    assert len(attacker.state.streams) == 0
    attacker.send_all([frame(f.MAX_STREAMS_BIDI, (1 << 60) + 1)])
    assert attacker.close_code == f.FRAME_ENCODING_ERROR


# --- rapid reset --------------------------------------------------------------------------------


def opened_by_resets(attacker: Attacker, seconds: int) -> int:
    """How many one-way streams a client can open and reset, going to the limit all the time."""
    opened = 0
    for _ in range(100 * seconds):
        limit = attacker.state.flow.peer_streams_limit[1]
        attacker.send_all([frame(f.RESET_STREAM, 4 * n + 2, 7, 0) for n in range(opened, limit)])
        opened = max(opened, limit)
        attacker.wait(0.01)
        attacker.acknowledge()
    return opened


@pytest.mark.parametrize("seconds", [1, 5])
def test_streams_are_opened_and_reset_no_faster_than_allowed(seconds: int) -> None:
    """CVE-2023-44487 on QUIC's own level."""
    attacker = Attacker()
    opened = opened_by_resets(attacker, seconds)
    assert attacker.close_code is None
    allowed = limits.ABORTED_STREAMS_BURST + seconds * limits.ABORTED_STREAMS_PER_S
    assert allowed - 50 < opened <= allowed + 128
    assert attacker.state.streams == {}
    assert sum(map(len, attacker.state.finished)) <= 4


def test_a_client_that_waited_gets_all_its_streams_back() -> None:
    attacker = Attacker()
    opened = opened_by_resets(attacker, 1)
    while attacker.state.flow.peer_streams_withheld != [0, 0]:
        at = attacker.victim.connection.get_timer()
        assert at is not None  # nothing but a timer can give them back
        attacker.wait(max(0.001, at - attacker.pair.now))
        attacker.acknowledge()
    assert attacker.state.flow.peer_streams_closed[1] == opened


def test_streams_that_we_are_made_to_reset_count_as_well() -> None:
    """CVE-2025-8671: the peer does not reset, it makes us."""
    client, server = pair()
    flow = server.state.flow
    for n in range(128):
        server.streams.on_stream(4 * n, 0, b"request", True, 0)
        server.streams.on_stop_sending(4 * n, 7)
    flow.aborts_paid_at_us = 10 * 60 * 1_000_000  # there were many of them of late
    server.take_events()
    for packet in server.packets():
        server.acked(packet)
    assert server.state.streams == {}
    assert flow.peer_streams_withheld == [128, 0]
    assert flow.peer_streams_closed == [0, 0]
    assert client.state.streams == {}


def test_streams_that_end_by_themselves_are_given_back_at_once() -> None:
    _, server = pair()
    for n in range(2000):
        server.streams.on_stream(4 * n, 0, b"request", True, 0)
        server.take_events()
        server.streams.write(4 * n, b"answer", fin=True)
        for packet in server.packets():
            server.acked(packet)
    assert server.state.flow.peer_streams_withheld == [0, 0]
    assert server.state.flow.peer_streams_closed == [2000, 0]


# --- keys and acknowledgements ------------------------------------------------------------------


def updated(attacker: Attacker, updates: int) -> bytes:
    """A PING under the keys of so many updates from now."""
    protection = attacker.state.protection
    keys = protection.recv
    for _ in range(updates):
        keys = next_keys(protection.version, protection.cipher, keys)
    attacker.number += 1
    phase = (protection.recv_generation + updates) & 1
    head = bytes([0x43 | phase << 2]) + attacker.state.ids.local[0].cid
    context = KeySchedule(protection.version, protection.cipher, keys).packet_protection()
    nonce = (context.iv ^ attacker.number).to_bytes(NONCE_BYTES)
    low = (attacker.number & 0xFFFFFFFF).to_bytes(4)
    body = context.aead.encrypt(nonce, bytes([f.PING]) * 4, head + low)
    hp = header_key(protection.version, protection.cipher, protection.recv_hp, protection.recv)
    mask = suite_of(protection.cipher).masks(hp)(body[:16])
    hidden = bytes(a ^ b for a, b in zip(low, mask[1:5], strict=True))
    return bytes([head[0] ^ mask[0] & 0x1F]) + head[1:] + hidden + body


def test_keys_are_not_updated_again_before_we_sent_with_the_present_ones() -> None:
    """RFC 9001 §6.1: an update costs derivations, so it takes an ACK of the last."""
    attacker = Attacker()
    server, source = attacker.victim.connection, attacker.source
    server.receive_datagram(updated(attacker, 1), source, attacker.pair.now)
    assert attacker.close_code is None
    assert attacker.state.protection.recv_generation == 1
    server.receive_datagram(updated(attacker, 1), source, attacker.pair.now)
    assert attacker.close_code == f.KEY_UPDATE_ERROR
    assert attacker.state.protection.recv_generation == 1


def test_an_update_for_each_answer_keeps_no_keys_but_the_last_two() -> None:
    attacker = Attacker()
    before = size_of(attacker.state)
    for _ in range(100):
        data = updated(attacker, 1)
        attacker.victim.connection.receive_datagram(data, attacker.source, attacker.pair.now)
        attacker.wait(0.05)
        attacker.acknowledge()
    assert attacker.close_code is None
    assert attacker.state.protection.recv_generation == 100
    assert size_of(attacker.state) < before + ALLOWED_BYTES


def test_optimistic_acks_end_the_connection() -> None:
    """RFC 9000 §21.4: who acknowledges ahead meets a number that does not exist."""
    attacker = Attacker()
    following = attacker.state.numbers.next_number
    attacker.send_all([frame(f.ACK, following, 0, 0, 0)])
    assert attacker.close_code == f.PROTOCOL_VIOLATION
