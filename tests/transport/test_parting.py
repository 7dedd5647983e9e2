"""How a connection behaves when a handoff is near: what writers hear, what window is kept."""

from __future__ import annotations

from quicbaton import limits
from quicbaton.testing import Conditions, Pair, move
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable

#: More than a stream buffers, less than the peer's windows take without being read.
BODY = bytes(1_000_000)


def busy_pair() -> Pair:
    """A server with a full buffer, which sends as fast as its window allows."""
    pair = Pair(Conditions(delay_s=0.02))
    pair.connect()
    pair.server.take_events()
    pair.server.connection.send_stream_data(3, BODY)
    return pair


def writable(connection: Connection) -> int:
    count = 0
    while (event := connection.next_event()) is not None:
        count += isinstance(event, StreamWritable)
    return count


def drain(pair: Pair) -> None:
    pair.run(seconds=5)


def test_held_writers_hear_nothing_until_the_connection_stays() -> None:
    pair = busy_pair()
    connection = pair.server.connection
    connection.hold_writers()
    drain(pair)
    assert writable(connection) == 0
    assert connection.is_congested(3)
    connection.stay()
    assert writable(connection) == 1
    assert not connection.is_congested(3)


def test_a_permission_that_nobody_has_taken_yet_is_withdrawn_and_given_again() -> None:
    pair = busy_pair()
    connection = pair.server.connection
    drain(pair)
    connection.hold_writers()
    assert writable(connection) == 0
    connection.stay()
    assert writable(connection) == 1


def test_the_next_owner_tells_the_writers_that_were_held() -> None:
    pair = busy_pair()
    pair.server.connection.hold_writers()
    drain(pair)
    server = move(pair.server)
    assert writable(server.connection) == 1


def test_room_for_two_short_trains_is_kept_for_the_source_and_the_destination() -> None:
    pair = busy_pair()
    connection = pair.server.connection
    pair.run(seconds=0.14)  # the window grows
    connection.prepare_to_part()
    pair.run(seconds=0.07)
    window = connection._state.congestion
    mtu = connection._state.paths[0].mtu_bytes
    train = limits.QUICK_TRAIN_PACKETS * mtu
    assert window.window_bytes - window.in_flight_bytes >= 2 * train
    (parting,) = connection.parting_trains(pair.now)
    assert mtu < len(parting.data) <= train
    assert not connection.parting_trains(pair.now)  # the rest is the next owner's
    assert window.window_bytes - window.in_flight_bytes >= train


def test_a_quick_train_is_short_and_alone() -> None:
    pair = busy_pair()
    pair.run(seconds=0.14)
    connection = pair.server.connection
    connection.prepare_to_part()
    pair.run(seconds=0.07)
    connection.stay()
    (quick,) = connection.trains_to_send(pair.now, quick=True)
    assert len(quick.datagrams()) <= limits.QUICK_TRAIN_PACKETS


def test_a_rehearsal_leaves_the_connection_as_it_was() -> None:
    pair = busy_pair()
    connection = pair.server.connection
    before = connection.buffered_bytes()
    state = connection.rehearsal()
    assert not state.streams
    assert state.name == connection.name
    assert connection.buffered_bytes() == before
    drain(pair)
    pair.client.take_events()
    assert connection.buffered_bytes() == 0
