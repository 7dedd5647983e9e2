"""Marks are counted while aioquic has the connection, and reported in its ACK frames."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet_builder import QuicPacketBuilderStop

from quicbaton.handshake import EcnCounts
from tests.handshake.aioquic_pair import Pair

#: The room that aioquic reserves for an ACK frame: with so much it arms its timer.
ACK_BYTES = 33


class Builder:
    """As far as an ACK frame needs one, with so much room left."""

    packet_number = 1

    def __init__(self, room: int) -> None:
        self.remaining_buffer_space = room
        self.frames: list[int] = []

    def start_frame(self, frame_type: int, capacity: int, **_: Any) -> Buffer:
        if capacity > self.remaining_buffer_space:
            raise QuicPacketBuilderStop
        self.frames.append(frame_type)
        return Buffer(capacity=self.remaining_buffer_space)


@pytest.mark.parametrize(("room", "kind"), [(33, 0x02), (35, 0x02), (36, 0x03), (1000, 0x03)])
def test_an_ack_that_has_no_room_for_counts_is_written_without(room: int, kind: int) -> None:
    """A timer whose ACK could not be written would fire for ever: towards an address that is not
    proved there may be so little room (RFC 9000 §8.1)."""
    pair = Pair()
    counts = EcnCounts(pair.server)
    now = 0.0
    pair.client.connect(("192.0.2.1", 1), now)
    for data, address in pair.client.datagrams_to_send(now):
        counts.receive(data, address, 2, now)
    builder: Any = Builder(room)
    (space, *_) = pair.server._loss.spaces
    pair.server._write_ack_frame(builder, space, now)
    assert builder.frames == [kind]
    assert room >= ACK_BYTES
    assert counts.one_rtt == [0, 0, 0]
