"""A cipher suite's part in packet protection: keys from secrets, AEAD, header protection masks.

RFC 9001 §5.1 and §6.1 say how keys follow from secrets, §5.3 how nonces are made, §5.4 where
header protection masks come from; RFC 9369 §3.3 gives version 2 its own labels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from msgspec import Struct

from quicbaton.errors import PeerError
from quicbaton.reasons import Reason
from quicbaton.transport.state import Keys

AES_128_GCM_SHA256: Final = 0x1301
AES_256_GCM_SHA384: Final = 0x1302
CHACHA20_POLY1305_SHA256: Final = 0x1303

VERSION_1: Final = 0x00000001
VERSION_2: Final = 0x6B3343CF

#: All three suites' tags, samples and the masks we produce are 16 bytes; nonces are 12.
TAG_BYTES: Final = 16
SAMPLE_BYTES: Final = 16
NONCE_BYTES: Final = 12

#: Header protection masks of joined 16-byte samples: 16 bytes for each, of which 5 count.
Masks = Callable[[bytes], bytes]


class CipherSuite(Struct, frozen=True):
    """The differences between the suites."""

    hash: HashAlgorithm
    key_bytes: int
    aead: type[AESGCM] | type[ChaCha20Poly1305]
    masks: Callable[[bytes], Masks]  # from the header protection key
    confidentiality_packets: int  # RFC 9001 §6.6: most packets one key may protect
    integrity_packets: int  # RFC 9001 §6.6: most forgeries one connection may see


class KeyContext:
    """One direction's packet protection of one generation: nonce is `iv ^ packet number`."""

    __slots__ = ("aead", "iv")

    def __init__(self, version: int, cipher: int, keys: Keys) -> None:
        key, iv = key_and_iv(version, cipher, keys)
        self.aead = suite_of(cipher).aead(key)
        self.iv = int.from_bytes(iv)


def suite_of(cipher: int) -> CipherSuite:
    """The suite with this TLS number. Raises PeerError for one from which QUIC makes no keys."""
    try:
        return _SUITES[cipher]
    except KeyError:
        raise PeerError(
            f"expected cipher suite 0x1301, 0x1302 or 0x1303, got {cipher:#06x}",
            code=Reason.UNSUPPORTED_CIPHER,
        ) from None


def check_version(version: int) -> None:
    """Raise PeerError for a QUIC version whose keys we cannot derive."""
    _label_prefix(version)


def header_key(version: int, cipher: int, known: bytes, keys: Keys) -> bytes:
    """The header protection key: `known`, or if that is empty what follows from the keys of the
    first generation (RFC 9001 §5.1)."""
    if known:
        return known
    suite = suite_of(cipher)
    prefix = _label_prefix(version)
    return _expand_label(suite.hash, keys.secret, prefix + b" hp", suite.key_bytes)


def next_keys(version: int, cipher: int, keys: Keys) -> Keys:
    """The next generation's keys (RFC 9001 §6.1). Header protection keys stay as they are."""
    suite = suite_of(cipher)
    prefix = _label_prefix(version)
    return Keys(_expand_label(suite.hash, keys.secret, prefix + b" ku", suite.hash.digest_size))


def key_and_iv(version: int, cipher: int, keys: Keys) -> tuple[bytes, bytes]:
    """What the AEAD takes (RFC 9001 §5.1)."""
    suite = suite_of(cipher)
    prefix = _label_prefix(version)
    return (
        _expand_label(suite.hash, keys.secret, prefix + b" key", suite.key_bytes),
        _expand_label(suite.hash, keys.secret, prefix + b" iv", NONCE_BYTES),
    )


def _label_prefix(version: int) -> bytes:
    if version == VERSION_1:
        return b"quic"
    if version == VERSION_2:
        return b"quicv2"  # RFC 9369 §3.3.1
    raise PeerError(
        f"expected QUIC version 0x00000001 or 0x6b3343cf, got {version:#010x}",
        code=Reason.UNSUPPORTED_VERSION,
    )


def _expand_label(algorithm: HashAlgorithm, secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446 §7.1)."""
    return HKDFExpand(algorithm, length, _label_info(label, length)).derive(secret)


@cache
def _label_info(label: bytes, length: int) -> bytes:
    name = b"tls13 " + label
    return length.to_bytes(2) + len(name).to_bytes(1) + name + b"\x00"


def _aes_masks(key: bytes) -> Masks:
    """RFC 9001 §5.4.3: AES-ECB of the sample. ECB keeps no state between calls, so one encryptor
    lives as long as the key, and one call (0.3 µs) serves the samples of a whole train."""
    return Cipher(algorithms.AES(key), _ECB).encryptor().update


def _chacha20_masks(key: bytes) -> Masks:
    """RFC 9001 §5.4.4: a sample is block counter and nonce, the mask is the key stream. Setting
    the nonce of a living context costs 0.5 µs, a new context 3.4."""
    context = Cipher(algorithms.ChaCha20(key, bytes(SAMPLE_BYTES)), mode=None).encryptor()
    reset_nonce, update = context.reset_nonce, context.update
    zeros = bytes(SAMPLE_BYTES)

    def mask(sample: bytes) -> bytes:
        reset_nonce(sample)
        return update(zeros)

    def masks(samples: bytes) -> bytes:
        starts = range(0, len(samples), SAMPLE_BYTES)
        return b"".join([mask(samples[start : start + SAMPLE_BYTES]) for start in starts])

    return masks


_ECB: Final = modes.ECB()
_SUITES: Final = {
    AES_128_GCM_SHA256: CipherSuite(SHA256(), 16, AESGCM, _aes_masks, 1 << 23, 1 << 52),
    AES_256_GCM_SHA384: CipherSuite(SHA384(), 32, AESGCM, _aes_masks, 1 << 23, 1 << 52),
    CHACHA20_POLY1305_SHA256: CipherSuite(
        SHA256(), 32, ChaCha20Poly1305, _chacha20_masks, 1 << 62, 1 << 36
    ),
}
