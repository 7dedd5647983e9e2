"""Address validation tokens that work on every node: Retry and NEW_TOKEN (RFC 9000 §8.1).

    kind (1) | key id (4) | token id (16) | AES-256-GCM(plaintext) | tag (16)

    Retry's plaintext:      issued, Unix ms (8) | port (2) | IP (1 + 4 or 16)
                            | original destination ID (1 + n) | Retry's source ID (1 + n)
    NEW_TOKEN's plaintext:  issued, Unix ms (8) | IP (1 + 4 or 16)

The kind is the first byte, readable, because the two are handled differently (§8.1.1), and is
authenticated. Each kind has its own key. Each token has a key of its own below that, derived with
its random token id: a Retry flood may mint more tokens than random nonces under one key allow. A
NEW_TOKEN reveals nothing about its connection (§8.1.3); the key id is the same for all.

A Retry's token is bound to address and port (§8.1.4) and to the Retry's source ID, which the client
must use (§17.2.5.2). A NEW_TOKEN is bound to the IP address only: ports change.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from enum import Enum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from quicbaton.errors import InternalError, PeerError
from quicbaton.keys.cluster_key import KEY_ID_BYTES, ClusterKey, Purpose
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.spent import ReplayGuard
from quicbaton.limits import (
    BATON_CLOCK_SKEW_S,
    NEW_TOKEN_LIFETIME_S,
    RETRY_TOKEN_LIFETIME_S,
)
from quicbaton.reasons import Reason

TOKEN_ID_BYTES: Final = 16

_ID_OFFSET: Final = 1 + KEY_ID_BYTES
_HEADER_BYTES: Final = _ID_OFFSET + TOKEN_ID_BYTES
_ZERO_NONCE: Final = bytes(12)  # one key seals one token
#: Header, tag, time and an IPv6 address, port and two IDs of 20 bytes. No token of ours is longer.
_MAX_TOKEN_BYTES: Final = _HEADER_BYTES + 16 + 8 + 2 + 17 + 2 * 21


class TokenKind(Enum):
    """How the client got the token; the value is its first byte."""

    RETRY = 0x52
    NEW_TOKEN = 0x4E


_PURPOSES: Final = {
    TokenKind.RETRY: Purpose.RETRY_TOKEN,
    TokenKind.NEW_TOKEN: Purpose.NEW_TOKEN,
}
_LIFETIMES_S: Final = {
    TokenKind.RETRY: RETRY_TOKEN_LIFETIME_S,
    TokenKind.NEW_TOKEN: NEW_TOKEN_LIFETIME_S,
}


class AddressTokenError(PeerError):
    """A token that validates nothing.

    `kind` is the one in its first byte. RFC 9000 §8.1.2: after a bad Retry token close with
    INVALID_TOKEN, because the client accepts no second Retry; §8.1.3: with any other bad token go
    on as without one.
    """

    code = Reason.ADDRESS_TOKEN

    def __init__(self, message: str, kind: TokenKind | None, *, code: Reason) -> None:
        super().__init__(message, code=code)
        self.kind = kind


class ValidatedAddress(Struct, frozen=True):
    """What a good token proves: the client was reached at its address."""

    kind: TokenKind
    token_id: bytes
    original_id: bytes  # the client's first destination ID, before the Retry; else empty
    retry_id: bytes  # the Retry's source ID; else empty
    expires: float  # Unix time


def mint_retry_token(
    ring: KeyRing,
    entropy: Callable[[int], bytes],
    now: float,
    *,
    address: tuple[str | int, ...],
    original_id: bytes,
    retry_id: bytes,
) -> bytes:
    """Return the token for a Retry to the client at `address`; `now` is Unix time in seconds."""
    plaintext = b"".join(
        (
            _time(now),
            int(address[1]).to_bytes(2, "big"),
            _prefixed(_packed_ip(address)),
            _prefixed(original_id),
            _prefixed(retry_id),
        )
    )
    return _seal(TokenKind.RETRY, ring.active, entropy, plaintext)


def mint_new_token(
    ring: KeyRing,
    entropy: Callable[[int], bytes],
    now: float,
    *,
    address: tuple[str | int, ...],
) -> bytes:
    """Return a token for a NEW_TOKEN frame to the client at `address`."""
    plaintext = _time(now) + _prefixed(_packed_ip(address))
    return _seal(TokenKind.NEW_TOKEN, ring.active, entropy, plaintext)


def validate_token(
    token: bytes,
    ring: KeyRing,
    now: float,
    *,
    address: tuple[str | int, ...],
    destination_id: bytes,
) -> ValidatedAddress:
    """Check the token of an Initial that came from `address` for `destination_id`.

    Raises:
        AddressTokenError: codes `token_malformed`, `token_seal`, `token_expired`,
            `token_address`, `token_destination`.
    """
    kind, plaintext = _open(token, ring)
    (issued_ms,) = struct.unpack_from("!Q", plaintext)
    age_s = now - issued_ms / 1000
    # The clocks of two nodes may differ within bounds. Beyond them, in either direction, the token
    # is bad.
    if not -BATON_CLOCK_SKEW_S <= age_s <= _LIFETIMES_S[kind]:
        raise AddressTokenError(
            f"the token is {age_s:.1f} s old; it lives {_LIFETIMES_S[kind]} s",
            kind,
            code=Reason.TOKEN_EXPIRED,
        )
    at = 8
    original_id = retry_id = b""
    port: int | None = None
    if kind is TokenKind.RETRY:
        port = int.from_bytes(plaintext[at : at + 2], "big")
        at += 2
    host, at = _pull(plaintext, at)
    if kind is TokenKind.RETRY:
        original_id, at = _pull(plaintext, at)
        retry_id, at = _pull(plaintext, at)
    if host != _packed_ip(address) or (port is not None and port != address[1]):
        raise AddressTokenError(
            "the token was given to another address", kind, code=Reason.TOKEN_ADDRESS
        )
    if kind is TokenKind.RETRY and retry_id != destination_id:
        raise AddressTokenError(
            "the Initial does not go to the Retry's source ID", kind, code=Reason.TOKEN_DESTINATION
        )
    expires = issued_ms / 1000 + _LIFETIMES_S[kind]
    return ValidatedAddress(kind, token[_ID_OFFSET:_HEADER_BYTES], original_id, retry_id, expires)


def counts(validated: ValidatedAddress, guard: ReplayGuard, now: float) -> bool:
    """Whether the token counts; it is then remembered (RFC 9000 §8.1.4 wants replay limited). A
    Retry's token may be repeated: the client must send it in all its Initials (§8.1.2)."""
    if validated.kind is TokenKind.RETRY:
        return True
    return guard.spend(validated.token_id, validated.expires, now)


