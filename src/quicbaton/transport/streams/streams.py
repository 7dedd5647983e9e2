"""Streams at work: commands, received frames, sending, and the fate of what was sent.

RFC 9000 §2, §3 and §4 over the data in `ConnectionState`. Three things decide what happens to a
stream: its `SendHalf`, its `ReceiveHalf` and the connection's `FlowState`; the rules of each stand
in the module of its name. This one brings them together. It keeps two indexes, both derived: which
streams have control frames due, and which are in the sending order.

A stream is forgotten once both halves are terminal; then only its ordinal remains, in the ranges
`ConnectionState.finished`, and frames that arrive late are ignored.
"""

from __future__ import annotations

from quicbaton import limits
from quicbaton.errors import StreamStateError, TransportError
from quicbaton.transport import frames as f
from quicbaton.transport.budget import Account, MemoryBudget
from quicbaton.transport.event_queue import EventQueue
from quicbaton.transport.frames import PacketPlan
from quicbaton.transport.state import (
    DRAINED,
    NONE,
    ConnectionState,
    ReceiveHalf,
    SendHalf,
    SentFrame,
    StopSendingEvent,
    Stream,
    StreamResetEvent,
    WritableEvent,
)
from quicbaton.transport.streams import flow as flow_rules
from quicbaton.transport.streams import receive_half, send_half
from quicbaton.transport.streams.credit import Credit
from quicbaton.transport.streams.draining import Draining
from quicbaton.transport.streams.frames import control_frames_due, write_control, write_data
from quicbaton.transport.streams.table import StreamTable, wrong_direction
from quicbaton.transport.streams.turns import CONTROL_URGENCY, LOWEST_URGENCY, Turns


