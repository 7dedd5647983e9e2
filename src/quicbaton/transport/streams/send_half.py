"""The sending half of a stream: the bytes to send next, and the fate of those sent (RFC 9000 §3.1).

Written bytes stay the objects that the application handed over; nothing is copied until they go
into a packet. The state of a byte follows from numbers:

    0 ── acknowledged ── base ── in flight, `acked` above base, or `lost` ── next ── unsent ── end
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from struct import Struct as Layout
from typing import Final

from quicbaton import limits
from quicbaton.transport import frames as f
from quicbaton.transport import rangeset
from quicbaton.transport.frames import encode_varint
from quicbaton.transport.state import NONE, SendHalf

#: RFC 9218 §4.1. That streams share by default is ours: a program that knows nothing of priorities
#: expects fairness; HTTP/3 sets the RFC's default.
DEFAULT_URGENCY: Final = 3

#: Headers of the STREAM frames in a run: type and stream ID, then a fixed-width offset. One
#: `pack` and one concatenation make a payload in 0.25 µs; `int.to_bytes` takes 0.38.
_NARROW: Final = {size: Layout(f">{size}sI") for size in (2, 3, 5, 9)}
_WIDE: Final = {size: Layout(f">{size}sQ") for size in (2, 3, 5, 9)}
_NARROW_END: Final = 1 << 30
_NARROW_FLAG: Final = 0x8000_0000
_WIDE_FLAG: Final = 0xC000_0000_0000_0000


def new_send_half(limit: int) -> SendHalf:
    """An unused half; `limit` is the peer's initial MAX_STREAM_DATA for it."""
    return SendHalf(
        chunks=[],
        starts=[],
        base=0,
        end=0,
        next=0,
        acked=[],
        lost=[],
        limit=limit,
        fin_written=False,
        fin_due=False,
        fin_acked=False,
        reset_code=NONE,
        reset_final=NONE,
        reset_due=False,
        reset_acked=False,
        blocked_due=False,
        blocked_at=NONE,
        congested=False,
        urgency=DEFAULT_URGENCY,
        incremental=True,
    )


def write(half: SendHalf, data: bytes, fin: bool) -> None:
    """Append the application's bytes; large pieces are kept as they are, uncopied."""
    if data:
        chunks = half.chunks
        end = half.end
        if chunks and len(chunks[-1]) + len(data) <= limits.MAX_JOINED_BYTES:
            chunks[-1] += data
        else:
            chunks.append(data)
            half.starts.append(end)
        half.end = end + len(data)
    if fin:
        half.fin_written = True
        half.fin_due = True


def reset(half: SendHalf, code: int) -> None:
    """Give up sending: RFC 9000 §3.1, "Reset Sent". The final size is the number of bytes sent."""
    half.reset_code = code
    half.reset_final = half.next
    half.reset_due = True
    half.chunks.clear()
    half.starts.clear()
    half.acked.clear()
    half.lost.clear()
    half.fin_due = False
    half.blocked_due = False
    half.congested = False


def is_writable(half: SendHalf) -> bool:
    """The application may write more: it has neither ended nor reset the stream."""
    return not half.fin_written and half.reset_code == NONE


def is_done(half: SendHalf) -> bool:
    """True in the terminal states "Data Recvd" and "Reset Recvd" (RFC 9000 §3.1)."""
    # An acknowledged FIN alone does not end it: bytes before it may still be lost.
    return half.reset_acked or (half.fin_acked and half.base == half.end)


def wants_to_send(half: SendHalf) -> bool:
    """Data or FIN may be sent as far as this stream's own limit goes."""
    if half.lost:
        return True
    following = half.next
    if following < half.end:
        return following < half.limit and half.reset_code == NONE
    return half.fin_due


def note_blocked(half: SendHalf) -> bool:
    """New data waits for MAX_STREAM_DATA: STREAM_DATA_BLOCKED once per limit (RFC 9000 §4.1)."""
    if not half.next == half.limit < half.end or half.blocked_at == half.limit:
        return False
    if half.reset_code != NONE:
        return False
    half.blocked_at = half.limit
    half.blocked_due = True
    return True


def needs_no_credit(half: SendHalf) -> bool:
    """Whether the next bytes to send are not new data, so the connection's limit does not apply."""
    return bool(half.lost) or half.next == half.end


