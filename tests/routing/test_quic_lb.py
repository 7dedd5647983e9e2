"""Connection IDs: the draft's form, and what can be read back."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import ConfigurationError, InternalError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token
from quicbaton.routing.quic_lb import IdFactory, IdLayout, Place

RING = KeyRing(ClusterKey(b"key1", bytes(range(32))))

layouts = st.builds(
    IdLayout,
    st.integers(0, 6),
    st.integers(1, 3),
    st.integers(5, 7),
    st.booleans(),
)


def test_first_plaintext_vector_of_the_draft() -> None:
    # draft-ietf-quic-load-balancers, "Unencrypted CIDs": its server ID of three octets is our
    # node of two and worker. The second vector is malformed (an odd number of digits).
    layout = IdLayout(config_id=0, node_bytes=2, nonce_bytes=4, describes_length=True)
    cid = layout.encode(Place(0xC460, 0x5E), b"\xff" + bytes.fromhex("4504cc4f"))
    assert cid.hex() == "07c4605e4504cc4f"
    assert layout.decode(cid) == (0xC460, 0x5E)


@given(layouts, st.data())
@settings(max_examples=100, deadline=None)
def test_ids_decode_to_their_issuer(layout: IdLayout, data: st.DataObject) -> None:
    node = data.draw(st.integers(0, layout.max_node))
    worker = data.draw(st.integers(0, 255))
    factory = IdFactory(layout, node, worker, random.Random(1).randbytes, RING)
    cid, token = factory.issue()
    assert len(cid) == layout.length
    assert factory.decode(cid) == (node, worker)
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
        {"node_bytes": 3, "nonce_bytes": 8},  # 13 bytes
    ],
)
def test_layouts_outside_the_rules_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        IdLayout(**fields)


@pytest.mark.parametrize(("node", "worker"), [(65536, 0), (-1, 0), (0, 256), (0, -1)])
def test_places_that_do_not_fit_are_refused(node: int, worker: int) -> None:
    with pytest.raises(ConfigurationError):
        IdFactory(IdLayout(), node, worker, os.urandom, RING)
