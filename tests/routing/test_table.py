"""The routing table: one place per ID, everything bounded, no reset of an ID that may live."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import InternalError, RefusedError
from quicbaton.limits import NO_RESET_LIFETIME_S, RETIRED_ID_LIFETIME_S
from quicbaton.routing.quic_lb import IdLayout, Place
from quicbaton.routing.table import RoutingTable, count_name

HERE = Place(1, 2)


def new_table(**limits: int) -> RoutingTable[str]:
    return RoutingTable(IdLayout(), HERE, [], **limits)


def test_an_id_never_leads_to_two_connections() -> None:
    table = new_table()
    table.add(b"id", "a")
    table.add(b"id", "a")
    with pytest.raises(InternalError):
        table.add(b"id", "b")
    assert table.owners == {b"id": "a"}


def test_what_is_sent_on_is_counted_by_where_it_goes() -> None:
    assert count_name(Place(1, 3), HERE) == "tossed"
    assert count_name(Place(2, 2), HERE) == "tossed_far"
    assert count_name("/run/old.sock", HERE) == "forwarded"


def test_the_last_one_alive_guards_nothing_any_more() -> None:
    table = new_table()
    there = Place(1, 3)
    table.peers.add(there)
    table.add(b"ours", "a")
    table.forward(b"given", there, 10.0)
    table.withhold_resets(b"given", 10.0)
    table.inherit_all([there])
    assert table.places == {HERE, there}
    assert not table.peers
    assert not table.may_live_elsewhere(b"given")
    assert not table.may_live_elsewhere(b"given")
    assert table.owners == {b"ours": "a"}
    table.expire(20.0)


def test_removed_id_is_forgotten() -> None:
    table = new_table()
    table.add(b"id", "a")
    table.remove(b"id")
    assert not table.owners
    assert not table.may_live_elsewhere(b"id")
    table.remove(b"id")  # twice is nothing


def test_retired_id_leads_to_its_connection_for_a_while() -> None:
    table = new_table()
    table.add(b"id", "a")
    table.retire(b"id", 5)
    table.retire(b"unknown", 5)
    assert not table.owners
    table.expire(4 + RETIRED_ID_LIFETIME_S)
    assert table.owner_of(b"id") == "a"
    table.expire(5 + RETIRED_ID_LIFETIME_S)
    assert table.owner_of(b"id") is None


def test_oldest_retired_id_makes_room_and_withholds_no_reset() -> None:
    table = new_table(max_retired=2)
    for number in range(3):
        table.add(bytes([number]), "a")
        table.retire(bytes([number]), number)
    assert [table.owner_of(bytes([number])) for number in range(3)] == [None, "a", "a"]
    assert table.no_reset_until < 0


def test_given_away_then_forgotten_over_time() -> None:
    table = new_table()
    table.add(b"id", "a")
    table.forward(b"id", "there", until=10)
    assert table.next_expiry() == 10
    assert b"id" not in table.owners
    assert table.forward_of(b"id", 9.9) == "there"
    table.expire(10)
    assert table.forward_of(b"id", 10) is None
    assert table.may_live_elsewhere(b"id")
    table.expire(10 + NO_RESET_LIFETIME_S - 1)
    assert table.may_live_elsewhere(b"id")
    table.expire(10 + NO_RESET_LIFETIME_S)
    assert not table.may_live_elsewhere(b"id")
    assert table.next_expiry() is None


def test_connection_that_comes_back_is_local_again() -> None:
    table = new_table()
    for leave in (
        lambda: table.forward(b"id", "there", 10),
        lambda: table.withhold_resets(b"id", 10),
    ):
        leave()
        table.add(b"id", "a")
        table.expire(1000)
        assert table.owners == {b"id": "a"}
        assert not table.may_live_elsewhere(b"id")
        table.remove(b"id")


def test_prolonged_forward_outlives_its_first_expiry() -> None:
    table = new_table()
    table.forward(b"id", "there", 10)
    table.forward(b"id", "elsewhere", 20)
    table.expire(15)
    assert table.forward_of(b"id", 15) == "elsewhere"


def test_cutover_ends_forwarding_with_a_tombstone() -> None:
    table = new_table()
    table.forward(b"id", "there", 10)
    table.withhold_resets(b"id", 50)
    table.expire(20)
    assert table.forward_of(b"id", 5) is None
    assert table.may_live_elsewhere(b"id")
    table.expire(50)
    assert not table.may_live_elsewhere(b"id")


def test_full_table_refuses_and_changes_nothing() -> None:
    table = new_table(max_owners=1, max_forwards=1)
    table.add(b"1", "a")
    with pytest.raises(RefusedError) as caught:
        table.add(b"2", "a")
    assert caught.value.code == "routing_table_full"
    assert table.has_room(1)
    table.forward(b"2", "there", 10)
    assert not table.has_room(1)
    with pytest.raises(RefusedError) as caught:
        table.forward(b"1", "there", 10)
    assert caught.value.code == "forwards_full"
    assert table.owners == {b"1": "a"}
    table.forward(b"2", "elsewhere", 20)  # no new entry


def test_overflowing_tombstones_withhold_all_resets() -> None:
    table = new_table(max_tombstones=2)
    table.withhold_resets(b"1", 100)
    table.withhold_resets(b"2", 200)
    table.withhold_resets(b"2", 250)
    assert table.no_reset_until < 0
    table.withhold_resets(b"3", 300)
    assert not table.may_live_elsewhere(b"1")
    assert table.no_reset_until == 100


def test_dead_entries_do_not_add_up() -> None:
    table = new_table()
    for round_trip in range(5000):
        table.forward(b"id", "there", 1e6 + round_trip)
        table.add(b"id", "a")
    assert len(table._heap) < 2000


def test_rebuilding_while_expiring_loses_nothing() -> None:
    table = new_table()
    for number in range(3000):
        table.forward(b"dead", "there", 5)
        table.forward(number.to_bytes(2, "big"), "there", 10)
    table.expire(10)
    assert all(table.may_live_elsewhere(n.to_bytes(2, "big")) for n in range(3000))
    table.expire(10 + NO_RESET_LIFETIME_S)
    assert table.next_expiry() is None


actions = st.tuples(
    st.sampled_from(["add", "remove", "retire", "forward", "withhold_resets", "expire"]),
    st.integers(0, 5),
    st.integers(1, 900),
)


@given(st.lists(actions, max_size=60))
@settings(max_examples=150, deadline=None)
def test_an_id_is_in_one_place_and_given_away_ids_are_guarded(
    script: list[tuple[str, int, int]],
) -> None:
    table = new_table(max_owners=4, max_forwards=3, max_tombstones=3, max_retired=2)
    now = 0.0
    guarded: dict[bytes, float] = {}  # the model: ID to the time until which no reset may go out
    for action, number, amount in script:
        cid = bytes((number,))
        try:
            match action:
                case "add":
                    table.add(cid, "owner")
                    guarded.pop(cid, None)
                case "remove":
                    table.remove(cid)
                    guarded.pop(cid, None)
                case "retire":
                    table.retire(cid, now)
                case "forward":
                    table.forward(cid, "there", now + amount)
                    guarded[cid] = now + amount
                case "withhold_resets":
                    table.withhold_resets(cid, now + amount)
                    guarded[cid] = now + amount
                case "expire":
                    now += amount
                    table.expire(now)
        except RefusedError:
            pass
        places = [table.owners, table._retired, table._forwards, table._tombstones]
        ids = [cid for place in places for cid in place]
        assert len(ids) == len(set(ids))
        assert len(table.owners) <= 4
        assert len(table._retired) <= 2
        assert len(table._forwards) <= 3
        assert len(table._tombstones) <= 3
        for cid, until in guarded.items():
            if now < until:
                assert table.may_live_elsewhere(cid) or now < table.no_reset_until
