"""The application's events: their order, and that none is lost."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.events import (
    ConnectionTerminated,
    DatagramFrameReceived,
    PingAcknowledged,
    QuicEvent,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.logger import QuicLoggerTrace

from quicbaton import limits
from quicbaton.errors import TransportError
from quicbaton.testing import Pair
from quicbaton.transport import frames as f
from quicbaton.transport import state
from quicbaton.transport.event_queue import EventQueue
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.state import ConnectionState, Event, IdRetiredEvent, PingAckedEvent
from tests.transport.forge import Forger, state_of


def settled() -> tuple[Pair, Forger]:
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    pair.server.take_events()
    return pair, Forger(pair.server, pair.client.address)


def stream_frame(stream_id: int, offset: int, data: bytes) -> bytes:
    head = bytes([f.STREAM | f.STREAM_OFF | f.STREAM_LEN])
    return head + b"".join(map(encode_varint, (stream_id, offset, len(data)))) + data


def kinds(events: list[QuicEvent]) -> list[type[QuicEvent]]:
    return [type(event) for event in events]


def test_streams_tell_of_events_by_the_queue_that_gathers() -> None:
    engine = settled()[0].server.connection._engine
    assert engine.streams._events is engine.events


CLOSE = bytes([f.APPLICATION_CLOSE, 0, 0])
RESET = b"".join(map(encode_varint, (f.RESET_STREAM, 0, 7, 6)))
DATAGRAM = bytes([f.DATAGRAM_LEN, 3]) + b"xyz"
UNKNOWN = b"\x3f"


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("follows", "expected"),
    [
        (CLOSE, ConnectionTerminated),
        (RESET, StreamReset),
        (DATAGRAM, DatagramFrameReceived),
        (UNKNOWN, ConnectionTerminated),
    ],
)
def test_nothing_overtakes_the_data_that_came_first(
    together: bool, follows: bytes, expected: type[QuicEvent]
) -> None:
    """In one packet, and in two packets of one batch."""
    pair, forger = settled()
    data = stream_frame(0, 0, b"answer")
    payloads = [data + follows] if together else [data, follows]
    packets = [forger.packet(payload) for payload in payloads]
    server = pair.server.connection
    server.receive_datagrams(packets, pair.client.address, pair.now)
    server.trains_to_send(pair.now)
    assert kinds(pair.server.take_events()) == [StreamDataReceived, expected]


class Watcher(QuicLoggerTrace):
    """Is called in the middle of a batch: after each packet."""

    def __init__(self, pair: Pair, on_packet: Callable[[], object]) -> None:
        super().__init__(is_client=False, odcid=b"")
        self._on_packet = on_packet
        pair.server.connection._engine._receiver._trace = self

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        if event == "packet_received":
            self._on_packet()


def test_a_part_that_nobody_told_of_the_gathering_cannot_overtake_data() -> None:
    """It queues an event in the middle of a batch, and hands nothing on before."""
    pair, forger = settled()
    server = pair.server.connection
    packets_read = count(1)

    def say_so() -> None:
        if next(packets_read) == 3:
            server._engine.events.append(PingAckedEvent(1))

    Watcher(pair, say_so)
    packets = [forger.packet(stream_frame(0, at, b"x")) for at in range(6)]
    server.receive_datagrams(packets, pair.client.address, pair.now)
    assert pair.server.take_events() == [
        StreamDataReceived(data=b"xxx", end_stream=False, stream_id=0),
        PingAcknowledged(uid=1),
        StreamDataReceived(data=b"xxx", end_stream=False, stream_id=0),
    ]


def test_who_takes_an_event_in_the_middle_of_a_batch_gets_the_data_that_came_first() -> None:
    pair, forger = settled()
    server = pair.server.connection
    taken: list[QuicEvent | None] = []
    Watcher(pair, lambda: taken.append(server.next_event()))
    packets = [forger.packet(stream_frame(0, at, b"x")) for at in range(3)]
    server.receive_datagrams(packets, pair.client.address, pair.now)
    data = [event.data for event in taken if isinstance(event, StreamDataReceived)]
    assert data == [b"x", b"x", b"x"]
    assert pair.server.take_events() == []


def test_an_event_is_queued_even_if_the_data_before_it_breaks_a_limit() -> None:
    waiting: list[Event] = []
    events = EventQueue(waiting)

    def hand_on() -> None:
        raise TransportError(f.FLOW_CONTROL_ERROR, "too much")

    events.begin_gathering(hand_on)
    with pytest.raises(TransportError):
        events.append(PingAckedEvent(1))
    assert waiting == [PingAckedEvent(1)]


def test_only_the_queue_touches_the_list_of_events() -> None:
    """Or else what it makes sure of would be everybody's to remember."""
    transport = Path(state.__file__).parent
    touching = set()
    for path in transport.rglob("*.py"):
        tree = ast.parse(path.read_text())
        given = {
            id(argument)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "EventQueue"
            for argument in node.args
        }
        for node in ast.walk(tree):
            reaches = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if reaches in ("state.events", "self._state.events") and id(node) not in given:
                touching.add(path.name)
    assert touching == {"resting.py"}  # which asks whether it is empty


def test_a_stateless_reset_does_not_overtake_data() -> None:
    pair, forger = settled()
    state = state_of(pair.server)
    token = bytes(range(16))
    state.ids.peer[0].token = token
    packets = [forger.packet(stream_frame(0, 0, b"answer")), b"\x40" + bytes(30) + token]
    pair.server.connection.receive_datagrams(packets, pair.client.address, pair.now)
    assert kinds(pair.server.take_events()) == [StreamDataReceived, ConnectionTerminated]


