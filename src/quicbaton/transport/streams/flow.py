"""Flow control of the connection and limits on streams (RFC 9000 §4), over `FlowState`."""

from __future__ import annotations

from typing import Final

from quicbaton import limits
from quicbaton.errors import TransportError
from quicbaton.transport import frames as f
from quicbaton.transport.budget import Account
from quicbaton.transport.frames import PacketPlan, encode_varint
from quicbaton.transport.state import NEVER, FlowState, SentFrame

#: RFC 9000 §4.6: more streams than this could not be named by a stream ID.
MAX_STREAMS: Final = 1 << 60

#: The time by which each stream that a reset finished moves the budget on, and how far ahead of now
#: that may be: a token bucket as one moment.
_ABORT_US: Final = 1_000_000 // limits.ABORTED_STREAMS_PER_S
_ABORTS_AHEAD_US: Final = limits.ABORTED_STREAMS_BURST * _ABORT_US
#: Given back together, so that a timer need not fire for each.
_ABORTS_AT_ONCE: Final = 16


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


def held_bytes(flow: FlowState) -> int:
    """Bytes received and not consumed."""
    return flow.receive_used - flow.receive_consumed


def review_limit(flow: FlowState, now_us: int, rtt_us: int, memory: Account) -> None:
    """Bytes were consumed: make MAX_DATA due once half of the window is used (RFC 9000 §4.2)."""
    if flow.receive_limit_due:
        return
    window = flow.window_bytes
    base = _base(flow, memory) if flow.receive_withheld else flow.receive_consumed
    if 2 * (flow.receive_limit - base) > window:
        return
    flow.receive_limit_due = True
    flow.window_bytes = memory.window(
        window,
        tuned_window(
            window, now_us - flow.window_since_us, rtt_us, limits.MAX_CONNECTION_WINDOW_BYTES
        ),
        limits.MIN_CONNECTION_WINDOW_BYTES,
    )
    flow.window_since_us = now_us


def _base(flow: FlowState, memory: Account) -> int:
    """The beginning of the window. Bytes of paused streams count as consumed, up to a limit: one
    stream that the program does not read must not hold the credit of all others."""
    withheld = 0 if memory.is_tight else min(flow.receive_withheld, limits.MAX_WITHHELD_BYTES)
    return flow.receive_consumed + withheld


def stream_window(connection_window_bytes: int) -> int:
    """The largest window of a stream: two thirds of the connection's, so that one stream that the
    program does not read cannot hold all of it."""
    return connection_window_bytes * 2 // 3


def largest_stream_window(flow: FlowState, memory: Account) -> int:
    """The largest size of a stream's window, to which the connection's can follow; while memory is
    tight, the size to which it is to shrink."""
    return stream_window(
        memory.window(
            flow.window_bytes,
            limits.MAX_CONNECTION_WINDOW_BYTES,
            limits.MIN_CONNECTION_WINDOW_BYTES,
        )
    )


def make_room_for(flow: FlowState, stream_window_bytes: int, memory: Account) -> None:
    """Keep the connection's window half as large again as that of any one stream."""
    wanted = stream_window_bytes * 3 // 2
    if wanted > flow.window_bytes:
        flow.window_bytes = memory.window(
            flow.window_bytes, wanted, limits.MIN_CONNECTION_WINDOW_BYTES
        )
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


def close_peer_stream(flow: FlowState, stream_id: int, aborted: bool, now_us: int) -> None:
    """A stream of the peer's is finished; MAX_STREAMS falls due once half the window is used.

    The credit for one that a reset finished waits when there were many of them of late.
    """
    kind = stream_id >> 1 & 1
    if aborted:
        flow.aborts_paid_at_us = max(flow.aborts_paid_at_us, now_us) + _ABORT_US
        if flow.aborts_paid_at_us - now_us > _ABORTS_AHEAD_US:
            flow.peer_streams_withheld[kind] += 1
            return
    _give_streams_back(flow, kind, 1)


def _give_streams_back(flow: FlowState, kind: int, count: int) -> None:
    flow.peer_streams_closed[kind] += count
    window = flow.peer_streams_window[kind]
    if 2 * (flow.peer_streams_limit[kind] - flow.peer_streams_closed[kind]) <= window:
        flow.peer_streams_due[kind] = True


def withheld_until_us(flow: FlowState) -> int:
    """When streams that had to wait are given back, some at a time; NEVER: none waits."""
    waiting = sum(flow.peer_streams_withheld)
    if not waiting:
        return NEVER
    first_at_us = flow.aborts_paid_at_us - _ABORTS_AHEAD_US - (waiting - 1) * _ABORT_US
    return first_at_us + (min(waiting, _ABORTS_AT_ONCE) - 1) * _ABORT_US


def on_timer(flow: FlowState, now_us: int) -> None:
    """Give the streams back whose time has come."""
    unpaid = -((now_us + _ABORTS_AHEAD_US - flow.aborts_paid_at_us) // _ABORT_US)
    for kind in (0, 1):
        count = min(flow.peer_streams_withheld[kind], sum(flow.peer_streams_withheld) - unpaid)
        if count > 0:
            flow.peer_streams_withheld[kind] -= count
            _give_streams_back(flow, kind, count)


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


def write_due(flow: FlowState, plan: PacketPlan, memory: Account) -> None:
    """Put the connection's due frames into the plan, as far as they fit."""
    if flow.receive_limit_due:
        limit = max(flow.receive_limit, _base(flow, memory) + flow.window_bytes)
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
