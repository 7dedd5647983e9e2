"""QUIC-LB's two ciphers for the part of a connection ID that names the server.

draft-ietf-quic-load-balancers, "Special Case: Single Pass Encryption" and "General Case: Four-Pass
Encryption". Everything but the first octet is encrypted: server ID and nonce. Sixteen octets are
one AES-128 block. Any other length goes through a Feistel network of four rounds, whose round
function is AES-128 of one half, its length and the number of the round.

The draft splits an odd length in the middle of an octet and clears the spare four bits of each
half. Here the halves are integers of 4 * n bits, so that nothing needs to be cleared: the left half
is shifted up by those four bits where it becomes AES input, the right half is not.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from quicbaton.errors import ConfigurationError, InternalError
from quicbaton.reasons import Reason

KEY_BYTES: Final = 16
#: The draft's bounds for server ID and nonce together.
MIN_BYTES: Final = 5
MAX_BYTES: Final = 19

_BLOCK_BYTES: Final = 16


class IdCipher:
    """Encrypts and decrypts server ID and nonce under one AES-128 key, which it never shows."""

    __slots__ = ("_decrypt_block", "_encrypt_block", "_key")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(
                f"a key for connection IDs has {KEY_BYTES} bytes (AES-128), got {len(key)}",
                code=Reason.ID_KEY,
            )
        self._key = bytes(key)
        # Block by block without chaining, so one context can be used for ever.
        cipher = Cipher(algorithms.AES(self._key), modes.ECB())
        self._encrypt_block = cipher.encryptor().update
        self._decrypt_block = cipher.decryptor().update

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return as many bytes of ciphertext as `plaintext` (server ID, nonce) has: 5 to 19."""
        size = _checked_size(plaintext)
        if size == _BLOCK_BYTES:
            return self._encrypt_block(plaintext)
        left, right = _split(plaintext, size)
        right ^= self._of_left(left, size, 1)
        left ^= self._of_right(right, size, 2)
        right ^= self._of_left(left, size, 3)
        left ^= self._of_right(right, size, 4)
        return (left << 4 * size | right).to_bytes(size, "big")

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return server ID and nonce. Any ciphertext decrypts: nothing is authenticated."""
        size = _checked_size(ciphertext)
        if size == _BLOCK_BYTES:
            return self._decrypt_block(ciphertext)
        left, right = _split(ciphertext, size)
        left ^= self._of_right(right, size, 4)
        right ^= self._of_left(left, size, 3)
        left ^= self._of_right(right, size, 2)
        right ^= self._of_left(left, size, 1)
        return (left << 4 * size | right).to_bytes(size, "big")

    def _of_left(self, left: int, size: int, number: int) -> int:
        """The round function of the left half. The result is XORed with the right one."""
        half = (size + 1) // 2
        head = (left << 4 * (size % 2)).to_bytes(half, "big")
        return self._round(head, size, number) & (1 << 4 * size) - 1

    def _of_right(self, right: int, size: int, number: int) -> int:
        half = (size + 1) // 2
        return self._round(right.to_bytes(half, "big"), size, number) >> 4 * (size % 2)

    def _round(self, head: bytes, size: int, number: int) -> int:
        # The draft's expand() and truncate().
        block = head.ljust(_BLOCK_BYTES - 2, b"\x00") + bytes((size, number))
        return int.from_bytes(self._encrypt_block(block)[: len(head)], "big")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdCipher) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return "IdCipher(<redacted>)"


def _checked_size(data: bytes) -> int:
    size = len(data)
    if not MIN_BYTES <= size <= MAX_BYTES:
        raise InternalError(
            f"server ID and nonce have {MIN_BYTES} to {MAX_BYTES} bytes together, got {size}"
        )
    return size


def _split(data: bytes, size: int) -> tuple[int, int]:
    whole = int.from_bytes(data, "big")
    return whole >> 4 * size, whole & (1 << 4 * size) - 1
