"""Connection IDs: the draft's form, and reading it back."""

from __future__ import annotations

import os
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import ConfigurationError, InternalError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token
from quicbaton.routing.id_cipher import IdCipher
from quicbaton.routing.quic_lb import IdConfigs, IdFactory, IdLayout, Place
from quicbaton.routing.worker_mask import WorkerMask, half_siphash

RING = KeyRing(ClusterKey(b"key1", bytes(range(32))))
#: The key of the draft's "Encrypted CIDs".
CIPHER = IdCipher(bytes.fromhex("8f95f09245765f80256934e50c66207f"))

layouts = st.builds(
    IdLayout,
    st.integers(0, 6),
    st.integers(1, 3),
    st.integers(6, 14),
    st.booleans(),
    st.sampled_from([None, CIPHER]),
)


def with_mask(layout: IdLayout) -> IdLayout:
    """The same, its worker readable for the kernel, where that can be."""
    if layout.cipher is None:
        return layout
    return msgspec.structs.replace(layout, mask=WorkerMask(b"mask key"))


def test_first_plaintext_vector_of_the_draft() -> None:
    # draft-ietf-quic-load-balancers, "Unencrypted CIDs": its server ID of three octets is our
    # node of two and worker. The second vector is malformed (an odd number of digits).
    layout = IdLayout(config_id=0, node_bytes=2, nonce_bytes=4, describes_length=True)
    cid = layout.encode(Place(0xC460, 0x5E), b"\xff" + bytes.fromhex("4504cc4f"))
    assert cid.hex() == "07c4605e4504cc4f"
    assert layout.decode(cid) == (0xC460, 0x5E)


@pytest.mark.parametrize(
    ("cid", "sid", "nonce"),
    [
        ("0720b1d07b359d3c", "ed793a", "ee080dbf"),
        ("2fcc381bc74cb4fbad2823a3d1f8fed2", "ed793a51d49b8f5fab65", "ee080dbf48"),
        ("504dd2d05a7b0de9b2b9907afb5ecf8cc3", "ed793a51d49b8f5f", "ee080dbf48c0d1e5"),
        # The draft prints this one's first octet as 0x12. Its own rule ("in all cases, the server
        # is configured to encode the CID length") makes it configuration 3 and length 18: 0x72.
        ("725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc", "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d"),
    ],
)
def test_encrypted_vectors_of_the_draft(cid: str, sid: str, nonce: str) -> None:
    # Four passes of even and odd length, and the single pass of 16 octets. The last octet of the
    # draft's server ID is our worker.
    server_id = bytes.fromhex(sid)
    expected = bytes.fromhex(cid)
    layout = IdLayout(
        config_id=expected[0] >> 5,
        node_bytes=len(server_id) - 1,
        nonce_bytes=len(nonce) // 2,
        describes_length=True,
        cipher=CIPHER,
    )
    place = Place(int.from_bytes(server_id[:-1], "big"), server_id[-1])
    assert layout.encode(place, b"\x00" + bytes.fromhex(nonce)) == expected
    assert layout.decode(expected) == place


def test_worked_example_of_the_draft() -> None:
    # "Encryption Example". The draft's inputs and result hold. Its steps 8 to 10 have digits
    # swapped: step 10's AES output begins with b3e4357c, as the XOR below it uses, not b334357c,
    # and step 9's right half and step 10's input begin with 09be054a, which the result repeats.
    cipher = IdCipher(bytes.fromhex("fdf726a9893ec05c0632d3956680baf0"))
    ciphertext = cipher.encrypt(bytes.fromhex("31441a" + "9c69c275"))
    assert "07" + ciphertext.hex() == "0767947d29be054a"
    assert cipher.decrypt(ciphertext).hex() == "31441a9c69c275"


@given(st.binary(min_size=5, max_size=19), st.binary(min_size=16, max_size=16))
@settings(max_examples=100, deadline=None)
def test_ciphers_give_back_what_they_were_given(plaintext: bytes, key: bytes) -> None:
    cipher = IdCipher(key)
    ciphertext = cipher.encrypt(plaintext)
    assert len(ciphertext) == len(plaintext)
    assert cipher.decrypt(ciphertext) == plaintext


