"""CRYPTO frames after the handshake: session tickets, both ways (RFC 9000 §7.5, §19.6)."""

from __future__ import annotations

from collections.abc import Callable

from quicbaton import limits
from quicbaton.errors import TransportError
from quicbaton.transport import frames as f
from quicbaton.transport import rangeset
from quicbaton.transport.state import CryptoState, SentFrame

#: Less room than this is not worth a CRYPTO frame.
_SMALLEST_ROOM = 32


class CryptoStream:
    """The 1-RTT CRYPTO stream; bytes that arrive in order go to `on_data`."""

    def __init__(self, state: CryptoState, on_data: Callable[[bytes], None]) -> None:
        self._state = state
        self._on_data = on_data

    def write(self, data: bytes) -> None:
        """Send `data` behind what was written before."""
        state = self._state
        start = state.base + len(state.data)
        state.data += data
        rangeset.add(state.due, start, start + len(data))

    def write_due(self, plan: f.PacketPlan) -> None:
        state = self._state
        while state.due and plan.room >= _SMALLEST_ROOM:
            start, stop = state.due[:2]
            head = bytes([f.CRYPTO]) + f.encode_varint(start)
            # Two bytes of length are enough for any packet.
            size = min(stop - start, plan.room - len(head) - 2)
            data = state.data[start - state.base : start - state.base + size]
            plan.add(
                head + (size | 0x4000).to_bytes(2, "big") + data, (f.CRYPTO, 0, start, size, 0)
            )
            rangeset.subtract(state.due, start, start + size)

    def on_acked(self, frame: SentFrame) -> None:
        state = self._state
        _, _, offset, length, _ = frame
        rangeset.subtract(state.due, offset, offset + length)
        rangeset.add(state.acked, max(offset, state.base), max(offset + length, state.base))
        if state.acked and state.acked[0] == state.base:
            state.data = state.data[state.acked[1] - state.base :]
            state.base = state.acked[1]
            del state.acked[:2]

    def on_lost(self, frame: SentFrame) -> None:
        state = self._state
        _, _, offset, length, _ = frame
        rangeset.add(state.due, max(offset, state.base), max(offset + length, state.base))
        for start, stop in rangeset.pairs(state.acked):
            rangeset.subtract(state.due, start, stop)

    def on_crypto(self, offset: int, data: bytes) -> None:
        """A CRYPTO frame came: deliver what continues the stream, keep what runs ahead."""
        state = self._state
        if offset + len(data) > state.delivered + limits.MAX_CRYPTO_BUFFER_BYTES:
            raise TransportError(
                f.CRYPTO_BUFFER_EXCEEDED, "CRYPTO data far ahead of what was read", f.CRYPTO
            )
        if len(state.segments) >= limits.MAX_CRYPTO_SEGMENTS:
            raise TransportError(f.CRYPTO_BUFFER_EXCEEDED, "too many CRYPTO gaps", f.CRYPTO)
        state.segments.append((offset, data))
        state.segments.sort()
        while state.segments and state.segments[0][0] <= state.delivered:
            begin, piece = state.segments.pop(0)
            fresh = piece[state.delivered - begin :]
            if fresh:
                state.delivered += len(fresh)
                self._on_data(fresh)
