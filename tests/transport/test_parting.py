"""A connection whose handoff is near: the part of the window that it keeps free."""

from __future__ import annotations

from quicbaton import limits
from quicbaton.testing import Conditions, Pair, move

#: More than a stream buffers, less than the peer's windows take without being read.
BODY = bytes(1_000_000)


def busy_pair() -> Pair:
    """A server with a full buffer, which sends as fast as its window allows."""
    pair = Pair(Conditions(delay_s=0.002))
    pair.connect()
    pair.server.take_events()
    pair.server.connection.send_stream_data(3, BODY)
    return pair


def drain(pair: Pair) -> None:
    pair.run(seconds=5)


def test_room_for_short_trains_is_kept_for_the_source_and_the_destination() -> None:
    pair = busy_pair()
    connection = pair.server.connection
    pair.run(seconds=0.014)  # the window grows
    connection.prepare_to_part()
    pair.run(seconds=0.007)
    window = connection._state.congestion
    mtu = connection._state.paths[0].mtu_bytes
    train = limits.QUICK_TRAIN_PACKETS * mtu
    assert window.window_bytes - window.in_flight_bytes >= 3 * train
    parting = connection.parting_trains(pair.now)
    assert [mtu < len(data) <= train for ((data, *_),) in parting] == [True, True]
    # The rest is the next owner's.
    assert not connection.parting_trains(pair.now)
    assert window.window_bytes - window.in_flight_bytes >= train
    assert connection.trains_to_send(pair.now) == []
    (first,) = move(pair.server).connection.trains_to_send(pair.now, quick=True)
    assert mtu < len(first.data) <= train


def test_a_quick_train_is_short_and_alone() -> None:
    pair = busy_pair()
    pair.run(seconds=0.014)
    connection = pair.server.connection
    connection.prepare_to_part()
    pair.run(seconds=0.007)
    connection.stay()
    (quick,) = connection.trains_to_send(pair.now, quick=True)
    assert len(quick.datagrams()) <= limits.QUICK_TRAIN_PACKETS
