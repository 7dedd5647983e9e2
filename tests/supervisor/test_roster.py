"""The roster that a dead worker leaves behind, by which its clients are told."""

from __future__ import annotations

import os

import pytest

from quicbaton.errors import PeerError
from quicbaton.limits import RESTART_FORGIVEN_S, RESTART_MOST_S
from quicbaton.service.supervisor.backoff import Backoff
from quicbaton.service.supervisor.roster import Entry, Roster, make_roster, read_roster

PORT = 4433
V4 = ("192.0.2.1", 5000)
V6 = ("2001:db8::1", 5000, 0, 7)
IDS = (b"\x00" * 12, b"\xff" * 12)


def test_what_was_entered_and_not_struck_out_is_found() -> None:
    descriptor = make_roster(8)
    roster = Roster(descriptor)
    roster.enter(b"one", V4, (), IDS)
    roster.enter(b"two", V6, ("2001:db8::2", PORT, 0, 0), IDS[:1])
    roster.enter(b"gone", V4, (), IDS)
    roster.strike(b"gone")
    roster.strike(b"never there")
    assert read_roster(descriptor, PORT) == [
        Entry(V4, (), IDS),
        Entry(V6, ("2001:db8::2", PORT, 0, 0), IDS[:1]),
    ]
    os.close(descriptor)


def test_an_entry_follows_its_connection() -> None:
    descriptor = make_roster(8)
    roster = Roster(descriptor)
    roster.enter(b"one", V4, ("192.0.2.9", PORT), IDS)
    roster.enter(b"one", ("192.0.2.2", 6000), ("192.0.2.9", PORT), (b"new",))
    assert len(roster) == 1
    assert read_roster(descriptor, PORT) == [
        Entry(("192.0.2.2", 6000), ("192.0.2.9", PORT), (b"new",))
    ]
    os.close(descriptor)


def test_a_full_roster_counts_who_is_not_listed_and_has_room_again() -> None:
    descriptor = make_roster(2)
    roster = Roster(descriptor)
    for name in (b"one", b"two", b"three"):
        roster.enter(name, V4, (), (name,))
    assert roster.unlisted == 1
    roster.strike(b"one")
    roster.enter(b"four", V4, (), (b"four",))
    listed = {entry.cids for entry in read_roster(descriptor, PORT)}
    assert listed == {(b"two",), (b"four",)}
    os.close(descriptor)


def test_more_ids_than_have_room_are_left_out() -> None:
    descriptor = make_roster(1)
    ids = tuple(bytes((number,)) * 20 for number in range(10))
    Roster(descriptor).enter(b"one", V4, (), ids)
    (entry,) = read_roster(descriptor, PORT)
    assert entry.cids == ids[: len(entry.cids)]
    assert len(entry.cids) >= 4
    os.close(descriptor)


def test_a_worker_that_died_early_has_an_empty_roster() -> None:
    descriptor = make_roster(4)
    assert read_roster(descriptor, PORT) == []
    os.close(descriptor)


def test_another_releases_roster_is_refused() -> None:
    descriptor = make_roster(4)
    os.pwrite(descriptor, b"roster 2", 0)
    with pytest.raises(PeerError):
        read_roster(descriptor, PORT)
    os.close(descriptor)


def test_a_crash_loop_is_slowed_down_and_a_long_life_forgiven() -> None:
    backoff = Backoff()
    waits = [backoff.after(0) for _ in range(12)]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == RESTART_MOST_S
    assert backoff.after(RESTART_FORGIVEN_S) == 0
    assert 0 < backoff.after(1) < RESTART_MOST_S