def leave(state: ConnectionState, events: int) -> None:
    """Have so many events wait that the application has not taken."""
    state.events.extend([IdRetiredEvent(b"")] * events)


def test_a_batch_may_bring_more_events_than_may_wait() -> None:
    """An honest peer's many small frames: the application has had no chance to take them."""
    pair, forger = settled()
    state = state_of(pair.server)
    leave(state, limits.MAX_QUEUED_EVENTS - 100)
    datagrams = [forger.packet(DATAGRAM * 50 + stream_frame(0, at, b"x")) for at in range(10)]
    streams = [
        forger.packet(b"".join(stream_frame(4 * n, 10 + at, b"x") for n in range(100)))
        for at in range(10)
    ]
    pair.server.connection.receive_datagrams([*datagrams, *streams], pair.client.address, pair.now)
    assert state.closing is None
    assert len(state.events) > limits.MAX_QUEUED_EVENTS
    pair.server.take_events()
    forger.send(bytes([f.PING]))
    assert state.closing is None


def test_an_application_that_takes_nothing_loses_its_connection() -> None:
    pair, forger = settled()
    state = state_of(pair.server)
    leave(state, limits.MAX_QUEUED_EVENTS - 100)
    for at in range(2):
        assert state.closing is None
        forger.send(b"".join(stream_frame(4 * n, at, b"x") for n in range(101)))
    assert state.closing is not None
    assert state.closing.error_code == f.INTERNAL_ERROR


def test_a_long_queue_is_taken_in_order_whatever_comes_meanwhile() -> None:
    pair, forger = settled()
    server, state = pair.server.connection, state_of(pair.server)
    forger.send(b"".join(bytes([f.DATAGRAM_LEN, 1, n]) for n in range(100)))
    taken = [server.next_event() for _ in range(10)]
    forger.send(b"".join(bytes([f.DATAGRAM_LEN, 1, n]) for n in range(100, 200)))
    taken += [server.next_event() for _ in range(10)]
    assert len(server.waiting_events) == 180
    taken += [server.next_event() for _ in range(10)]
    baton = pair.cluster.pack(server, now=pair.now)
    assert len(state.events) == 170
    moved = pair.cluster.unpack(baton, now=pair.now).connection
    while (event := moved.next_event()) is not None:
        taken.append(event)
    data = [event.data for event in taken if isinstance(event, DatagramFrameReceived)]
    assert data == [bytes([n]) for n in range(200)]


def test_a_long_queue_is_not_moved_for_each_event() -> None:
    pair, forger = settled()
    server, state = pair.server.connection, state_of(pair.server)
    forger.send(b"".join(bytes([f.DATAGRAM_LEN, 1, n]) for n in range(200)))
    server.next_event()
    assert state.events == []  # the rest is taken from the end of another list
    assert server.why_awake(pair.now) == "undelivered_events"
    assert len(state.events) == 199


# --- pings and tokens ---------------------------------------------------------------------------


def test_no_two_owners_give_out_the_same_ping() -> None:
    pair, _ = settled()
    first = pair.server.connection.next_ping_uid()
    pair.server.connection.send_ping(first)
    baton = pair.cluster.pack(pair.server.connection, now=pair.now)
    moved = pair.cluster.unpack(baton, now=pair.now).connection
    assert moved.next_ping_uid() == first + 1


def test_an_acknowledged_ping_is_reported_however_much_waits() -> None:
    pair, forger = settled()
    server, state = pair.server.connection, state_of(pair.server)
    leave(state, limits.MAX_QUEUED_EVENTS - 1)
    server.send_ping(7)
    server.trains_to_send(pair.now)
    number = state.numbers.next_number - 1
    forger.send(DATAGRAM * 2 + b"".join(map(encode_varint, (f.ACK, number, 0, 0, 0))))
    expected = [DatagramFrameReceived, PingAcknowledged]
    assert kinds(pair.server.take_events()[limits.MAX_QUEUED_EVENTS - 1 :]) == expected


def test_a_late_acknowledgement_of_a_token_is_not_taken_for_that_of_a_newer_one() -> None:
    pair, forger = settled()
    server, state = pair.server.connection, state_of(pair.server)

    def send(token: bytes) -> int:
        server.send_new_token(token)
        server.trains_to_send(pair.now)
        return state.numbers.next_number - 1

    def acked(number: int) -> bytes:
        return b"".join(map(encode_varint, (f.ACK, number, 0, 0, 0)))

    first = send(b"first")
    state.tokens_due.append(0)  # as after a loss that was none
    server.trains_to_send(pair.now)
    again = state.numbers.next_number - 1
    assert again == first + 1
    forger.send(acked(first))
    assert (state.tokens, state.tokens_due) == ([], [])
    send(b"second")
    forger.send(acked(again))
    assert state.tokens == [b"second"]


def test_a_token_that_arrived_after_all_is_not_sent_again_empty() -> None:
    pair, forger = settled()
    server, state = pair.server.connection, state_of(pair.server)
    server.send_new_token(b"first")
    server.send_new_token(b"second")
    server.trains_to_send(pair.now)
    number = state.numbers.next_number - 1
    state.tokens_due += [0, 1]
    forger.send(b"".join(map(encode_varint, (f.ACK, number, 0, 0, 0))))
    assert state.tokens_due == []
