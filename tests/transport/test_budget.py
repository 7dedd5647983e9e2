"""The memory that connections share, and what happens as it fills."""

from __future__ import annotations

import pytest

from quicbaton import limits
from quicbaton.testing import Pair
from quicbaton.transport import frames as f
from quicbaton.transport.budget import Account, MemoryBudget, Pressure
from quicbaton.transport.state import WritableEvent
from quicbaton.transport.streams.streams import Streams
from tests.transport.forge import state_of
from tests.transport.states import connection_state
from tests.transport.stream_wire import Node

WINDOW = limits.CONNECTION_WINDOW_BYTES
LEAST = limits.MIN_CONNECTION_WINDOW_BYTES


@pytest.mark.parametrize(
    ("held", "pressure"),
    [
        (0, Pressure.ENOUGH),
        (499, Pressure.ENOUGH),
        (500, Pressure.TIGHT),
        (749, Pressure.TIGHT),
        (750, Pressure.LOW),
        (875, Pressure.FULL),
        (999, Pressure.FULL),
        (1000, Pressure.OVER),
        (5000, Pressure.OVER),
    ],
)
def test_pressure_follows_what_is_held_up_and_down(held: int, pressure: Pressure) -> None:
    budget = MemoryBudget(1000)
    account = budget.open(b"a")
    account.note(held, 0)
    assert budget.pressure is pressure
    account.note(0, 0)
    assert budget.pressure is Pressure.ENOUGH
    account.note(held, 0)
    account.close()
    assert (budget.pressure, budget.held_bytes) == (Pressure.ENOUGH, 0)


