"""Two `Streams` and a wire between them that loses, delays and repeats frames on demand."""

from dataclasses import dataclass, field

from quicbaton.transport import frames as f
from quicbaton.transport.frames import PacketPlan, decode_varint
from quicbaton.transport.state import (
    ConnectionState,
    Event,
    SentFrame,
    StreamDataEvent,
)
from quicbaton.transport.streams.streams import Streams
from tests.transport.states import connection_state, through_bytes


@dataclass
class Packet:
    """A packet's contents, and the record that its sender keeps."""

    payload: bytes
    frames: list[SentFrame] = field(default_factory=list)
    run: tuple[int, int, int] | None = None  # stream, offset, length


class Node:
    """One side: its state, its streams, and what its application received."""

    def __init__(self, state: ConnectionState) -> None:
        self.state = state
        self.streams = Streams(state)
        self.received: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.events: list[Event] = []

    def move(self) -> None:
        """Go through bytes, as in a handoff."""
        self.streams.compact()
        self.state = through_bytes(self.state)
        self.streams = Streams(self.state)

    def advance(self, by_us: int) -> None:
        self.state.clock_us += by_us

    def packets(self, limit: int = 1000, payload_bytes: int = 120) -> list[Packet]:
        """Everything that may be sent now, at most about `limit` packets."""
        out: list[Packet] = []
        while len(out) < limit:
            run = (
                None if self.streams.has_control_due() else self.streams.take_run(payload_bytes, 8)
            )
            if run is not None:
                stream_id, offset, chunk, payloads = run
                assert all(len(payload) == payload_bytes for payload in payloads)
                out += [
                    Packet(payload, run=(stream_id, offset + index * chunk, chunk))
                    for index, payload in enumerate(payloads)
                ]
                continue
            due = self.streams.has_due()
            plan = PacketPlan(payload_bytes)
            self.streams.write_due(plan)
            assert due == bool(plan.parts)
            if not due:
                break
            payload = b"".join(plan.parts)
            assert len(payload) == payload_bytes - plan.room
            out.append(Packet(payload, frames=plan.frames))
        return out

    def acked(self, packet: Packet) -> None:
        if packet.run is not None:
            self.streams.on_run_acked(*packet.run)
        for frame in packet.frames:
            self.streams.on_frame_acked(frame)

    def lost(self, packet: Packet) -> None:
        if packet.run is not None:
            self.streams.on_run_lost(*packet.run)
        for frame in packet.frames:
            self.streams.on_frame_lost(frame)

    def receive(self, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            at = self._receive_frame(payload, at)

    def _receive_frame(self, payload: bytes, at: int) -> int:
        kind, at = decode_varint(payload, at)
        streams = self.streams
        if kind & ~7 == f.STREAM:
            stream_id, at = decode_varint(payload, at)
            offset = 0
            if kind & f.STREAM_OFF:
                offset, at = decode_varint(payload, at)
            length = len(payload) - at
            if kind & f.STREAM_LEN:
                length, at = decode_varint(payload, at)
            data = payload[at : at + length]
            streams.on_stream(stream_id, offset, data, bool(kind & 1), self.state.clock_us)
            return at + length
        values = []
        for _ in range(_INTEGERS[kind]):
            value, at = decode_varint(payload, at)
            values.append(value)
        if kind in (f.MAX_STREAMS_BIDI, f.MAX_STREAMS_UNI):
            streams.on_max_streams(kind == f.MAX_STREAMS_UNI, values[0])
        elif kind in _HANDLERS:
            getattr(streams, _HANDLERS[kind])(*values)
        return at

    def take_events(self, limit: int = 1_000_000) -> list[Event]:
        taken: list[Event] = []
        while self.state.events and len(taken) < limit:
            event = self.state.events.pop(0)
            taken.append(event)
            if isinstance(event, StreamDataEvent):
                assert event.stream_id not in self.ended
                self.received.setdefault(event.stream_id, bytearray()).extend(event.data)
                if event.end_stream:
                    self.ended.add(event.stream_id)
                self.streams.on_event_taken(event.stream_id, len(event.data), self.state.clock_us)
        self.events += taken
        return taken


_INTEGERS = {
    f.RESET_STREAM: 3,
    f.STOP_SENDING: 2,
    f.MAX_DATA: 1,
    f.MAX_STREAM_DATA: 2,
    f.MAX_STREAMS_BIDI: 1,
    f.MAX_STREAMS_UNI: 1,
    f.DATA_BLOCKED: 1,
    f.STREAM_DATA_BLOCKED: 2,
    f.STREAMS_BLOCKED_BIDI: 1,
    f.STREAMS_BLOCKED_UNI: 1,
}
_HANDLERS = {
    f.RESET_STREAM: "on_reset_stream",
    f.STOP_SENDING: "on_stop_sending",
    f.MAX_DATA: "on_max_data",
    f.MAX_STREAM_DATA: "on_max_stream_data",
    f.STREAM_DATA_BLOCKED: "on_stream_data_blocked",
}


def pair(
    *, stream_window: int = 1 << 20, connection_window: int = 1 << 20, streams: int = 128
) -> tuple[Node, Node]:
    """A client and a server, confirmed."""
    client, server = (
        Node(
            connection_state(
                is_client=is_client,
                stream_window=stream_window,
                connection_window=connection_window,
                streams=streams,
            )
        )
        for is_client in (True, False)
    )
    return client, server


def exchange(*nodes: Node) -> None:
    """Deliver and acknowledge everything, both ways, until both are quiet."""
    busy = True
    while busy:
        busy = False
        for sender, receiver in (nodes, nodes[::-1]):
            for packet in sender.packets():
                busy = True
                receiver.receive(packet.payload)
                sender.acked(packet)
            # Taking events gives credit, which is a frame to send.
            busy |= bool(receiver.take_events())
