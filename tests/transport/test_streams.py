"""The bytes of streams, and how they are sent (RFC 9000 §2)."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quicbaton import limits
from quicbaton.errors import StreamStateError
from quicbaton.transport.frames import PacketPlan
from quicbaton.transport.state import (
    WritableEvent,
)
from tests.transport.states import connection_state
from tests.transport.stream_wire import Node, Packet, exchange, pair

CLIENT_BIDI, SERVER_BIDI, CLIENT_UNI, SERVER_UNI = range(4)


def body(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


class Storm:
    """Random writes both ways over a wire that loses, delays, reorders and doubts."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        window = rng.choice([300, 2000, 1 << 20])
        self.nodes = pair(
            stream_window=window, connection_window=2 * window, streams=rng.choice([1, 3, 128])
        )
        self.sent: list[dict[int, bytes]] = [{}, {}]
        self.open: list[list[int]] = [[], []]
        self.delayed: list[tuple[int, Packet, bool]] = []

    def write(self, side: int) -> None:
        node, rng = self.nodes[side], self.rng
        self.open[side] = [item for item in self.open[side] if self.is_writable(side, item)]
        choices = [*self.open[side]]
        if len(self.sent[side]) < 8:
            unidirectional = rng.random() < 0.5
            choices.append(node.streams.next_id(unidirectional))
        other = [
            stream_id
            for stream_id in self.nodes[side].received
            if not stream_id & 2
            and stream_id & 1 != side
            and stream_id not in self.sent[side]
            and self.is_writable(side, stream_id)
        ]
        choices += other
        if not choices:
            return
        stream_id = rng.choice(choices)
        data = rng.randbytes(rng.choice([0, 1, 50, 500, 5000]))
        fin = rng.random() < 0.2
        node.streams.write(stream_id, data, fin)
        self.sent[side][stream_id] = self.sent[side].get(stream_id, b"") + data
        if fin and stream_id in self.open[side]:
            self.open[side].remove(stream_id)
        elif not fin and stream_id not in self.open[side]:
            self.open[side].append(stream_id)

    def interfere(self, side: int) -> None:
        """Reset, stop, pause or resume a stream, whatever state it is in."""
        node, rng = self.nodes[side], self.rng
        if not node.state.streams:
            return
        stream_id = rng.choice(list(node.state.streams))
        stream = node.state.streams[stream_id]
        streams = node.streams
        if stream.send is not None and rng.random() < 0.5:
            streams.reset(stream_id, 1)
            if stream_id in self.open[side]:
                self.open[side].remove(stream_id)
        elif stream.receive is not None:
            rng.choice(
                [
                    lambda: streams.stop(stream_id, 2),
                    lambda: streams.pause_reading(stream_id),
                    lambda: streams.resume_reading(stream_id, node.state.clock_us),
                ]
            )()

    def is_writable(self, side: int, stream_id: int) -> bool:
        stream = self.nodes[side].state.streams.get(stream_id)
        return stream is not None and stream.send is not None and stream.send.reset_code < 0

    def transmit(self, side: int) -> None:
        node, peer, rng = self.nodes[side], self.nodes[1 - side], self.rng
        for packet in node.packets(limit=rng.randint(1, 30), payload_bytes=rng.choice([60, 120])):
            fate = rng.random()
            if fate < 0.6:
                peer.receive(packet.payload)
                node.acked(packet)
            elif fate < 0.8:
                node.lost(packet)
            elif fate < 0.9:  # declared lost, but only late
                node.lost(packet)
                self.delayed.append((side, packet, True))
            else:
                self.delayed.append((side, packet, True))

    def deliver_late(self, count: int) -> None:
        self.rng.shuffle(self.delayed)
        for _ in range(min(count, len(self.delayed))):
            side, packet, ack = self.delayed.pop()
            self.nodes[1 - side].receive(packet.payload)
            if ack:
                self.nodes[side].acked(packet)

    def run(self, steps: int, *, interfering: bool = False) -> None:
        rng = self.rng
        for _ in range(steps):
            side = rng.randrange(2)
            self.nodes[side].advance(rng.randrange(30_000))
            action = rng.randrange(7 if interfering else 6)
            if action == 0:
                self.write(side)
            elif action in (1, 2):
                self.transmit(side)
            elif action == 3:
                self.nodes[side].take_events(rng.randint(1, 5))
            elif action == 4:
                self.deliver_late(3)
            elif action == 5:
                self.nodes[side].move()
            else:
                self.interfere(side)

    def settle(self) -> None:
        """Everything still open ends, and the network behaves from now on."""
        for node in self.nodes:
            for stream_id, stream in tuple(node.state.streams.items()):
                if stream.receive is not None:
                    node.streams.resume_reading(stream_id, node.state.clock_us)
        self.deliver_late(len(self.delayed))
        answering = True
        while answering:  # an answer finishes a stream, which may let another one begin
            exchange(*self.nodes)
            answering = False
            for node in self.nodes:
                for stream_id, stream in tuple(node.state.streams.items()):
                    half = stream.send
                    if half is not None and not half.fin_written and half.reset_code < 0:
                        node.streams.write(stream_id, b"", fin=True)
                        answering = True


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_every_byte_arrives_once_and_in_order_whatever_the_network_does(seed: int) -> None:
    storm = Storm(random.Random(seed))
    storm.run(150)
    storm.settle()
    for side in (0, 1):
        node, peer = storm.nodes[side], storm.nodes[1 - side]
        for stream_id, data in storm.sent[side].items():
            assert bytes(peer.received.get(stream_id, b"")) == data
            assert stream_id in peer.ended
        assert node.state.streams == {}
        assert node.state.order == []
        assert not node.streams.has_due()
        flow = node.state.flow
        assert flow.receive_used == flow.receive_consumed == peer.state.flow.send_used
        assert flow.peer_streams_closed == flow.peer_streams_seen
        assert node.state.finished == peer.state.finished


