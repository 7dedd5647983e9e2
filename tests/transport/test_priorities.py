"""RFC 9218 §10: the order of streams, and which of them share."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import StreamStateError
from quicbaton.testing import Pair
from quicbaton.transport.streams.turns import CONTROL_URGENCY
from tests.transport.stream_wire import Node, pair


def body(length: int) -> bytes:
    return bytes(length)


#: The stream bytes in a train of four payloads of 1000 bytes.
TRAIN = 4 * 994


def served(node: Node, turns: int) -> list[int]:
    """The streams of the next trains."""
    result = []
    for _ in range(turns):
        run = node.streams.take_run(1000, 4)
        if run is None:
            break
        result.append(run[0])
    return result


def writing(*stream_ids: int) -> Node:
    """A client that has 20 trains' worth to send on each of the streams."""
    client, _ = pair()
    client.state.flow.send_limit = 1 << 30
    for stream_id in stream_ids:
        client.streams.write(stream_id, body(20 * TRAIN), fin=False)
    return client


def test_streams_share_until_somebody_sets_priorities() -> None:
    assert served(writing(0, 4, 8), 6) == [0, 4, 8, 0, 4, 8]


def test_streams_that_are_not_incremental_are_served_one_after_the_other() -> None:
    client = writing(8, 0, 4)
    for stream_id in (0, 4, 8):
        client.streams.set_priority(stream_id, 3, incremental=False)
    assert served(client, 99) == [0] * 20 + [4] * 20 + [8] * 20


def test_an_earlier_request_overtakes_when_it_has_something_to_send() -> None:
    client = writing(4)
    client.streams.set_priority(4, 3, incremental=False)
    assert served(client, 1) == [4]
    client.streams.write(0, body(20 * TRAIN), fin=False)
    client.streams.set_priority(0, 3, incremental=False)
    assert served(client, 2) == [0, 0]


def test_both_kinds_of_one_urgency_take_turns() -> None:
    client = writing(0, 4, 8, 12)
    client.streams.set_priority(0, 3, incremental=False)
    client.streams.set_priority(8, 3, incremental=False)
    assert served(client, 8) == [4, 0, 12, 0, 4, 0, 12, 0]


def test_one_that_writes_little_at_a_time_does_not_starve_those_that_share() -> None:
    client = writing(4)
    turns = []
    client.streams.set_priority(0, 3, incremental=False)
    for _ in range(3):
        client.streams.write(0, body(TRAIN), fin=False)
        turns += served(client, 2)
    assert turns == [4, 0, 4, 0, 4, 0]


def test_control_streams_go_before_every_urgency() -> None:
    client = writing(0)
    client.streams.set_priority(0, 0, incremental=False)
    client.streams.write(2, body(3 * TRAIN), fin=False)
    client.streams.set_priority(2, CONTROL_URGENCY, incremental=True)
    assert served(client, 4) == [2, 2, 2, 0]


def test_an_urgency_beyond_the_scale_is_its_end() -> None:
    client = writing(0, 4, 8)
    client.streams.set_priority(0, 99, incremental=False)
    client.streams.set_priority(4, 7, incremental=False)
    client.streams.set_priority(8, -99, incremental=False)
    assert served(client, 41) == [8] * 20 + [0] * 20 + [4]


def test_a_request_has_a_priority_before_it_is_answered() -> None:
    """A priority comes with the request, when nothing of the answer is there yet."""
    link = Pair()
    link.connect()
    for _ in range(3):
        client_id = link.client.connection.get_next_available_stream_id()
        link.client.connection.send_stream_data(client_id, b"request", end_stream=True)
    link.run(seconds=1)
    server = link.server.connection
    server.set_priority(0, 5, incremental=False)
    server.set_priority(4, 1, incremental=False)
    for stream_id in (0, 4, 8):
        server.send_stream_data(stream_id, b"answer")
    assert server._state.order == [4, 8, 0]


def test_what_cannot_be_written_has_no_priority() -> None:
    client, server = pair()
    with pytest.raises(StreamStateError):
        server.streams.set_priority(0, 3, incremental=False)
    client.streams.write(2, b"one way", fin=True)
    for packet in client.packets():
        server.receive(packet.payload)
    with pytest.raises(StreamStateError):
        server.streams.set_priority(2, 3, incremental=False)


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_the_order_follows_its_rules_and_moves_along(seed: int) -> None:
    rng = random.Random(seed)
    client, _ = pair()
    client.state.flow.send_limit = 1 << 30
    for _ in range(120):
        stream_id = 4 * rng.randrange(8)
        action = rng.randrange(4)
        if action == 0:
            client.streams.write(stream_id, body(rng.randint(1, 9_000)), fin=False)
        elif action == 1:
            client.streams.set_priority(stream_id, rng.randint(2, 4), rng.random() < 0.5)
        elif action == 2:
            client.streams.take_run(1000, 4)
        else:
            before = client.state.order[:]
            client.move()
            assert client.state.order == before
        halves = {
            stream_id: client.state.streams[stream_id].send for stream_id in client.state.order
        }
        urgencies = [half.urgency for half in halves.values() if half is not None]
        assert urgencies == sorted(urgencies)
        for urgency in set(urgencies):
            queue = [
                (stream_id, half.incremental)
                for stream_id, half in halves.items()
                if half is not None and half.urgency == urgency
            ]
            kinds = [incremental for _, incremental in queue]
            others = [stream_id for stream_id, incremental in queue if not incremental]
            assert others == sorted(others)
            if others:
                first = kinds.index(False)
                assert first <= 1
                assert not any(kinds[first : first + len(others)])
