"""Routing decisions, one datagram at a time."""

from __future__ import annotations

import itertools

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import pull_quic_header
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.routing.long_header import (
    QUIC_V1,
    QUIC_V2,
    PacketType,
    build_version_negotiation,
    parse_long_header,
)
from quicbaton.routing.quic_lb import IdLayout, Place
from quicbaton.routing.route import (
    Drop,
    DropReason,
    Forward,
    Local,
    New,
    Reset,
    Route,
    VersionNegotiation,
    route,
)
from quicbaton.routing.table import RoutingTable

LAYOUT = IdLayout()
HERE = Place(1, 2)
SIBLING = Place(1, 3)  # another worker of this node
REMOTE = Place(2, 0)
STRANGER = Place(9, 9)
NOW = 1000.0
CLIENT_ID = b"\xe3client"  # config 7: never ours


def cid_of(place: Place, fill: int = 0x77) -> bytes:
    return LAYOUT.encode(place, bytes((fill,)) * 9)


def short(cid: bytes, size: int = 60) -> bytes:
    return (b"\x40" + cid).ljust(size, b"\x99")


TYPE_BITS = {
    QUIC_V1: {"initial": 0, "0-rtt": 1, "handshake": 2, "retry": 3},
    QUIC_V2: {"initial": 1, "0-rtt": 2, "handshake": 3, "retry": 0},
}


def long(
    cid: bytes,
    kind: str = "initial",
    *,
    version: int = QUIC_V1,
    token: bytes = b"",
    size: int = 1200,
    source_id: bytes = b"scid",
) -> bytes:
    bits = TYPE_BITS.get(version, TYPE_BITS[QUIC_V1])[kind]
    packet = bytes((0xC0 | bits << 4,)) + version.to_bytes(4, "big")
    packet += bytes((len(cid),)) + cid + bytes((len(source_id),)) + source_id
    if kind == "initial":
        packet += (0x4000 | len(token)).to_bytes(2, "big") + token
    return packet.ljust(size, b"\x00")


@pytest.fixture
def table() -> RoutingTable[str]:
    return RoutingTable(LAYOUT, HERE, [HERE, SIBLING, REMOTE])


def decide(table: RoutingTable[str], datagram: bytes, **options: bool) -> Route[str]:
    return route(datagram, table, NOW, **options)


def dropped(reason: DropReason) -> Drop:
    return Drop(reason)


# --- short headers ---


def test_known_id_is_local(table: RoutingTable[str]) -> None:
    table.add(cid_of(HERE), "connection")
    assert decide(table, short(cid_of(HERE))) == Local("connection")
    assert table.owners[short(cid_of(HERE))[1:13]] == "connection"  # the runtime's fast path


def test_a_late_datagram_of_a_retired_id_is_its_connections(table: RoutingTable[str]) -> None:
    """It overtook nothing that it could know of, and a reset would tell of a lost connection."""
    table.add(cid_of(HERE), "connection")
    table.retire(cid_of(HERE), NOW)
    assert decide(table, short(cid_of(HERE)), may_reset=True) == Local("connection")


def test_an_imported_connection_keeps_its_foreign_id(table: RoutingTable[str]) -> None:
    table.add(cid_of(REMOTE), "moved here")
    assert decide(table, short(cid_of(REMOTE))) == Local("moved here")


def test_stray_is_forwarded_to_the_new_owner(table: RoutingTable[str]) -> None:
    table.add(cid_of(HERE), "connection")
    table.forward(cid_of(HERE), "node-2:7000", NOW + 5)
    assert decide(table, short(cid_of(HERE))) == Forward("node-2:7000")
    assert decide(table, long(cid_of(HERE), "handshake")) == Forward("node-2:7000")


def test_stray_after_forwarding_is_dropped_and_never_reset(table: RoutingTable[str]) -> None:
    table.forward(cid_of(HERE), "node-2", NOW)  # expired, not swept yet
    assert decide(table, short(cid_of(HERE)), may_reset=True) == dropped(DropReason.TOMBSTONE)
    table.expire(NOW)
    assert decide(table, short(cid_of(HERE)), may_reset=True) == dropped(DropReason.TOMBSTONE)


def test_id_of_another_worker_or_node_is_tossed(table: RoutingTable[str]) -> None:
    assert decide(table, short(cid_of(SIBLING))) == Forward(SIBLING)
    assert decide(table, short(cid_of(REMOTE))) == Forward(REMOTE)


def test_strays_take_one_hop_at_most(table: RoutingTable[str]) -> None:
    table.forward(cid_of(HERE), "node-2", NOW + 5)
    for cid in (cid_of(HERE), cid_of(REMOTE)):
        assert decide(table, short(cid), forwarded=True) == dropped(DropReason.HOP_LIMIT)


def test_id_of_an_unknown_place_goes_nowhere(table: RoutingTable[str]) -> None:
    assert decide(table, short(cid_of(STRANGER))) == dropped(DropReason.UNKNOWN_PLACE)