@given(st.integers(0, 1 << 32))
@example(16433093)  # taking the last events makes a MAX_DATA due
@settings(max_examples=100, deadline=None)
def test_abandoned_streams_deliver_a_prefix_and_cost_both_sides_the_same_credit(seed: int) -> None:
    storm = Storm(random.Random(seed))
    storm.run(150, interfering=True)
    storm.settle()
    for side in (0, 1):
        node, peer = storm.nodes[side], storm.nodes[1 - side]
        for stream_id, data in storm.sent[side].items():
            received = bytes(peer.received.get(stream_id, b""))
            assert data.startswith(received)
            assert received == data or stream_id not in peer.ended
        assert node.state.streams == {}
        assert not node.streams.has_due()
        flow = node.state.flow
        assert flow.receive_used == flow.receive_consumed == peer.state.flow.send_used
        assert flow.peer_streams_closed == flow.peer_streams_seen


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_segments_in_any_order_are_read_as_they_were_first_received(seed: int) -> None:
    rng = random.Random(seed)
    content = rng.randbytes(400)
    server = Node(connection_state())
    known = [False] * 400
    while not all(known):
        start = rng.randrange(400)
        stop = min(400, start + rng.randint(1, 120))
        # A second copy may differ: the first one counts.
        data = bytes(255 - content[at] if known[at] else content[at] for at in range(start, stop))
        known[start:stop] = [True] * (stop - start)
        server.streams.on_stream(CLIENT_BIDI, start, data, stop == 400, 0)
        half = server.state.streams[CLIENT_BIDI].receive
        assert half is not None
        reached = half.delivered
        for offset, kept in half.segments:
            assert offset > reached or (offset == reached and reached > half.delivered)
            reached = offset + len(kept)
        if rng.random() < 0.3:
            server.take_events()
    server.take_events()
    assert bytes(server.received[CLIENT_BIDI]) == content
    assert server.ended == {CLIENT_BIDI}


def test_a_written_chunk_is_kept_without_a_copy() -> None:
    client, _ = pair()
    data = body(256 << 10)
    client.streams.write(CLIENT_BIDI, data, fin=False)
    half = client.state.streams[CLIENT_BIDI].send
    assert half is not None
    assert half.chunks[0] is data


def test_small_writes_share_a_chunk() -> None:
    client, _ = pair()
    for _ in range(1000):
        client.streams.write(CLIENT_BIDI, b"0123456789", fin=False)
    half = client.state.streams[CLIENT_BIDI].send
    assert half is not None
    assert len(half.chunks) == 1


def test_the_next_id_is_consumed_by_the_first_write() -> None:
    client, server = pair()
    assert client.streams.next_id(False) == client.streams.next_id(False) == CLIENT_BIDI
    client.streams.write(CLIENT_BIDI, b"", fin=False)
    assert client.streams.next_id(False) == 4
    assert client.streams.next_id(True) == CLIENT_UNI
    assert server.streams.next_id(False) == SERVER_BIDI
    assert server.streams.next_id(True) == SERVER_UNI


