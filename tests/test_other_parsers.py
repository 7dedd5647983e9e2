"""Our parsers compared with aioquic's and qh3's, which know nothing of ours.

hypothesis makes the inputs: well-formed ones, and these cut off or changed. Where the others decide
otherwise and we keep our decision, the test says so beside a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import qh3.quic.packet as qh3_packet
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.h3 import connection as aioquic_h3
from aioquic.quic import packet as aioquic_packet
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import TransportError
from quicbaton.http3 import errors as h3_errors
from quicbaton.http3.frames import parse_settings, pull_varint
from quicbaton.limits import MAX_SETTINGS
from quicbaton.routing.long_header import (
    MAX_CID_BYTES,
    QUIC_V1,
    QUIC_V2,
    LongHeader,
    PacketType,
    parse_long_header,
)
from quicbaton.transport.frames import MAX_VARINT, decode_varint, encode_varint, varint_size
from quicbaton.transport.packets import coalesced
from quicbaton.transport.packets.acks import AckReader

#: The same inputs in each run.
same = settings(derandomize=True, database=None, deadline=None, max_examples=200)

integers = st.one_of(
    st.integers(0, MAX_VARINT),
    st.sampled_from([0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, MAX_VARINT]),
)


def in_some_size(value: int, extra: int) -> bytes:
    """The integer in as many bytes as it needs, or in more (RFC 9000 §16)."""
    size = min(8, varint_size(value) << extra)
    return (value | {1: 0, 2: 1, 4: 2, 8: 3}[size] << 8 * size - 2).to_bytes(size, "big")


written = st.builds(in_some_size, integers, st.integers(0, 3))


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Well-formed bytes, as they are, cut off, or with something else in them."""
    data = draw(whole)
    match draw(st.integers(0, 3)):
        case 0:
            return data[: draw(st.integers(0, len(data)))]
        case 1:
            at = draw(st.integers(0, len(data)))
            return data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 1 :]
        case _:
            return data


# --- integers -----------------------------------------------------------------------------------


@given(integers)
@same
def test_integers_are_written_as_aioquic_writes_them(value: int) -> None:
    assert encode_varint(value) == encode_uint_var(value)


@given(st.one_of(written, st.binary(max_size=9)), st.binary(max_size=3))
@same
def test_integers_are_read_as_aioquic_reads_them(data: bytes, behind: bytes) -> None:
    buffer = Buffer(data=data + behind)
    theirs: tuple[int, int] | None
    try:
        theirs = (buffer.pull_uint_var(), buffer.tell())
    except BufferReadError:
        theirs = None
    assert pull_varint(data + behind, 0) == theirs
    if theirs is None:
        with pytest.raises(TransportError):
            decode_varint(data + behind, 0)
    else:
        assert decode_varint(data + behind, 0) == theirs


# --- ACK frames ---------------------------------------------------------------------------------

