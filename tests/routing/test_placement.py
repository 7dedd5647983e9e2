from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicbaton.errors import ConfigurationError
from quicbaton.routing.placement import (
    ByPath,
    ConsistentHash,
    LeastLoaded,
    Member,
    Newcomer,
    Placement,
    RoundRobin,
    parse_placement,
)

WORKERS = [Member("0", 5, 100), Member("1", 5, 100), Member("2", 5, 100)]


def newcomer(client: str = "192.0.2.1", path: str | None = None) -> Newcomer:
    return Newcomer(b"\x01" * 12, client, "localhost", "h3", path)


def test_round_robin_gives_everyone_the_same_number() -> None:
    policy = RoundRobin()
    chosen = Counter(policy.choose(newcomer(), WORKERS, "0") for _ in range(30))
    assert chosen == {"0": 10, "1": 10, "2": 10}


def test_consistent_hash_ignores_where_a_client_arrived() -> None:
    policy = ConsistentHash()
    for last in range(50):
        client = newcomer(f"192.0.2.{last}")
        assert len({policy.choose(client, WORKERS, here) for here in ("0", "1", "2")}) == 1


@given(st.lists(st.ip_addresses(v=4).map(str), unique=True, max_size=60), st.integers(0, 2))
def test_consistent_hash_moves_only_the_clients_of_a_member_that_left(
    clients: list[str], gone: int
) -> None:
    policy = ConsistentHash()
    left = [member for index, member in enumerate(WORKERS) if index != gone]
    for client in clients:
        before = policy.choose(newcomer(client), WORKERS, "0")
        after = policy.choose(newcomer(client), left, "0")
        assert after == before or before == str(gone)


def test_consistent_hash_spreads_clients() -> None:
    policy = ConsistentHash()
    chosen = Counter(
        policy.choose(newcomer(f"10.0.{high}.{low}"), WORKERS, "0")
        for high in range(10)
        for low in range(100)
    )
    assert all(250 < count < 420 for count in chosen.values())


def test_least_loaded_takes_the_emptiest_member() -> None:
    members = [Member("0", 50, 100), Member("1", 2, 100), Member("2", 30, 100)]
    assert LeastLoaded().choose(newcomer(), members, "0") == "1"


def test_least_loaded_leaves_a_connection_for_a_small_difference() -> None:
    members = [Member("0", 12, 100), Member("1", 10, 100)]
    assert LeastLoaded().choose(newcomer(), members, "0") is None


def test_least_loaded_moves_a_connection_away_from_a_worker_that_drains() -> None:
    assert LeastLoaded().choose(newcomer(), [Member("1", 10, 100)], "0") == "1"


def test_the_longest_prefix_of_the_first_request_decides() -> None:
    policy = ByPath({"/": "0", "/video": "1", "/video/live": "2"})
    assert policy.choose(newcomer(path="/video/live/7"), WORKERS, "0") == "2"
    assert policy.choose(newcomer(path="/video/7"), WORKERS, "0") == "1"
    assert policy.choose(newcomer(path="/index"), WORKERS, "1") == "0"


def test_a_path_whose_member_is_away_stays() -> None:
    policy = ByPath({"/video": "b/1"})
    assert policy.choose(newcomer(path="/video"), WORKERS, "0") is None
    assert policy.choose(newcomer(path="/other"), WORKERS, "0") is None


@pytest.mark.parametrize("policy", [RoundRobin(), ConsistentHash(), LeastLoaded()])
def test_without_members_a_connection_stays(policy: Placement) -> None:
    assert policy.choose(newcomer(), [], "0") is None


def test_policies_are_named() -> None:
    assert parse_placement("stay") is None
    assert isinstance(parse_placement("round-robin"), RoundRobin)
    assert isinstance(parse_placement("consistent-hash"), ConsistentHash)
    assert isinstance(parse_placement("least-loaded"), LeastLoaded)
    by_path = parse_placement("path:/video=1,/=0")
    assert by_path is not None
    assert by_path.wants_path
    assert by_path.choose(newcomer(path="/video"), WORKERS, "0") == "1"


@pytest.mark.parametrize("text", ["", "random", "path:", "path:video=1", "path:/video", "path:/a="])
def test_what_is_not_a_placement_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"/PREFIX=MEMBER|a placement is"):
        parse_placement(text)


NODES = [Member("a/0", 9, 100), Member("a/1", 9, 100), Member("b/0", 5, 100), Member("b/1", 3, 100)]


@pytest.mark.parametrize(
    ("rule", "here", "chosen"),
    [
        ("1", "a/0", "a/1"),  # a number is one of this node
        ("b/0", "a/0", "b/0"),
        ("b", "a/0", "b/1"),  # the least loaded
        ("a", "a/0", "a/0"),  # it is there already
        ("b/7", "a/0", None),
        ("c", "a/0", None),
    ],
)
def test_a_rule_names_a_worker_or_a_node(rule: str, here: str, chosen: str | None) -> None:
    assert ByPath({"/": rule}).choose(newcomer(path="/x"), NODES, here) == chosen


def test_a_path_policy_says_whom_it_names_elsewhere() -> None:
    assert ByPath({"/a": "0", "/b": "b/1", "/c": "c", "/d": "b/1"}).elsewhere == ["b/1", "c"]
