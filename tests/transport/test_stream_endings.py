"""How streams end: FIN, reset, stop, and every state on the way (RFC 9000 §3)."""

import random

import pytest

from quicbaton.transport import frames as f
from quicbaton.transport import rangeset
from quicbaton.transport.state import (
    StopSendingEvent,
    StreamDataEvent,
    StreamResetEvent,
)
from quicbaton.transport.streams import receive_half, send_half
from tests.transport.states import connection_state
from tests.transport.stream_wire import Node, Packet, exchange, pair

CLIENT_BIDI, SERVER_BIDI, CLIENT_UNI, SERVER_UNI = range(4)


def body(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def frame_types(packets: list[Packet]) -> list[int]:
    return [frame[0] for packet in packets for frame in packet.frames]


def test_a_reset_ends_the_stream_and_frees_what_was_buffered() -> None:
    client, server = pair()
    client.streams.write(CLIENT_UNI, body(50_000), fin=False)
    assert client.streams.take_run(1200, 10) is not None  # all of it is lost
    client.streams.reset(CLIENT_UNI, 77)
    client.streams.reset(CLIENT_UNI, 78)  # has no effect
    half = client.state.streams[CLIENT_UNI].send
    assert half is not None
    assert half.chunks == []
    assert client.streams.buffered_bytes(CLIENT_UNI) == 0
    exchange(client, server)
    assert server.events == [StreamResetEvent(CLIENT_UNI, 77)]
    assert client.state.streams == server.state.streams == {}
    # RFC 9000 §4.5: the final size counts, on both sides the same.
    assert server.state.flow.receive_used == client.state.flow.send_used == half.reset_final
    assert server.state.flow.receive_consumed == half.reset_final


def test_a_lost_reset_is_sent_again() -> None:
    client, server = pair()
    client.streams.write(CLIENT_UNI, b"x", fin=False)
    client.streams.reset(CLIENT_UNI, 5)
    for packet in client.packets():
        client.lost(packet)
    exchange(client, server)
    assert StreamResetEvent(CLIENT_UNI, 5) in server.events


def test_data_acknowledged_or_lost_after_a_reset_changes_nothing() -> None:
    client, server = pair()
    client.streams.write(CLIENT_BIDI, body(500), fin=True)
    packets = client.packets()
    client.streams.reset(CLIENT_BIDI, 5)
    for packet in packets:
        client.lost(packet)
        client.acked(packet)
    assert frame_types(client.packets()) == [f.RESET_STREAM]
    exchange(client, server)


def test_stop_sending_is_answered_with_a_reset_of_the_same_code() -> None:
    client, server = pair()
    client.streams.write(CLIENT_BIDI, b"hello", fin=False)
    exchange(client, server)
    server.streams.stop(CLIENT_BIDI, 9)
    exchange(client, server)
    assert StopSendingEvent(CLIENT_BIDI, 9) in client.events
    assert StreamResetEvent(CLIENT_BIDI, 9) in server.events
    receive = server.state.streams[CLIENT_BIDI].receive
    assert receive is not None
    assert receive_half.is_done(receive)


def test_a_stopped_stream_delivers_nothing_more_but_gives_credit() -> None:
    client, server = pair()
    client.streams.write(CLIENT_UNI, body(1000), fin=False)
    (*packets,) = client.packets()
    server.receive(packets[0].payload)
    server.streams.stop(CLIENT_UNI, 9)
    for packet in packets[1:]:
        server.receive(packet.payload)
    server.take_events()
    assert len(server.received[CLIENT_UNI]) < 200
    assert server.state.flow.receive_consumed == 1000


def test_a_stop_whose_answer_is_the_end_of_the_data_finishes_the_stream() -> None:
    client, server = pair()
    client.streams.write(CLIENT_UNI, b"hello", fin=True)
    packets = client.packets()
    server.streams.on_stream(CLIENT_UNI, 0, b"", False, 0)
    server.streams.stop(CLIENT_UNI, 9)
    for packet in packets:
        server.receive(packet.payload)
    assert server.state.streams == {}
    assert server.state.events == []


def test_stop_after_everything_was_acknowledged_is_ignored() -> None:
    client, server = pair()
    client.streams.write(CLIENT_BIDI, b"x", fin=True)
    exchange(client, server)
    client.streams.on_stop_sending(CLIENT_BIDI, 9)
    assert client.state.events == []
    assert not client.streams.has_due()


def test_a_lost_stop_is_repeated_until_the_final_size_is_known() -> None:
    client, server = pair()
    client.streams.write(CLIENT_BIDI, b"x", fin=False)
    exchange(client, server)
    server.streams.stop(CLIENT_BIDI, 9)
    (packet,) = server.packets()
    server.lost(packet)
    (packet,) = server.packets()
    assert frame_types([packet]) == [f.STOP_SENDING]
    server.streams.on_reset_stream(CLIENT_BIDI, 9, 1)
    server.lost(packet)
    assert not server.streams.has_due()


def test_a_reset_after_all_data_was_delivered_changes_nothing() -> None:
    server = Node(connection_state())
    server.streams.on_stream(CLIENT_BIDI, 0, b"all", True, 0)
    server.streams.on_reset_stream(CLIENT_BIDI, 1, 3)
    assert server.take_events() == [StreamDataEvent(CLIENT_BIDI, b"all", True)]


def test_frames_for_finished_streams_are_ignored() -> None:
    client, server = pair()
    client.streams.write(CLIENT_BIDI, b"ask", fin=True)
    exchange(client, server)
    server.streams.write(CLIENT_BIDI, b"answer", fin=True)
    exchange(client, server)
    assert client.state.streams == server.state.streams == {}
    for node in (client, server):
        node.streams.on_stream(CLIENT_BIDI, 0, b"ask", True, 0)
        node.streams.on_reset_stream(CLIENT_BIDI, 0, 3)
        node.streams.on_stop_sending(CLIENT_BIDI, 0)
        node.streams.on_max_stream_data(CLIENT_BIDI, 1 << 40)
        node.streams.on_stream_data_blocked(CLIENT_BIDI, 0)
        for kind in (f.STREAM, f.RESET_STREAM, f.STOP_SENDING, f.MAX_STREAM_DATA):
            node.streams.on_frame_lost((kind, CLIENT_BIDI, 0, 3, 1))
            node.streams.on_frame_acked((kind, CLIENT_BIDI, 0, 3, 1))
        node.streams.on_run_acked(CLIENT_BIDI, 0, 3)
        node.streams.on_run_lost(CLIENT_BIDI, 0, 3)
        node.streams.reset(CLIENT_BIDI, 0)
        node.streams.stop(CLIENT_BIDI, 0)
        node.streams.on_event_taken(CLIENT_BIDI, 0, 0)
        assert node.state.streams == {}
        assert node.state.events == []
        assert not node.streams.has_due()


def prepared_send_half(name: str) -> Node:
    client, _ = pair()
    client.streams.write(CLIENT_UNI, b"", fin=False)
    if name != "ready":
        client.streams.write(CLIENT_UNI, b"data", fin=name in ("data sent", "data recvd"))
    if name in ("send", "data sent", "data recvd"):
        sent = client.packets()
        if name == "data recvd":
            client.acked(sent[0])
    if name in ("reset sent", "reset recvd"):
        client.streams.reset(CLIENT_UNI, 1)
        sent = client.packets()
        if name == "reset recvd":
            client.acked(sent[0])
    return client


def state_of_send_half(node: Node) -> str:
    """RFC 9000 §3.1's name for it; terminal states both end in the record of finished streams."""
    stream = node.state.streams.get(CLIENT_UNI)
    if stream is None:
        assert rangeset.contains(node.state.finished[CLIENT_UNI], 0)
        return "finished"
    half = stream.send
    assert half is not None
    assert not send_half.is_done(half)
    if half.reset_code >= 0:
        return "reset sent"
    if half.next == 0:
        return "ready"
    return "data sent" if half.fin_written and not half.fin_due else "send"


DATA = (f.STREAM, CLIENT_UNI, 0, 4, 0)
DATA_AND_FIN = (f.STREAM, CLIENT_UNI, 0, 4, 1)
SEND_STATES = ["ready", "send", "data sent", "data recvd", "reset sent", "reset recvd"]
SEND_EVENTS = {
    "reset": lambda s: s.reset(CLIENT_UNI, 2),
    "stop sending": lambda s: s.on_stop_sending(CLIENT_UNI, 2),
    "data acked": lambda s: s.on_frame_acked(DATA),
    "all acked": lambda s: s.on_frame_acked(DATA_AND_FIN),
    "reset acked": lambda s: s.on_frame_acked((f.RESET_STREAM, CLIENT_UNI, 1, 0, 0)),
    "all lost": lambda s: s.on_frame_lost(DATA_AND_FIN),
    "reset lost": lambda s: s.on_frame_lost((f.RESET_STREAM, CLIENT_UNI, 1, 0, 0)),
}
#: Rows: state; columns: the events above, where they can occur. "-": cannot occur there.
SEND_TABLE = {
    "ready": ["reset sent", "reset sent", "-", "-", "-", "-", "-"],
    "send": ["reset sent", "reset sent", "send", "-", "-", "-", "-"],
    "data sent": ["reset sent", "reset sent", "data sent", "finished", "-", "send", "-"],
    "data recvd": ["finished"] * 7,
    "reset sent": ["reset sent"] * 3 + ["-", "finished", "reset sent", "reset sent"],
    "reset recvd": ["finished"] * 7,
}


@pytest.mark.parametrize("state", SEND_STATES)
@pytest.mark.parametrize("event", SEND_EVENTS)
def test_the_sending_half_moves_as_the_table_says(state: str, event: str) -> None:
    expected = SEND_TABLE[state][list(SEND_EVENTS).index(event)]
    if expected == "-":
        return
    node = prepared_send_half(state)
    SEND_EVENTS[event](node.streams)
    assert state_of_send_half(node) == expected
    node.move()
    node.packets()


RECEIVE_STATES = ["recv", "size known", "data recvd", "data read", "reset", "stopped"]
RECEIVE_EVENTS = {
    "data": lambda n: n.streams.on_stream(CLIENT_UNI, 4, b"data", False, 0),
    "gap filled": lambda n: n.streams.on_stream(CLIENT_UNI, 0, b"datadata", False, 0),
    "fin": lambda n: n.streams.on_stream(CLIENT_UNI, 8, b"", True, 0),
    "reset": lambda n: n.streams.on_reset_stream(CLIENT_UNI, 3, 8),
    "stop": lambda n: n.streams.stop(CLIENT_UNI, 3),
    "taken": lambda n: n.take_events(),
}
RECEIVE_TABLE = {
    "recv": ["recv", "recv", "size known", "finished", "stopped", "recv"],
    "size known": ["size known", "data recvd", "size known", "finished", "finished", "size known"],
    "data recvd": ["data recvd"] * 5 + ["finished"],
    "data read": ["finished"] * 6,
    "reset": ["finished"] * 6,
    "stopped": ["stopped", "stopped", "finished", "finished", "stopped", "stopped"],
}


def prepared_receive_half(name: str) -> Node:
    server = Node(connection_state())
    server.streams.on_stream(CLIENT_UNI, 4, b"data", name == "size known", 0)
    if name in ("data recvd", "data read"):
        server.streams.on_stream(CLIENT_UNI, 0, b"datadata", True, 0)
    if name == "data read":
        server.take_events()
    if name == "reset":
        server.streams.on_reset_stream(CLIENT_UNI, 3, 8)
    if name == "stopped":
        server.streams.stop(CLIENT_UNI, 3)
    return server


def state_of_receive_half(node: Node) -> str:
    stream = node.state.streams.get(CLIENT_UNI)
    if stream is None:
        assert rangeset.contains(node.state.finished[CLIENT_UNI], 0)
        return "finished"
    half = stream.receive
    assert half is not None
    assert not receive_half.is_done(half)
    if half.stop_code >= 0:
        return "stopped"
    if half.final < 0:
        return "recv"
    return "data recvd" if half.fin_delivered else "size known"


@pytest.mark.parametrize("state", RECEIVE_STATES)
@pytest.mark.parametrize("event", RECEIVE_EVENTS)
def test_the_receiving_half_moves_as_the_table_says(state: str, event: str) -> None:
    node = prepared_receive_half(state)
    RECEIVE_EVENTS[event](node)
    assert state_of_receive_half(node) == RECEIVE_TABLE[state][list(RECEIVE_EVENTS).index(event)]
    node.move()
    node.packets()
    assert node.state.flow.receive_used == 8
