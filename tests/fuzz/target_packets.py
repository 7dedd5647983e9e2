"""Datagrams from any sender: routing, long headers, and a connection that gets them.

An input is datagrams, each with two bytes of length before it. Where the low bits of the length are
all set, the datagram is put in front of an authentic packet.
"""

from __future__ import annotations

from typing import Final

from aioquic.quic.packet import QuicProtocolVersion, encode_quic_retry

from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.long_header import QUIC_V1, build_version_negotiation, parse_long_header
from quicbaton.routing.quic_lb import IdLayout, Place
from quicbaton.routing.reset import build_reset
from quicbaton.routing.route import Drop, Forward, Local, New, Reset, VersionNegotiation, route
from quicbaton.routing.table import RoutingTable
from quicbaton.transport import frames as f
from tests.fuzz.fuzzing import Reader, at_most
from tests.fuzz.target_frames import Victim, frame, scenes

_HERE: Final = Place(1, 2)
_THERE: Final = Place(1, 3)
_LAYOUT: Final = IdLayout()
_RING: Final = KeyRing(ClusterKey.generate(lambda size: b"\x07" * size))
_CALLS_PER_DATAGRAM: Final = 4_000


def _id(place: Place, fill: int = 9) -> bytes:
    return _LAYOUT.encode(place, bytes([fill]) * 9)


def _table() -> RoutingTable[str]:
    table: RoutingTable[str] = RoutingTable(_LAYOUT, _HERE, [_THERE])
    table.add(_id(_HERE), "ours")
    table.forward(_id(_HERE, 1), "there", 10.0)
    table.withhold_resets(_id(_HERE, 2), 10.0)
    return table


def _check_routing(datagram: bytes, table: RoutingTable[str]) -> None:
    for forwarded in (False, True):
        decision = route(datagram, table, 1.0, forwarded=forwarded, may_reset=True)
        match decision:
            case Local():
                assert decision.owner == "ours"
            case Forward():
                assert not forwarded, "strays take one hop at most"
            case Reset():
                answer = build_reset(len(datagram), decision.cid, _RING, lambda n: b"\x05" * n)
                assert 21 <= len(answer) < len(datagram)
                assert not table.may_live_elsewhere(decision.cid)
            case New() | VersionNegotiation():
                assert len(datagram) >= 1200
                header = decision.header
                assert header == parse_long_header(datagram)
                assert len(header.token) < len(datagram)
            case Drop():
                pass


def target(data: bytes) -> None:
    reader = Reader(data)
    table = _table()
    victim = Victim(scenes()[0])
    while reader.more:
        length = reader.byte() << 8 | reader.byte()
        datagram = reader.take(length)
        with at_most(_CALLS_PER_DATAGRAM):
            _check_routing(datagram, table)
            if length & 3 == 3:
                victim.receive_behind(datagram, frame(f.PING))
            else:
                victim.receive_raw(datagram)
        victim.check()
        assert victim.state.closing is None, "nothing here is authentic but PING"


def _datagrams(*datagrams: bytes) -> bytes:
    return b"".join(len(one).to_bytes(2, "big") + one for one in datagrams)


def seeds() -> list[bytes]:
    initial = (
        b"\xc0" + QUIC_V1.to_bytes(4, "big") + b"\x08clientid\x04abcd\x03tok\x40\x10" + bytes(16)
    )
    handshake = b"\xe0" + QUIC_V1.to_bytes(4, "big") + b"\x0c" + _id(_HERE) + b"\0\x10" + bytes(16)
    retry = encode_quic_retry(
        version=QuicProtocolVersion.VERSION_1,
        source_cid=b"source",
        destination_cid=b"destination",
        original_destination_cid=b"original",
        retry_token=b"token",
    )
    negotiation = build_version_negotiation(b"ab", b"cd", [QUIC_V1], bytes)
    shorts = [
        b"\x40" + _id(place, fill) + bytes(40) for place in (_HERE, _THERE) for fill in (1, 2, 9)
    ]
    return [
        _datagrams(initial.ljust(1200, b"\0")),
        _datagrams(initial),
        _datagrams(handshake, handshake + b"\0"),
        _datagrams(retry, negotiation),
        _datagrams(*shorts),
        _datagrams(b"", b"\x40", b"\xc0", b"\xff" * 1203),
        _datagrams(b"\xc0\x0a\x0a\x0a\x0a\0\0".ljust(1200, b"\0")),
    ]
