"""Bytes of streams that a destination has before the baton: copied while the source still serves.

A busy connection keeps megabytes that its client has not acknowledged yet. They are copied to the
destination ahead of the freeze, and the baton only names them. So the client waits for kilobytes. A
byte of a stream never changes: a copy stays right while the connection goes on, and only bytes that
have been acknowledged since are of no more use.

Of each stream one run of bytes without a gap is copied. A send buffer has no gaps either: it loses
bytes in front, as they are acknowledged, and gains some at its end. So a copy is always the front
of the buffer. It is cut off and put back as a slice of a list, and the client does not wait longer
for a larger buffer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct

from quicbaton.baton.errors import BatonPrecopyError
from quicbaton.transport.state import ConnectionState, SendHalf, Stream


class Precopied(Struct, array_like=True, forbid_unknown_fields=True):
    """The parts of streams that a snapshot leaves out."""

    precopy_id: bytes  # of the copy that has them
    ranges: list[tuple[int, int, int]]  # (stream ID, first offset, offset after the last)


class Run(NamedTuple):
    """Consecutive bytes of a stream: pieces, and the offset at which each begins."""

    starts: list[int]
    pieces: list[bytes]

    @property
    def stop(self) -> int:
        """One past the last byte."""
        return self.starts[-1] + len(self.pieces[-1])


class Pieces:
    """Copied bytes of streams: one run of each stream."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self.size_bytes = 0

    def add(self, stream_id: int, start: int, data: bytes) -> None:
        """Keep a stream's bytes from offset `start` on.

        They continue the run that is here. If they do not, they replace it: the bytes between were
        acknowledged before they were copied, and so was everything before them.
        """
        if not data:
            return
        run = self._runs.get(stream_id)
        if run is None or run.stop != start:
            if run is not None:
                self.size_bytes -= sum(map(len, run.pieces))
            run = self._runs[stream_id] = Run([], [])
        run.starts.append(start)
        run.pieces.append(data)
        self.size_bytes += len(data)

    def run_of(self, stream_id: int) -> Run | None:
        """The copied run of a stream; None if there is none."""
        return self._runs.get(stream_id)

    def cut(self, stream_id: int, start: int, stop: int) -> Run:
        """The run [start, stop) of a stream.

        Raises:
            BatonPrecopyError: a part of it is missing.
        """
        run = self._runs.get(stream_id)
        if run is None or not run.starts[0] <= start < stop <= run.stop:
            raise BatonPrecopyError(
                f"{stop - start} bytes of stream {stream_id} were to be copied ahead of the baton "
                "and are not here; hand over again"
            )
        first = bisect_right(run.starts, start) - 1
        last = bisect_right(run.starts, stop - 1)
        part = Run(run.starts[first:last], run.pieces[first:last])
        if part.stop > stop:
            part.pieces[-1] = part.pieces[-1][: stop - part.starts[-1]]
        if part.starts[0] < start:
            part.pieces[0] = part.pieces[0][start - part.starts[0] :]
            part.starts[0] = start
        return part


def missing(streams: Mapping[int, Stream], pieces: Pieces) -> Iterator[tuple[int, int, bytes]]:
    """(stream ID, offset, bytes) of the buffered bytes that `pieces` does not have yet."""
    for stream_id, stream in streams.items():
        half = stream.send
        if half is None or not half.chunks:
            continue
        run = pieces.run_of(stream_id)
        have = 0 if run is None else run.stop
        first = max(0, bisect_right(half.starts, have) - 1)
        for start, chunk in zip(half.starts[first:], half.chunks[first:], strict=True):
            if start + len(chunk) <= have:
                continue
            known = max(0, have - start) if run is not None else 0
            yield (stream_id, start + known, chunk[known:]) if known else (stream_id, start, chunk)


def leave_out(state: ConnectionState, precopy_id: bytes, pieces: Pieces) -> Precopied:
    """Remove from `state` the bytes that `pieces` has, and return which they are."""
    ranges: list[tuple[int, int, int]] = []
    for stream_id, stream in state.streams.items():
        run = pieces.run_of(stream_id)
        if stream.send is None or run is None:
            continue
        count = _covered(stream.send, run)
        if count:
            half = stream.send
            stop = half.starts[count] if count < len(half.starts) else half.end
            ranges.append((stream_id, half.starts[0], stop))
            half.starts = half.starts[count:]
            half.chunks = half.chunks[count:]
    return Precopied(precopy_id, ranges)


def put_back(state: ConnectionState, precopied: Precopied, pieces: Pieces) -> None:
    """Complete a `state` from which `leave_out` has removed bytes.

    Raises:
        BatonPrecopyError: some of them are missing; `state` is not to be used.
    """
    for stream_id, start, stop in precopied.ranges:
        stream = state.streams.get(stream_id)
        half = None if stream is None else stream.send
        if half is None or stop != (half.starts[0] if half.starts else half.end) or stop <= start:
            raise BatonPrecopyError("the baton leaves out bytes of streams that it does not have")
        run = pieces.cut(stream_id, start, stop)
        half.starts = run.starts + half.starts
        half.chunks = run.pieces + half.chunks


def _covered(half: SendHalf, run: Run) -> int:
    """The number of chunks, from the first on, that lie wholly in the run."""
    starts = half.starts
    if not starts or not run.starts[0] <= starts[0] < run.stop:
        return 0
    if half.end <= run.stop:
        return len(starts)
    # The last chunk that begins within the run extends beyond it.
    return bisect_right(starts, run.stop) - 1