def test_what_waits_beside_a_connection_counts_as_held() -> None:
    budget = MemoryBudget(8 * LEAST)
    account = budget.open(b"a")
    account.note(LEAST // 2, 0)
    account.keep(6 * LEAST)
    assert budget.held_bytes == account.held_bytes == 6 * LEAST + LEAST // 2
    # A connection that holds that much gets no more credit, wherever it is.
    assert not account.may_credit(LEAST // 2)
    account.note(0, 0)
    assert budget.held_bytes == 6 * LEAST
    account.keep(5)
    assert (budget.held_bytes, budget.take_relieved()) == (5, [account])
    account.close()
    account.keep(7)
    assert budget.held_bytes == 0


def test_windows_grow_out_of_half_of_the_budget() -> None:
    budget = MemoryBudget(16 << 20)
    first, second = budget.open(b"1"), budget.open(b"2")
    assert first.window(WINDOW, WINDOW + (8 << 20), LEAST) == WINDOW + (8 << 20)
    first.note(0, WINDOW + (8 << 20))
    assert second.window(WINDOW, WINDOW + 1, LEAST) == WINDOW
    assert second.window(WINDOW // 4, WINDOW, LEAST) == WINDOW  # everybody's own
    first.close()
    assert second.window(WINDOW, WINDOW + 1, LEAST) == WINDOW + 1


def test_windows_shrink_while_memory_is_tight() -> None:
    budget = MemoryBudget(1000)
    account = budget.open(b"a")
    account.note(500, 0)
    assert account.window(WINDOW, 2 * WINDOW, LEAST) == LEAST
    assert account.window(LEAST // 2, LEAST, LEAST) == LEAST // 2


def test_credit_is_withheld_from_those_that_hold_much_until_there_is_memory() -> None:
    budget = MemoryBudget(1000)
    glutton, modest = budget.open(b"glutton"), budget.open(b"modest")
    glutton.note(800, 0)
    assert modest.may_credit(LEAST - 1)
    assert not glutton.may_credit(LEAST)
    assert not budget.needs_attention
    glutton.note(700, 0)
    assert budget.needs_attention
    assert budget.take_relieved() == [glutton]
    assert not budget.needs_attention
    assert glutton.may_credit(LEAST)


def test_the_largest_holder_is_the_one_to_close() -> None:
    budget = MemoryBudget(1000)
    accounts = [budget.open(bytes([index])) for index in range(3)]
    for account, held in zip(accounts, (200, 500, 400), strict=True):
        account.note(held, 0)
    assert budget.largest_holder() is accounts[1]
    accounts[1].close()
    assert budget.largest_holder() is None


# --- streams ------------------------------------------------------------------------------------


def shared_node(budget: MemoryBudget, window: int = 1 << 20) -> tuple[Node, Account]:
    node = Node(connection_state(stream_window=window, connection_window=2 * window))
    account = budget.open(b"node")
    node.streams = Streams(node.state, account)
    return node, account


def test_what_streams_hold_is_what_came_and_was_written_until_it_is_done_with() -> None:
    client, server = Node(connection_state(is_client=True)), Node(connection_state())
    client.streams.write(0, bytes(5000), fin=True)
    assert client.streams.held_bytes() == 5000
    packets = client.packets()
    for packet in packets:
        server.receive(packet.payload)
    assert server.streams.held_bytes() == 5000
    server.move()
    assert server.streams.held_bytes() == 5000
    server.take_events()
    assert server.streams.held_bytes() == 0
    for packet in packets:
        client.acked(packet)
    assert client.streams.held_bytes() == 0
    client.streams.write(4, bytes(5000), fin=False)
    client.move()
    assert client.streams.held_bytes() == 5000
    client.streams.reset(4, 7)
    assert client.streams.held_bytes() == 0


def test_a_window_shrinks_and_grows_again_with_the_memory() -> None:
    budget = MemoryBudget(4 << 20)
    node, _ = shared_node(budget)
    other = budget.open(b"other")
    other.note(2 << 20, 0)
    node.streams.on_stream(0, 0, bytes(700_000), False, 0)
    node.take_events()
    half = node.state.streams[0].receive
    assert half is not None
    assert half.window_bytes == limits.MIN_STREAM_WINDOW_BYTES
    other.note(0, 0)
    offset = 700_000
    for _ in range(40):
        size = half.limit - offset
        node.streams.on_stream(0, offset, bytes(size), False, 0)
        offset += size
        node.take_events()
        node.packets()
    assert half.window_bytes > 1 << 20


def test_withheld_credit_comes_when_there_is_memory() -> None:
    budget = MemoryBudget(4 << 20)
    node, _ = shared_node(budget)
    other = budget.open(b"other")
    other.note(3 << 20, 0)
    node.streams.on_stream(0, 0, bytes(1 << 20), False, 0)
    node.streams.on_stream(4, 0, bytes(900_000), False, 0)
    node.take_events(limit=1)
    assert node.packets() == []
    node.take_events()
    # It holds nothing any more, and gets what the smallest window has.
    assert node.packets() != []
    assert budget.take_relieved() == []
    other.note(0, 0)
    node.streams.restore_credit(0)
    assert node.state.flow.receive_limit_due


def test_a_program_is_told_earlier_to_wait_while_memory_is_tight() -> None:
    budget = MemoryBudget(1 << 20)
    node, account = shared_node(budget)
    account.note(600_000, 0)
    node.streams.write(1, bytes(limits.SMALL_BUFFER_HIGH_BYTES), fin=False)
    half = node.state.streams[1].send
    assert half is not None
    assert half.congested


def fill(node: Node, streams: range) -> None:
    """Write as a program does that stops where it is told to wait."""
    for stream_id in streams:
        while not is_congested(node, stream_id):
            room = node.streams.send_room_bytes(stream_id)
            node.streams.write(stream_id, bytes(min(room, 256 << 10)), fin=False)


def is_congested(node: Node, stream_id: int) -> bool:
    stream = node.state.streams.get(stream_id)
    return stream is not None and stream.send is not None and stream.send.congested


def test_who_asks_for_much_and_reads_nothing_has_small_buffers() -> None:
    node = Node(connection_state(stream_window=1 << 10, connection_window=1 << 20))
    streams = range(1, 4 * 100, 4)
    fill(node, streams)
    most = limits.CONNECTION_BUFFER_BYTES + 100 * limits.SMALL_BUFFER_HIGH_BYTES
    assert node.streams.held_bytes() <= most
    # It counts what is there, also at the next owner.
    node.streams = Streams(node.state)
    node.streams.reset(1, 0)
    fill(node, range(401, 405, 4))
    assert node.streams.buffered_bytes(401) == limits.SMALL_BUFFER_HIGH_BYTES
    # With what was given up there is room for large ones again.
    for stream_id in streams:
        node.streams.reset(stream_id, 0)
    fill(node, range(405, 409, 4))
    assert node.streams.buffered_bytes(405) == limits.STREAM_BUFFER_HIGH_BYTES


def test_every_program_that_waits_is_told_to_go_on_when_buffers_were_small() -> None:
    node = Node(connection_state(stream_window=16 << 20, connection_window=64 << 20))
    streams = range(1, 4 * 20, 4)
    fill(node, streams)
    node.packets(limit=1 << 20, payload_bytes=1200)
    assert {event.stream_id for event in node.state.events if type(event) is WritableEvent} == set(
        streams
    )


# --- connections --------------------------------------------------------------------------------


def test_bytes_in_flight_are_bounded_whatever_the_window() -> None:
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    server, state = pair.server.connection, state_of(pair.server)
    state.congestion.window_bytes = 1 << 30
    state.congestion.pacing_tokens_bytes = 1e12
    state.flow.send_limit = 1 << 30
    server.send_stream_data(1, bytes(64 << 20))
    half = state.streams[1].send
    assert half is not None
    half.limit = 1 << 30
    for _ in range(2000):
        server.trains_to_send(pair.now)
    assert (
        limits.MAX_FLIGHT_BYTES - 70_000
        < state.congestion.in_flight_bytes
        <= limits.MAX_FLIGHT_BYTES
    )


def test_a_connection_that_is_over_holds_nothing() -> None:
    pair = Pair()
    pair.connect()
    pair.run(seconds=1)
    server, state = pair.server.connection, state_of(pair.server)
    server.send_stream_data(1, bytes(1 << 20))
    server.trains_to_send(pair.now)
    memory = server._memory  # type: ignore[attr-defined]
    assert memory.held_bytes == 1 << 20
    server.close(f.INTERNAL_ERROR, 0, "short of memory")
    assert len(server.trains_to_send(pair.now)) == 1
    assert memory.held_bytes == memory.budget.held_bytes == 0
    assert state.streams[1].send is not None
    assert state.streams[1].send.chunks == []
