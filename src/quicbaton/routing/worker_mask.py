"""A worker number in an encrypted connection ID, which the kernel can read and others cannot.

draft-ietf-quic-load-balancers, "Server Process Demultiplexing", fourth approach: the server appends
an octet with its process's number, XORed with a keyed hash of the rest of the ID. A balancer
ignores the octet. The host's demultiplexer, here a classic BPF program (`steering`), computes the
same hash and gets the number back.

The hash is HalfSipHash-1-3 (Aumasson and Bernstein, SipHash, in its 32-bit form), which needs only
what classic BPF has: additions, shifts and XOR of 32-bit words. It is a pseudorandom function, so
that octets of one worker show nothing in common without the key. Its input is the first eight
octets of the ciphertext, which never repeat. Compiled by the kernel, its 490 instructions add less
than 0.1 µs to a datagram.
"""

from __future__ import annotations

import struct
from typing import Final

from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

KEY_BYTES: Final = 8
#: Octets of ciphertext that are hashed.
HASHED_BYTES: Final = 8
#: Rounds per word of input, and at the end.
WORD_ROUNDS: Final = 1
LAST_ROUNDS: Final = 3

_32_BITS: Final = 0xFFFF_FFFF


class WorkerMask:
    """The keyed hash of one host's workers under one configuration; never shows its key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(
                f"a key for masks has {KEY_BYTES} bytes, got {len(key)}", code=Reason.ID_KEY
            )
        self._key = bytes(key)

    def of(self, ciphertext: bytes) -> int:
        """Return the octet that masks the worker number beside `ciphertext` (8 bytes or more)."""
        words = struct.unpack(">II", ciphertext[:HASHED_BYTES])
        return half_siphash(self._key, words, WORD_ROUNDS, LAST_ROUNDS) & 0xFF

    def initial_state(self) -> tuple[int, int, int, int]:
        """Return the hash's four words before its input: the BPF program begins with them."""
        return initial_state(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkerMask) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return "WorkerMask(<redacted>)"


def initial_state(key: bytes) -> tuple[int, int, int, int]:
    """HalfSipHash's four words for an 8-byte key."""
    k0, k1 = struct.unpack("<II", key)
    return k0, k1, 0x6C79_6765 ^ k0, 0x7465_6462 ^ k1


def last_word(size: int) -> int:
    """The last word of input when `size`, in bytes, is a multiple of four: the length alone."""
    return (size & 0xFF) << 24


def half_siphash(key: bytes, words: tuple[int, ...], word_rounds: int, last_rounds: int) -> int:
    """Return the 32-bit HalfSipHash of `words`. HalfSipHash itself reads them from bytes in little-
    endian order; the mask uses network order, in which BPF loads them."""
    v0, v1, v2, v3 = initial_state(key)
    for word in (*words, last_word(4 * len(words))):
        v3 ^= word
        for _ in range(word_rounds):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(last_rounds):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v1 ^ v3


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = v0 + v1 & _32_BITS
    v1 = _rotate(v1, 5) ^ v0
    v0 = _rotate(v0, 16)
    v2 = v2 + v3 & _32_BITS
    v3 = _rotate(v3, 8) ^ v2
    v0 = v0 + v3 & _32_BITS
    v3 = _rotate(v3, 7) ^ v0
    v2 = v2 + v1 & _32_BITS
    v1 = _rotate(v1, 13) ^ v2
    v2 = _rotate(v2, 16)
    return v0, v1, v2, v3


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _32_BITS
