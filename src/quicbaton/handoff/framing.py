"""Frames between processes: a 4-byte big-endian length and a MessagePack array that starts with the
frame's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec

from quicbaton.errors import PeerError
from quicbaton.reasons import Reason

_LENGTH_BYTES: Final = 4

_Frame = TypeVar("_Frame")


class Codec(Generic[_Frame]):
    """Encodes and decodes frames of certain kinds, a union of structs. Nothing in a frame is
    optional: a missing, surplus or ill-typed field is a `PeerError`.

    `what` is the noun for a frame in errors, and `max_bytes` the longest frame, without its length.
    """

    def __init__(self, kinds: Any, what: str, max_bytes: int) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[_Frame] = msgspec.msgpack.Decoder(kinds)
        self._what = what
        self.max_bytes = max_bytes

    def encode(self, frame: msgspec.Struct) -> bytes:
        """The frame's bytes, length first. Raises `PeerError` when it is too long."""
        body = self._encoder.encode(frame)
        length = len(body)
        if length > self.max_bytes:
            raise self.too_long(length)
        return length.to_bytes(_LENGTH_BYTES, "big") + body

    def decode(self, body: bytes | bytearray | memoryview) -> _Frame:
        """Parse one frame without its length. Raises `PeerError` for a malformed frame."""
        if len(body) > self.max_bytes:
            raise self.too_long(len(body))
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # The error names types and places, never a field's content: it may be logged.
            raise PeerError(f"not {self._what}: {error}", code=Reason.MALFORMED_MESSAGE) from error

    def reader(self) -> FrameReader[_Frame]:
        """A reader for one stream of such frames."""
        return FrameReader(self)

    def too_long(self, length: int) -> PeerError:
        """The error for a frame whose length is over the limit."""
        return PeerError(
            f"{self._what} of {length} bytes, the limit is {self.max_bytes}",
            code=Reason.MESSAGE_TOO_LONG,
        )


class FrameReader(Generic[_Frame]):
    """Cuts a byte stream into frames, holding at most one unfinished frame.

    After a `PeerError` the stream has no next frame: close it.
    """

    def __init__(self, codec: Codec[_Frame]) -> None:
        self._codec = codec
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        """The bytes that were read and are no whole frame yet, or are for another reader."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> Iterator[_Frame]:
        """Take bytes as they were read. Returns the frames that they complete. Each is parsed only
        when it is asked for, so that a caller may take one and leave the bytes behind it to another
        reader."""
        self._buffer += data
        return iter(self._next, None)

    def _next(self) -> _Frame | None:
        buffer = self._buffer
        if len(buffer) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(buffer[:_LENGTH_BYTES], "big")
        if length > self._codec.max_bytes:
            raise self._codec.too_long(length)
        end = _LENGTH_BYTES + length
        if len(buffer) < end:
            return None
        # Released at once: a buffer with a view does not shrink.
        with memoryview(buffer)[_LENGTH_BYTES:end] as body:
            frame = self._codec.decode(body)
        del buffer[:end]
        return frame
