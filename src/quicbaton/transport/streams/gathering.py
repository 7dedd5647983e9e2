"""STREAM frames as they come: those of a batch that continue each other are handed on as one.

So an upload's batch is one call of `Streams`, and one event. The parts need not know: the event
queue has the gathered bytes handed on before it takes an event of any part.
"""

from __future__ import annotations

from quicbaton.errors import TransportError
from quicbaton.transport import frames as f
from quicbaton.transport.frames import decode_varint
from quicbaton.transport.state import NONE
from quicbaton.transport.streams.streams import Streams


class StreamGathering:
    """Reads STREAM frames and gathers their bytes."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._now_us = 0
        self._pieces: list[bytes] = []
        self._stream_id = NONE
        self._start = 0
        self._stop = 0

    def begin(self, now_us: int) -> None:
        """A batch begins. What an error left of the last one is forgotten."""
        self._now_us = now_us
        self._pieces.clear()

    def read(self, payload: bytes, at: int, end: int, kind: int) -> int:
        """Read a frame of type `kind` behind its type (RFC 9000 §19.8); the position behind it.

        Uploads consist of these, so the usual sizes of their integers are read here: a call of
        `decode_varint` for each would cost a third more.
        """
        if at < end and payload[at] < 0x40:
            stream_id = payload[at]
            at += 1
        else:
            stream_id, at = decode_varint(payload, at)
        offset = 0
        if kind & f.STREAM_OFF:
            if at + 4 <= end and payload[at] >> 6 == 2:
                offset = int.from_bytes(payload[at : at + 4], "big") & 0x3FFF_FFFF
                at += 4
            else:
                offset, at = decode_varint(payload, at)
        stop = end
        if kind & f.STREAM_LEN:
            length, at = decode_varint(payload, at)
            stop = at + length
            if stop > end:
                raise TransportError(
                    f.FRAME_ENCODING_ERROR, "STREAM is longer than its packet", kind
                )
        pieces = self._pieces
        if offset != self._stop or stream_id != self._stream_id or not pieces:
            self.hand_on()
            self._stream_id = stream_id
            self._start = offset
        pieces.append(payload[at:stop])
        self._stop = offset + stop - at
        if kind & f.STREAM_FIN:
            self.hand_on(fin=True)
        return stop

    def hand_on(self, fin: bool = False) -> None:
        """Hand on what was gathered: before an event, or a frame, that follows it."""
        pieces = self._pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._streams.on_stream(self._stream_id, self._start, data, fin, self._now_us)
