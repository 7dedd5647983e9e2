"""The fixed bit at random, where the peer has said that it may be (RFC 9287)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicTransportParameters, push_quic_transport_parameters
from aioquic.tls import ExtensionType
from msgspec.structs import replace

from quicbaton.handshake.parameters import allows_grease
from quicbaton.testing import Pair, move
from quicbaton.transport.packets.protection import PacketProtection
from tests.transport.forge import state_of


def extension(*extra: bytes) -> list[tuple[int, bytes]]:
    buf = Buffer(capacity=512)
    push_quic_transport_parameters(buf, QuicTransportParameters(max_idle_timeout=1000))
    return [
        (0, b"another"),
        (ExtensionType.QUIC_TRANSPORT_PARAMETERS, buf.data + b"".join(extra)),
    ]


def test_the_parameter_is_found_among_others() -> None:
    grease, other = bytes.fromhex("6ab200"), bytes.fromhex("6ab301ff")
    assert allows_grease(extension(other, grease))
    assert allows_grease(extension(grease, other))
    assert not allows_grease(extension(other))
    assert not allows_grease([])
    assert not allows_grease(None)


@pytest.mark.parametrize("allowed", [True, False])
def test_the_bit_is_random_only_for_a_peer_that_allows_it_and_after_a_move_too(
    allowed: bool,
) -> None:
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    state = state_of(pair.server)
    state.remote = replace(state.remote, grease_quic_bit=allowed)
    for other_host in (False, True):
        pair.server = move(pair.server, other_host=other_host)
        bits = []
        for uid in range(200):
            pair.server.connection.send_ping(uid)
            bits += [data[0] & 0x40 for data, _ in pair.server.datagrams_to_send(pair.now)]
            state_of(pair.server).congestion.window_bytes += 100
        assert len(bits) >= 200
        if allowed:
            assert 60 < bits.count(0) < len(bits) - 60
            runs = sum(a != b for a, b in pairwise(bits))
            assert 60 < runs < len(bits) - 60  # nor by turns
        else:
            assert 0 not in bits


def test_packets_with_the_bit_cleared_are_whole() -> None:
    """Only the bit differs: it is authenticated with the rest of the header (RFC 9001 §5.3)."""
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    client, server = state_of(pair.client), state_of(pair.server)
    server.remote = replace(server.remote, grease_quic_bit=True)
    pair.server = move(pair.server)
    cid = client.ids.local[0].cid
    sealer = pair.server.connection._engine.protection
    first = state_of(pair.server).numbers.next_number
    packets = sealer.seal(cid, first, 2, [b"\1" * 20] * 9) + [
        packet
        for number in range(first + 9, first + 40)
        for packet in sealer.seal(cid, number, 2, [b"\1" * 20])
    ]
    assert any(not packet[0] & 0x40 for packet in packets)
    opener = PacketProtection(client.protection)
    opened = opener.open(packets, len(cid), client.numbers.largest_received, 0, 1)
    # We do not announce that we take them: none of ours is to lose its bit.
    for packet, result in zip(packets, opened, strict=True):
        assert (result is not None) == bool(packet[0] & 0x40)