def _seal(
    kind: TokenKind, key: ClusterKey, entropy: Callable[[int], bytes], plaintext: bytes
) -> bytes:
    token_id = entropy(TOKEN_ID_BYTES)
    if len(token_id) != TOKEN_ID_BYTES:
        raise InternalError(f"entropy({TOKEN_ID_BYTES}) gave {len(token_id)} bytes")
    header = bytes((kind.value,)) + key.key_id + token_id
    cipher = AESGCM(key.derive(_PURPOSES[kind], token_id))
    return header + cipher.encrypt(_ZERO_NONCE, plaintext, header)


def _open(token: bytes, ring: KeyRing) -> tuple[TokenKind, bytes]:
    if not _HEADER_BYTES < len(token) <= _MAX_TOKEN_BYTES:
        raise AddressTokenError(
            f"a token of ours has at most {_MAX_TOKEN_BYTES} bytes and more than {_HEADER_BYTES},"
            f" got {len(token)}",
            None,
            code=Reason.TOKEN_MALFORMED,
        )
    try:
        kind = TokenKind(token[0])
    except ValueError:
        raise AddressTokenError(
            "the token is of no kind that we give out", None, code=Reason.TOKEN_MALFORMED
        ) from None
    header = token[:_HEADER_BYTES]
    key = ring.get(header[1:_ID_OFFSET])
    if key is not None:
        cipher = AESGCM(key.derive(_PURPOSES[kind], header[_ID_OFFSET:]))
        try:
            return kind, cipher.decrypt(_ZERO_NONCE, token[_HEADER_BYTES:], header)
        except InvalidTag:
            pass
    raise AddressTokenError(
        "the token's seal does not hold", kind, code=Reason.TOKEN_SEAL
    ) from None


def _packed_ip(address: tuple[str | int, ...]) -> bytes:
    # For the same client a dual-stack socket reports ::ffff:192.0.2.1, and another node's IPv4
    # socket 192.0.2.1.
    ip = ipaddress.ip_address(str(address[0]))
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).packed


def _time(now: float) -> bytes:
    return int(now * 1000).to_bytes(8, "big")


def _prefixed(data: bytes) -> bytes:
    return bytes((len(data),)) + data


def _pull(data: bytes, at: int) -> tuple[bytes, int]:
    stop = at + 1 + data[at]
    return data[at + 1 : stop], stop