def test_id_of_a_node_of_the_cluster_is_tossed_to_a_worker_that_was_never_met(
    table: RoutingTable[str],
) -> None:
    table.nodes = {STRANGER.node}
    assert decide(table, short(cid_of(STRANGER))) == Forward(STRANGER)
    assert decide(table, long(cid_of(STRANGER), "handshake")) == Forward(STRANGER)
    # IDs that clients chose name places by accident.
    assert isinstance(decide(table, long(cid_of(STRANGER))), New)
    assert decide(table, short(cid_of(STRANGER)), forwarded=True) == dropped(DropReason.HOP_LIMIT)
    assert decide(table, short(cid_of(Place(1, 9)))) == dropped(DropReason.UNKNOWN_PLACE)


def test_foreign_id_is_dropped(table: RoutingTable[str]) -> None:
    assert decide(table, short(b"\xff" * 12), may_reset=True) == dropped(DropReason.FOREIGN_ID)


def test_reset_only_with_certainty(table: RoutingTable[str]) -> None:
    packet = short(cid_of(HERE))
    assert decide(table, packet) == dropped(DropReason.RESET_WITHHELD)
    assert decide(table, packet, may_reset=True) == Reset(cid_of(HERE))
    table.no_reset_until = NOW + 1
    assert decide(table, packet, may_reset=True) == dropped(DropReason.RESET_WITHHELD)


def test_reset_only_ids_of_our_own_place(table: RoutingTable[str]) -> None:
    for place in (SIBLING, REMOTE, STRANGER):
        for forwarded in (False, True):
            decision = decide(table, short(cid_of(place)), may_reset=True, forwarded=forwarded)
            assert not isinstance(decision, Reset)


def test_smallest_valid_packet_is_reset_and_nothing_below(table: RoutingTable[str]) -> None:
    # A PING alone has 33 bytes with our 12-byte IDs: clients probe with it, and shall learn.
    ping = short(cid_of(HERE), 33)
    assert decide(table, ping, may_reset=True) == Reset(cid_of(HERE))
    for size in range(1, 33):
        decision = decide(table, ping[:size], may_reset=True)
        assert decision == dropped(DropReason.TOO_SMALL_TO_RESET)


def test_packet_without_fixed_bit_is_dropped(table: RoutingTable[str]) -> None:
    bad = b"\x00" + short(cid_of(HERE))[1:]
    assert decide(table, bad, may_reset=True) == dropped(DropReason.FIXED_BIT)
    bad = bytes((long(CLIENT_ID)[0] & ~0x40,)) + long(CLIENT_ID)[1:]
    assert decide(table, bad) == dropped(DropReason.FIXED_BIT)


def test_empty_datagram_is_dropped(table: RoutingTable[str]) -> None:
    assert decide(table, b"") == dropped(DropReason.EMPTY)


# --- long headers ---


@pytest.mark.parametrize("version", [QUIC_V1, QUIC_V2])
def test_initial_begins_a_connection(table: RoutingTable[str], version: int) -> None:
    decision = decide(table, long(CLIENT_ID, version=version, token=b"tok" * 30))
    assert isinstance(decision, New)
    assert decision.header.destination_id == CLIENT_ID
    assert decision.header.source_id == b"scid"
    assert decision.header.token == b"tok" * 30
    assert decision.header.version == version


def test_small_initial_is_dropped(table: RoutingTable[str]) -> None:
    assert decide(table, long(CLIENT_ID, size=1199)) == dropped(DropReason.SMALL_INITIAL)


def test_initial_for_a_known_id_is_local_at_any_size(table: RoutingTable[str]) -> None:
    table.add(CLIENT_ID, "handshaking")  # the alias: the client's first destination ID
    assert decide(table, long(CLIENT_ID, size=100)) == Local("handshaking")
    assert decide(table, long(CLIENT_ID, "0-rtt")) == Local("handshaking")


def test_late_initial_raises_no_ghost(table: RoutingTable[str]) -> None:
    assert decide(table, long(cid_of(HERE))) == dropped(DropReason.STALE_INITIAL)


def test_initial_after_a_retry_begins_a_connection(table: RoutingTable[str]) -> None:
    # After a Retry the client uses the ID that we chose there, and shows the token.
    assert isinstance(decide(table, long(cid_of(HERE), token=b"retry")), New)


def test_first_flight_is_tossed_within_the_node_only(table: RoutingTable[str]) -> None:
    assert decide(table, long(cid_of(SIBLING))) == Forward(SIBLING)
    assert decide(table, long(cid_of(SIBLING), "0-rtt")) == Forward(SIBLING)
    assert isinstance(decide(table, long(cid_of(REMOTE))), New)
    assert isinstance(decide(table, long(cid_of(STRANGER))), New)
    assert isinstance(decide(table, long(cid_of(SIBLING)), forwarded=True), New)


