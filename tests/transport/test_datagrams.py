"""DATAGRAM frames: how large one may be, and what happens to larger ones.

RFC 9221 §3 (the peer's limit counts the frame), §5 (they cannot be fragmented).
"""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived

from quicbaton.errors import CallerError
from quicbaton.limits import MAX_QUEUED_DATAGRAMS
from quicbaton.testing import Conditions, EndOptions, Pair, move
from tests.transport.forge import state_of


def arrived(pair: Pair, seconds: float = 0.2) -> list[int]:
    """Sizes of what the client got."""
    pair.run(seconds=seconds)
    events = pair.client.take_events()
    assert not any(isinstance(event, ConnectionTerminated) for event in events)
    return [len(event.data) for event in events if isinstance(event, DatagramFrameReceived)]


def connected(*, limit: int = 65_536, mtu_bytes: int = 65_507, seconds: float = 3) -> Pair:
    client = EndOptions("aioquic", configuration={"max_datagram_frame_size": limit})
    pair = Pair(Conditions(mtu_bytes=mtu_bytes), client=client)
    pair.connect()
    pair.run(seconds=seconds)
    pair.client.take_events()
    return pair


@pytest.mark.parametrize("limit", [1, 2, 3, 64, 65, 66, 67, 68, 100, 1000, 1200, 65_536])
@pytest.mark.parametrize("mtu_bytes", [1200, 1300, 1452])
def test_the_largest_one_arrives_and_a_larger_one_is_refused_at_once(
    limit: int, mtu_bytes: int
) -> None:
    pair = connected(limit=limit, mtu_bytes=mtu_bytes)
    server = pair.server.connection
    largest = server.max_datagram_bytes
    mtu_bytes = state_of(pair.server).paths[0].mtu_bytes
    assert min(mtu_bytes - 40, limit - 3) <= largest < min(mtu_bytes, limit)
    with pytest.raises(CallerError) as refused:
        server.send_datagram_frame(bytes(largest + 1))
    assert refused.value.code == "datagram_too_large"
    if largest:
        server.send_datagram_frame(bytes(largest))
        assert arrived(pair) == [largest]
        assert 2 + (largest > 63) + largest <= limit


def test_where_the_peer_takes_none_the_largest_is_none() -> None:
    pair = connected(limit=0)
    assert pair.server.connection.max_datagram_bytes == 0
    with pytest.raises(CallerError):
        pair.server.connection.send_datagram_frame(b"")


def test_the_largest_grows_with_the_path_s_mtu_and_moves_along() -> None:
    pair = connected(seconds=0)
    early = pair.server.connection.max_datagram_bytes
    pair.run(seconds=3)
    late = pair.server.connection.max_datagram_bytes
    assert late - early == 252
    pair.server = move(pair.server)
    assert pair.server.connection.max_datagram_bytes == late
    pair.server = move(pair.server, other_host=True)
    assert pair.server.connection.max_datagram_bytes == early
    pair.server.connection.send_datagram_frame(bytes(early))
    assert arrived(pair) == [early]


def fill(pair: Pair, sizes: list[int]) -> None:
    for size in sizes:
        pair.server.connection.send_datagram_frame(bytes(size))


def test_those_that_the_mtu_has_become_too_small_for_are_dropped_and_counted() -> None:
    pair = connected()
    large = pair.server.connection.max_datagram_bytes
    fill(pair, [large, 100, large, 900])
    pair.server = move(pair.server, other_host=True)
    assert arrived(pair) == [100, 900]
    assert pair.server.connection.datagrams_dropped == 2
    assert state_of(pair.server).datagrams == []
    pair.server = move(pair.server)
    assert pair.server.connection.datagrams_dropped == 2


def test_those_that_find_no_room_beside_an_ack_wait_for_the_next_packet() -> None:
    pair = connected()
    largest = pair.server.connection.max_datagram_bytes
    for uid in range(6):
        pair.client.connection.send_ping(uid)
        pair.run(seconds=0.011)
        fill(pair, [largest] * 3)
    assert arrived(pair) == [largest] * 18
    assert pair.server.connection.datagrams_dropped == 0


def test_those_that_find_no_allowance_on_a_new_path_wait_for_its_proof() -> None:
    """RFC 9000 §8.1: three times what came, which is less than a large one."""
    pair = connected()
    pair.rebind(("198.51.100.1", 5))
    pair.client.connection.send_ping(1)
    pair.transmit()
    pair.step()
    assert not state_of(pair.server).paths[0].validated
    fill(pair, [1100, 1000])
    assert arrived(pair, 1) == [1100, 1000]
    assert pair.server.connection.datagrams_dropped == 0


def test_the_oldest_of_too_many_are_dropped_and_counted() -> None:
    pair = connected()
    server: Any = pair.server.connection
    for number in range(MAX_QUEUED_DATAGRAMS + 5):
        server.send_datagram_frame(number.to_bytes(2, "big"))
    assert server.datagrams_dropped == 5
    assert state_of(pair.server).datagrams[0] == b"\0\5"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_what_a_program_does_with_its_buffer_later_changes_nothing(
    kind: type[bytearray] | type[memoryview],
) -> None:
    pair = connected()
    server = pair.server.connection
    buffer = bytearray(b"as it was given")
    server.send_stream_data(3, kind(buffer), end_stream=True)
    server.send_datagram_frame(kind(buffer))
    buffer[:] = b"XXXXXXXXXXXXXXX"
    moved = pair.server = move(pair.server)
    assert moved.connection.streams[3].send.chunks == [b"as it was given"]  # type: ignore[union-attr]
    pair.run(seconds=0.2)
    data = [event.data for event in pair.client.take_events() if hasattr(event, "data")]
    assert data == [b"as it was given"] * 2
