"""One datagram in, one decision out. Nothing is sent or changed here.

The runtime looks a short header's ID up in `table.owners` itself and asks `route` only about the
rest. Segments that the kernel coalesced (UDP GRO) are separate datagrams to this function: they may
belong to different connections.

Short header, by its destination ID:

    known, or retired a moment ago     Local
    given away, strays still follow    Forward to the new owner
    given away, or withheld            Drop: another process may own it
    names another known place          Forward there (tossing)
    names us, unknown                  Reset, when allowed
    anything else                      Drop

A long header goes the same way, except that an unknown ID may begin a connection. IDs that clients
chose name places by accident. So a first flight is tossed only within this node, where every worker
answers from the same socket address.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Generic

from msgspec import Struct

from quicbaton.limits import MIN_DATAGRAM_BYTES
from quicbaton.routing.long_header import (
    MAX_CID_BYTES,
    QUIC_V1,
    QUIC_V2,
    LongHeader,
    PacketType,
    parse_long_header,
)
from quicbaton.routing.table import OwnerT, RoutingTable, Target

SUPPORTED_VERSIONS: Final = frozenset((QUIC_V1, QUIC_V2))

_LONG_HEADER_BIT: Final = 0x80
_FIXED_BIT: Final = 0x40
# Beside the ID a short-header packet has its first byte, four bytes of packet number and payload
# (RFC 9001 §5.4.2: header protection samples the bytes after them) and a 16-byte tag at least.
_SHORT_OVERHEAD: Final = 1 + 4 + 16


class DropReason(StrEnum):
    """Why a datagram is dropped: the label of a counter."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    FIXED_BIT = "fixed_bit"
    LONG_ID = "long_id"
    VERSION_ZERO = "version_zero"
    SMALL_UNKNOWN_VERSION = "small_unknown_version"
    SMALL_INITIAL = "small_initial"
    STALE_INITIAL = "stale_initial"
    UNKNOWN_CONNECTION = "unknown_connection"
    FOREIGN_ID = "foreign_id"
    UNKNOWN_PLACE = "unknown_place"
    HOP_LIMIT = "hop_limit"
    TOMBSTONE = "tombstone"
    RESET_WITHHELD = "reset_withheld"
    TOO_SMALL_TO_RESET = "too_small_to_reset"


class Local(Struct, Generic[OwnerT], frozen=True):
    """The datagram is for a connection of this process."""

    owner: OwnerT


class Forward(Struct, frozen=True):
    """The datagram is for a connection of another process."""

    to: Target


class New(Struct, frozen=True):
    """An Initial that may begin a connection. Its token is not checked yet."""

    header: LongHeader


class VersionNegotiation(Struct, frozen=True):
    """Answer with the versions that we support."""

    header: LongHeader


class Reset(Struct, frozen=True):
    """Answer with a stateless reset, if the rate limit allows."""

    cid: bytes


class Drop(Struct, frozen=True):
    """Count the datagram, and do nothing else."""

    reason: DropReason


Route = Local[OwnerT] | Forward | New | VersionNegotiation | Reset | Drop


def route(  # noqa: PLR0911 - a list of decisions, one return each
    datagram: bytes,
    table: RoutingTable[OwnerT],
    now: float,
    *,
    forwarded: bool = False,
    may_reset: bool = False,
    versions: frozenset[int] = SUPPORTED_VERSIONS,
) -> Route[OwnerT]:
    """Decide what happens to one UDP payload.

    `now` is the table's clock. `forwarded`: another node sent it on, so it stops here (one hop).
    `may_reset`: the store or the supervisor is certain that no process owns IDs of ours that are
    not in the table (RFC 9000 §21.11). Without that certainty nothing is ever reset.
    """
    if not datagram:
        return Drop(DropReason.EMPTY)
    if datagram[0] & _LONG_HEADER_BIT:
        return _route_long(datagram, table, now, forwarded, versions)
    cid = datagram[1 : 1 + table.configs.length]
    known = _known(cid, table, now, forwarded)
    if known is not None:
        return known
    if len(datagram) < _SHORT_OVERHEAD + table.configs.length:
        # RFC 9000 §10.3: too small to be a valid packet. It also ends a loop of resets: each is
        # smaller than its trigger, and none this small is answered.
        return Drop(DropReason.TOO_SMALL_TO_RESET)
    if not datagram[0] & _FIXED_BIT:  # RFC 9000 §17.3.1: MUST be discarded
        return Drop(DropReason.FIXED_BIT)
    place = table.configs.decode(cid)
    if place is None:
        return Drop(DropReason.FOREIGN_ID)
    if place not in table.places:
        if not table.may_toss(place):
            return Drop(DropReason.UNKNOWN_PLACE)
        return Drop(DropReason.HOP_LIMIT) if forwarded else Forward(place)
    if not may_reset or now < table.no_reset_until:
        return Drop(DropReason.RESET_WITHHELD)
    return Reset(cid)


