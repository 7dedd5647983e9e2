"""Handoffs with a shared store, between processes that crash, over links that break, by a store
whose answers are lost: never two owners, whatever happens when.

The checks are in `shared_world`, outside of machines and store.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.handoff import GivingState, Outcome
from tests.handoff.shared_world import Budget, SharedWorld
from tests.handoff.small_world import explore, name_of_misfortunes, wander


@pytest.mark.parametrize(
    "misfortunes",
    [
        Budget(starts=1, troubles=1, cuts=1, timers=1),
        Budget(starts=1, troubles=1, crashes=1, timers=1),
        Budget(starts=1, troubles=2, timers=1),
        Budget(starts=1, sweeps=1, timers=1),
        Budget(starts=1, failures=1, cancels=1),
    ],
    ids=name_of_misfortunes,
)
def test_every_order_of_events_has_one_outcome(misfortunes: Budget) -> None:
    world = SharedWorld(misfortunes)
    # To one of two that are alike.
    world.perform(("start", "B"))
    assert explore(world) > 50


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_long_runs_of_misfortunes_have_one_outcome(data: st.DataObject) -> None:
    world = SharedWorld(
        Budget(
            starts=4,
            moves=2,
            cuts=3,
            crashes=2,
            cancels=2,
            failures=1,
            strays=3,
            timers=5,
            troubles=8,
            sweeps=1,
        )
    )
    wander(world, data, steps=[80, 40, 15])


def run_to(world: SharedWorld, state: GivingState) -> None:
    """Let everything go well until the source is so far."""
    while not world.sides or world.sides[0].machine.state is not state:
        world.perform(world.progress()[0])


def step(world: SharedWorld, *actions: tuple[str | int, ...]) -> None:
    for action in actions:
        assert action in world.actions(), (action, world.actions())
        world.perform(action)


def test_undisturbed_handoffs_move_the_connection_round() -> None:
    world = SharedWorld(Budget(starts=3))
    for destination in ("B", "C", "A"):
        world.perform(("start", destination))
        world.settle()
        assert world.awake == destination
    assert [side.outcomes for side in world.sides if side.gives] == [[Outcome.GIVEN]] * 3
    assert world.entry is not None
    assert (world.entry.term, world.entry.holder.name) == (4, "A")


def test_source_that_dies_with_the_baton_sent_loses_nothing() -> None:
    world = SharedWorld(Budget(starts=1, crashes=1))
    world.perform(("start", "B"))
    run_to(world, GivingState.FROZEN)
    step(world, ("crash", "A"), ("deliver", 0, "B"), ("rebuild", 1, 1))
    world.settle()
    assert world.awake == "B"


def test_commit_that_nobody_heard_of_is_found_by_reading() -> None:
    world = SharedWorld(Budget(starts=1, troubles=2))
    world.perform(("start", "B"))
    run_to(world, GivingState.FROZEN)
    step(world, ("deliver", 0, "B"), ("rebuild", 1, 1), ("store", 1, "done, unheard"))
    assert world.awake is None
    step(world, ("store", 1, "refused"))
    world.settle()
    assert world.awake == "B"


def test_source_that_wants_it_back_too_late_finds_out_and_gives() -> None:
    world = SharedWorld(Budget(starts=1, cuts=1, troubles=1))
    world.perform(("start", "B"))
    run_to(world, GivingState.FROZEN)
    step(world, ("deliver", 0, "B"), ("rebuild", 1, 1), ("cut", 0, ""), ("eof", 0, "A"))
    # Its own operation is under way, and the destination's comes first.
    step(world, ("store", 1, "done"), ("store", 0, "done"))
    assert world.sides[0].outcomes == [Outcome.GIVEN]
    world.settle()
    assert world.awake == "B"


def test_take_that_comes_after_the_source_took_it_back_gets_nothing() -> None:
    world = SharedWorld(Budget(starts=1, timers=1, troubles=1))
    world.perform(("start", "B"))
    run_to(world, GivingState.FROZEN)
    step(world, ("deliver", 0, "B"), ("rebuild", 1, 1), ("store", 1, "lost"))
    step(world, ("timer", 0), ("store", 0, "done"))
    assert world.awake == "A"
    step(world, ("ghost", 0))
    world.settle()
    assert world.awake == "A"
    assert [side.outcomes for side in world.sides] == [[Outcome.KEPT], [Outcome.DISCARDED]]


def test_store_that_is_away_when_the_offer_is_made_leaves_all_as_it_was() -> None:
    world = SharedWorld(Budget(starts=1, troubles=1))
    world.perform(("start", "B"))
    run_to(world, GivingState.PUBLISHING)
    step(world, ("store", 0, "refused"))
    world.settle()
    assert world.awake == "A"


def test_store_that_never_answers_leaves_everybody_silent() -> None:
    world = SharedWorld(Budget(starts=1, timers=3, troubles=9))
    world.perform(("start", "B"))
    run_to(world, GivingState.FROZEN)
    step(world, ("deliver", 0, "B"), ("rebuild", 1, 1))
    step(world, ("store", 1, "lost"), ("store", 1, "lost"), ("timer", 0))
    step(world, ("store", 0, "lost"), ("store", 0, "lost"), ("timer", 0), ("timer", 1))
    assert [side.outcomes for side in world.sides] == [[Outcome.IN_DOUBT], [Outcome.DISCARDED]]
    world.settle()
    assert world.awake is None