@pytest.mark.parametrize("size", [4, 20])
def test_ciphers_refuse_lengths_outside_the_draft(size: int) -> None:
    with pytest.raises(InternalError):
        CIPHER.encrypt(bytes(size))
    with pytest.raises(ConfigurationError):
        IdCipher(bytes(size))


def test_keys_of_ids_are_never_shown() -> None:
    layout = IdLayout(cipher=IdCipher(b"0123456789abcdef"), mask=WorkerMask(b"mask key"))
    for shown in (repr(layout), repr(IdConfigs(layout)), str(layout)):
        assert "0123456789abcdef" not in shown
        assert "mask key" not in shown


def test_half_siphash_is_the_published_one() -> None:
    # The first vectors of the reference implementation's vectors_hsip32 whose input is whole
    # words: key 00 01 .. 07, input 00 01 .. of 0, 4 and 8 bytes, two and four rounds.
    key = bytes(range(8))
    outputs = [
        half_siphash(key, words, 2, 4).to_bytes(4, "little").hex()
        for words in ((), (0x03020100,), (0x03020100, 0x07060504))
    ]
    assert outputs[0] == "a9359f5b"
    assert len(set(outputs)) == 3


@given(layouts.map(with_mask), st.integers(0, 255), st.binary(min_size=20, max_size=20))
@settings(max_examples=100, deadline=None)
def test_masked_worker_is_there_for_who_has_the_key(
    layout: IdLayout, worker: int, random_bytes: bytes
) -> None:
    cid = layout.encode(Place(1, worker), random_bytes[: 1 + layout.nonce_bytes])
    assert layout.decode(cid) == (1, worker)
    if layout.mask is not None:
        assert cid[-1] ^ layout.mask.of(cid[1:]) == worker


def test_encrypted_ids_of_one_worker_look_unrelated() -> None:
    # The nonce counts; nothing of that, nor node and worker, can be seen.
    layout = IdLayout(cipher=CIPHER, nonce_bytes=7, mask=WorkerMask(b"mask key"))
    factory = IdFactory(layout, 1, 2, os.urandom, RING)
    issued = [factory.issue()[0] for _ in range(1000)]
    assert len(set(issued)) == 1000
    for at in range(1, layout.length):
        assert len({cid[at] for cid in issued}) > 200
    assert all(factory.decode(cid) == (1, 2) for cid in issued)


def test_nonces_of_an_encrypted_configuration_count_and_come_to_an_end() -> None:
    layout = IdLayout(node_bytes=2, nonce_bytes=4, cipher=CIPHER)
    factory = IdFactory(layout, 1, 2, lambda n: b"\xff" * n, RING)
    first, second = (factory.issue()[0] for _ in range(2))
    nonces = [CIPHER.decrypt(cid[1:])[-4:].hex() for cid in (first, second)]
    assert nonces == ["ffffffff", "00000000"]  # begins where entropy says, and goes round
    assert factory.nonces_left == 2**32 - 2
    factory.nonces_left = 0
    with pytest.raises(ConfigurationError) as caught:
        factory.issue()
    assert caught.value.code == "nonces_exhausted"


def test_every_configuration_decodes_and_one_issues() -> None:
    old, new = IdLayout(config_id=1), IdLayout(config_id=4, nonce_bytes=8, cipher=CIPHER)
    configs = IdConfigs(new, [old])
    factory = IdFactory(configs, 3, 4, os.urandom, RING)
    cid, _ = factory.issue()
    earlier = old.encode(Place(5, 6), bytes(9))
    assert (factory.decode(cid), configs.is_current(cid)) == ((3, 4), True)
    assert (factory.decode(earlier), configs.is_current(earlier)) == ((5, 6), False)
    assert [layout.config_id for layout in configs] == [4, 1]


def test_unroutable_bits_and_unknown_configurations_are_nobodys() -> None:
    # 0b111 is the draft's reserved codepoint: no configuration can have it.
    configs = IdConfigs(IdLayout(config_id=6), [IdLayout(config_id=1)])
    for bits in range(8):
        decoded = configs.decode(bytes((bits << 5,)) + bytes(11))
        assert (decoded is not None) == (bits in (1, 6))
    assert configs.decode(b"") is None