def test_handshake_packets_are_tossed_to_any_known_place(table: RoutingTable[str]) -> None:
    assert decide(table, long(cid_of(SIBLING), "handshake")) == Forward(SIBLING)
    assert decide(table, long(cid_of(REMOTE), "handshake")) == Forward(REMOTE)


@pytest.mark.parametrize("kind", ["0-rtt", "handshake", "retry"])
@pytest.mark.parametrize("cid", [CLIENT_ID, cid_of(HERE), cid_of(STRANGER)])
def test_only_initials_begin_connections(table: RoutingTable[str], kind: str, cid: bytes) -> None:
    decision = decide(table, long(cid, kind), may_reset=True)
    assert decision == dropped(DropReason.UNKNOWN_CONNECTION)


def test_unknown_version_is_negotiated_when_large_enough(table: RoutingTable[str]) -> None:
    decision = decide(table, long(b"c" * 30, version=0x1A2A3A4A))
    assert isinstance(decision, VersionNegotiation)
    assert decision.header.destination_id == b"c" * 30  # longer than v1 allows, and echoed
    small = long(CLIENT_ID, version=0x1A2A3A4A, size=1199)
    assert decide(table, small) == dropped(DropReason.SMALL_UNKNOWN_VERSION)


def test_version_negotiation_is_never_answered(table: RoutingTable[str]) -> None:
    assert decide(table, long(CLIENT_ID, version=0)) == dropped(DropReason.VERSION_ZERO)


def test_ids_longer_than_the_version_allows_are_dropped(table: RoutingTable[str]) -> None:
    assert decide(table, long(b"c" * 21)) == dropped(DropReason.LONG_ID)
    assert decide(table, long(CLIENT_ID, source_id=b"s" * 21)) == dropped(DropReason.LONG_ID)
    assert isinstance(decide(table, long(b"c" * 20, source_id=b"")), New)


def test_every_truncated_long_header_is_dropped(table: RoutingTable[str]) -> None:
    whole = long(CLIENT_ID, token=b"t" * 40, size=0)
    for size in range(1, len(whole)):
        assert decide(table, whole[:size]) == dropped(DropReason.TRUNCATED)
    assert decide(table, whole) == dropped(DropReason.SMALL_INITIAL)


@given(st.binary(max_size=80), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_get_a_decision(datagram: bytes, forwarded: bool, may_reset: bool) -> None:
    table: RoutingTable[str] = RoutingTable(LAYOUT, HERE, [SIBLING, REMOTE])
    for first in (b"", b"\x40", b"\xc0\x00\x00\x00\x01", b"\xc0" + QUIC_V2.to_bytes(4, "big")):
        decision = decide(table, first + datagram, forwarded=forwarded, may_reset=may_reset)
        if forwarded:
            assert not isinstance(decision, Forward)
        if not may_reset:
            assert not isinstance(decision, Reset)


@pytest.mark.parametrize(
    ("version", "kind"),
    list(itertools.product((QUIC_V1, QUIC_V2), ("initial", "0-rtt", "handshake"))),
)
def test_headers_are_read_as_aioquic_reads_them(version: int, kind: str) -> None:
    packet = long(CLIENT_ID, kind, version=version, token=b"token")
    length_at = 25 if kind == "initial" else 18
    packet = packet[:length_at] + b"\x40\x64" + packet[length_at + 2 :]  # the Length field
    ours, theirs = parse_long_header(packet), pull_quic_header(Buffer(data=packet))
    assert ours is not None
    assert ours.destination_id == theirs.destination_cid
    assert ours.source_id == theirs.source_cid
    assert ours.token == theirs.token
    assert ours.type.name == theirs.packet_type.name


@pytest.mark.parametrize("prefix", [b"\x05", b"\x40\x05", b"\x80\x00\x00\x05", bytes(7) + b"\x05"])
def test_token_length_is_read_in_every_encoding(prefix: bytes) -> None:
    if len(prefix) == 8:
        prefix = b"\xc0" + prefix[1:]
    packet = b"\xc0\x00\x00\x00\x01\x00\x00" + prefix + b"token" + b"rest"
    header = parse_long_header(packet)
    assert header is not None
    assert header.token == b"token"
    assert header.type is PacketType.INITIAL


def test_version_negotiation_packet_swaps_the_ids() -> None:
    packet = build_version_negotiation(
        b"D" * 8, b"S" * 3, [QUIC_V1, QUIC_V2], lambda n: b"\xff" * n
    )
    assert packet[0] & 0xC0 == 0xC0
    header = pull_quic_header(Buffer(data=packet))
    assert header.packet_type.name == "VERSION_NEGOTIATION"
    assert header.destination_cid == b"S" * 3
    assert header.source_cid == b"D" * 8
    assert header.supported_versions == [QUIC_V1, QUIC_V2]
