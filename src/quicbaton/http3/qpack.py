"""QPACK with the static table alone (RFC 9204): nothing that would have to move.

We announce a table capacity of zero and no blocked streams, so the peer's encoder may insert
nothing (§3.2.3, §2.1.2), and our encoder inserts nothing whatever the peer offers (§2.1.1 leaves
it free). Header blocks are left to lsqpack; the two instruction streams are read here, since
lsqpack would keep a half-received instruction where nobody can read it.

The classes have the methods of `pylsqpack`'s of the same purpose, and raise its exceptions, which
aioquic turns into HTTP/3 errors.
"""

from __future__ import annotations

from typing import Final

import pylsqpack

Headers = list[tuple[bytes, bytes]]

#: RFC 9204 §4.3.1: Set Dynamic Table Capacity to zero, the one instruction that asks for nothing.
_SET_CAPACITY_ZERO: Final = 0x20
#: RFC 9204 §4.4.2: Stream Cancellation is 01xxxxxx, an integer with a 6-bit prefix.
_CANCELLATION: Final = 0x40
_CANCELLATION_MASK: Final = 0xC0
_PREFIX_FULL: Final = 0x3F
#: Continuation bytes of a 62-bit stream ID (RFC 7541 §5.1: 7 bits each).
_MAX_CONTINUATION: Final = 9


class StaticDecoder:
    """Decodes header blocks that refer to the static table only."""

    def __init__(self) -> None:
        # Made for the first header block: a resumed connection may be idle.
        self._decoder: pylsqpack.Decoder | None = None

    def feed_header(self, stream_id: int, data: bytes) -> tuple[bytes, Headers]:
        """The header list. Raises DecompressionFailed, also for any use of a dynamic table."""
        if self._decoder is None:
            self._decoder = pylsqpack.Decoder(0, 0)
        control, headers = self._decoder.feed_header(stream_id, data)
        return control, headers

    def feed_encoder(self, data: bytes) -> list[int]:
        """Read the peer's encoder stream; it has no streams to unblock.

        Raises EncoderStreamError for anything but a table capacity of zero (RFC 9204 §3.2.3).
        """
        if data.strip(bytes((_SET_CAPACITY_ZERO,))):
            raise pylsqpack.EncoderStreamError("the peer inserts into a table of capacity zero")
        return []

    def cancel_stream(self, stream_id: int) -> bytes:
        """RFC 9204 §2.2.2.2: without a dynamic table there is nothing to cancel."""
        return b""

    def resume_header(self, stream_id: int) -> tuple[bytes, Headers]:
        """Never called by a correct program, since no stream is ever blocked."""
        raise pylsqpack.DecompressionFailed("no stream can be blocked without a dynamic table")


class StaticEncoder:
    """Encodes header blocks with the static table and literals."""

    def __init__(self, partial: bytes = b"") -> None:
        self._encoder: pylsqpack.Encoder | None = None  # likewise
        #: The begun instruction on the peer's decoder stream.
        self.partial = partial

    def apply_settings(self, max_table_capacity: int, blocked_streams: int) -> bytes:
        """Ignore what the peer offers: nothing to say on the encoder stream."""
        return b""

    def encode(self, stream_id: int, headers: Headers) -> tuple[bytes, bytes]:
        """(nothing for the encoder stream, header block)."""
        if self._encoder is None:
            self._encoder = pylsqpack.Encoder()
        control, block = self._encoder.encode(stream_id, headers)
        assert not control, "lsqpack inserts only once it has been told a capacity"
        return control, block

    def feed_decoder(self, data: bytes) -> None:
        """Read the peer's decoder stream: only Stream Cancellations, which mean nothing here.

        Raises DecoderStreamError for acknowledgements of what was never inserted (RFC 9204
        §4.4.1, §4.4.3) and for an integer without end.
        """
        data = self.partial + data
        at = 0
        while at < len(data):
            if data[at] & _CANCELLATION_MASK != _CANCELLATION:
                raise pylsqpack.DecoderStreamError("the peer acknowledges insertions never made")
            end = _end_of_cancellation(data, at)
            if end > len(data):
                break
            at = end
        self.partial = data[at:]


def _end_of_cancellation(data: bytes, at: int) -> int:
    """Position behind the integer at `at`; beyond the data when it is not whole."""
    if data[at] & _PREFIX_FULL != _PREFIX_FULL:
        return at + 1
    for end in range(at + 1, at + 1 + _MAX_CONTINUATION):
        if end >= len(data) or data[end] < 0x80:
            return end + 1
    raise pylsqpack.DecoderStreamError("an integer is too long")
