"""What a destination has before the baton comes: bytes of streams, copied while the source serves.

A busy connection keeps megabytes that its client has not acknowledged yet. They are copied to the
destination ahead of the freeze, and the baton only says which of them it means, so that a client
waits for kilobytes. A byte of a stream never changes, so what was copied stays right however much
the connection goes on; what has been acknowledged since is of no use any more, and nothing else.

Of each stream one run of bytes without a gap is copied. A send buffer has no gaps either: it loses
bytes in front, as they are acknowledged, and gains some at its end. So what a copy has of it is the
front of the buffer, and it is cut off and put back as a slice of a list: however much is buffered,
the client does not wait longer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct

from quicbaton.baton.errors import BatonPrecopyError
from quicbaton.transport.state import ConnectionState, SendHalf, Stream


class Precopied(Struct, array_like=True, forbid_unknown_fields=True):
    """Parts of streams that a snapshot leaves out."""

    precopy_id: bytes  # of the copy that has them
    ranges: list[tuple[int, int, int]]  # (stream ID, first offset, offset after the last)


class Run(NamedTuple):
    """Consecutive bytes of a stream: pieces and where each begins."""

    starts: list[int]
    pieces: list[bytes]

    @property
    def stop(self) -> int:
        """One past the last byte."""
        return self.starts[-1] + len(self.pieces[-1])


class Pieces:
    """Bytes of streams: one run of each."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self.size_bytes = 0

    def add(self, stream_id: int, start: int, data: bytes) -> None:
        """Keep a stream's bytes from offset `start` on.

        They follow those that are there. Where they do not, those are of no use any more: what
        lies between was acknowledged before it was copied, and so was all in front of it.
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
        """What there is of a stream."""
        return self._runs.get(stream_id)

    def cut(self, stream_id: int, start: int, stop: int) -> Run:
        """The run [start, stop) of a stream.

        Raises:
            BatonPrecopyError: it is not all there.
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
    """(stream ID, offset, bytes) of what streams keep and `pieces` does not have yet."""
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
    """Take out of `state` what `pieces` has."""
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
    """Complete a `state` that something was left out of.

    Raises:
        BatonPrecopyError: some of it is not there; `state` is not to be used.
    """
    for stream_id, start, stop in precopied.ranges:
        stream = state.streams.get(stream_id)
        half = None if stream is None else stream.send
        if half is None or stop != (half.starts[0] if half.starts else half.end) or stop <= start:
            raise BatonPrecopyError("the baton leaves out what is not in its streams")
        run = pieces.cut(stream_id, start, stop)
        half.starts = run.starts + half.starts
        half.chunks = run.pieces + half.chunks


def _covered(half: SendHalf, run: Run) -> int:
    """How many chunks, from the first on, are wholly in the run."""
    starts = half.starts
    if not starts or not run.starts[0] <= starts[0] < run.stop:
        return 0
    if half.end <= run.stop:
        return len(starts)
    # The chunk that begins last within the run goes on behind it.
    return bisect_right(starts, run.stop) - 1
