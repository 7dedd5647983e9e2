"""Cluster keys: derivation, text form, and keeping the secret out of sight."""

from __future__ import annotations

import copy
import hmac
import pickle
import traceback

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import CallerError, ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey, Purpose
from quicbaton.keys.reset_token import reset_token

KEY = ClusterKey(b"\x01\x02\x03\x04", bytes(range(32)))


@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize("context", [b"", bytes(16)])
def test_derivation_is_hkdf_sha256_of_rfc_5869(purpose: Purpose, context: bytes) -> None:
    reference = HKDF(
        algorithm=SHA256(),
        length=32,
        salt=b"quicbaton cluster key v1",
        info=b"quicbaton v1 " + purpose.value + b"\x00" + context,
    ).derive(bytes(range(32)))
    assert KEY.derive(purpose, context) == reference
    assert KEY.derive(purpose, context) == reference  # kept or not, the same


def test_no_two_purposes_or_contexts_share_a_key() -> None:
    keys = {KEY.derive(p, c) for p in Purpose for c in (b"", b"\x00", b"a", bytes(16))}
    assert len(keys) == 4 * len(Purpose)


def test_a_signature_is_hmac_sha256_under_the_key_of_its_purpose() -> None:
    for message in (b"", b"a", bytes(100), b"a"):
        for purpose in (Purpose.RESET_TOKEN, Purpose.FORWARD):
            assert KEY.sign(purpose, message) == hmac.digest(KEY.derive(purpose), message, "sha256")


def test_no_label_contains_the_separator() -> None:
    assert not any(b"\x00" in purpose.value for purpose in Purpose)


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_text_form_survives_a_round_trip(key_id: bytes, secret: bytes) -> None:
    key = ClusterKey(key_id, secret)
    assert ClusterKey.parse(key.encode() + "\n") == key
    assert key.encode().startswith(f"quicbaton-key-v1:{key_id.hex()}:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quicbaton-key-v1",
        "quicbaton-key-v2:01020304:" + KEY.encode().split(":")[2],
        "quicbaton-key-v1:0102:" + KEY.encode().split(":")[2],
        "quicbaton-key-v1:xyzxyzxy:" + KEY.encode().split(":")[2],
        "quicbaton-key-v1:01020304:c2VjcmV0",
        "quicbaton-key-v1:01020304:!!!",
        KEY.encode() + ":more",
    ],
)
def test_bad_text_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ClusterKey.parse(text)
    shown = "".join(traceback.format_exception(caught.value))
    assert "AAECAwQF" not in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)
    assert "During handling" not in shown  # the cause might quote the text


def test_secret_is_not_shown() -> None:
    for shown in (repr(KEY), str(KEY), f"{KEY}", repr([KEY])):
        assert "01020304" in shown
        assert "redacted" in shown
        assert bytes(range(32)).hex() not in shown


def test_key_is_neither_pickled_nor_copied() -> None:
    for spill in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(CallerError):
            spill(KEY)


def test_keys_are_equal_by_id_and_secret() -> None:
    assert ClusterKey(KEY.key_id, bytes(range(32))) == KEY
    assert hash(KEY) == hash(ClusterKey(KEY.key_id, bytes(32)))
    assert ClusterKey(KEY.key_id, bytes(32)) != KEY
    assert ClusterKey(bytes(4), bytes(range(32))) != KEY
    assert KEY != "key"


@pytest.mark.parametrize(("key_id", "secret"), [(b"123", bytes(32)), (bytes(4), bytes(31))])
def test_wrong_sizes_are_refused(key_id: bytes, secret: bytes) -> None:
    with pytest.raises(ConfigurationError):
        ClusterKey(key_id, secret)


def test_generated_key_comes_from_the_entropy_given() -> None:
    assert ClusterKey.generate(lambda n: b"\x07" * n) == ClusterKey(b"\x07" * 4, b"\x07" * 32)


def test_reset_token_is_an_hmac_of_the_connection_id() -> None:
    expected = hmac.digest(KEY.derive(Purpose.RESET_TOKEN), b"\x01" * 12, "sha256")[:16]
    assert reset_token(KEY, b"\x01" * 12) == expected
    assert reset_token(KEY, b"\x02" * 12) != expected
    with pytest.raises(ConfigurationError):
        reset_token(KEY, b"")
