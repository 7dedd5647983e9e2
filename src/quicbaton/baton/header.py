"""The baton's header: readable without a key, and authenticated as associated data.

    magic "QBTN" (4) | format version (2) | key id (4) | baton id (16) | term (8)
    | issued (8) | expires (8) | connection id (1 + 1..20) | source (1 + n) | audience (1 + n)

All integers are big-endian; times are Unix milliseconds; texts are UTF-8 with a length byte in
front. With a 16-byte connection id the header has 69 bytes and its texts, and the seal's tag adds
16. `source` is the process to ask for the baton's one claim (a control socket's address or a node's
name). `audience` is the process that may open it; empty means every process that holds the key.

Before the seal is checked, the only action that may follow from a header is to refuse the baton.
"""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct

from quicbaton.baton.errors import BatonMalformedError
from quicbaton.baton.versions import check_version
from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import KEY_ID_BYTES
from quicbaton.limits import MAX_BATON_BYTES, MAX_BATON_NAME_BYTES
from quicbaton.reasons import Reason

MAGIC: Final = b"QBTN"
BATON_ID_BYTES: Final = 16
MAX_CONNECTION_ID_BYTES: Final = 20  # RFC 9000 §17.2
TAG_BYTES: Final = 16  # AES-256-GCM's, after the ciphertext

_FIXED: Final = struct.Struct(f"!4sH{KEY_ID_BYTES}s{BATON_ID_BYTES}sQQQ")
_VERSION_END: Final = 6
_MAX_U64: Final = (1 << 64) - 1


class BatonHeader(Struct, frozen=True):
    """The header's fields. They are unproven until `open_baton` returns them."""

    version: int
    key_id: bytes
    baton_id: bytes
    connection_id: bytes
    term: int
    source: str
    audience: str
    issued_ms: int
    expires_ms: int


class RawHeader(Struct, frozen=True):
    """A header whose lengths add up, and whose texts are not decoded."""

    version: int
    key_id: bytes
    baton_id: bytes
    term: int
    issued_ms: int
    expires_ms: int
    connection_id: bytes
    source: bytes
    audience: bytes
    size: int  # header bytes: the ciphertext begins here

    def decode(self) -> BatonHeader:
        """Decode the texts. Raises `BatonMalformedError` when they are not UTF-8."""
        try:
            source, audience = self.source.decode(), self.audience.decode()
        except UnicodeDecodeError:
            raise BatonMalformedError("the baton's source or audience is not UTF-8") from None
        return BatonHeader(
            version=self.version,
            key_id=self.key_id,
            baton_id=self.baton_id,
            connection_id=self.connection_id,
            term=self.term,
            source=source,
            audience=audience,
            issued_ms=self.issued_ms,
            expires_ms=self.expires_ms,
        )


def encode_header(header: BatonHeader) -> bytes:
    """Return the header's bytes.

    Raises:
        ConfigurationError: a field is longer or larger than the format allows.
    """
    if not 1 <= len(header.connection_id) <= MAX_CONNECTION_ID_BYTES:
        raise ConfigurationError(
            f"a baton's connection id has 1 to {MAX_CONNECTION_ID_BYTES} bytes,"
            f" got {len(header.connection_id)}",
            code=Reason.BATON_FIELD,
        )
    if not 0 <= header.term <= _MAX_U64:
        raise ConfigurationError(f"term {header.term} is not a u64", code=Reason.BATON_FIELD)
    if not 0 <= header.issued_ms <= header.expires_ms <= _MAX_U64:
        raise ConfigurationError(
            f"a baton expires after it was issued, got {header.issued_ms} and {header.expires_ms}",
            code=Reason.BATON_FIELD,
        )
    fixed = _FIXED.pack(
        MAGIC,
        header.version,
        header.key_id,
        header.baton_id,
        header.term,
        header.issued_ms,
        header.expires_ms,
    )
    return b"".join(
        (
            fixed,
            bytes((len(header.connection_id),)),
            header.connection_id,
            _encode_name("source", header.source),
            _encode_name("audience", header.audience),
        )
    )


def peek(data: bytes) -> BatonHeader:
    """Read a baton's header without any key, to display it or to find the process to ask.

    Raises:
        BatonMalformedError: not a baton, cut off, or too big.
        BatonVersionError: a version that this release does not read.
    """
    return split_header(data).decode()


def split_header(data: bytes) -> RawHeader:
    """Find the header's fields. Checks the size first, then magic, version and lengths."""
    size = len(data)
    if size > MAX_BATON_BYTES:
        raise BatonMalformedError(f"a baton has at most {MAX_BATON_BYTES} bytes, got {size}")
    if data[: len(MAGIC)] != MAGIC:
        raise BatonMalformedError(f"a baton begins with {MAGIC!r}; this is something else")
    if size < _VERSION_END:
        raise BatonMalformedError(f"the baton is cut off after {size} bytes, in its version")
    check_version(int.from_bytes(data[len(MAGIC) : _VERSION_END], "big"))
    if size < _FIXED.size:
        raise BatonMalformedError(f"the baton is cut off after {size} bytes, in its header")
    _, version, key_id, baton_id, term, issued_ms, expires_ms = _FIXED.unpack_from(data)
    connection_id, at = _pull(data, _FIXED.size)
    if not 1 <= len(connection_id) <= MAX_CONNECTION_ID_BYTES:
        raise BatonMalformedError(
            f"a baton's connection id has 1 to {MAX_CONNECTION_ID_BYTES} bytes,"
            f" got {len(connection_id)}"
        )
    source, at = _pull(data, at)
    audience, at = _pull(data, at)
    if size < at + TAG_BYTES:
        raise BatonMalformedError(f"the baton is cut off after {size} bytes, in its seal")
    return RawHeader(
        version=version,
        key_id=key_id,
        baton_id=baton_id,
        term=term,
        issued_ms=issued_ms,
        expires_ms=expires_ms,
        connection_id=connection_id,
        source=source,
        audience=audience,
        size=at,
    )


def _pull(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + 1
    stop = start + data[at] if at < len(data) else start
    if stop > len(data) or start > len(data):
        raise BatonMalformedError(f"the baton is cut off after {len(data)} bytes, in its header")
    return data[start:stop], stop


def _encode_name(field: str, text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > MAX_BATON_NAME_BYTES:
        raise ConfigurationError(
            f"a baton's {field} has at most {MAX_BATON_NAME_BYTES} bytes, got {len(encoded)}",
            code=Reason.BATON_FIELD,
        )
    return bytes((len(encoded),)) + encoded
