"""Streams that the program no longer reads, and whose peer may send on for a while."""

from __future__ import annotations

import pytest

from quicbaton import limits
from quicbaton.transport.state import (
    NEVER,
    StopSendingEvent,
    StreamDataEvent,
    StreamResetEvent,
)
from tests.transport.stream_wire import Node, exchange, pair

_STREAM = 0
_CODE = 0x100
_IDLE_US = round(limits.DRAIN_IDLE_S * 1_000_000)
MOVING = pytest.mark.parametrize("moving", [False, True])


def answered(sent: bytes = b"begun") -> tuple[Node, Node]:
    """A client in the middle of a request, and a server that has just written its answer."""
    client, server = pair()
    client.streams.write(_STREAM, sent, fin=False)
    exchange(client, server)
    server.streams.write(_STREAM, b"answer", fin=True)
    server.streams.drain(_STREAM, _CODE)
    return client, server


def stops(client: Node) -> list[StopSendingEvent]:
    client.take_events()
    return [event for event in client.events if isinstance(event, StopSendingEvent)]


def advance(server: Node, by_us: int, *, moving: bool = False) -> None:
    server.advance(by_us)
    if moving:
        server.move()
    server.streams.on_timer(server.state.clock_us)


@MOVING
def test_an_upload_may_go_on_to_its_end_and_is_heard_by_nobody(moving: bool) -> None:
    """Several times as much as fits into the windows, so credit is given for what is dropped."""
    client, server = answered()
    for number in range(20):
        client.streams.write(_STREAM, bytes(300_000), fin=number == 19)
        exchange(client, server)
        if moving:
            server.move()
        assert server.streams.held_bytes() == 0
    assert stops(client) == []
    assert server.received == {_STREAM: bytearray(b"begun")}
    assert client.state.streams == {}
    assert server.state.streams == {}
    assert server.state.drains == {}
    assert server.streams.next_timer_us == NEVER


@MOVING
def test_an_upload_beyond_the_limit_is_stopped(moving: bool) -> None:
    client, server = answered()
    drain = server.state.drains[_STREAM]
    assert drain.limit == len(b"begun") + limits.MAX_DRAINED_BYTES
    drain.limit = 100_000
    for _ in range(9):
        client.streams.write(_STREAM, bytes(10_000), fin=False)
        exchange(client, server)
        if moving:
            server.move()
    assert stops(client) == []
    client.streams.write(_STREAM, bytes(10_000), fin=False)
    exchange(client, server)
    assert stops(client) == [StopSendingEvent(_STREAM, _CODE)]
    # Its reset, which answers that, was the end.
    assert server.state.streams == {}
    assert server.streams.next_timer_us == NEVER


@MOVING
def test_a_client_that_falls_silent_is_stopped(moving: bool) -> None:
    client, server = answered()
    exchange(client, server)
    for _ in range(5):
        advance(server, _IDLE_US - 1, moving=moving)
        client.streams.write(_STREAM, b"more", fin=False)
        exchange(client, server)
    assert stops(client) == []
    assert server.streams.next_timer_us <= server.state.clock_us + _IDLE_US
    advance(server, _IDLE_US, moving=moving)
    exchange(client, server)
    assert stops(client) == [StopSendingEvent(_STREAM, _CODE)]
    assert server.state.streams == {}


def test_a_client_that_has_yet_to_take_its_answer_is_not_silent() -> None:
    client, server = answered()
    packets = server.packets()
    advance(server, 60 * _IDLE_US)
    assert server.streams.next_timer_us == NEVER
    for packet in packets:
        client.receive(packet.payload)
        server.acked(packet)
    assert server.streams.next_timer_us == server.state.clock_us + _IDLE_US
    assert stops(client) == []


def test_a_distant_client_has_longer_to_speak() -> None:
    client, server = answered()
    server.state.recovery.smoothed_rtt_us = _IDLE_US
    exchange(client, server)
    advance(server, 3 * _IDLE_US - 1)
    exchange(client, server)
    assert stops(client) == []
    advance(server, 1)
    exchange(client, server)
    assert stops(client) == [StopSendingEvent(_STREAM, _CODE)]


def test_of_several_streams_each_is_stopped_in_its_time() -> None:
    client, server = answered()
    exchange(client, server)
    client.streams.write(4, b"begun", fin=False)
    exchange(client, server)
    server.streams.write(4, b"answer", fin=True)
    server.streams.drain(4, _CODE + 1)
    advance(server, _IDLE_US // 2)
    exchange(client, server)
    advance(server, _IDLE_US - _IDLE_US // 2)
    exchange(client, server)
    assert stops(client) == [StopSendingEvent(_STREAM, _CODE)]
    assert list(server.state.drains) == [4]
    advance(server, _IDLE_US // 2)
    exchange(client, server)
    assert stops(client)[1:] == [StopSendingEvent(4, _CODE + 1)]


def test_a_stop_in_earnest_is_said_at_once() -> None:
    client, server = answered()
    server.streams.stop(_STREAM, 7)
    exchange(client, server)
    assert stops(client) == [StopSendingEvent(_STREAM, 7)]
    assert server.state.streams == {}


def test_a_reset_is_told_and_ends_it() -> None:
    client, server = answered()
    client.streams.reset(_STREAM, 9)
    exchange(client, server)
    server.streams.stop(_STREAM, 7)
    exchange(client, server)
    assert StreamResetEvent(_STREAM, 9) in server.events
    assert stops(client) == []
    assert server.state.streams == {}
    assert server.streams.next_timer_us == NEVER


def test_what_was_there_as_a_whole_is_not_drained() -> None:
    client, server = pair()
    client.streams.write(_STREAM, b"all", fin=True)
    exchange(client, server)
    server.streams.drain(_STREAM, _CODE)
    assert server.state.drains == {}
    assert server.events == [StreamDataEvent(_STREAM, b"all", True)]
