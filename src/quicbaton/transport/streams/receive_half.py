"""The receiving half of a stream: order, final size, credit (RFC 9000 §3.2, §4).

    0 ─ consumed ─ taken ─ delivered ─ gaps and `segments` ─ highest     `final`, once known
        └ paused ┘ └ in the event queue

Bytes that the program will not read (after a reset or STOP_SENDING, or while the stream is drained)
count as delivered, taken and consumed at once, so that `consumed == final` means the end in every
case.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from quicbaton import limits
from quicbaton.errors import TransportError
from quicbaton.transport import frames as f
from quicbaton.transport.budget import Account
from quicbaton.transport.state import DRAINED, NONE, FlowState, ReceiveHalf
from quicbaton.transport.streams.flow import largest_stream_window, tuned_window

Segment = tuple[int, bytes]


def new_receive_half(window_bytes: int, now_us: int) -> ReceiveHalf:
    """An unused half; `window_bytes` is the MAX_STREAM_DATA that the handshake promised."""
    return ReceiveHalf(
        delivered=0,
        highest=0,
        final=NONE,
        segments=[],
        limit=window_bytes,
        limit_due=False,
        window_bytes=window_bytes,
        window_since_us=now_us,
        consumed=0,
        paused=False,
        taken=0,
        fin_delivered=False,
        reset_code=NONE,
        stop_code=NONE,
        stop_due=False,
    )


def is_done(half: ReceiveHalf) -> bool:
    """True in the terminal states "Data Read" and "Reset Read" (RFC 9000 §3.2), and when the final
    size of a stream that the program does not read is known."""
    return half.consumed == half.final and (
        half.fin_delivered or half.reset_code != NONE or half.stop_code != NONE
    )


def is_discarding(half: ReceiveHalf) -> bool:
    """Whether bytes that still arrive are not for the application."""
    return half.fin_delivered or half.reset_code != NONE or half.stop_code != NONE


def check_final_size(half: ReceiveHalf, stop: int, fin: bool, frame_type: int) -> None:
    """RFC 9000 §4.5: the final size never changes and no byte lies beyond it."""
    final = half.final
    if final == NONE:
        if not fin:
            return
        if stop < half.highest:
            raise TransportError(
                f.FINAL_SIZE_ERROR,
                f"final size {stop} is below the {half.highest} bytes received",
                frame_type,
            )
        half.final = stop
        half.limit_due = False
    elif stop > final or (fin and stop != final):
        raise TransportError(
            f.FINAL_SIZE_ERROR, f"final size {final} was followed by {stop}", frame_type
        )


def grow(half: ReceiveHalf, stop: int, frame_type: int) -> int:
    """Raise the highest offset to `stop`; returns the bytes new to flow control (§4.1)."""
    if stop > half.limit:
        raise TransportError(
            f.FLOW_CONTROL_ERROR,
            f"stream data up to {stop} exceeds the limit of {half.limit}",
            frame_type,
        )
    grown = stop - half.highest
    half.highest = stop
    return grown


def accept(half: ReceiveHalf, offset: int, data: bytes) -> bytes:
    """Take data. Returns the bytes that now continue the delivered ones, possibly none."""
    delivered = half.delivered
    segments = half.segments
    if offset < delivered:
        data = data[delivered - offset :]
        offset = delivered
    if offset == delivered and not segments:
        half.delivered = delivered + len(data)
        return data
    _store(segments, offset, data)
    if not segments or segments[0][0] != delivered:
        return b""
    return _take_front(half)


def _take_front(half: ReceiveHalf) -> bytes:
    segments = half.segments
    reached = half.delivered
    count = 0
    for start, kept in segments:
        if start != reached:
            break
        reached += len(kept)
        count += 1
    front = [kept for _, kept in segments[:count]]
    del segments[:count]
    half.delivered = reached
    return front[0] if count == 1 else b"".join(front)


def _start(segment: Segment) -> int:
    return segment[0]


def _store(segments: list[Segment], offset: int, data: bytes) -> None:
    """Insert the new part of `data` (the first copy of a byte stays), joined to its neighbours."""
    index = bisect_right(segments, offset, key=_start)
    shift = offset
    stop = offset + len(data)
    if index:
        start, kept = segments[index - 1]
        offset = max(offset, start + len(kept))
    if offset >= stop:
        return
    fresh: list[Segment] = []
    follower = index
    while follower < len(segments) and segments[follower][0] < stop:
        start, kept = segments[follower]
        if offset < start:
            fresh.append((offset, data[offset - shift : start - shift]))
        fresh.append((start, kept))
        offset = start + len(kept)
        follower += 1
    if offset < stop:
        fresh.append((offset, data[offset - shift :]))
    before = max(index - 1, 0)
    after = min(follower + 1, len(segments))
    segments[before:after] = _joined((*segments[before:index], *fresh, *segments[follower:after]))
    if len(segments) > limits.MAX_STREAM_SEGMENTS:
        raise TransportError(
            f.INTERNAL_ERROR, f"a stream has {len(segments)} gaps at once", f.STREAM
        )


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    result: list[Segment] = []
    for start, data in segments:
        if result:
            previous_start, previous = result[-1]
            if (
                previous_start + len(previous) == start
                and len(previous) + len(data) <= limits.MAX_JOINED_BYTES
            ):
                result[-1] = (previous_start, previous + data)
                continue
        result.append((start, data))
    return result


def take(half: ReceiveHalf, size: int) -> int:
    """The application took `size` bytes; returns how many of them are consumed now."""
    half.taken += size
    if half.paused:
        return 0
    half.consumed += size
    return size


def withheld(half: ReceiveHalf) -> int:
    """Bytes taken that do not count as consumed, since the application has paused."""
    return half.taken - half.consumed


def resume(half: ReceiveHalf) -> int:
    """End a pause; returns the bytes consumed by that."""
    half.paused = False
    released = half.taken - half.consumed
    half.consumed = half.taken
    return released


def discard(half: ReceiveHalf) -> int:
    """The program will not read the bytes that are not delivered yet. Returns the bytes that are
    consumed by that."""
    released = resume(half)
    skipped = half.highest - half.delivered
    half.segments.clear()
    half.delivered = half.highest
    half.taken += skipped
    half.consumed += skipped
    return released + skipped


def review_limit(
    half: ReceiveHalf, now_us: int, rtt_us: int, flow: FlowState, memory: Account
) -> bool:
    """Make MAX_STREAM_DATA due once half of the window is used (RFC 9000 §4.2); True when the
    window was enlarged."""
    window = half.window_bytes
    if half.limit_due or 2 * (half.limit - half.consumed) > window or not wants_limit(half):
        return False
    half.limit_due = True
    ceiling = largest_stream_window(flow, memory)
    half.window_bytes = (
        min(window, ceiling)
        if memory.is_tight
        else tuned_window(window, now_us - half.window_since_us, rtt_us, ceiling)
    )
    half.window_since_us = now_us
    return half.window_bytes > window


def wants_limit(half: ReceiveHalf) -> bool:
    """RFC 9000 §4.1: no credit is needed once the final size is known or we asked to stop."""
    return half.final == NONE and half.stop_code in (NONE, DRAINED)


def next_limit(half: ReceiveHalf) -> int:
    """The MAX_STREAM_DATA to advertise now; it never falls."""
    return max(half.limit, half.consumed + half.window_bytes)
