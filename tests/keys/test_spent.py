"""Tokens that count once."""

from __future__ import annotations

from quicbaton.keys.spent import SpentTokens

NOW = 1_800_000_000.0


def test_a_token_counts_once_until_it_has_expired() -> None:
    spent = SpentTokens()
    assert spent.spend(b"a", NOW + 10, NOW)
    assert not spent.spend(b"a", NOW + 10, NOW + 5)
    assert spent.spend(b"b", NOW + 10, NOW + 5)
    assert len(spent) == 2


def test_full_memory_counts_nothing_until_the_first_expires() -> None:
    spent = SpentTokens(limit=3)
    for number, until in enumerate((30, 10, 20)):
        assert spent.spend(bytes((number,)), NOW + until, NOW)
    assert not spent.spend(b"new", NOW + 10, NOW + 10)
    assert spent.spend(b"new", NOW + 40, NOW + 11)
    assert len(spent) == 3
    # What has not expired is still known.
    assert not spent.spend(bytes((0,)), NOW + 30, NOW + 11)
    assert not spent.spend(bytes((2,)), NOW + 20, NOW + 11)


def test_a_flood_of_tokens_takes_no_more_than_the_limit() -> None:
    spent = SpentTokens(limit=100)
    counted = sum(spent.spend(n.to_bytes(4, "big"), NOW + 60, NOW) for n in range(10_000))
    assert counted == len(spent) == 100
