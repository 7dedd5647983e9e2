"""The tests' own balancer reads connection IDs as the draft says."""

from __future__ import annotations

import pytest

from tests.hosts.balancer import Balance, decrypted, server_id_of

_KEY = "8f95f09245765f80256934e50c66207f"


@pytest.mark.parametrize(
    ("cid", "server_id", "nonce"),
    [
        ("0720b1d07b359d3c", "ed793a", "ee080dbf"),
        ("2fcc381bc74cb4fbad2823a3d1f8fed2", "ed793a51d49b8f5fab65", "ee080dbf48"),
        ("504dd2d05a7b0de9b2b9907afb5ecf8cc3", "ed793a51d49b8f5f", "ee080dbf48c0d1e5"),
        ("725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc", "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d"),
    ],
)
def test_vectors_of_the_draft(cid: str, server_id: str, nonce: str) -> None:
    inner = bytes.fromhex(cid)[1:]
    assert decrypted(bytes.fromhex(_KEY), inner).hex() == server_id + nonce
    size, rest = len(server_id) // 2, len(nonce) // 2
    config = int(cid[:2], 16) >> 5
    order = Balance("10.77.0.100", {}, frozenset([config]), size, rest, _KEY)
    short = b"\x40" + bytes.fromhex(cid) + bytes(30)
    long = b"\xc0\0\0\0\1" + bytes((len(cid) // 2,)) + bytes.fromhex(cid) + bytes(30)
    assert server_id_of(short, order) == server_id_of(long, order) == int(server_id, 16)


def test_ids_that_cannot_be_read_name_no_server() -> None:
    order = Balance("10.77.0.100", {}, frozenset([0]), 3, 4, _KEY)
    cid = bytes.fromhex("0720b1d07b359d3c")
    assert server_id_of(b"\xc0\0\0\0\1\7" + cid, order) is None  # too short
    assert server_id_of(b"\x40\x27" + cid[1:] + bytes(30), order) is None  # another configuration
