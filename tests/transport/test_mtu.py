"""Path MTU discovery: RFC 8899, RFC 9000 §14."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.limits import MAX_DATAGRAM_BYTES, MIN_DATAGRAM_BYTES
from quicbaton.testing import EndOptions, Pair
from quicbaton.transport.paths.mtu import MAX_FAILURES, RAISE_US, SETTLE_US, STEP_BYTES, MtuSearch
from quicbaton.transport.paths.path import new_path
from quicbaton.transport.state import NEVER, PathState


def path_state(ceiling: int = 1452, validated: bool = True) -> PathState:
    return new_path(0, ("192.0.2.1", 1), (), validated=validated, max_payload_bytes=ceiling)


def run(path: PathState, carries: int, now_us: int = 0) -> list[int]:
    """Search to the end over a path that carries datagrams up to a size; the sizes tried."""
    tried = []
    search = MtuSearch(path)
    while size := search.probe_size(now_us):
        number = 10 + len(tried)
        search.on_probe_sent(number, now_us)
        assert search.probe_size(now_us) == 0  # one at a time
        tried.append(size)
        if size <= carries:
            search.on_probe_acked(size, number)
        else:
            search.on_probe_lost(size, now_us, number)
    return tried


def test_a_path_that_carries_the_ceiling_needs_one_probe():
    path = path_state()
    assert run(path, 1500) == [1452]
    assert path.mtu_bytes == 1452
    assert MtuSearch(path).next_timer_us() == NEVER
    assert MtuSearch(path).probe_size(1 << 50) == 0


@pytest.mark.parametrize(
    ("offered", "ceiling"),
    [(65_527, MAX_DATAGRAM_BYTES), (1350, 1350), (1200, 1200), (0, 1200)],
)
def test_the_ceiling_is_what_both_sides_can_take(offered, ceiling):
    path = path_state(offered)
    assert path.mtu_ceiling_bytes == ceiling
    run(path, 9000)
    assert path.mtu_bytes == ceiling


@settings(max_examples=100, deadline=None)
@given(st.integers(1200, 1452), st.integers(1200, 1500))
def test_the_search_ends_near_the_truth_with_few_probes(ceiling, carries):
    path = path_state(ceiling)
    tried = run(path, carries, now_us=7)
    truth = min(ceiling, carries)
    assert truth - STEP_BYTES < path.mtu_bytes <= truth
    assert all(MIN_DATAGRAM_BYTES < size <= ceiling for size in tried)
    assert len(tried) <= MAX_FAILURES * 6
    assert MtuSearch(path).next_timer_us() in (NEVER, 7 + RAISE_US)


def test_a_size_is_given_up_after_three_losses_only():
    path = path_state()
    search = MtuSearch(path)
    for _ in range(MAX_FAILURES - 1):
        assert search.probe_size(0) == 1452
        search.on_probe_sent(1, 0)
        search.on_probe_lost(1452, 0)
    assert search.probe_size(0) == 1452
    search.on_probe_sent(2, 0)
    search.on_probe_acked(1452)
    assert path.mtu_bytes == 1452


def test_the_search_begins_again_after_ten_minutes():
    path = path_state()
    run(path, 1300)
    found = path.mtu_bytes
    search = MtuSearch(path)
    assert search.probe_size(RAISE_US - 1) == 0
    assert search.next_timer_us() == RAISE_US
    assert search.probe_size(RAISE_US) == 1452
    assert search.next_timer_us() == NEVER  # it waits for a packet to go along with
    assert path.mtu_bytes == found
    assert run(path, 1500, RAISE_US) == [1452]


def test_an_unvalidated_path_is_not_probed():
    path = path_state(validated=False)
    assert MtuSearch(path).probe_size(0) == 0
    path.validated = True
    assert MtuSearch(path).probe_size(0) == 1452


def test_three_losses_of_full_sized_packets_in_a_row_are_a_black_hole():
    path = path_state()
    run(path, 1500)
    search = MtuSearch(path)
    assert not search.on_packets_lost(1452, 0)
    assert not search.on_packets_lost(1450, 0)  # mixed frames fill a packet less exactly
    search.on_packets_acked(1200)  # small packets come through a black hole
    assert search.on_packets_lost(1452, 5)
    assert path.mtu_bytes == MIN_DATAGRAM_BYTES
    assert search.probe_size(5) == 0
    assert search.next_timer_us() == 5 + SETTLE_US
    assert search.probe_size(5 + SETTLE_US) == 1452


def test_a_full_sized_packet_that_arrives_ends_the_suspicion():
    path = path_state()
    run(path, 1500)
    search = MtuSearch(path)
    for _ in range(10):
        assert not search.on_packets_lost(1452, 0)
        assert not search.on_packets_lost(1452, 0)
        search.on_packets_acked(1452)
    assert path.mtu_bytes == 1452


def test_losses_of_what_every_path_carries_prove_nothing():
    path = path_state()
    search = MtuSearch(path)
    for _ in range(10):
        assert not search.on_packets_lost(1200, 0)
    run(path, 1500)
    for _ in range(10):
        assert not search.on_packets_lost(1200, 0)
    assert path.mtu_bytes == 1452


def test_another_host_starts_again_at_1200_under_its_own_ceiling():
    path = path_state()
    run(path, 1500)
    search = MtuSearch(path)
    search.reset(1392, 1_000)
    assert path.mtu_bytes == MIN_DATAGRAM_BYTES
    assert run(path, 1500, 1_000) == [1392]


def test_a_probe_from_before_the_reset_confirms_nothing():
    path = path_state()
    search = MtuSearch(path)
    search.on_probe_sent(5, 0)
    search.reset(1452, 100)
    search.on_probe_acked(1452, 5)
    assert path.mtu_bytes == MIN_DATAGRAM_BYTES
    search.on_probe_sent(9, 100)
    search.on_probe_acked(1452, 5)
    search.on_probe_lost(1452, 100, 5)
    assert (path.mtu_bytes, path.mtu_failures) == (MIN_DATAGRAM_BYTES, 0)
    search.on_probe_acked(1452, 9)
    assert path.mtu_bytes == 1452


def test_a_search_goes_on_after_a_round_trip_through_bytes():
    path = path_state()
    search = MtuSearch(path)
    for _ in range(MAX_FAILURES):
        search.on_probe_sent(1, 0)
        search.on_probe_lost(1452, 0)
    search.on_probe_sent(2, 0)
    size = path.mtu_probe_bytes
    moved = msgspec.msgpack.decode(msgspec.msgpack.encode(path), type=PathState)
    again = MtuSearch(moved)
    assert again.probe_size(0) == 0
    again.on_probe_acked(size, 2)
    assert moved.mtu_bytes == size
    assert size < again.probe_size(0) < 1452


@pytest.mark.parametrize("takes_datagrams", [False, True])
def test_a_path_is_probed_once_larger_datagrams_would_be_full(takes_datagrams: bool) -> None:
    client = EndOptions(
        configuration={"max_datagram_frame_size": 65_536 if takes_datagrams else None}
    )
    pair = Pair(client=client)
    pair.connect()
    pair.run(seconds=1)
    connection = pair.server.connection
    path = connection._state.paths[0]
    for stream_id in (0, 4, 8):
        pair.client.connection.send_stream_data(stream_id, b"GET", True)
        pair.run(seconds=1)
        connection.send_stream_data(stream_id, bytes(1000), True)
        pair.run(seconds=1)
    # RFC 9221: a program chooses the size of DATAGRAM frames by the size that is known.
    assert path.mtu_bytes == (MAX_DATAGRAM_BYTES if takes_datagrams else MIN_DATAGRAM_BYTES)
    pair.client.connection.send_stream_data(12, b"GET", True)
    pair.run(seconds=1)
    connection.send_stream_data(12, bytes(100_000), True)
    pair.run(seconds=1)
    assert path.mtu_bytes == MAX_DATAGRAM_BYTES
