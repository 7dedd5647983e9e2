"""The state that promotion takes from aioquic, for real handshakes of every kind."""

from __future__ import annotations

import pytest
from aioquic.quic.crypto import derive_key_iv_hp
from aioquic.tls import CipherSuite, Epoch
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import msgpack

from quicbaton.errors import ConfigurationError, RefusedError
from quicbaton.handshake import ready
from quicbaton.limits import MAX_PEER_IDS
from quicbaton.transport import frames as f
from quicbaton.transport import rangeset
from quicbaton.transport.packets.cipher import KeySchedule, header_key
from quicbaton.transport.packets.protection import PacketProtection
from quicbaton.transport.state import (
    NEVER,
    NONE,
    ConnectionState,
    DatagramEvent,
    HandshakeCompletedEvent,
    NegotiatedEvent,
    StreamDataEvent,
)
from tests.handshake.aioquic_pair import (
    CLIENT_ADDRESS,
    CLIENT_CID,
    FIRST_DESTINATION,
    SERVER_ADDRESS,
    SERVER_CID,
    TOKEN,
    V1,
    V2,
    Pair,
    certificate,
)

CIPHERS = [
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
]


def assert_plain_data(state: ConnectionState) -> None:
    """The state survives encoding, in exactly the declared types."""
    assert msgpack.decode(msgpack.encode(state), type=ConnectionState) == state
    assert state.clock_us >= 0


def open_with(state: ConnectionState, datagram: bytes) -> list[tuple[int, bytes]]:
    protection = PacketProtection(state.protection)
    cid = state.ids.local[0].cid
    opened = protection.open([datagram], len(cid), state.numbers.largest_received, 0, 0)
    return [result for result in opened if result is not None]


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("cipher", CIPHERS)
def test_keys_of_both_ends_fit_each_other(version: int, cipher: CipherSuite) -> None:
    pair = Pair(version=version, cipher=cipher)
    pair.until_client_ready()
    server = pair.promote_server().state.protection
    client = pair.promote_client().state.protection
    assert (server.version, server.cipher) == (version, cipher)
    assert (server.send, server.send_hp) == (client.recv, client.recv_hp)
    assert (server.recv, server.recv_hp) == (client.send, client.send_hp)
    crypto = pair.server._cryptos[Epoch.ONE_RTT].send
    assert crypto.secret is not None
    key, iv, hp = derive_key_iv_hp(cipher_suite=cipher, secret=crypto.secret, version=version)
    assert server.send.secret == crypto.secret
    assert KeySchedule(version, cipher, server.send).key_and_iv() == (key, iv)
    assert server.send_hp == b""
    assert header_key(version, cipher, b"", server.send) == hp


@pytest.mark.parametrize("cipher", CIPHERS)
def test_promoted_server_reads_what_aioquics_client_sends_and_is_read_by_it(
    cipher: CipherSuite,
) -> None:
    pair = Pair(cipher=cipher)
    pair.until_server_ready()
    state = pair.promote_server().state
    pair.client.send_stream_data(0, b"hello", end_stream=True)
    (request,) = pair.from_client()
    opened = open_with(state, request)
    assert [b"hello" in payload for _, payload in opened] == [True]

    protection = PacketProtection(state.protection)
    sealed = protection.seal(
        state.ids.peer[0].cid, state.numbers.next_number, 2, [bytes([f.HANDSHAKE_DONE, f.PING])]
    )
    assert not ready(pair.client)
    pair.to_client(sealed)
    assert ready(pair.client)


def test_server_right_at_completion() -> None:
    pair = Pair()
    pair.until_server_ready()
    promotion = pair.promote_server()
    state = promotion.state
    assert_plain_data(state)
    assert promotion.tls is None
    assert not promotion.key_update_wanted
    assert not state.is_client
    assert state.original_id == FIRST_DESTINATION
    assert (state.alpn, state.server_name) == ("h3", "example.test")
    assert not state.early_data_accepted
    assert not state.session_resumed
    assert state.peer_certificates == []
    assert (state.handshake_done_due, state.handshake_done_acked) == (True, False)
    assert state.recovery.sent == []
    assert state.congestion.in_flight_bytes == 0
    # Higher than anything sent: Initial and Handshake packets share the counter.
    assert state.numbers.next_number == pair.server._packet_number > 0
    assert state.numbers.largest_acked == NONE
    assert state.events == [
        NegotiatedEvent("h3"),
        HandshakeCompletedEvent("h3", early_data_accepted=False, session_resumed=False),
    ]


