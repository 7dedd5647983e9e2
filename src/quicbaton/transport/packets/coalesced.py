"""The 1-RTT packet of a datagram, which long-header packets may come before (RFC 9000 §12.2)."""

from __future__ import annotations

from quicbaton.errors import TransportError
from quicbaton.transport.frames import decode_varint


def short_packet(datagram: bytes, version: int) -> bytes:
    """The 1-RTT packet of a datagram: long-header packets before it are skipped by their Length.

    They belong to the handshake, which is over (RFC 9001 §4.9.2). Empty when there is none.
    """
    at = 0
    while at < len(datagram) and datagram[at] & 0x80:
        try:
            at = _end_of_long_packet(datagram, at, version)
        except (IndexError, TransportError):
            return b""
    return datagram[at:] if at else datagram


def _end_of_long_packet(datagram: bytes, at: int, version: int) -> int:
    """Position behind the long-header packet at `at` (RFC 9000 §17.2)."""
    if int.from_bytes(datagram[at + 1 : at + 5], "big") != version:
        raise IndexError
    # Initial is type 0 in version 1 and type 1 in version 2 (RFC 9369 §3.2); only it has a token.
    kind = (datagram[at] >> 4) & 0x03
    is_initial = kind == (0 if version == 1 else 1)
    at += 5
    at += 1 + datagram[at]
    at += 1 + datagram[at]
    if is_initial:
        length, at = decode_varint(datagram, at)
        at += length
    length, at = decode_varint(datagram, at)
    return at + length
