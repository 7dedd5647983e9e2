"""Stateless resets: their form, their size, their rate."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import CallerError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token
from quicbaton.routing.quic_lb import IdLayout, Place
from quicbaton.routing.reset import ResetLimiter, TokenBucket, announce_reset, build_reset
from quicbaton.routing.route import Drop, route
from quicbaton.routing.table import RoutingTable

OLD = ClusterKey(b"old1", bytes(32))
NEW = ClusterKey(b"new1", bytes(range(32)))
RING = KeyRing(NEW)
CID = IdLayout().encode(Place(1, 2), b"\x11" * 9)


@given(st.integers(22, 1500), st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_reset_is_smaller_than_its_trigger_and_ends_with_the_token(trigger: int, seed: int) -> None:
    # RFC 9000 §10.3, §10.3.3
    reset = build_reset(trigger, CID, RING, random.Random(seed).randbytes)
    assert 21 <= len(reset) < trigger
    assert reset[0] & 0xC0 == 0x40  # a short header
    assert reset[-16:] == reset_token(NEW, CID)
    if trigger <= 43:
        assert len(reset) == trigger - 1
    else:
        assert len(reset) >= 42


def test_resets_differ_in_all_but_the_token() -> None:
    first, second = (build_reset(43, CID, RING, os.urandom) for _ in range(2))
    assert first[:-16] != second[:-16]
    sizes = {len(build_reset(1200, CID, RING, os.urandom)) for _ in range(500)}
    assert len(sizes) > 10


def test_trigger_too_small_to_answer_is_refused() -> None:
    with pytest.raises(CallerError):
        build_reset(21, CID, RING, os.urandom)


def test_two_servers_resetting_each_other_come_to_an_end() -> None:
    # RFC 9000 §10.3.3: the worst case, every reset carries an ID that the other side resets.
    table: RoutingTable[str] = RoutingTable(IdLayout(), Place(1, 2))
    size = 1500
    rounds = 0
    while not isinstance(route(b"\x40" + CID + bytes(size - 13), table, 0, may_reset=True), Drop):
        size = len(build_reset(size, CID, RING, os.urandom))
        rounds += 1
    assert size == 32
    assert rounds <= 45


def test_around_a_rotation_each_key_of_the_ring_gets_its_turn() -> None:
    ring = KeyRing(NEW, [OLD])
    tokens = {build_reset(100, CID, ring, os.urandom)[-16:] for _ in range(100)}
    assert tokens == {reset_token(NEW, CID), reset_token(OLD, CID)}


def test_reset_that_answers_nothing_looks_like_any_other_packet() -> None:
    token = bytes(range(16))
    for _ in range(100):
        data = announce_reset(token, os.urandom)
        assert data[0] & 0xC0 == 0x40
        assert data.endswith(token)
        assert 41 <= len(data) < 100  # RFC 9000 §10.3.3


def test_bucket_allows_a_burst_and_then_a_rate() -> None:
    bucket = TokenBucket.full(per_s=2, burst=3, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(100.4)
    assert bucket.take(100.5)
    assert not bucket.take(100.5)
    assert [bucket.take(200.0) for _ in range(4)] == [True, True, True, False]  # never above burst
    assert not bucket.take(150.0)  # a clock that goes back gives nothing


def test_one_address_cannot_use_up_everybody_s_resets() -> None:
    limiter = ResetLimiter(0.0, per_s=1, burst=10, per_address_per_s=1, burst_per_address=3)
    assert [limiter.allow("192.0.2.1", 0.0) for _ in range(20)].count(True) == 3
    assert limiter.allow("192.0.2.2", 0.0)
    assert sum(limiter.allow(f"198.51.100.{n}", 0.0) for n in range(100)) == 6  # 10 in all


def test_limiter_forgets_the_address_not_heard_of_for_longest() -> None:
    limiter = ResetLimiter(0.0, per_s=0, burst=100, burst_per_address=1, max_addresses=2)
    assert limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)
    assert not limiter.allow("a", 0.0)
    assert limiter.allow("c", 0.0)  # b goes
    assert not limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)