#: Ranges are small beside the largest number in most, so that few of them go below zero.
ack_bodies = st.builds(
    lambda largest, delay, first, ranges, extra: b"".join(
        in_some_size(value, extra)
        for value in (largest, delay, len(ranges) // 2, first, *ranges[: len(ranges) // 2 * 2])
    ),
    st.one_of(st.integers(0, 5000), integers),
    integers,
    st.integers(0, 200),
    st.lists(st.integers(0, 300), max_size=12),
    st.integers(0, 3),
)


@given(damaged(ack_bodies))
@same
def test_acks_are_read_as_aioquic_reads_them(data: bytes) -> None:
    buffer = Buffer(data=data)
    theirs: Any
    try:
        ranges, delay = aioquic_packet.pull_ack_frame(buffer)
        # Theirs is ascending and joins what touches, which no well-formed ACK has.
        theirs = ([(r.start, r.stop) for r in reversed(ranges)], delay, buffer.tell())
    except (BufferReadError, ValueError):
        theirs = None
    try:
        (found, our_delay, _), end = AckReader().read(data, 0, with_ecn=False)
        ours = (list(found), our_delay, end)
    except TransportError:
        ours = None
    assert ours == theirs


def ack_body(ranges: list[tuple[int, int]], delay: int = 0) -> bytes:
    """Ranges from the highest down, as a peer would report them (RFC 9000 §19.3.1)."""
    start, stop = ranges[0]
    fields = [stop - 1, delay, len(ranges) - 1, stop - 1 - start]
    for below, above in ranges[1:]:
        fields += [start - above - 1, above - 1 - below]
        start = below
    return b"".join(encode_varint(field) for field in fields)


class Receiver:
    """A peer that gets some of what is sent, and reports the newest ranges of it."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self._next = 0

    def take(self, received: int, lost: int) -> None:
        self.numbers.update(range(self._next, self._next + received))
        self._next += received + lost

    def ranges(self, most: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for number in sorted(self.numbers, reverse=True):
            if found and found[-1][0] == number + 1:
                found[-1] = (number, found[-1][1])
            else:
                found.append((number, number + 1))
        return found[:most]


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([0, 0, 0, 1, 2]), st.booleans()),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 8),
)
@same
def test_ranges_that_are_left_out_were_given_with_an_earlier_batch(
    events: list[tuple[int, int, bool]], most: int
) -> None:
    peer, reader = Receiver(), AckReader()
    processed: set[int] = set()
    batch: set[int] = set()
    for received, lost, ends_batch in events:
        peer.take(received, lost)
        reported = peer.ranges(most)
        body = ack_body(reported, delay=received)
        (ranges, delay, _), end = reader.read(body, 0, with_ecn=False)
        assert (delay, end, ranges[0]) == (received, len(body), reported[0])
        given = {number for start, stop in ranges for number in range(start, stop)}
        whole = {number for start, stop in reported for number in range(start, stop)}
        assert given <= whole <= given | processed
        batch |= given
        if ends_batch:
            processed |= batch
            batch.clear()
            reader.begin()


# --- packet headers -----------------------------------------------------------------------------


@st.composite
def long_packets(draw: st.DrawFn, versions: Sequence[int] = (QUIC_V1, QUIC_V2)) -> bytes:
    """A long-header packet of any type, with the payload that its Length says; one in five has an
    ID that is too long, or no fixed bit."""
    version = draw(st.sampled_from(versions))
    bad = draw(st.integers(0, 9))
    first = draw(st.integers(0x80, 0xBF) if bad == 9 else st.integers(0xC0, 0xFF))
    cids = st.binary(max_size=22 if bad == 8 else 20)
    token = draw(st.binary(max_size=70))
    payload = draw(st.binary(max_size=70))
    packet = bytes([first]) + version.to_bytes(4, "big")
    for cid in (draw(cids), draw(cids)):
        packet += bytes([len(cid)]) + cid
    kind = (first >> 4) & 3
    if version == QUIC_V2:
        kind = (kind - 1) & 3  # RFC 9369 §3.2
    extra = draw(st.integers(0, 3))
    if kind == 3:
        return packet + token + bytes(16)
    if kind == 0:
        packet += in_some_size(len(token), extra) + token
    return packet + in_some_size(len(payload), extra) + payload


def pulled(module: Any, data: bytes) -> Any:
    """Another library's header; None where it refuses the packet."""
    try:
        if module is qh3_packet:
            return module.pull_quic_header(module.Buffer(data=data), 8)
        return module.pull_quic_header(Buffer(data=data), 8)
    except Exception:  # each has errors of its own
        return None


@pytest.mark.parametrize("module", [aioquic_packet, qh3_packet], ids=["aioquic", "qh3"])
def test_long_headers_are_read_as_others_read_them(module: Any) -> None:
    @given(damaged(long_packets()), st.binary(max_size=40))
    @same
    def compare(packet: bytes, behind: bytes) -> None:
        data = packet + behind
        if not data or not data[0] & 0x80:
            return  # a short header: ours reads long ones only
        theirs = pulled(module, data)
        ours = parse_long_header(data)
        if ours is None:
            # Too short for its IDs or its token: nobody reads that.
            assert theirs is None
            return
        if theirs is None:
            # They refuse at once what `route` drops for its fixed bit, its version or its IDs, and
            # a Length that does not fit, which is for whoever opens the packet.
            too_long = max(len(ours.destination_id), len(ours.source_id)) > MAX_CID_BYTES
            known = ours.version in (QUIC_V1, QUIC_V2)
            assert not ours.fixed_bit or too_long or not known or not _has_its_length(data, ours)
            return
        assert (ours.version, ours.destination_id, ours.source_id) == (
            theirs.version,
            theirs.destination_cid,
            theirs.source_cid,
        )
        if ours.version not in (QUIC_V1, QUIC_V2):
            # They read any version's packet as one of version 1: we read only what RFC 8999 fixes.
            assert ours.type is PacketType.OTHER
            return
        assert ours.type.name == theirs.packet_type.name
        if ours.type is PacketType.INITIAL:
            assert ours.token == theirs.token
        compared.append(ours.type)

    compared: list[PacketType] = []
    compare()
    assert {*compared} == {*PacketType} - {PacketType.OTHER}
    assert len(compared) > 50


def _has_its_length(data: bytes, header: LongHeader) -> bool:
    if header.type is PacketType.RETRY:
        end = 7 + len(header.destination_id) + len(header.source_id) + 16
    else:
        try:
            end = coalesced._end_of_long_packet(data, 0, header.version)
        except (IndexError, TransportError):
            return False
    return end <= len(data)


@pytest.mark.parametrize("module", [aioquic_packet, qh3_packet], ids=["aioquic", "qh3"])
def test_the_short_packet_of_a_datagram_is_where_others_find_it(module: Any) -> None:
    @given(st.lists(long_packets([QUIC_V1]), max_size=3), st.binary(max_size=30))
    @same
    def compare(packets: list[bytes], behind: bytes) -> None:
        datagram = b"".join(packets) + b"\x40" + behind
        at = 0
        while at < len(datagram) and datagram[at] & 0x80:
            header = pulled(module, datagram[at:])
            if header is None or header.version != QUIC_V1:
                return  # nothing to compare
            if header.packet_type.name == "RETRY":
                return  # it takes all that follows, and has no Length: we skip none after it
            at += header.packet_length
        assert coalesced.short_packet(datagram, 1) == datagram[at:]
        compared.append(at)

    compared: list[int] = []
    compare()
    assert sum(at > 0 for at in compared) > 20


# --- HTTP/3 -------------------------------------------------------------------------------------


@given(
    damaged(
        st.lists(st.tuples(st.integers(0, 12), integers), max_size=8).map(
            lambda pairs: b"".join(
                encode_varint(key) + encode_varint(value) for key, value in pairs
            )
        )
    )
)
@same
def test_settings_are_read_as_aioquic_reads_them(data: bytes) -> None:
    try:
        theirs: Any = aioquic_h3.parse_settings(data)
    except (aioquic_h3.FrameError, aioquic_h3.SettingsError) as error:
        theirs = type(error).__name__
    try:
        ours: Any = parse_settings(data)
    except (h3_errors.FrameError, h3_errors.SettingsError) as error:
        ours = type(error).__name__
    except h3_errors.ExcessiveLoadError:
        assert len(theirs) > MAX_SETTINGS  # they take any number
        return
    assert ours == theirs