def _known(
    cid: bytes, table: RoutingTable[OwnerT], now: float, forwarded: bool
) -> Route[OwnerT] | None:
    """Decide by the table alone; None when it does not know `cid`."""
    owner = table.owner_of(cid)
    if owner is not None:
        return Local(owner)
    if not table.may_live_elsewhere(cid):
        return None
    to = table.forward_of(cid, now)
    if to is None:
        return Drop(DropReason.TOMBSTONE)
    return Drop(DropReason.HOP_LIMIT) if forwarded else Forward(to)


def _route_long(  # noqa: PLR0911 - as above
    datagram: bytes,
    table: RoutingTable[OwnerT],
    now: float,
    forwarded: bool,
    versions: frozenset[int],
) -> Route[OwnerT]:
    header = parse_long_header(datagram)
    if header is None:
        return Drop(DropReason.TRUNCATED)
    if header.version == 0:  # RFC 9000 §6.1: never answer a Version Negotiation packet
        return Drop(DropReason.VERSION_ZERO)
    if header.version not in versions:
        # RFC 9000 §5.2.2, §6.1: only for a datagram that is large enough to begin a connection in a
        # version that we speak. The type of an unknown version's packet cannot be known.
        if len(datagram) < MIN_DATAGRAM_BYTES:
            return Drop(DropReason.SMALL_UNKNOWN_VERSION)
        return VersionNegotiation(header)
    if not header.fixed_bit:  # RFC 9000 §17.2: MUST be discarded
        return Drop(DropReason.FIXED_BIT)
    if max(len(header.destination_id), len(header.source_id)) > MAX_CID_BYTES:
        return Drop(DropReason.LONG_ID)  # RFC 9000 §17.2: MUST be dropped
    known = _known(header.destination_id, table, now, forwarded)
    if known is not None:
        return known
    return _route_unknown_long(datagram, header, table, forwarded)


def _route_unknown_long(
    datagram: bytes, header: LongHeader, table: RoutingTable[OwnerT], forwarded: bool
) -> Route[OwnerT]:
    """Decide on a supported version's packet whose ID the table does not know."""
    place = table.configs.decode(header.destination_id)
    if place is not None and place != table.place and not forwarded and table.may_toss(place):
        first_flight = header.type in (PacketType.INITIAL, PacketType.ZERO_RTT)
        if place.node == table.place.node or not first_flight:
            return Forward(place)
    if header.type is not PacketType.INITIAL:
        # 0-RTT that overtook its Initial (RFC 9000 §5.2.2 would let us keep it), or the rest of
        # a handshake that is over. No reset: the client has no token yet (§10.3).
        return Drop(DropReason.UNKNOWN_CONNECTION)
    if len(datagram) < MIN_DATAGRAM_BYTES:  # RFC 9000 §14.1: MUST discard
        return Drop(DropReason.SMALL_INITIAL)
    if place in table.places and not header.token:
        # It carries an ID that we issued and no Retry's token, so it belongs to a handshake that
        # is over: a late Initial must not raise a ghost. Its keys come from the client's first ID
        # (RFC 9001 §5.2) and are gone. A client's random ID looks like this once in 4 * 10^7 times.
        return Drop(DropReason.STALE_INITIAL)
    return New(header)
