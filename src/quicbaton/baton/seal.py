"""Seal a payload into a baton and open it again: `header | AES-256-GCM(payload) | tag`.

Every seal draws a fresh 16-byte baton id, a retry included, and the key is HKDF(cluster key, baton
id). So one key seals one text, and the nonce may be zero. Nonce reuse would take two equal baton
ids, which is less likely than guessing the key of a lesser cipher. The header is the associated
data.

A baton's digest is SHA-256 over its header and its tag. While the seal holds, the tag identifies
the content: an attacker that could find other content with the same tag could forge batons, and
would need no claim. A hash over everything would take 0.6 µs per KB, twice, while the client waits:
1 ms and more of a busy connection's handoff. Source and destination compute the same digest without
opening the baton, and a store that keeps it learns nothing about the content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from quicbaton.baton.errors import BatonAudienceError, BatonExpiredError, BatonSealError
from quicbaton.baton.header import (
    BATON_ID_BYTES,
    TAG_BYTES,
    BatonHeader,
    encode_header,
    split_header,
)
from quicbaton.baton.versions import FORMAT_VERSION, downgrade_payload, upgrade_payload
from quicbaton.errors import InternalError, RefusedError
from quicbaton.keys.cluster_key import Purpose
from quicbaton.keys.key_ring import KeyRing
from quicbaton.limits import BATON_CLOCK_SKEW_S, BATON_LIFETIME_S, MAX_BATON_BYTES
from quicbaton.reasons import Reason

_ZERO_NONCE: Final = bytes(12)
_SKEW_MS: Final = BATON_CLOCK_SKEW_S * 1000


class BatonFields(Struct, frozen=True):
    """The header fields that the sealer chooses. See `header` for their meaning."""

    connection_id: bytes
    term: int
    source: str
    audience: str = ""
    lifetime_s: float = BATON_LIFETIME_S


class BatonIdentity(NamedTuple):
    """The id and digest that name a baton. `digest` is SHA-256 over header and tag."""

    baton_id: bytes
    digest: bytes


class OpenedBaton(Struct, frozen=True):
    """A baton whose seal held. `payload` is in the form of the present format version."""

    header: BatonHeader
    payload: bytes
    digest: bytes

    def __repr__(self) -> str:
        # The payload contains the connection's keys.
        return (
            f"OpenedBaton(header={self.header!r}, payload=<{len(self.payload)} bytes>,"
            f" digest={self.digest.hex()})"
        )


def seal(
    payload: bytes,
    fields: BatonFields,
    ring: KeyRing,
    entropy: Callable[[int], bytes],
    now: float,
    version: int = FORMAT_VERSION,
) -> bytes:
    """Seal `payload` under the ring's active key. `now` is Unix time in seconds. `version` is the
    format that the opener reads; the payload comes in the present one.

    Raises:
        RefusedError: code `baton_too_large`, or NeedsNewerFormatError when an older format cannot
            express the payload; the connection stays where it is.
        ConfigurationError: a field does not fit the header.
    """
    payload = downgrade_payload(payload, version)
    key = ring.active
    baton_id = entropy(BATON_ID_BYTES)
    if len(baton_id) != BATON_ID_BYTES:  # a short one would repeat sooner than the seal allows
        raise InternalError(f"entropy({BATON_ID_BYTES}) gave {len(baton_id)} bytes")
    issued_ms = int(now * 1000)
    header = encode_header(
        BatonHeader(
            version=version,
            key_id=key.key_id,
            baton_id=baton_id,
            connection_id=fields.connection_id,
            term=fields.term,
            source=fields.source,
            audience=fields.audience,
            issued_ms=issued_ms,
            expires_ms=issued_ms + int(fields.lifetime_s * 1000),
        )
    )
    size = len(header) + len(payload) + TAG_BYTES
    if size > MAX_BATON_BYTES:
        raise RefusedError(
            f"the baton would have {size} bytes, more than {MAX_BATON_BYTES};"
            " wait until the connection has sent or delivered its buffered bytes",
            code=Reason.BATON_TOO_LARGE,
        )
    cipher = AESGCM(key.derive(Purpose.BATON, baton_id))
    return header + cipher.encrypt(_ZERO_NONCE, payload, header)


def open_baton(data: bytes, ring: KeyRing, now: float | None, *audience: str) -> OpenedBaton:
    """Check and open a baton. `audience` are the opener's names, `now` is Unix time in seconds.

    Expiry is hygiene: single use rests on the ownership store and its claims. `now` is None for a
    baton that its source has just sent over a link, so that no two hosts' clocks are compared.

    Raises:
        BatonMalformedError, BatonVersionError: refused before any key was touched.
        BatonSealError: changed, or sealed under a key that the ring does not hold.
        BatonExpiredError, BatonAudienceError: authentic, but not for this time or this opener.
    """
    raw = split_header(data)
    key = ring.get(raw.key_id)
    if key is None:
        raise _broken_seal()
    cipher = AESGCM(key.derive(Purpose.BATON, raw.baton_id))
    view = memoryview(data)
    try:
        payload = cipher.decrypt(_ZERO_NONCE, view[raw.size :], view[: raw.size])
    except InvalidTag:
        raise _broken_seal() from None
    header = raw.decode()
    if now is not None:
        _check_time(header, int(now * 1000))
    if header.audience and header.audience not in audience:
        own = " or ".join(map(repr, filter(None, audience)))
        raise BatonAudienceError(
            f"the baton is for {header.audience!r}; this is {own}. Offer it there"
        )
    return OpenedBaton(header, upgrade_payload(payload, header.version), _digest(data, raw.size))


def identify(data: bytes) -> BatonIdentity:
    """The id and digest by which READY and claims name a baton.

    They only identify it: `open_baton` checks the seal.
    """
    raw = split_header(data)
    return BatonIdentity(raw.baton_id, _digest(data, raw.size))


def _digest(data: bytes, header_size: int) -> bytes:
    return hashlib.sha256(data[:header_size] + data[-TAG_BYTES:]).digest()


def _broken_seal() -> BatonSealError:
    return BatonSealError("the baton's seal does not hold under any key of the ring")


def _check_time(header: BatonHeader, now_ms: int) -> None:
    if now_ms > header.expires_ms + _SKEW_MS:
        raise BatonExpiredError(
            f"the baton expired {(now_ms - header.expires_ms) / 1000:.1f} s ago;"
            " ask its source for a new one"
        )
    if header.issued_ms > now_ms + _SKEW_MS:
        raise BatonExpiredError(
            f"the baton was issued {(header.issued_ms - now_ms) / 1000:.1f} s in the future;"
            " set the clocks"
        )