def test_server_ids_path_and_alias() -> None:
    pair = Pair()
    pair.until_server_ready()
    state = pair.promote_server().state
    ids = state.ids
    (own,) = ids.local
    assert (own.sequence, own.cid, own.token, own.due, own.acked) == (
        0,
        SERVER_CID,
        TOKEN,
        False,
        True,
    )
    assert (ids.local_next_sequence, ids.local_sent, ids.local_limit) == (1, 1, MAX_PEER_IDS)
    (peer,) = ids.peer
    assert (peer.sequence, peer.cid, peer.path) == (0, CLIENT_CID, 0)
    assert ids.peer_seen == [0, 1]
    assert ids.alias == FIRST_DESTINATION
    recovery = state.recovery
    pto_us = recovery.smoothed_rtt_us + 4 * recovery.rtt_variation_us + 25_000
    assert ids.alias_until_us == state.clock_us + 3 * pto_us
    (path,) = state.paths
    assert (path.remote, path.local) == (CLIENT_ADDRESS, SERVER_ADDRESS)
    assert path.validated
    assert path.received_bytes == pair.server._network_paths[0].bytes_received


def test_alias_after_a_retry_is_the_id_that_the_retry_gave() -> None:
    retry_cid = b"retry-id"
    pair = Pair(retry_from=retry_cid)
    pair.until_server_ready()
    state = pair.promote_server().state
    assert state.ids.alias == retry_cid
    assert state.original_id == FIRST_DESTINATION


def test_client_right_at_confirmation() -> None:
    pair = Pair()
    pair.until_client_ready()
    promotion = pair.promote_client()
    state = promotion.state
    assert_plain_data(state)
    assert promotion.tls is not None
    assert state.is_client
    assert (state.handshake_done_due, state.handshake_done_acked) == (False, True)
    assert state.peer_certificates == [certificate()[0].public_bytes(Encoding.DER)]
    assert (state.ids.alias, state.ids.alias_until_us) == (b"", NEVER)
    assert state.ids.local[0].token == b""
    assert state.ids.peer[0].token == TOKEN
    # HANDSHAKE_DONE has been received and awaits our acknowledgement.
    assert state.numbers.received == [
        state.numbers.largest_received,
        state.numbers.largest_received + 1,
    ]
    assert state.numbers.unacked_eliciting == 1
    assert state.numbers.ack_at_us >= state.numbers.largest_received_at_us


def test_rtt_and_times_are_in_connection_time() -> None:
    pair = Pair()
    pair.until_server_ready()
    promotion = pair.promote_server()
    recovery = promotion.state.recovery
    assert recovery.has_rtt
    assert recovery.smoothed_rtt_us == recovery.min_rtt_us == 20_000
    assert promotion.origin_s + promotion.state.clock_us / 1e6 == pytest.approx(pair.now)


def test_parameters_are_read_from_the_wire() -> None:
    pair = Pair(
        client={"idle_timeout": 7.0, "max_datagram_frame_size": 1200, "max_stream_data": 4242},
        server={"idle_timeout": 30.0, "max_data": 777_777},
    )
    # aioquic keeps no peer's ack_delay_exponent; a peer of another make may send any.
    pair.client._local_ack_delay_exponent = 7
    pair.until_server_ready()
    state = pair.promote_server().state
    assert state.remote.ack_delay_exponent == 7
    assert state.remote.max_idle_timeout_ms == 7_000
    assert state.remote.max_datagram_frame_bytes == 1200
    assert state.remote.stream_data_bidi_local == 4242
    assert state.local.max_datagram_frame_bytes == 0
    assert state.local.active_connection_id_limit == MAX_PEER_IDS
    assert state.idle_timeout_us == 7_000_000
    assert state.flow.receive_limit == state.flow.window_bytes == 777_777


