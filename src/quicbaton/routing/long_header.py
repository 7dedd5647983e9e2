"""The parts of a long-header packet that a router reads, and the one packet that it writes.

Only the version-independent part (RFC 8999 §5.1) is read for every version. For QUIC 1 and 2 (RFC
9000 §17.2, RFC 9369 §3.2) the packet type is read too, and an Initial's token, because whether a
connection may begin depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from msgspec import Struct

QUIC_V1: Final = 0x00000001
QUIC_V2: Final = 0x6B3343CF
#: RFC 9000 §17.2, and v2 alike: longer connection IDs are not valid.
MAX_CID_BYTES: Final = 20

_SMALLEST: Final = 7  # first byte, version, two empty connection IDs


class PacketType(Enum):
    """A long-header packet's type; `OTHER` in versions that we do not know."""

    INITIAL = "initial"
    ZERO_RTT = "0-rtt"
    HANDSHAKE = "handshake"
    RETRY = "retry"
    OTHER = "other"


# RFC 9000 Table 5 and RFC 9369 §3.2, by the two type bits.
_TYPES: Final = {
    QUIC_V1: (
        PacketType.INITIAL,
        PacketType.ZERO_RTT,
        PacketType.HANDSHAKE,
        PacketType.RETRY,
    ),
    QUIC_V2: (
        PacketType.RETRY,
        PacketType.INITIAL,
        PacketType.ZERO_RTT,
        PacketType.HANDSHAKE,
    ),
}


class LongHeader(Struct, frozen=True):
    """The readable fields of a long-header packet."""

    version: int
    type: PacketType
    fixed_bit: bool
    destination_id: bytes
    source_id: bytes
    token: bytes  # of an Initial of a known version; else empty


def parse_long_header(datagram: bytes) -> LongHeader | None:
    """Read the first packet's long header. None when the datagram is shorter than its lengths
    say."""
    size = len(datagram)
    if size < _SMALLEST:
        return None
    version = int.from_bytes(datagram[1:5], "big")
    destination_end = 6 + datagram[5]
    if destination_end >= size:
        return None
    source_end = destination_end + 1 + datagram[destination_end]
    if source_end > size:
        return None
    types = _TYPES.get(version)
    packet_type = types[(datagram[0] & 0x30) >> 4] if types else PacketType.OTHER
    token = b""
    if packet_type is PacketType.INITIAL:
        pulled = _pull_token(datagram, source_end)
        if pulled is None:
            return None
        token = pulled
    return LongHeader(
        version=version,
        type=packet_type,
        fixed_bit=bool(datagram[0] & 0x40),
        destination_id=datagram[6:destination_end],
        source_id=datagram[destination_end + 1 : source_end],
        token=token,
    )


def build_version_negotiation(
    destination_id: bytes,
    source_id: bytes,
    versions: Iterable[int],
    entropy: Callable[[int], bytes],
) -> bytes:
    """Return the answer to a packet of an unsupported version (RFC 8999 §6, RFC 9000 §17.2.1).

    Pass both IDs as in the client's packet: they are swapped here.
    """
    # RFC 9000 §17.2.1: the seven low bits are arbitrary. The fixed bit is set, for the sake of
    # other protocols on the port.
    first = 0xC0 | entropy(1)[0] & 0x3F
    return b"".join(
        (
            bytes((first, 0, 0, 0, 0, len(source_id))),
            source_id,
            bytes((len(destination_id),)),
            destination_id,
            *(version.to_bytes(4, "big") for version in versions),
        )
    )


def _pull_token(datagram: bytes, at: int) -> bytes | None:
    # RFC 9000 §17.2.2: a variable-length integer (§16), then that many bytes.
    if at >= len(datagram):
        return None
    length_end = at + (1 << (datagram[at] >> 6))
    length = int.from_bytes(datagram[at:length_end], "big")
    length &= (1 << (8 * (length_end - at) - 2)) - 1
    if length_end + length > len(datagram):
        return None
    return datagram[length_end : length_end + length]
