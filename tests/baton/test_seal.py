"""Batons: a sealed payload comes back, and nothing else is ever accepted."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.baton import FORMAT_VERSION, header, seal, versions
from quicbaton.baton.errors import (
    BatonAudienceError,
    BatonError,
    BatonExpiredError,
    BatonMalformedError,
    BatonSealError,
    BatonVersionError,
    NeedsNewerFormatError,
)
from quicbaton.baton.header import BatonHeader, peek
from quicbaton.baton.seal import BatonFields, identify, open_baton
from quicbaton.errors import ConfigurationError, InternalError, RefusedError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.limits import BATON_CLOCK_SKEW_S, BATON_LIFETIME_S, MAX_BATON_BYTES

NOW = 1_800_000_000.25
KEY = ClusterKey(b"\xc1\xc2\xc3\xc4", bytes(range(32)))
OTHER = ClusterKey(b"\xd1\xd2\xd3\xd4", bytes(32))
RING = KeyRing(KEY)
FIELDS = BatonFields(connection_id=b"n" * 16, term=7, source="/run/q/a.sock", audience="node-2")

#: `sealed` below in format 3. Never change it: a reader of version 3 must open it.
SAMPLE_V3 = bytes.fromhex(
    "5142544e0003c1c2c3c4f5b165224a58b791df6af1d8303e61cd0000000000000007000001a3185c"
    "50fa000001a3185e25ba106e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e0d2f72756e2f712f612e736f63"
    "6b066e6f64652d320eb1db2283f811ae66627663eff59d9f86354574413b41788f922085108de757"
    "c5955ea24af744ddbc"
)
#: The same in format 4.
SAMPLE_V4 = bytes.fromhex(
    "5142544e0004c1c2c3c4f5b165224a58b791df6af1d8303e61cd0000000000000007000001a3185c"
    "50fa000001a3185e25ba106e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e0d2f72756e2f712f612e736f63"
    "6b066e6f64652d320eb1db2283f811ae66627663eff59d9f86354574413b41788fc710d21172fa2f"
    "b5808275d05c9bb676"
)


def entropy(seed: int = 1) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def sealed(payload: bytes = b"the state of a connection", seed: int = 1) -> bytes:
    return seal.seal(payload, FIELDS, RING, entropy(seed), NOW)


def opened(data: bytes, ring: KeyRing = RING, now: float = NOW) -> seal.OpenedBaton:
    return open_baton(data, ring, now, "node-2")


@given(
    st.binary(max_size=2000),
    st.binary(min_size=1, max_size=20),
    st.integers(0, 2**64 - 1),
    st.text(max_size=40),
    st.text(max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_what_is_sealed_comes_back(
    payload: bytes, connection_id: bytes, term: int, source: str, audience: str
) -> None:
    fields = BatonFields(connection_id, term, source, audience)
    data = seal.seal(payload, fields, RING, entropy(), NOW)
    baton = open_baton(data, RING, NOW, audience)
    assert baton.payload == payload
    assert baton.header == peek(data)
    assert baton.header.connection_id == connection_id
    assert baton.header.term == term
    assert (baton.header.source, baton.header.audience) == (source, audience)
    assert baton.header.version == FORMAT_VERSION
    assert baton.header.expires_ms - baton.header.issued_ms == BATON_LIFETIME_S * 1000
    assert baton.header.issued_ms == int(NOW * 1000)


@pytest.mark.parametrize(("version", "sample"), [(3, SAMPLE_V3), (4, SAMPLE_V4)])
def test_sealed_samples_still_open(
    monkeypatch: pytest.MonkeyPatch, version: int, sample: bytes
) -> None:
    monkeypatch.setitem(versions.UPGRADES, 3, bytes)
    baton = opened(sample)
    assert baton.payload == b"the state of a connection"
    assert baton.header.version == version
    assert baton.header.term == 7


def test_a_payload_is_sealed_in_the_version_that_the_opener_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A version before, which says everything in capitals.
    monkeypatch.setitem(versions.UPGRADES, 3, bytes.lower)
    monkeypatch.setitem(versions.DOWNGRADES, 4, bytes.upper)
    data = seal.seal(b"a connection", FIELDS, RING, entropy(), NOW, version=3)
    assert peek(data).version == 3
    assert versions.downgrade_payload(b"a connection", 3) == b"A CONNECTION"
    # What comes out is in the present form.
    assert opened(data).payload == b"a connection"
    with pytest.raises(BatonVersionError):
        seal.seal(b"a connection", FIELDS, RING, entropy(), NOW, version=2)


def test_a_format_that_nothing_writes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(versions.DOWNGRADES, 4)
    with pytest.raises(NeedsNewerFormatError):
        versions.downgrade_payload(b"a connection", 3)


def test_sealing_is_deterministic_given_its_entropy() -> None:
    assert sealed() == SAMPLE_V4


def test_every_truncation_is_refused() -> None:
    data = sealed()
    for size in range(len(data)):
        with pytest.raises(BatonError):
            opened(data[:size])


def test_every_flipped_bit_is_refused() -> None:
    data = sealed()
    codes = set()
    for index, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[index] ^= 1 << bit
        with pytest.raises(BatonError) as caught:
            opened(bytes(changed))
        codes.add(caught.value.code)
    # Nothing behind the lengths is looked at before the seal: no expiry or audience errors.
    assert codes == {"baton_malformed", "format_unknown", "baton_seal"}


@given(st.binary(max_size=300), st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_garbage_and_appendices_are_refused(garbage: bytes, tail: bytes) -> None:
    with pytest.raises(BatonError):
        opened(garbage)
    with pytest.raises(BatonError):
        opened(sealed()[:40] + garbage)
    with pytest.raises(BatonSealError):
        opened(sealed() + b"\x00" + tail)


def test_wrong_key_unknown_key_and_tampering_look_the_same() -> None:
    data = sealed()
    same_id = KeyRing(ClusterKey(KEY.key_id, bytes(32)))
    tampered = data[:-1] + bytes((data[-1] ^ 1,))
    shown = set()
    for ring, text in ((same_id, data), (KeyRing(OTHER), data), (RING, tampered)):
        with pytest.raises(BatonSealError) as caught:
            opened(text, ring)
        assert caught.value.__cause__ is None
        shown.add((type(caught.value), str(caught.value), caught.value.code))
    assert len(shown) == 1


def test_a_retired_key_still_opens() -> None:
    assert opened(sealed(), RING.rotate(OTHER)).payload == b"the state of a connection"


def test_two_seals_of_one_payload_share_neither_id_nor_text() -> None:
    random_bytes = entropy()
    payload = b"p" * 64
    first, second = (seal.seal(payload, FIELDS, RING, random_bytes, NOW) for _ in range(2))
    size = header.split_header(first).size
    assert peek(first).baton_id != peek(second).baton_id
    # Had key and nonce been the same, the ciphertexts would be, too.
    assert first[size:] != second[size:]


def test_digest_is_sha256_of_header_and_tag_at_every_open() -> None:
    data = sealed()
    size = header.split_header(data).size
    expected = hashlib.sha256(data[:size] + data[-header.TAG_BYTES :]).digest()
    assert opened(data).digest == opened(data).digest == expected
    assert identify(data) == (opened(data).header.baton_id, opened(data).digest)
    assert identify(sealed(seed=2)).digest != opened(data).digest


def test_expiry_allows_for_skew_in_both_directions() -> None:
    data = sealed()
    last = NOW + BATON_LIFETIME_S + BATON_CLOCK_SKEW_S
    assert opened(data, now=last - 0.01)
    assert opened(data, now=NOW - BATON_CLOCK_SKEW_S + 0.01)
    with pytest.raises(BatonExpiredError, match="expired"):
        opened(data, now=last + 0.01)
    with pytest.raises(BatonExpiredError, match="future"):
        opened(data, now=NOW - BATON_CLOCK_SKEW_S - 0.01)


def test_baton_is_opened_by_its_audience_only() -> None:
    with pytest.raises(BatonAudienceError):
        open_baton(sealed(), RING, NOW, "node-3")
    to_any = seal.seal(b"x", BatonFields(b"n", 1, "s"), RING, entropy(), NOW)
    assert open_baton(to_any, RING, NOW, "node-3").payload == b"x"


def test_header_is_read_without_a_key() -> None:
    assert peek(sealed()) == BatonHeader(
        version=FORMAT_VERSION,
        key_id=KEY.key_id,
        baton_id=entropy()(16),
        connection_id=b"n" * 16,
        term=7,
        source="/run/q/a.sock",
        audience="node-2",
        issued_ms=1_800_000_000_250,
        expires_ms=1_800_000_120_250,
    )


def test_overhead_is_at_most_110_bytes() -> None:
    payload = b"x" * 1000
    assert len(sealed(payload)) - len(payload) <= 110


def test_size_is_checked_before_anything() -> None:
    with pytest.raises(BatonMalformedError, match="at most"):
        opened(bytes(MAX_BATON_BYTES + 1))
    with pytest.raises(RefusedError) as caught:
        sealed(bytes(MAX_BATON_BYTES - 80))
    assert caught.value.code == "baton_too_large"


@pytest.mark.parametrize(
    "fields",
    [
        BatonFields(b"", 1, "s"),
        BatonFields(b"n" * 21, 1, "s"),
        BatonFields(b"n", -1, "s"),
        BatonFields(b"n", 1 << 64, "s"),
        BatonFields(b"n", 1, "s" * 256),
        BatonFields(b"n", 1, "s", "ü" * 128),
        BatonFields(b"n", 1, "s", lifetime_s=-1),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: BatonFields) -> None:
    with pytest.raises(ConfigurationError):
        seal.seal(b"", fields, RING, entropy(), NOW)


def test_short_entropy_is_refused() -> None:
    with pytest.raises(InternalError):
        seal.seal(b"", FIELDS, RING, lambda n: bytes(n - 1), NOW)


def test_secrets_are_not_shown() -> None:
    shown = repr(opened(sealed(b"client traffic secret")))
    assert "traffic" not in shown
    assert "<21 bytes>" in shown


def test_texts_that_are_not_utf8_are_refused() -> None:
    # A sealed header with bad texts can only come from a broken sealer; peek sees them any time.
    data = bytearray(sealed())
    data[data.index(b"/run")] = 0xFF
    with pytest.raises(BatonMalformedError, match="UTF-8"):
        peek(bytes(data))


def _with_version(data: bytes, version: int) -> bytes:
    return data[:4] + version.to_bytes(2, "big") + data[6:]


@pytest.mark.parametrize(
    ("version", "age"), [(0, "older"), (2, "older"), (5, "newer"), (65535, "newer")]
)
def test_other_versions_are_refused_by_name(version: int, age: str) -> None:
    for read in (opened, peek):
        with pytest.raises(BatonVersionError, match=rf"version {version}, {age}.*version 3 and 4"):
            read(_with_version(sealed(), version))


def test_version_before_is_upgraded_and_the_one_before_that_refused() -> None:
    def lift(payload: bytes) -> bytes:
        return b"v3:" + payload

    upgrades = {1: bytes.upper, 2: lift}
    assert versions.readable_versions(3, upgrades) == (2, 3)
    assert versions.upgrade_payload(b"p", 2, 3, upgrades) == b"v3:p"
    assert versions.upgrade_payload(b"p", 3, 3, upgrades) == b"p"
    with pytest.raises(BatonVersionError, match=r"older.*version 2 and 3"):
        versions.check_version(1, 3, upgrades)
    with pytest.raises(BatonVersionError, match="newer"):
        versions.upgrade_payload(b"p", 4, 3, upgrades)


def test_this_release_reads_its_own_version_and_that_of_0_2() -> None:
    assert versions.readable_versions() == (3, 4)


def test_what_is_no_snapshot_is_not_upgraded() -> None:
    for payload in (b"", b"\x90", b"\x91\x01", b"\xc1", b"\x91" * 3, bytes(100)):
        with pytest.raises(BatonMalformedError):
            versions.upgrade_payload(payload, 3)


def test_the_version_is_authenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.UPGRADES, 3, bytes)
    with pytest.raises(BatonSealError):
        opened(_with_version(sealed(), 3))
