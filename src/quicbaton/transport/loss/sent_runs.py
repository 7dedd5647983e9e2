"""Records of sent packets: finding and cutting them."""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import Final

from quicbaton.transport import frames as f
from quicbaton.transport.state import SentRun

first_number: Final = attrgetter("first")


def first_reaching(sent: list[SentRun], index: int, number: int) -> int:
    """From that of `index` on, which lies before it, the first record that reaches `number`."""
    following = bisect_right(sent, number, index, key=first_number)
    last = sent[following - 1]
    return following - (last.first + last.count > number)


def is_mtu_probe(run: SentRun) -> bool:
    # It has its packet for itself.
    return bool(run.frames) and run.frames[0][0] == f.MTU_PROBE


def cut(run: SentRun, first: int, stop: int) -> SentRun:
    """The part of `run` with packet numbers [first, stop)."""
    return SentRun(
        first=first,
        count=stop - first,
        at_us=run.at_us,
        size=run.size,
        eliciting=run.eliciting,
        path=run.path,
        marked=run.marked,
        stream_id=run.stream_id,
        offset=run.offset + (first - run.first) * run.chunk,
        chunk=run.chunk,
        frames=run.frames,
        delivery=run.delivery,
    )
