"""Sets of integers as flat ascending lists `[start, stop, start, stop, ...]`, half open.

Flat lists of small integers encode compactly and cost nothing to rebuild, so the state has them as
they are; only these functions touch them. Most calls extend the last range, which is the first case
that each function tries.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Ranges = list[int]


def add(ranges: Ranges, start: int, stop: int) -> None:
    """Add [start, stop); adjoining ranges become one. O(1) at the end, O(log n + moved) else."""
    if start >= stop:
        return
    if not ranges or start > ranges[-1]:
        ranges += (start, stop)
        return
    if start == ranges[-1]:
        ranges[-1] = stop
        return
    # First range whose stop >= start, and the last whose start <= stop: all between are joined.
    left = bisect_left(ranges, start)
    if left & 1:  # start lies inside (or at the stop of) a range
        left -= 1
        start = ranges[left]
    right = bisect_right(ranges, stop)
    if right & 1:  # stop lies inside (or at the start of) a range
        stop = ranges[right]
        right += 1
    ranges[left:right] = [start, stop]


def subtract(ranges: Ranges, start: int, stop: int) -> None:
    """Remove `start` and all up to `stop`, which stays."""
    if start >= stop or not ranges:
        return
    left = bisect_left(ranges, start)
    right = bisect_right(ranges, stop)
    middle: list[int] = []
    if left & 1:
        middle.append(start)
    if right & 1:
        middle.append(stop)
    if len(middle) == 2 and left == right:
        ranges[left:right] = middle
    elif left & 1 and right & 1:
        ranges[left:right] = [start, stop]
    else:
        ranges[left:right] = middle


def contains(ranges: Ranges, value: int) -> bool:
    return bisect_right(ranges, value) & 1 == 1


def covers(ranges: Ranges, start: int, stop: int) -> bool:
    """True when every integer of [start, stop) is in the set."""
    index = bisect_right(ranges, start)
    return index & 1 == 1 and ranges[index] >= stop


def pairs(ranges: Ranges) -> Iterator[tuple[int, int]]:
    """The ranges as (start, stop), ascending."""
    return zip(ranges[::2], ranges[1::2], strict=True)


def total(ranges: Ranges) -> int:
    """How many integers the set holds."""
    return sum(ranges[1::2]) - sum(ranges[::2])
