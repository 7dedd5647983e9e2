"""Address validation tokens: bound to what RFC 9000 §8.1 wants them bound to."""

from __future__ import annotations

import itertools
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import InternalError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.spent import SpentTokens
from quicbaton.limits import BATON_CLOCK_SKEW_S, NEW_TOKEN_LIFETIME_S, RETRY_TOKEN_LIFETIME_S
from quicbaton.routing.retry import (
    AddressTokenError,
    TokenKind,
    ValidatedAddress,
    counts,
    mint_new_token,
    mint_retry_token,
    validate_token,
)

NOW = 1_800_000_000.0
KEY = ClusterKey(b"key1", bytes(range(32)))
OTHER = ClusterKey(b"key2", bytes(32))
RING = KeyRing(KEY)
CLIENT = ("192.0.2.7", 4433)


def retry_token(original_id: bytes = b"original", retry_id: bytes = b"retry-id-12b") -> bytes:
    return mint_retry_token(
        RING, os.urandom, NOW, address=CLIENT, original_id=original_id, retry_id=retry_id
    )


def validate(
    token: bytes,
    *,
    ring: KeyRing = RING,
    now: float = NOW,
    address: tuple[str | int, ...] = CLIENT,
    destination_id: bytes = b"retry-id-12b",
) -> ValidatedAddress:
    return validate_token(token, ring, now, address=address, destination_id=destination_id)


def refusal(token: bytes, **options: object) -> AddressTokenError:
    with pytest.raises(AddressTokenError) as caught:
        validate(token, **options)  # type: ignore[arg-type]
    return caught.value


@given(st.binary(max_size=20), st.binary(max_size=20), st.ip_addresses(), st.integers(0, 65535))
@settings(max_examples=100, deadline=None)
def test_retry_token_brings_back_both_ids(
    original_id: bytes, retry_id: bytes, host: object, port: int
) -> None:
    address = (str(host), port)
    token = mint_retry_token(
        RING, os.urandom, NOW, address=address, original_id=original_id, retry_id=retry_id
    )
    found = validate(token, address=address, destination_id=retry_id)
    assert found.kind is TokenKind.RETRY
    assert (found.original_id, found.retry_id) == (original_id, retry_id)


def test_token_works_on_every_node_that_holds_the_key() -> None:
    token = retry_token()
    elsewhere = KeyRing(OTHER, [ClusterKey(b"key1", bytes(range(32)))])
    assert validate(token, ring=elsewhere).original_id == b"original"


def test_kinds_are_told_apart() -> None:
    # RFC 9000 §8.1.1
    new = mint_new_token(RING, os.urandom, NOW, address=CLIENT)
    assert validate(new).kind is TokenKind.NEW_TOKEN
    assert validate(new).original_id == b""
    # One kind's token does not pass for the other's.
    for token in (new, retry_token()):
        swapped = bytes((0x52 + 0x4E - token[0],)) + token[1:]
        assert refusal(swapped).code == "token_seal"


def test_retry_token_is_bound_to_address_port_and_destination() -> None:
    token = retry_token()
    assert refusal(token, address=("192.0.2.8", 4433)).code == "token_address"
    assert refusal(token, address=("192.0.2.7", 4434)).code == "token_address"
    error = refusal(token, destination_id=b"original")
    assert error.code == "token_destination"
    assert error.kind is TokenKind.RETRY  # to be answered with INVALID_TOKEN


def test_new_token_is_bound_to_the_ip_address_only() -> None:
    # RFC 9000 §8.1.3: the port will differ. §8.1.4: the address must not.
    token = mint_new_token(RING, os.urandom, NOW, address=CLIENT)
    assert validate(token, address=("192.0.2.7", 1), destination_id=b"any")
    error = refusal(token, address=("192.0.2.8", 4433))
    assert (error.code, error.kind) == ("token_address", TokenKind.NEW_TOKEN)


def test_mapped_address_is_the_same_client() -> None:
    assert validate(retry_token(), address=("::ffff:192.0.2.7", 4433, 0, 0))


def test_tokens_expire_with_skew_allowed_for_the_future_only() -> None:
    retry = retry_token()
    new = mint_new_token(RING, os.urandom, NOW, address=CLIENT)
    for token, lifetime_s in ((retry, RETRY_TOKEN_LIFETIME_S), (new, NEW_TOKEN_LIFETIME_S)):
        assert validate(token, now=NOW + lifetime_s)
        assert refusal(token, now=NOW + lifetime_s + 0.1).code == "token_expired"
        assert validate(token, now=NOW - BATON_CLOCK_SKEW_S)
        assert refusal(token, now=NOW - BATON_CLOCK_SKEW_S - 0.1).code == "token_expired"


def test_every_flipped_bit_and_every_truncation_is_refused() -> None:
    for token in (retry_token(), mint_new_token(RING, os.urandom, NOW, address=CLIENT)):
        for index, bit in itertools.product(range(len(token)), range(8)):
            changed = bytearray(token)
            changed[index] ^= 1 << bit
            assert refusal(bytes(changed)).code in ("token_seal", "token_malformed")
        for size in range(len(token)):
            assert refusal(token[:size]).code in ("token_seal", "token_malformed")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_garbage_is_refused(token: bytes) -> None:
    for data in (token, b"\x52" + KEY.key_id + token, b"\x4e" + KEY.key_id + token):
        assert refusal(data).code in ("token_seal", "token_malformed")


def test_unknown_and_wrong_key_look_the_same() -> None:
    same_id = KeyRing(ClusterKey(b"key1", bytes(32)))
    first, second = (refusal(retry_token(), ring=ring) for ring in (same_id, KeyRing(OTHER)))
    assert (first.code, str(first)) == (second.code, str(second))


def test_tokens_show_nothing_of_their_connection_and_never_repeat() -> None:
    # RFC 9000 §8.1.3
    first, second = (mint_new_token(RING, os.urandom, NOW, address=CLIENT) for _ in range(2))
    assert first[:5] == second[:5] == b"N" + KEY.key_id
    assert first[5:21] != second[5:21]
    assert first[21:] != second[21:]
    for token in (first, retry_token()):
        assert b"\xc0\x00\x02\x07" not in token
        assert b"original" not in token


def test_new_token_counts_once_and_retry_token_in_every_initial() -> None:
    spent = SpentTokens()
    new = validate(mint_new_token(RING, os.urandom, NOW, address=CLIENT))
    assert [counts(new, spent, NOW) for _ in range(3)] == [True, False, False]
    retry = validate(retry_token())
    assert [counts(retry, spent, NOW) for _ in range(3)] == [True, True, True]


def test_full_memory_of_spent_tokens_accepts_no_more_until_some_expire() -> None:
    spent = SpentTokens(limit=2)
    random_bytes = random.Random(1).randbytes
    tokens = [validate(mint_new_token(RING, random_bytes, NOW, address=CLIENT)) for _ in range(3)]
    assert [counts(token, spent, NOW) for token in tokens] == [True, True, False]
    later = NOW + NEW_TOKEN_LIFETIME_S + 1
    fresh = validate(mint_new_token(RING, random_bytes, later, address=CLIENT), now=later)
    assert counts(fresh, spent, later)
    assert len(spent) == 1


def test_short_entropy_is_refused() -> None:
    with pytest.raises(InternalError):
        mint_new_token(RING, lambda n: bytes(n - 1), NOW, address=CLIENT)
