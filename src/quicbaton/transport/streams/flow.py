"""Flow control of the connection and limits on streams (RFC 9000 §4), over `FlowState`."""

from __future__ import annotations

from typing import Final

from quicbaton import limits
from quicbaton.errors import TransportError
from quicbaton.transport import frames as f
from quicbaton.transport.frames import PacketPlan, encode_varint
from quicbaton.transport.state import FlowState, SentFrame

#: RFC 9000 §4.6: more streams than this could not be named by a stream ID.
MAX_STREAMS: Final = 1 << 60


def tuned_window(window_bytes: int, elapsed_us: int, rtt_us: int, ceiling_bytes: int) -> int:
    """The window after half of it was consumed in `elapsed_us`: doubled when that took less than
    two round trips, for then credit and not the application may be what limits the peer.

    `rtt_us` is 0 while unknown: the window stays.
    """
    if elapsed_us < 2 * rtt_us:
        return max(window_bytes, min(2 * window_bytes, ceiling_bytes))
    return window_bytes


def count_received(flow: FlowState, grown: int, frame_type: int) -> None:
    """Charge newly received bytes against the limit that we advertised (RFC 9000 §4.1)."""
    used = flow.receive_used + grown
    if used > flow.receive_limit:
        raise TransportError(
            f.FLOW_CONTROL_ERROR,
            f"{used} bytes on all streams exceed the limit of {flow.receive_limit}",
            frame_type,
        )
    flow.receive_used = used


def consume(flow: FlowState, size: int, now_us: int, rtt_us: int) -> None:
    """Give `size` bytes of credit back; MAX_DATA falls due once half of the window is used."""
    consumed = flow.receive_consumed + size
    flow.receive_consumed = consumed
    if flow.receive_limit_due or 2 * (flow.receive_limit - consumed) > flow.window_bytes:
        return
    flow.receive_limit_due = True
    flow.window_bytes = tuned_window(
        flow.window_bytes,
        now_us - flow.window_since_us,
        rtt_us,
        limits.MAX_CONNECTION_WINDOW_BYTES,
    )
    flow.window_since_us = now_us


def make_room_for(flow: FlowState, stream_window_bytes: int) -> None:
    """Keep the connection's window half as large again as that of any one stream."""
    wanted = min(stream_window_bytes * 3 // 2, limits.MAX_CONNECTION_WINDOW_BYTES)
    if wanted > flow.window_bytes:
        flow.window_bytes = wanted
        flow.receive_limit_due = True


def open_peer_stream(flow: FlowState, stream_id: int, frame_type: int) -> None:
    """The peer uses a stream of its own: within our limit, all below it are open too (§2.1)."""
    kind = stream_id >> 1 & 1
    ordinal = stream_id >> 2
    if ordinal >= flow.peer_streams_limit[kind]:
        raise TransportError(
            f.STREAM_LIMIT_ERROR,
            f"stream {stream_id} exceeds the limit of {flow.peer_streams_limit[kind]} streams",
            frame_type,
        )
    if ordinal >= flow.peer_streams_seen[kind]:
        flow.peer_streams_seen[kind] = ordinal + 1


def close_peer_stream(flow: FlowState, stream_id: int) -> None:
    """A stream of the peer's is finished; MAX_STREAMS falls due once half the window is used."""
    kind = stream_id >> 1 & 1
    flow.peer_streams_closed[kind] += 1
    window = flow.peer_streams_window[kind]
    if 2 * (flow.peer_streams_limit[kind] - flow.peer_streams_closed[kind]) <= window:
        flow.peer_streams_due[kind] = True


def check_streams_limit(value: int, frame_type: int) -> None:
    """RFC 9000 §19.11, §19.14: such a count could not be expressed as a stream ID."""
    if value > MAX_STREAMS:
        raise TransportError(f.FRAME_ENCODING_ERROR, f"{value} streams cannot be named", frame_type)


def note_waiting_stream(flow: FlowState, kind: int) -> bool:
    """We opened more streams than the peer allows: STREAMS_BLOCKED once per limit (§4.6)."""
    limit = flow.own_streams_limit[kind]
    if flow.own_streams_opened[kind] <= limit or flow.own_streams_blocked_at[kind] == limit:
        return False
    flow.own_streams_blocked_at[kind] = limit
    flow.own_streams_blocked_due[kind] = True
    return True


def note_blocked(flow: FlowState) -> bool:
    """New data waits for MAX_DATA: DATA_BLOCKED once per limit (RFC 9000 §4.1)."""
    if flow.send_used < flow.send_limit or flow.blocked_at == flow.send_limit:
        return False
    flow.blocked_at = flow.send_limit
    flow.blocked_due = True
    return True


def has_due(flow: FlowState) -> bool:
    return (
        flow.receive_limit_due
        or flow.blocked_due
        or True in flow.peer_streams_due
        or True in flow.own_streams_blocked_due
    )


def write_due(flow: FlowState, plan: PacketPlan) -> None:
    """Put the connection's due frames into the plan, as far as they fit."""
    if flow.receive_limit_due:
        limit = max(flow.receive_limit, flow.receive_consumed + flow.window_bytes)
        if _add(plan, f.MAX_DATA, limit):
            flow.receive_limit = limit
            flow.receive_limit_due = False
    if flow.blocked_due and _add(plan, f.DATA_BLOCKED, flow.blocked_at):
        flow.blocked_due = False
    for kind in (0, 1):
        if flow.peer_streams_due[kind]:
            limit = flow.peer_streams_closed[kind] + flow.peer_streams_window[kind]
            limit = min(max(limit, flow.peer_streams_limit[kind]), MAX_STREAMS)
            if _add(plan, f.MAX_STREAMS_BIDI + kind, limit):
                flow.peer_streams_limit[kind] = limit
                flow.peer_streams_due[kind] = False
        if flow.own_streams_blocked_due[kind]:
            limit = flow.own_streams_blocked_at[kind]
            if _add(plan, f.STREAMS_BLOCKED_BIDI + kind, limit):
                flow.own_streams_blocked_due[kind] = False


def _add(plan: PacketPlan, frame_type: int, value: int) -> bool:
    encoded = frame_type.to_bytes(1, "big") + encode_varint(value)
    return plan.add(encoded, (frame_type, value, 0, 0, 0))


def on_frame_lost(flow: FlowState, frame: SentFrame) -> None:
    """RFC 9000 §13.3: a lost limit or complaint is repeated only while it is still the latest."""
    frame_type, value = frame[:2]
    if frame_type == f.MAX_DATA:
        flow.receive_limit_due |= value == flow.receive_limit
    elif frame_type == f.DATA_BLOCKED:
        flow.blocked_due |= value == flow.send_limit
    elif frame_type in (f.MAX_STREAMS_BIDI, f.MAX_STREAMS_UNI):
        kind = frame_type - f.MAX_STREAMS_BIDI
        flow.peer_streams_due[kind] |= value == flow.peer_streams_limit[kind]
    else:
        kind = frame_type - f.STREAMS_BLOCKED_BIDI
        flow.own_streams_blocked_due[kind] |= value == flow.own_streams_limit[kind]