@pytest.mark.parametrize(("client", "expected"), [(0.0, 30_000_000), (30.0, 30_000_000)])
def test_idle_timeout_zero_means_none(client: float, expected: int) -> None:
    pair = Pair(client={"idle_timeout": client}, server={"idle_timeout": 30.0})
    pair.until_server_ready()
    assert pair.promote_server().state.idle_timeout_us == expected


def test_client_with_an_empty_id_is_promoted_on_both_sides() -> None:
    pair = Pair(client={"connection_id_length": 0})
    pair.until_client_ready()
    server = pair.promote_server().state
    client = pair.promote_client().state
    assert server.ids.peer[0].cid == client.ids.local[0].cid == b""
    assert_plain_data(server)
    assert_plain_data(client)


def test_half_received_streams_and_datagrams_are_carried() -> None:
    pair = Pair(server={"max_datagram_frame_size": 65_535})
    pair.until_client_ready()
    client = pair.client
    client.send_stream_data(0, b"a")
    client.send_stream_data(4, b"hello")
    client.send_stream_data(2, b"uni", end_stream=True)
    client.send_datagram_frame(b"unreliable")
    pair.to_server(pair.all_from_client())
    client.send_stream_data(0, b"a" * 2999, end_stream=True)
    datagrams = pair.all_from_client()
    pair.to_server([datagrams[0], *datagrams[2:]])  # the second is lost
    state = pair.promote_server().state
    assert_plain_data(state)
    stream = state.streams[0]
    assert stream.send is not None
    assert stream.receive is not None
    half = stream.receive
    assert 0 < half.delivered < half.highest == half.final == 3000
    assert half.taken == half.consumed == 0
    ((start, data),) = half.segments
    assert start + len(data) == 3000
    data_events = [event for event in state.events if isinstance(event, StreamDataEvent)]
    assert StreamDataEvent(4, b"hello", end_stream=False) in data_events
    assert StreamDataEvent(2, b"uni", end_stream=True) in data_events
    assert DatagramEvent(b"unreliable") in state.events
    # Read to its end, but not by the application yet.
    assert state.streams[2].send is None
    assert state.streams[2].receive is not None
    assert state.streams[2].receive.fin_delivered
    assert state.flow.receive_used == 3008
    assert state.flow.receive_consumed == 0
    assert state.flow.peer_streams_seen == [2, 1]
    # The lost packet leaves a gap; all others are remembered as received.
    received = pair.server._spaces[Epoch.ONE_RTT].ack_queue
    assert state.numbers.received == [bound for r in received for bound in (r.start, r.stop)]


def test_what_a_client_has_sent_and_not_sent_is_carried() -> None:
    pair = Pair(client={"max_datagram_size": 1200})
    pair.until_client_ready()
    pair.to_server(pair.from_client())
    pair.client.send_stream_data(0, b"x" * 20_000, end_stream=True)
    pair.client.send_ping(7)
    pair.client._local_max_data.sent = 0  # as after a loss of MAX_DATA
    sent = pair.from_client()
    state = pair.promote_client().state
    assert_plain_data(state)
    runs = state.recovery.sent
    assert state.congestion.in_flight_bytes == sum(map(len, sent)) == sum(r.size for r in runs)
    assert state.recovery.eliciting_in_flight == len(runs) == len(sent)
    assert [run.first for run in runs] == sorted(run.first for run in runs)
    frames = [frame for run in runs for frame in run.frames]
    assert (f.PING, 8, 0, 0, 0) in frames
    assert (f.MAX_DATA, state.flow.receive_limit, 0, 0, 0) in frames
    half = state.streams[0].send
    assert half is not None
    assert half.base == 0 < half.next < half.end == 20_000
    assert b"".join(half.chunks) == b"x" * 20_000
    assert (half.fin_written, half.fin_due, half.lost) == (True, True, [])
    carried: list[int] = []
    for frame in frames:
        if frame[0] == f.STREAM:
            rangeset.add(carried, frame[2], frame[2] + frame[3])
    assert carried == [0, half.next]
    assert state.flow.send_used == half.next
    assert state.order == [0]


