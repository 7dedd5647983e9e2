"""Connection IDs as an operator asks for them, over a rotation of the cluster key."""

from __future__ import annotations

import itertools
import os
import random

import pytest

from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token
from quicbaton.routing.id_cipher import IdCipher
from quicbaton.routing.id_text import parse_ids, usual_ids
from quicbaton.routing.quic_lb import IdConfigs, IdFactory
from quicbaton.routing.reset import build_reset

OLD = ClusterKey(b"\x00old", bytes(range(32)))
NEW = ClusterKey(b"\x01new", bytes(range(1, 33)))
ROTATED = KeyRing(NEW, [OLD])
FORMS = ["plaintext", "encrypted", "encrypted:nomask,nonce=8", "encrypted:node=2,nonce=13"]


def issue(ids: IdConfigs, ring: KeyRing, node: int = 3, worker: int = 7) -> tuple[bytes, bytes]:
    return IdFactory(ids, node, worker, os.urandom, ring).issue()


def test_usual_ids_are_plaintext_of_12_bytes() -> None:
    ids = usual_ids(KeyRing(OLD))
    cid, _ = issue(ids, KeyRing(OLD))
    assert (len(cid), cid[1:4].hex()) == (12, "000307")
    assert ids.decode(cid) == (3, 7)


@pytest.mark.parametrize("text", FORMS)
def test_id_is_understood_on_every_node_before_during_and_after_a_rotation(text: str) -> None:
    # The three steps of a rotation (`key_ring`), on nodes that take them at different times.
    rings = [KeyRing(OLD), KeyRing(OLD, [NEW]), ROTATED]
    for at, ring in enumerate(rings):
        cid, _ = issue(parse_ids(text, ring), ring)
        for other in rings[max(0, at - 1) : at + 2]:
            assert parse_ids(text, other).decode(cid) == (3, 7)


@pytest.mark.parametrize("text", FORMS)
def test_after_a_rotation_ids_of_before_are_to_be_retired(text: str) -> None:
    before, _ = issue(parse_ids(text, KeyRing(OLD)), KeyRing(OLD))
    ids = parse_ids(text, ROTATED)
    after, _ = issue(ids, ROTATED)
    assert not ids.is_current(before)
    assert ids.is_current(after)


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("ring", [KeyRing(OLD), KeyRing(OLD, [NEW]), ROTATED])
def test_reset_has_the_token_that_the_client_was_given(text: str, ring: KeyRing) -> None:
    # Issued under `ring`, reset by a node whose key was rotated since.
    cid, token = issue(parse_ids(text, ring), ring)
    for _ in range(20):  # no draw of luck in it
        reset = build_reset(1200, cid, ROTATED, os.urandom, parse_ids(text, ROTATED))
        assert reset[-16:] == token


def test_reset_of_a_dictated_configuration_hits_after_some_tries() -> None:
    ids = parse_ids("plaintext:config=2", ROTATED)
    cid, token = issue(ids, KeyRing(OLD))
    tokens = {build_reset(1200, cid, ROTATED, os.urandom, ids)[-16:] for _ in range(64)}
    assert tokens == {token, reset_token(NEW, cid)}


def test_cluster_changes_from_plaintext_to_encrypted_without_losing_its_way() -> None:
    ring = KeyRing(OLD)
    steps = ["plaintext", "plaintext encrypted", "encrypted plaintext", "encrypted"]
    for here, there in itertools.pairwise(steps):
        cid, _ = issue(parse_ids(here, ring), ring)
        if there != "encrypted":
            assert parse_ids(there, ring).decode(cid) == (3, 7)
        cid, _ = issue(parse_ids(there, ring), ring)
        assert parse_ids(here, ring).decode(cid) == (3, 7)


def test_nothing_of_the_place_can_be_read_without_the_key() -> None:
    cid, _ = issue(parse_ids("encrypted", KeyRing(OLD)), KeyRing(OLD))
    assert cid[1:4].hex() != "000307"
    # Another cluster's key with the same bits reads another place, except by accident.
    stranger = KeyRing(ClusterKey(b"\x03xyz", bytes(32)))
    assert parse_ids("encrypted", stranger).decode(cid) != (3, 7)


def test_aws_network_load_balancer_finds_its_server_id() -> None:
    # QuicServerId=0x1122334455667788, in plaintext after the first octet; 16 octets in all.
    ids = parse_ids("aws-nlb", KeyRing(OLD))
    cid, _ = issue(ids, KeyRing(OLD), 0x1122334455667788, 5)
    assert (len(cid), cid[0] >> 5) == (16, 0)
    assert cid[1:9].hex() == "1122334455667788"
    assert ids.decode(cid) == (0x1122334455667788, 5)


def test_load_balancer_with_a_key_of_its_own_finds_the_node() -> None:
    key = "8f95f09245765f80256934e50c66207f"
    ids = parse_ids(f"encrypted:node=7,nonce=8,config=2,key={key},length,nomask", KeyRing(OLD))
    cid, _ = issue(ids, KeyRing(OLD), 0xED793A51D49B8F, 1)
    assert (len(cid), cid[0]) == (17, 2 << 5 | 16)
    # What the balancer does: one AES pass, since 7 + 9 octets are 16.
    assert IdCipher(bytes.fromhex(key)).decrypt(cid[1:])[:7].hex() == "ed793a51d49b8f"


def test_second_key_of_a_series_is_refused_for_encrypted_ids() -> None:
    twin = ClusterKey(b"\x03old", bytes(32))
    assert twin.series == OLD.series
    with pytest.raises(ConfigurationError) as caught:
        parse_ids("encrypted", KeyRing(twin, [OLD]))
    assert caught.value.code == "id_configs"
    assert "beside" in str(caught.value)


def test_new_key_is_of_another_series_than_those_beside_it() -> None:
    entropy = random.Random(7).randbytes
    for _ in range(50):
        first = ClusterKey.generate(entropy)
        second = ClusterKey.generate(entropy, beside=[first])
        third = ClusterKey.generate(entropy, beside=KeyRing(second, [first]))
        assert {key.series for key in (first, second, third)} == {0, 1, 2}
        ClusterKey.generate(entropy, beside=[first, second, third])  # none free: any


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "ids_text"),
        ("plain", "ids_text"),
        ("plaintext:node", "ids_text"),
        ("plaintext:node=-1", "ids_text"),
        ("plaintext:node=٣", "ids_text"),
        ("plaintext:node=" + 5000 * "1", "ids_text"),
        ("plaintext:length=3", "ids_text"),
        ("plaintext:key=8f95f09245765f80256934e50c66207f", "ids_text"),
        ("encrypted:config=3", "ids_text"),
        ("encrypted:key=8f95f09245765f80256934e50c66207f", "ids_text"),
        ("encrypted:config=3,key=8f95", "id_key"),
        ("encrypted:config=3,key=secretsecret", "id_key"),
        ("plaintext:config=7", "id_layout"),
        ("plaintext:nonce=17", "id_layout"),
        ("plaintext aws-nlb", "id_lengths"),
        ("plaintext plaintext:config=1", "id_configs"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_showing_a_key(text: str, code: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_ids(text, KeyRing(OLD))
    assert caught.value.code == code
    assert "8f95" not in str(caught.value)
    assert "secret" not in str(caught.value)
