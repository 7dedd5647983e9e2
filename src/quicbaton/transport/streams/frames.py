"""Encoding one stream's due frames into a packet (RFC 9000 §19.4, §19.5, §19.8, §19.10, §19.13)."""

from __future__ import annotations

from quicbaton.transport import frames as f
from quicbaton.transport.frames import PacketPlan, encode_varint
from quicbaton.transport.state import SendHalf, Stream
from quicbaton.transport.streams import receive_half, send_half


def control_frames_due(stream: Stream) -> bool:
    """True when the stream has a frame due that carries no data."""
    send, receive = stream.send, stream.receive
    return (send is not None and (send.reset_due or send.blocked_due)) or (
        receive is not None and (receive.stop_due or receive.limit_due)
    )


def write_control(stream_id: int, stream: Stream, plan: PacketPlan) -> bool:
    """Put the stream's due control frames into the plan; False when one did not fit."""
    send, receive = stream.send, stream.receive
    if send is not None:
        if send.reset_due:
            if not _add(plan, f.RESET_STREAM, stream_id, send.reset_code, send.reset_final):
                return False
            send.reset_due = False
        if send.blocked_due:
            if not _add(plan, f.STREAM_DATA_BLOCKED, stream_id, send.blocked_at):
                return False
            send.blocked_due = False
    if receive is not None:
        if receive.stop_due:
            if not _add(plan, f.STOP_SENDING, stream_id, receive.stop_code):
                return False
            receive.stop_due = False
        if receive.limit_due:
            limit = receive_half.next_limit(receive)
            if not _add(plan, f.MAX_STREAM_DATA, stream_id, limit):
                return False
            receive.limit = limit
            receive.limit_due = False
    return True


def _add(plan: PacketPlan, frame_type: int, stream_id: int, *values: int) -> bool:
    encoded = b"".join(map(encode_varint, (frame_type, stream_id, *values)))
    return plan.add(encoded, (frame_type, stream_id, values[0], 0, 0))


def write_data(stream_id: int, half: SendHalf, plan: PacketPlan, credit: int) -> int:
    """Put STREAM frames into the plan while the stream has data or a FIN and there is room;
    returns how many bytes of the connection's `credit` they took."""
    used = 0
    while True:
        start, stop = send_half.region(half, credit - used)
        ends = half.fin_written and stop == half.end
        if start == stop and not (ends and half.fin_due):
            return used
        head = 1 + f.varint_size(stream_id) + (f.varint_size(start) if start else 0)
        kind = f.STREAM | (f.STREAM_OFF if start else 0)
        room = plan.room - head
        length = stop - start
        if 0 < room <= length:
            length = room  # fills the packet to its brim: no length needed (RFC 9000 §19.8)
        else:
            kind |= f.STREAM_LEN
            length = min(length, room - 2 if room > 64 else room - 1)
            if length < 0 or (length == 0 and start != stop):
                return used
        stop = start + length
        fin = half.fin_written and stop == half.end
        encoded = (
            (kind | fin).to_bytes(1, "big")
            + encode_varint(stream_id)
            + (encode_varint(start) if start else b"")
            + (encode_varint(length) if kind & f.STREAM_LEN else b"")
            + (send_half.read(half, start, stop) if length else b"")
        )
        plan.add(encoded, (f.STREAM, stream_id, start, length, int(fin)))
        if length:
            used += send_half.mark_sent(half, start, stop)
        if fin:
            half.fin_due = False