def test_empty_data_opens_a_stream_but_sends_nothing() -> None:
    client, _ = pair()
    client.streams.write(CLIENT_BIDI, b"", fin=False)
    assert client.state.streams.keys() == {CLIENT_BIDI}
    assert not client.streams.has_due()


def test_a_run_fills_its_packets_exactly_and_leaves_the_tail_and_fin() -> None:
    client, server = pair()
    data = body(10_000)
    client.streams.write(CLIENT_BIDI, data, fin=True)
    taken = client.streams.take_run(1200, 44)
    assert taken is not None
    stream_id, offset, chunk, payloads = taken
    assert (stream_id, offset, chunk) == (CLIENT_BIDI, 0, 1200 - 6)
    assert [len(payload) for payload in payloads] == [1200] * (10_000 // chunk)
    assert client.streams.take_run(1200, 44) is None
    for payload in payloads:
        server.receive(payload)
    exchange(client, server)
    assert bytes(server.received[CLIENT_BIDI]) == data
    assert server.ended == {CLIENT_BIDI}


def test_a_run_spans_chunks() -> None:
    client, server = pair()
    data = body(60_000)
    for start in range(0, 60_000, 20_000):
        client.streams.write(CLIENT_BIDI, data[start : start + 20_000], fin=False)
    taken = client.streams.take_run(1200, 44)
    assert taken is not None
    assert len(taken[3]) == 44
    for payload in taken[3]:
        server.receive(payload)
    server.take_events()
    assert bytes(server.received[CLIENT_BIDI]) == data[: 44 * taken[2]]


def test_lost_packets_of_a_run_fit_a_run_again_exactly() -> None:
    client, _ = pair()
    client.streams.write(CLIENT_BIDI, body(100_000), fin=False)
    first = client.streams.take_run(1200, 44)
    assert first is not None
    _, _, chunk, payloads = first
    client.streams.on_run_lost(CLIENT_BIDI, 10 * chunk, 5 * chunk)
    again = client.streams.take_run(1200, 44)
    assert again == (CLIENT_BIDI, 10 * chunk, chunk, payloads[10:15])


@pytest.mark.parametrize("start", [(1 << 30) - 3000, 1 << 30, 1 << 40])
def test_runs_beyond_four_byte_offsets_are_read_right(start: int) -> None:
    client, server = pair(stream_window=1 << 41, connection_window=1 << 41)
    data = body(20_000)
    client.streams.write(CLIENT_BIDI, b"", fin=False)
    send = client.state.streams[CLIENT_BIDI].send
    assert send is not None
    send.base = send.end = send.next = start
    server.streams.on_stream(CLIENT_BIDI, 0, b"", False, 0)
    receive = server.state.streams[CLIENT_BIDI].receive
    assert receive is not None
    receive.delivered = receive.highest = receive.consumed = receive.taken = start
    client.streams.write(CLIENT_BIDI, data, fin=True)
    exchange(client, server)
    assert bytes(server.received[CLIENT_BIDI]) == data


def test_streams_take_turns() -> None:
    client, _ = pair()
    ids = [0, 4, 8]
    for stream_id in ids:
        client.streams.write(stream_id, body(20_000), fin=False)
    turns = [client.streams.take_run(1200, 4) for _ in range(6)]
    assert [run and run[0] for run in turns] == ids * 2


def test_lower_urgency_goes_first_and_equals_take_turns() -> None:
    client, _ = pair()
    for stream_id in (0, 4, 8, 12):
        client.streams.write(stream_id, body(9_000), fin=False)
    client.streams.set_priority(8, 0, incremental=True)
    client.streams.set_priority(12, 0, incremental=True)
    client.streams.set_priority(0, 7, incremental=True)
    turns = []
    while (run := client.streams.take_run(1000, 4)) is not None:
        turns.append(run[0])
    assert turns == [8, 12, 8, 12]
    assert client.state.order == [8, 12, 4, 0]  # each has a tail left for a mixed packet


def test_small_streams_share_a_packet() -> None:
    client, server = pair()
    for ordinal in range(5):
        client.streams.write(4 * ordinal, b"request", fin=True)
    packets = client.packets(payload_bytes=1200)
    assert len(packets) == 1
    server.receive(packets[0].payload)
    server.take_events()
    assert server.received == {4 * ordinal: b"request" for ordinal in range(5)}


@pytest.mark.parametrize("room", range(1, 80))
def test_mixed_packets_of_any_room_lose_no_byte(room: int) -> None:
    client, server = pair()
    data = body(150)
    client.streams.write(CLIENT_BIDI, data, fin=True)
    for _ in range(200):
        plan = PacketPlan(room)
        client.streams.write_due(plan)
        assert plan.room >= 0
        server.receive(b"".join(plan.parts))
    plan = PacketPlan(1200)
    client.streams.write_due(plan)
    server.receive(b"".join(plan.parts))
    server.take_events()
    assert bytes(server.received[CLIENT_BIDI]) == data
    assert server.ended == {CLIENT_BIDI}


def test_an_acknowledged_fin_does_not_end_retransmission_of_what_lies_before() -> None:
    client, server = pair()
    client.streams.write(CLIENT_UNI, b"first", fin=False)
    (lost,) = client.packets()
    client.streams.write(CLIENT_UNI, b"last", fin=True)
    (arrived,) = client.packets()
    server.receive(arrived.payload)
    client.acked(arrived)
    assert CLIENT_UNI in client.state.streams
    client.lost(lost)
    exchange(client, server)
    assert bytes(server.received[CLIENT_UNI]) == b"firstlast"
    assert client.state.streams == {}


def test_a_fin_lost_and_then_acknowledged_after_all_leaves_nothing_due() -> None:
    client, server = pair()
    client.streams.write(CLIENT_UNI, b"all", fin=True)
    (packet,) = client.packets()
    server.receive(packet.payload)
    client.lost(packet)
    assert client.streams.has_due()
    client.acked(packet)
    assert not client.streams.has_due()
    assert client.state.finished[CLIENT_UNI] == [0, 1]


def test_acknowledged_chunks_are_released_and_a_snapshot_carries_no_acknowledged_byte() -> None:
    client, _ = pair()
    for seed in range(3):
        client.streams.write(CLIENT_BIDI, body(30_000, seed), fin=False)
    run = client.streams.take_run(1200, 44)
    assert run is not None
    client.streams.on_run_acked(CLIENT_BIDI, 0, 40_000)
    half = client.state.streams[CLIENT_BIDI].send
    assert half is not None
    assert half.starts == [30_000, 60_000]
    client.streams.compact()
    assert half.starts == [40_000, 60_000]
    assert sum(map(len, half.chunks)) == 50_000


def test_the_application_is_told_when_a_full_buffer_has_drained() -> None:
    client, server = pair(stream_window=4 << 20, connection_window=4 << 20)
    client.streams.write(CLIENT_BIDI, body(limits.STREAM_BUFFER_HIGH_BYTES), fin=False)
    assert client.streams.buffered_bytes(CLIENT_BIDI) == limits.STREAM_BUFFER_HIGH_BYTES
    while client.streams.buffered_bytes(CLIENT_BIDI) >= limits.STREAM_BUFFER_LOW_BYTES:
        assert client.state.events == []
        assert client.streams.take_run(1200, 44) is not None
    assert client.state.events == [WritableEvent(CLIENT_BIDI)]
    exchange(client, server)
    assert client.events == [WritableEvent(CLIENT_BIDI)]


@pytest.mark.parametrize("ended", ["fin", "reset", "finished"])
def test_nothing_can_be_written_to_an_ended_stream(ended: str) -> None:
    client, server = pair()
    client.streams.write(CLIENT_UNI, b"x", fin=ended != "reset")
    if ended == "reset":
        client.streams.reset(CLIENT_UNI, 1)
    if ended == "finished":
        exchange(client, server)
    with pytest.raises(StreamStateError):
        client.streams.write(CLIENT_UNI, b"more", fin=False)


def test_streams_cannot_be_used_against_their_direction_or_before_the_peer_opens_them() -> None:
    client, server = pair()
    server.streams.write(SERVER_UNI, b"x", fin=False)
    exchange(client, server)
    for command in (
        lambda: client.streams.write(SERVER_UNI, b"x", False),
        lambda: client.streams.reset(SERVER_UNI, 0),
        lambda: client.streams.stop(CLIENT_UNI, 0),
        lambda: client.streams.pause_reading(CLIENT_UNI),
        lambda: client.streams.write(SERVER_BIDI, b"x", False),
        lambda: client.streams.stop(SERVER_UNI + 4, 0),
        lambda: client.streams.write(-4, b"x", False),
    ):
        with pytest.raises(StreamStateError):
            command()
