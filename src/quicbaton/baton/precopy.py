"""What a destination has before the baton comes: bytes of streams, copied while the source serves.

A busy connection keeps megabytes that its client has not acknowledged yet. They are copied to the
destination ahead of the freeze, and the baton only says which of them it means, so that a client
waits for kilobytes. A byte of a stream never changes, so what was copied stays right however much
the connection goes on; what has been acknowledged since is of no use any more, and nothing else.
"""

from __future__ import annotations

from msgspec import Struct

from quicbaton.baton.errors import BatonPrecopyError
from quicbaton.transport.state import ConnectionState


class Precopied(Struct, array_like=True, forbid_unknown_fields=True):
    """Chunks of streams that a snapshot leaves out."""

    precopy_id: bytes  # of the copy that has them
    chunks: list[tuple[int, int, int]]  # (stream ID, place among its chunks, bytes)


class Pieces:
    """Bytes of streams, by where they begin."""

    def __init__(self) -> None:
        self._streams: dict[int, dict[int, bytes]] = {}
        self.size_bytes = 0

    def add(self, stream_id: int, start: int, data: bytes) -> None:
        """Keep a stream's bytes from offset `start` on."""
        pieces = self._streams.setdefault(stream_id, {})
        self.size_bytes += len(data) - len(pieces.get(start, b""))
        pieces[start] = data

    def find(self, stream_id: int, start: int, stop: int) -> bytes | None:
        """The bytes [start, stop) of a stream, or None when they are not in one piece."""
        pieces = self._streams.get(stream_id, {})
        piece = pieces.get(start)
        if piece is not None and len(piece) == stop - start:
            return piece
        for first, piece in pieces.items():
            if first <= start and stop <= first + len(piece):
                return piece[start - first : stop - first]
        return None


def leave_out(state: ConnectionState, precopy_id: bytes, pieces: Pieces) -> Precopied:
    """Take out of `state` what `pieces` has."""
    chunks: list[tuple[int, int, int]] = []
    for stream_id, stream in state.streams.items():
        half = stream.send
        if half is None:
            continue
        for place, (start, chunk) in enumerate(zip(half.starts, half.chunks, strict=True)):
            if pieces.find(stream_id, start, start + len(chunk)) is not None:
                chunks.append((stream_id, place, len(chunk)))
                half.chunks[place] = b""
    return Precopied(precopy_id, chunks)


def put_back(state: ConnectionState, precopied: Precopied, pieces: Pieces) -> None:
    """Complete a `state` that something was left out of.

    Raises:
        BatonPrecopyError: some of it is not there; `state` is not to be used.
    """
    for stream_id, place, size in precopied.chunks:
        stream = state.streams.get(stream_id)
        half = None if stream is None else stream.send
        if half is None or not 0 <= place < len(half.chunks) or half.chunks[place]:
            raise BatonPrecopyError("the baton leaves out what is not in its streams")
        start = half.starts[place]
        chunk = pieces.find(stream_id, start, start + size)
        if chunk is None:
            raise BatonPrecopyError(
                f"{size} bytes of stream {stream_id} were to be copied ahead of the baton and are "
                "not here; hand over again"
            )
        half.chunks[place] = chunk