def region(half: SendHalf, credit: int) -> tuple[int, int]:
    """The next contiguous [start, stop) to send: lost bytes first, then new ones within `credit`
    (of the connection) and the stream's limit. Empty when there are none."""
    lost = half.lost
    if lost:
        return lost[0], lost[1]
    start = half.next
    return start, max(start, min(half.end, half.limit, start + credit))


def mark_sent(half: SendHalf, start: int, stop: int) -> int:
    """Record that [start, stop) of the last `region` goes out; returns how many bytes are new."""
    lost = half.lost
    if lost:
        if stop == lost[1]:
            del lost[:2]
        else:
            lost[0] = stop
        return 0
    half.next = stop
    return stop - start


def read(half: SendHalf, start: int, stop: int) -> bytes:
    """The bytes [start, stop), which must still be kept."""
    starts = half.starts
    chunks = half.chunks
    index = bisect_right(starts, start) - 1
    shift = starts[index]
    if stop <= shift + len(chunks[index]):
        return chunks[index][start - shift : stop - shift]
    last = bisect_left(starts, stop)
    pieces = chunks[index:last]
    pieces[0] = pieces[0][start - shift :]
    pieces[-1] = pieces[-1][: stop - starts[last - 1]]
    return b"".join(pieces)


def run_layout(stream_id: int, start: int, payload_bytes: int, packets: int) -> tuple[bool, int]:
    """For a run of up to `packets` payloads from offset `start`: whether its offsets are eight
    bytes wide, and the data bytes in each payload.

    It follows from the arguments alone, so that lost payloads of the same size fit again exactly.
    """
    wide = start + packets * payload_bytes > _NARROW_END
    return wide, payload_bytes - 1 - f.varint_size(stream_id) - (8 if wide else 4)


def cut_run(
    half: SendHalf, stream_id: int, start: int, chunk: int, count: int, *, wide: bool
) -> list[bytes]:
    """`count` payloads of one STREAM frame each (no LEN: they fill their packets) with `chunk`
    bytes of data from `start` on."""
    head = (f.STREAM | f.STREAM_OFF).to_bytes(1, "big") + encode_varint(stream_id)
    stop = start + count * chunk
    starts = half.starts
    index = bisect_right(starts, start) - 1
    shift = starts[index]
    source = half.chunks[index]
    if stop > shift + len(source):
        source = read(half, start, stop)
        shift = start
    view = memoryview(source)
    pack = (_WIDE if wide else _NARROW)[len(head)].pack
    flag = _WIDE_FLAG if wide else _NARROW_FLAG
    return [
        pack(head, flag + offset) + view[offset - shift : offset - shift + chunk]
        for offset in range(start, stop, chunk)
    ]


def on_acked(half: SendHalf, start: int, stop: int) -> None:
    """The peer has [start, stop): whole chunks in front are released."""
    if half.reset_code != NONE:
        return
    acked = half.acked
    if half.lost:
        rangeset.subtract(half.lost, start, stop)  # it arrived after all
    base = half.base
    if start > base:
        rangeset.add(acked, start, stop)
        return
    if stop <= base:
        return
    base = stop
    if acked and acked[0] <= base:
        reached = bisect_right(acked, base)
        if reached & 1:
            base = acked[reached]
            reached += 1
        del acked[:reached]
    half.base = base
    starts = half.starts
    if base == half.end:
        half.chunks.clear()
        starts.clear()
        return
    drop = bisect_right(starts, base) - 1
    if drop > 0:
        del half.chunks[:drop]
        del starts[:drop]


def on_lost(half: SendHalf, start: int, stop: int) -> None:
    """[start, stop) of a packet is lost: the bytes that the peer lacks are to be sent again."""
    start = max(start, half.base)
    if half.reset_code != NONE or start >= stop:
        return
    rangeset.add(half.lost, start, stop)
    acked = half.acked
    if acked and acked[0] < stop:
        first = bisect_right(acked, start) & ~1  # the range that holds or follows start
        last = bisect_left(acked, stop)
        for index in range(first, last, 2):
            rangeset.subtract(half.lost, acked[index], acked[index + 1])


def trim(half: SendHalf) -> None:
    """Drop the acknowledged front of the first chunk, so that a snapshot does not carry it."""
    if half.starts and half.starts[0] < half.base:
        half.chunks[0] = half.chunks[0][half.base - half.starts[0] :]
        half.starts[0] = half.base