def test_lost_bytes_are_to_be_sent_again() -> None:
    pair = Pair()
    pair.until_client_ready()
    pair.client.send_stream_data(0, b"y" * 5000, end_stream=True)
    _, *others = pair.all_from_client()
    assert len(others) >= 4
    pair.to_server(others)
    pair.advance(0.1)
    pair.to_client(pair.from_server())  # the ACK proves that the first is lost
    state = pair.promote_client().state
    half = state.streams[0].send
    assert half is not None
    assert half.lost
    assert half.lost[0] == 0
    assert half.acked[-1] == 5000
    assert half.fin_acked
    assert 0 in state.order


def test_finished_streams_are_numbers_only() -> None:
    pair = Pair()
    pair.until_client_ready()
    pair.client.send_stream_data(0, b"ping", end_stream=True)
    pair.client.send_stream_data(4, b"open")
    pair.to_server(pair.from_client())
    pair.server.send_stream_data(0, b"pong", end_stream=True)
    pair.to_client(pair.from_server())
    pair.advance(0.1)
    pair.to_server(pair.from_client())
    while pair.server.next_event() is not None:
        pass
    pair.advance(0.1)
    pair.from_server()
    state = pair.promote_server().state
    assert state.finished[0] == [0, 1]
    assert set(state.streams) == {4}
    assert state.flow.peer_streams_closed == [1, 0]
    assert state.flow.receive_consumed == state.flow.receive_used == 8


def test_reset_and_stop_sending_are_carried() -> None:
    pair = Pair()
    pair.until_client_ready()
    for stream_id in (0, 4):
        pair.client.send_stream_data(stream_id, b"some data")
    pair.to_server(pair.from_client())
    pair.client.reset_stream(0, 77)
    pair.client.stop_stream(4, 78)
    in_flight = pair.from_client()
    client = pair.promote_client().state
    frames = [frame[:3] for run in client.recovery.sent for frame in run.frames]
    assert (f.RESET_STREAM, 0, 77) in frames
    assert (f.STOP_SENDING, 4, 78) in frames
    reset = client.streams[0].send
    stopped = client.streams[4].receive
    assert reset is not None
    assert stopped is not None
    assert (reset.reset_code, reset.reset_final, reset.reset_due) == (77, 9, False)
    assert (stopped.stop_code, stopped.stop_due) == (78, False)

    pair.to_server(in_flight)
    server = pair.promote_server().state
    assert_plain_data(server)
    received = server.streams[0].receive
    answered = server.streams[4].send
    assert received is not None
    assert answered is not None
    # All bytes before the reset had been delivered; the reset event follows them.
    assert received.final == 9
    assert (answered.reset_code, answered.reset_due) == (78, True)


def test_streams_beyond_the_peers_limit_wait() -> None:
    pair = Pair()
    pair.server._local_max_streams_bidi.value = pair.server._local_max_streams_bidi.sent = 1
    pair.until_client_ready()
    pair.client.send_stream_data(0, b"allowed")
    pair.client.send_stream_data(4, b"must wait")
    state = pair.promote_client().state
    assert state.flow.own_streams_limit[0] == 1
    assert state.flow.own_streams_opened[0] == 2
    assert state.flow.own_streams_blocked_due[0]
    assert state.flow.own_streams_blocked_at[0] == 1
    assert state.order == [0]
    waiting = state.streams[4].send
    assert waiting is not None
    # The limit of the stream itself is what the peer's parameters say.
    assert waiting.limit == state.remote.stream_data_bidi_remote