@pytest.mark.parametrize(
    ("others", "code"),
    [([IdLayout()], "id_configs"), ([IdLayout(config_id=1, nonce_bytes=9)], "id_lengths")],
)
def test_sets_whose_configurations_cannot_be_told_apart_are_refused(
    others: list[IdLayout], code: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        IdConfigs(IdLayout(), others)
    assert caught.value.code == code


@given(layouts, st.data())
@settings(max_examples=100, deadline=None)
def test_ids_decode_to_their_issuer(layout: IdLayout, data: st.DataObject) -> None:
    node = data.draw(st.integers(0, layout.max_node))
    worker = data.draw(st.integers(0, 255))
    factory = IdFactory(layout, node, worker, random.Random(1).randbytes, RING)
    cid, token = factory.issue()
    assert len(cid) == layout.length
    assert factory.decode(cid) == (node, worker)
    if layout.cipher is None:
        assert layout.worker_offset is not None
        assert cid[layout.worker_offset] == worker
    assert cid[0] >> 5 == layout.config_id
    assert token == reset_token(RING.active, cid)


@given(st.binary(max_size=24))
@settings(max_examples=100, deadline=None)
def test_foreign_ids_decode_to_none_or_a_place(cid: bytes) -> None:
    place = IdLayout().decode(cid)
    assert (place is not None) == (len(cid) == 12 and cid[0] < 0x20)


def test_another_config_or_length_is_foreign() -> None:
    layout = IdLayout(config_id=1, describes_length=True)
    cid = layout.encode(Place(1, 2), bytes(9))
    assert layout.decode(cid) == (1, 2)
    assert IdLayout(config_id=2).decode(cid) is None
    assert layout.decode(bytes((cid[0] ^ 1,)) + cid[1:]) is None
    assert layout.decode(cid[:-1]) is None
    assert layout.decode(b"") is None


def test_default_id_has_64_random_bits_and_random_low_bits() -> None:
    # RFC 9000 §8.1: 64 bits of entropy validate an address.
    layout = IdLayout()
    assert (layout.length, layout.nonce_bytes * 8) == (12, 64)
    factory = IdFactory(layout, 1, 2, os.urandom, RING)
    issued = [factory.issue()[0] for _ in range(1000)]
    assert len(set(issued)) == 1000
    assert len({cid[0] & 0x1F for cid in issued}) == 32
    assert {cid[0] >> 5 for cid in issued} == {0}


def test_an_id_in_use_is_not_issued_again() -> None:
    random_bytes = iter([b"a" * 9, b"a" * 9, b"b" * 9])
    in_use: set[bytes] = set()
    factory = IdFactory(IdLayout(), 1, 2, lambda _: next(random_bytes), RING, in_use)
    first, _ = factory.issue()
    in_use.add(first)
    second, _ = factory.issue()
    assert second.endswith(b"b" * 8)


def test_repeating_or_short_entropy_is_an_error() -> None:
    layout = IdLayout()
    stuck = layout.encode(Place(1, 2), b"a" * 9)
    with pytest.raises(InternalError):
        IdFactory(layout, 1, 2, lambda n: b"a" * n, RING, {stuck}).issue()
    with pytest.raises(InternalError):
        IdFactory(layout, 1, 2, lambda n: b"a" * (n - 1), RING).issue()


@pytest.mark.parametrize(
    "fields",
    [
        {"config_id": 7},  # reserved: unroutable
        {"config_id": -1},
        {"node_bytes": 0},
        {"nonce_bytes": 3},
        {"node_bytes": 1, "nonce_bytes": 4},  # 7 bytes
        {"node_bytes": 3, "nonce_bytes": 16},  # 21 bytes
        {"mask": WorkerMask(bytes(8))},  # of a plaintext worker
        {"node_bytes": 1, "nonce_bytes": 5, "cipher": CIPHER, "mask": WorkerMask(bytes(8))},
    ],
)
def test_layouts_outside_the_rules_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        IdLayout(**fields)


@pytest.mark.parametrize(("node", "worker"), [(65536, 0), (-1, 0), (0, 256), (0, -1)])
def test_places_that_do_not_fit_are_refused(node: int, worker: int) -> None:
    with pytest.raises(ConfigurationError):
        IdFactory(IdLayout(), node, worker, os.urandom, RING)
