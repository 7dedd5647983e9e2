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
from cryptography.hazmat.primitives.hmac import HMAC

from quicbaton.errors import PeerError
from quicbaton.reasons import Reason
from quicbaton.transport.state import Keys
from quicbaton.transport.value import Value

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


class KeyContext:
    """One direction's packet protection of one generation: nonce is `iv ^ packet number`."""

    __slots__ = ("aead", "iv")

    def __init__(self, aead: AESGCM | ChaCha20Poly1305, iv: int) -> None:
        self.aead = aead
        self.iv = iv


class CipherSuite(Value, frozen=True):
    """The differences between the suites."""

    hash: HashAlgorithm
    key_bytes: int
    aead: type[AESGCM] | type[ChaCha20Poly1305]
    masks: Callable[[bytes], Masks]  # from the header protection key
    confidentiality_packets: int  # RFC 9001 §6.6: most packets one key may protect
    integrity_packets: int  # RFC 9001 §6.6: most forgeries one connection may see


class KeySchedule:
    """The keys that follow from one direction's secret of one generation (RFC 9001 §5.1, §6.1).

    Each key is one HMAC under the secret. A MAC that takes the secret costs twice what a copy of it
    does: so all four keys of a direction take 4 µs, not the 9 of one HKDF-Expand for each.
    """

    __slots__ = ("_mac", "_prefix", "_suite")

    def __init__(self, version: int, cipher: int, keys: Keys) -> None:
        self._suite = suite_of(cipher)
        self._prefix = _label_prefix(version)
        self._mac = HMAC(keys.secret, self._suite.hash)

    def packet_protection(self) -> KeyContext:
        """The cipher of this generation."""
        key, iv = self.key_and_iv()
        return KeyContext(self._suite.aead(key), int.from_bytes(iv))

    def key_and_iv(self) -> tuple[bytes, bytes]:
        """The key and the IV of the AEAD."""
        return (
            self._expand(b" key", self._suite.key_bytes),
            self._expand(b" iv", NONCE_BYTES),
        )

    def header_key(self) -> bytes:
        """The header protection key, if this is the first generation: it never changes."""
        return self._expand(b" hp", self._suite.key_bytes)

    def next_keys(self) -> Keys:
        """The keys of the next generation."""
        return Keys(self._expand(b" ku", self._suite.hash.digest_size))

    def _expand(self, label: bytes, length: int) -> bytes:
        """HKDF-Expand-Label with an empty context (RFC 8446 §7.1). No key is longer than a hash, so
        HKDF's first block is enough (RFC 5869 §2.3)."""
        mac = self._mac.copy()
        mac.update(_label_info(self._prefix + label, length))
        return mac.finalize()[:length]


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
    return known or KeySchedule(version, cipher, keys).header_key()


def next_keys(version: int, cipher: int, keys: Keys) -> Keys:
    """The next generation's keys (RFC 9001 §6.1). Header protection keys stay as they are."""
    return KeySchedule(version, cipher, keys).next_keys()


def _label_prefix(version: int) -> bytes:
    if version == VERSION_1:
        return b"quic"
    if version == VERSION_2:
        return b"quicv2"  # RFC 9369 §3.3.1
    raise PeerError(
        f"expected QUIC version 0x00000001 or 0x6b3343cf, got {version:#010x}",
        code=Reason.UNSUPPORTED_VERSION,
    )


@cache
def _label_info(label: bytes, length: int) -> bytes:
    name = b"tls13 " + label
    return length.to_bytes(2) + len(name).to_bytes(1) + name + b"\x00\x01"


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