def test_unprepared_connection_brings_the_ids_that_aioquic_issued() -> None:
    pair = Pair(prepared=False)
    pair.until_server_ready()
    before = pair.promote_server().state.ids
    assert len(before.local) == 8
    assert [own.due for own in before.local] == [False] + [True] * 7
    assert (before.local_sent, before.local_next_sequence) == (1, 8)
    in_flight = pair.from_server()
    after = pair.promote_server().state
    assert [own.due for own in after.ids.local] == [False] * 8
    assert [own.acked for own in after.ids.local] == [True] + [False] * 7
    assert after.ids.local_sent == 8
    assert after.handshake_done_due is after.handshake_done_acked is False
    frames = {frame[:2] for run in after.recovery.sent for frame in run.frames}
    assert frames >= {(f.NEW_CONNECTION_ID, sequence) for sequence in range(1, 8)}
    pair.to_client(in_flight)
    client = pair.promote_client().state.ids
    assert client.peer_seen == [0, 8]
    assert [peer.path for peer in client.peer] == [0] + [NONE] * 7


def test_session_tickets_pending_in_the_crypto_stream_are_carried() -> None:
    pair = Pair(tickets={})
    pair.until_server_ready()
    crypto = pair.promote_server().state.crypto
    assert crypto.data
    assert crypto.due == [0, len(crypto.data)]
    assert crypto.base == 0


@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {0, 1}, {1, 3}, {0, 2, 4}])
def test_handshake_with_lost_datagrams_is_promoted(lost: set[int]) -> None:
    """Loss in the handshake leaves PTO counts, gaps and probes behind."""
    pair = Pair()
    pair.connect()
    count = 0
    while not ready(pair.server):
        quiet = True
        for collect, deliver in (
            (pair.from_client, pair.to_server),
            (pair.from_server, pair.to_client),
        ):
            for datagram in collect():
                quiet = False
                if count not in lost and not ready(pair.server):
                    deliver([datagram])
                count += 1
        if quiet:
            pair.fire_timers()
        assert count < 50
    state = pair.promote_server().state
    assert_plain_data(state)
    assert state.numbers.next_number == pair.server._packet_number
    assert state.recovery.pto_count == 0
    assert state.handshake_done_due or state.recovery.sent


def test_request_coalesced_with_the_finished_is_in_the_events() -> None:
    pair = Pair()
    pair.connect()
    pair.to_server(pair.from_client())
    pair.to_client(pair.from_server())
    pair.client.send_stream_data(0, b"early bird", end_stream=True)
    (datagram,) = pair.from_client()
    assert datagram[0] & 0x80  # a long header first: one datagram with both
    pair.to_server([datagram])
    state = pair.promote_server().state
    assert state.events[-1] == StreamDataEvent(0, b"early bird", end_stream=True)
    assert state.numbers.unacked_eliciting == 1


def test_key_update_before_promotion_keeps_header_protection() -> None:
    pair = Pair()
    pair.until_client_ready()
    pair.to_server(pair.from_client())
    pair.client.request_key_update()
    pair.client.send_stream_data(0, b"new keys")
    pair.to_server(pair.from_client())
    state = pair.promote_server().state
    assert (state.protection.send_generation, state.protection.recv_generation) == (1, 1)
    pair.client.send_stream_data(0, b"under the updated key")
    (datagram,) = pair.from_client()
    opened = open_with(state, datagram)
    assert [b"under the updated key" in payload for _, payload in opened] == [True]
    # And what we seal next is read by the client, in the new phase.
    sealed = PacketProtection(state.protection).seal(
        CLIENT_CID, state.numbers.next_number, 2, [b"\x1e\x01"]
    )
    before = pair.client._spaces[Epoch.ONE_RTT].largest_received_packet
    pair.to_client(sealed)
    after = pair.client._spaces[Epoch.ONE_RTT].largest_received_packet
    assert before < after == state.numbers.next_number


def test_key_update_asked_for_too_early_is_reported() -> None:
    pair = Pair()
    pair.server.request_key_update()
    pair.until_server_ready()
    assert pair.promote_server().key_update_wanted


def test_unready_connection_is_refused() -> None:
    pair = Pair()
    pair.connect()
    with pytest.raises(RefusedError) as refusal:
        pair.promote_client()
    assert refusal.value.code == "not_ready"


def test_unknown_congestion_control_is_refused() -> None:
    pair = Pair()
    pair.until_server_ready()
    pair.server.configuration.congestion_control_algorithm = "psychic"
    with pytest.raises(ConfigurationError, match="psychic"):
        pair.promote_server()