class Streams:
    """All streams of a connection; see the module's head."""

    __slots__ = (
        "_control",
        "_credit",
        "_draining",
        "_events",
        "_flow",
        "_memory",
        "_segments",
        "_send_end",
        "_state",
        "_streams",
        "_table",
        "_turns",
        "_written",
    )

    def __init__(
        self,
        state: ConnectionState,
        memory: Account | None = None,
        events: EventQueue | None = None,
    ) -> None:
        """Without `memory` and `events` the streams have their own, as if they were alone."""
        self._state = state
        # Not `events or ...`: an empty queue is false.
        self._events = EventQueue(state.events) if events is None else events
        self._memory = memory or MemoryBudget().open(b"")
        self._credit = Credit(state, self._memory)
        self._draining = Draining(state)
        self._flow = state.flow
        self._streams = state.streams
        self._table = StreamTable(state)
        self._turns = Turns(state)
        #: Streams with control frames due, in the order they fell due (a dict is an ordered set).
        self._control: dict[int, None] = {}
        #: Bytes written and not acknowledged, and segments behind gaps, of all streams.
        self._written = self._segments = 0
        #: The value of `flow.send_used` when everything written so far is sent.
        self._send_end = state.flow.send_used
        for stream_id, stream in state.streams.items():
            send, receive = stream.send, stream.receive
            if send is not None and send.reset_code == NONE and send.base < send.end:
                self._written += send.end - send.base
                self._send_end += send.end - send.next
            if receive is not None and receive.segments:
                self._segments += len(receive.segments)
            if control_frames_due(stream) and not self._table.is_waiting(stream_id):
                self._control[stream_id] = None

    # --- getters ------------------------------------------------------------------------------

    def next_id(self, unidirectional: bool) -> int:
        """The ID of the next stream that we open; the first write to it consumes it."""
        return (
            self._flow.own_streams_opened[unidirectional] << 2
            | unidirectional << 1
            | (not self._state.is_client)
        )

    @property
    def next_timer_us(self) -> int:
        """When `on_timer` has something to do; NEVER."""
        return self._draining.next_us

    def held_bytes(self) -> int:
        """The bytes of its peer and of its program that the connection holds."""
        return self._flow.receive_used - self._flow.receive_consumed + self._written

    @property
    def unsent_bytes(self) -> int:
        """Bytes written and never sent yet, of all streams."""
        return self._send_end - self._flow.send_used

    def carried_bytes(self) -> int:
        """Bytes that a snapshot would carry: unacknowledged, unsent and undelivered."""
        total = self._written
        for stream in self._streams.values():
            if stream.receive is not None:
                total += sum(len(data) for _, data in stream.receive.segments)
        return total

    def is_finished(self, stream_id: int) -> bool:
        """Both halves are over and the stream is forgotten."""
        return self._table.is_finished(stream_id)

    def buffered_bytes(self, stream_id: int) -> int:
        """Bytes written and never sent yet; 0 for a stream that cannot send (any more)."""
        stream = self._streams.get(stream_id)
        half = stream.send if stream is not None else None
        if half is None or half.reset_code != NONE:
            return 0
        return half.end - half.next

    def send_room_bytes(self, stream_id: int) -> int:
        """Bytes that fill a stream's buffer; at least one. Only a program that has filled it is
        told when to go on."""
        room = self._buffer_high_bytes() - self.buffered_bytes(stream_id)
        return max(limits.SMALL_BUFFER_LOW_BYTES, room)

    # --- commands of the application ----------------------------------------------------------

    def write(self, stream_id: int, data: bytes, fin: bool) -> None:
        """Queue `data`, uncopied, and the stream's end if `fin`; opens a stream of our own.

        Above the high water mark `WritableEvent` will follow when the buffer has drained.
        StreamStateError when the stream cannot be written to (any more).
        """
        stream = self._streams.get(stream_id)
        half = None if stream is None else stream.send
        if half is None:
            half = self._table.writable_half(stream_id)
        if half is None or not send_half.is_writable(half):
            raise StreamStateError(f"stream {stream_id} was ended or reset: nothing can be written")
        send_half.write(half, data, fin)
        size = len(data)
        self._written += size
        self._send_end += size
        unsent = half.end - half.next
        if unsent >= limits.SMALL_BUFFER_HIGH_BYTES and unsent >= self._buffer_high_bytes():
            half.congested = True
        if stream_id not in self._turns.members:
            # One that is queued has something to send, and has more now.
            self._settle(stream_id, half)
        if self._flow.send_used >= self._flow.send_limit:
            self._note_blocked()

    def reset(self, stream_id: int, code: int) -> None:
        """Abandon sending (RESET_STREAM); no effect when everything was acknowledged or reset."""
        half = self._table.writable_half(stream_id)
        if half is not None:
            self._reset(stream_id, half, code)

    def stop(self, stream_id: int, code: int) -> None:
        """Ask the peer to abandon sending (STOP_SENDING); bytes that still arrive are discarded."""
        half = self._table.readable_half(stream_id)
        if half is None:
            return
        can_stop = half.final == NONE and half.stop_code == DRAINED
        if can_stop or not receive_half.is_discarding(half):
            self._stop(stream_id, half, code)

    def drain(self, stream_id: int, code: int) -> None:
        """Discard bytes that still arrive, and ask the peer to stop later (see `draining`)."""
        half = self._table.readable_half(stream_id)
        if half is None or receive_half.is_discarding(half):
            return
        half.stop_code = DRAINED
        self._draining.begin(stream_id, half, code)
        self._discard(stream_id, half, self._state.clock_us)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget_if_finished(stream_id, stream)

    def pause_reading(self, stream_id: int) -> None:
        """Withhold flow-control credit: bytes taken from now on do not count as consumed."""
        half = self._table.readable_half(stream_id)
        if half is not None and half.reset_code == NONE and half.stop_code == NONE:
            half.paused = True

    def resume_reading(self, stream_id: int, now_us: int) -> None:
        """Give the credit that was withheld. Until then a stream read to its end counts as open."""
        half = self._table.readable_half(stream_id)
        if half is not None and half.paused:
            self._credit.resume(half, now_us)
            self._on_consumed(stream_id, half)

    def set_priority(self, stream_id: int, urgency: int, incremental: bool) -> None:
        """When the stream is served, among those that have something to send (RFC 9218 §10)."""
        stream = self._streams.get(stream_id)
        half = None if stream is None else stream.send
        if half is None:
            half = self._table.writable_half(stream_id)
            if half is None:
                return
        if not CONTROL_URGENCY <= urgency <= LOWEST_URGENCY:
            urgency = min(max(urgency, CONTROL_URGENCY), LOWEST_URGENCY)
        queued = stream_id in self._turns.members
        if queued:
            self._turns.leave(stream_id)
        half.urgency = urgency
        half.incremental = incremental
        if queued:
            self._turns.enter(stream_id)

    def on_event_taken(self, stream_id: int, size: int, now_us: int) -> None:
        """The application took a StreamDataEvent of `size` bytes from the queue."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.receive is not None:
            half = stream.receive
            self._credit.take(half, size, now_us)
            self._on_consumed(stream_id, half)

    def restore_credit(self, now_us: int) -> None:
        """There is memory again: give credit that was refused."""
        for stream_id, stream in list(self._streams.items()):
            if stream.receive is not None:
                self._credit.restore(stream.receive, now_us)
                self._on_consumed(stream_id, stream.receive)

    def release(self) -> None:
        """The connection is over: release all buffers of its streams."""
        for stream in self._streams.values():
            if stream.send is not None:
                stream.send.chunks.clear()
                stream.send.starts.clear()
            if stream.receive is not None:
                stream.receive.segments.clear()

    def on_timer(self, now_us: int) -> None:
        """Give the peer the streams back that had to wait, and stop drained ones."""
        flow_rules.on_timer(self._flow, now_us)
        for stream_id in self._draining.silent(now_us):
            self._stop_drained(stream_id)

    def compact(self) -> None:
        """Release acknowledged bytes that share a chunk with others; call before a snapshot."""
        for stream in self._streams.values():
            if stream.send is not None:
                send_half.trim(stream.send)

    # --- frames received ----------------------------------------------------------------------

    def on_stream(self, stream_id: int, offset: int, data: bytes, fin: bool, now_us: int) -> None:
        """STREAM (RFC 9000 §19.8)."""
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._table.receiving_stream(stream_id, f.STREAM)
            if stream is None:
                return
        half = stream.receive
        if half is None:
            raise wrong_direction(stream_id, f.STREAM)
        stop = offset + len(data)
        if fin or half.final != NONE:
            receive_half.check_final_size(half, stop, fin, f.STREAM)
            if stream_id in self._control:
                self._review_control(stream_id, stream)
        if stop > half.highest:
            flow_rules.count_received(self._flow, receive_half.grow(half, stop, f.STREAM), f.STREAM)
        if receive_half.is_discarding(half):
            if not half.fin_delivered:
                self._discard(stream_id, half, now_us)
            if half.stop_code == DRAINED and self._draining.on_bytes(stream_id, half, now_us):
                self._stop_drained(stream_id)
            return
        before = len(half.segments)
        fresh = receive_half.accept(half, offset, data)
        if len(half.segments) != before:
            self._count_segments(len(half.segments) - before)
        ended = half.delivered == half.final
        if fresh or ended:
            self._events.append_stream_data(stream_id, fresh, ended)
        if ended:
            half.fin_delivered = True
            self._forget_if_finished(stream_id, stream)

    def on_reset_stream(self, stream_id: int, code: int, final_size: int) -> None:
        """RESET_STREAM (RFC 9000 §19.4): the rest will not come, but counts (§4.5)."""
        stream = self._table.receiving_stream(stream_id, f.RESET_STREAM)
        if stream is None:
            return
        half = stream.receive
        assert half is not None  # by the direction
        receive_half.check_final_size(half, final_size, True, f.RESET_STREAM)
        if final_size > half.highest:
            grown = receive_half.grow(half, final_size, f.RESET_STREAM)
            flow_rules.count_received(self._flow, grown, f.RESET_STREAM)
        # RFC 9000 §3.2: in "Data Recvd" a reset changes nothing.
        if half.fin_delivered or half.reset_code != NONE:
            return
        half.reset_code = code
        half.stop_due = False
        self._review_control(stream_id, stream)
        self._events.append(StreamResetEvent(stream_id, code))
        self._discard(stream_id, half, self._state.clock_us)

    def on_stop_sending(self, stream_id: int, code: int) -> None:
        """STOP_SENDING (RFC 9000 §19.5)."""
        stream = self._table.sending_stream(stream_id, f.STOP_SENDING)
        if stream is None:
            return
        half = stream.send
        assert half is not None  # by the direction
        if half.reset_code == NONE and not send_half.is_done(half):
            self._events.append(StopSendingEvent(stream_id, code))
            # RFC 9000 §3.5: answer with RESET_STREAM and, preferably, the same code.
            self._reset(stream_id, half, code)

    def on_max_data(self, limit: int) -> None:
        """MAX_DATA (RFC 9000 §19.9); limits never fall (§4.1)."""
        if limit > self._flow.send_limit:
            self._flow.send_limit = limit
            self._flow.blocked_due = False

    def on_max_stream_data(self, stream_id: int, limit: int) -> None:
        """MAX_STREAM_DATA (RFC 9000 §19.10)."""
        stream = self._table.sending_stream(stream_id, f.MAX_STREAM_DATA)
        if stream is None:
            return
        half = stream.send
        assert half is not None  # by the direction
        if limit > half.limit:
            half.limit = limit
            if half.next == half.end and not half.lost:
                return  # nothing has waited for it
            half.blocked_due = False
            self._review_control(stream_id, stream)
            self._settle(stream_id, half)
            self._note_blocked()

    def on_max_streams(self, unidirectional: bool, limit: int) -> None:
        """MAX_STREAMS (RFC 9000 §19.11): streams that waited for it may send now."""
        kind = int(unidirectional)
        flow_rules.check_streams_limit(limit, f.MAX_STREAMS_BIDI + kind)
        flow = self._flow
        previous = flow.own_streams_limit[kind]
        if limit <= previous:
            return
        flow.own_streams_limit[kind] = limit
        flow.own_streams_blocked_due[kind] = False
        type_bits = kind << 1 | (not self._state.is_client)
        for ordinal in range(previous, min(limit, flow.own_streams_opened[kind])):
            stream_id = ordinal << 2 | type_bits
            stream = self._streams.get(stream_id)
            if stream is not None and stream.send is not None:
                self._settle(stream_id, stream.send)
                self._review_control(stream_id, stream)
        flow_rules.note_waiting_stream(flow, kind)
        self._note_blocked()

    def on_stream_data_blocked(self, stream_id: int, _limit: int) -> None:
        """STREAM_DATA_BLOCKED (RFC 9000 §19.13): credit follows consumption, not complaints."""
        self._table.receiving_stream(stream_id, f.STREAM_DATA_BLOCKED)

    # --- sending ------------------------------------------------------------------------------

    def has_due(self) -> bool:
        """True when `write_due` would write something now."""
        if self._state.order and self._turns.first() != NONE:
            return True
        return bool(self._control) or flow_rules.has_due(self._flow)

    def has_control_due(self) -> bool:
        """True when a frame other than STREAM is due."""
        return bool(self._control) or flow_rules.has_due(self._flow)

    def write_due(self, plan: PacketPlan) -> None:
        """Fill the plan with due control frames, then with data of the streams in turn."""
        flow = self._flow
        if flow_rules.has_due(flow):
            flow_rules.write_due(flow, plan, self._memory)
        for stream_id in tuple(self._control):
            if not write_control(stream_id, self._streams[stream_id], plan):
                return
            del self._control[stream_id]
        for _ in range(len(self._turns.members)):
            stream_id = self._turns.first()
            if stream_id == NONE:
                break
            half = self._streams[stream_id].send
            assert half is not None  # only what can send is in the order
            room = plan.room
            flow.send_used += write_data(stream_id, half, plan, flow.send_limit - flow.send_used)
            if plan.room == room:
                break
            self._end_turn(stream_id, half)
        self._note_blocked()

    def take_run(
        self, payload_bytes: int, max_packets: int
    ) -> tuple[int, int, int, list[bytes]] | None:
        """Payloads of exactly `payload_bytes` for two packets or more of the stream in turn: lost
        bytes if there are, else new ones. None when it has less: then `write_due` serves it.

        Returns (stream ID, offset of the first byte, data bytes in each payload, payloads). No
        payload carries FIN.
        """
        stream_id = self._turns.first()
        if stream_id == NONE:
            return None
        half = self._streams[stream_id].send
        assert half is not None  # only what can send is in the order
        flow = self._flow
        start, stop = send_half.region(half, flow.send_limit - flow.send_used)
        wide, chunk = send_half.run_layout(stream_id, start, payload_bytes, max_packets)
        count = min((stop - start) // chunk, max_packets)
        if count < 2:
            return None
        payloads = send_half.cut_run(half, stream_id, start, chunk, count, wide=wide)
        flow.send_used += send_half.mark_sent(half, start, start + count * chunk)
        self._end_turn(stream_id, half)
        self._note_blocked()
        return stream_id, start, chunk, payloads

    # --- what became of it --------------------------------------------------------------------

    def on_run_acked(self, stream_id: int, offset: int, length: int) -> None:
        """The peer acknowledged stream bytes of one or more packets, without FIN."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.send is None:
            return
        half = stream.send
        had_lost = bool(half.lost)
        before = half.base
        send_half.on_acked(half, offset, offset + length)
        self._written -= half.base - before
        if had_lost:
            self._settle(stream_id, half)
        if half.fin_acked:
            self._forget_if_finished(stream_id, stream)

    def on_run_lost(self, stream_id: int, offset: int, length: int) -> None:
        """Stream bytes of one or more packets, without FIN, are lost."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.send is not None:
            send_half.on_lost(stream.send, offset, offset + length)
            self._settle(stream_id, stream.send)

    def on_frame_acked(self, frame: SentFrame) -> None:
        """A frame of ours arrived; only STREAM and RESET_STREAM change anything by that."""
        frame_type, stream_id, offset, length, fin = frame
        if frame_type not in (f.STREAM, f.RESET_STREAM):
            return
        stream = self._streams.get(stream_id)
        if stream is None or stream.send is None:
            return
        if frame_type == f.RESET_STREAM:
            stream.send.reset_acked = True
            self._forget_if_finished(stream_id, stream)
            return
        if fin:
            stream.send.fin_acked = True
            stream.send.fin_due = False
            if stream_id in self._turns.members:
                self._settle(stream_id, stream.send)
        self.on_run_acked(stream_id, offset, length)

    def on_frame_lost(self, frame: SentFrame) -> None:
        """Make a lost frame due again if it is still useful (RFC 9000 §13.3)."""
        frame_type, stream_id, value, length, fin = frame
        if frame_type not in _OF_ONE_STREAM:
            flow_rules.on_frame_lost(self._flow, frame)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        send, receive = stream.send, stream.receive
        if send is not None:
            if frame_type == f.STREAM:
                send.fin_due |= bool(fin) and not send.fin_acked and send.reset_code == NONE
                self.on_run_lost(stream_id, value, length)
                return
            if frame_type == f.RESET_STREAM:
                send.reset_due = not send.reset_acked
            elif frame_type == f.STREAM_DATA_BLOCKED and value == send.limit:
                send.blocked_due = send.reset_code == NONE
        if receive is not None:
            if frame_type == f.STOP_SENDING:
                receive.stop_due = receive.final == NONE
            elif frame_type == f.MAX_STREAM_DATA and value == receive.limit:
                receive.limit_due = receive_half.wants_limit(receive)
        self._review_control(stream_id, stream)

    # --- consequences -------------------------------------------------------------------------

    def _stop(self, stream_id: int, half: ReceiveHalf, code: int) -> None:
        self._draining.end(stream_id)
        half.stop_code = code
        half.stop_due = True
        half.limit_due = False
        self._add_control(stream_id)
        self._discard(stream_id, half, self._state.clock_us)

    def _stop_drained(self, stream_id: int) -> None:
        half = self._streams[stream_id].receive
        code = self._draining.end(stream_id)
        assert half is not None  # something of it is drained
        assert code is not None
        self._stop(stream_id, half, code)

    def _settle(self, stream_id: int, half: SendHalf) -> None:
        """Bring the sending order in line with what the stream has to send."""
        if stream_id & 1 != self._state.is_client and self._table.is_waiting(stream_id):
            return
        if send_half.wants_to_send(half):
            self._turns.enter(stream_id)
            return
        self._turns.leave(stream_id)
        if send_half.note_blocked(half):
            self._add_control(stream_id)

    def _end_turn(self, stream_id: int, half: SendHalf) -> None:
        self._turns.to_back(stream_id)
        self._settle(stream_id, half)
        if half.congested:
            small = self._has_small_buffers()
            low = limits.SMALL_BUFFER_LOW_BYTES if small else limits.STREAM_BUFFER_LOW_BYTES
            if half.end - half.next < low:
                half.congested = False
                self._events.append(WritableEvent(stream_id))

    def _buffer_high_bytes(self) -> int:
        small = self._has_small_buffers()
        return limits.SMALL_BUFFER_HIGH_BYTES if small else limits.STREAM_BUFFER_HIGH_BYTES

    def _has_small_buffers(self) -> bool:
        """Whether memory is tight, or the streams together have many bytes that were never sent."""
        return self._memory.is_tight or self.unsent_bytes >= limits.CONNECTION_BUFFER_BYTES

    def _note_blocked(self) -> None:
        flow = self._flow
        if flow.send_used >= flow.send_limit and self._turns.anyone_needs_credit():
            flow_rules.note_blocked(flow)

    def _add_control(self, stream_id: int) -> None:
        if not self._table.is_waiting(stream_id):
            self._control[stream_id] = None

    def _review_control(self, stream_id: int, stream: Stream) -> None:
        if control_frames_due(stream):
            self._add_control(stream_id)
        else:
            self._control.pop(stream_id, None)

    def _reset(self, stream_id: int, half: SendHalf, code: int) -> None:
        if half.reset_code != NONE or send_half.is_done(half):
            return
        self._written -= half.end - half.base
        self._send_end -= half.end - half.next
        send_half.reset(half, code)
        self._turns.leave(stream_id)
        self._add_control(stream_id)

    def _discard(self, stream_id: int, half: ReceiveHalf, now_us: int) -> None:
        """Give credit for bytes that the program will not read."""
        self._segments -= len(half.segments)
        self._credit.discard(half, now_us)
        self._on_consumed(stream_id, half)

    def _count_segments(self, grown: int) -> None:
        self._segments += grown
        if self._segments > limits.MAX_CONNECTION_SEGMENTS:
            raise TransportError(
                f.INTERNAL_ERROR, f"streams have {self._segments} gaps at once", f.STREAM
            )

    def _on_consumed(self, stream_id: int, half: ReceiveHalf) -> None:
        if half.consumed == half.final:
            self._forget_if_finished(stream_id, self._streams[stream_id])
        elif half.limit_due:
            self._add_control(stream_id)

    def _forget_if_finished(self, stream_id: int, stream: Stream) -> None:
        """Reduce a stream whose halves are both terminal to its ordinal (RFC 9000 §3)."""
        if stream.send is not None and not send_half.is_done(stream.send):
            return
        if stream.receive is not None and not receive_half.is_done(stream.receive):
            self._draining.all_arrived(stream_id, self._state.clock_us)
            return
        self._draining.end(stream_id)
        self._turns.leave(stream_id)
        self._control.pop(stream_id, None)
        self._table.forget(stream_id)


_OF_ONE_STREAM = frozenset(
    (f.STREAM, f.RESET_STREAM, f.STOP_SENDING, f.MAX_STREAM_DATA, f.STREAM_DATA_BLOCKED)
)
