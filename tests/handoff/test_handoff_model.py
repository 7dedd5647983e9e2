"""Handoffs over lossy links between processes that crash: one outcome, whatever happens when.

The checks are in `handoff_world`, outside the machines.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.handoff import Outcome, TakingState
from tests.handoff.handoff_world import Budget, World
from tests.handoff.small_world import explore, name_of_misfortunes, wander


@pytest.mark.parametrize(
    "misfortunes",
    [
        Budget(starts=1, cuts=1, crashes=1),
        Budget(starts=1, cuts=1, timers=1),
        Budget(starts=1, cuts=1, cancels=1),
        Budget(starts=1, crashes=1, timers=1),
        Budget(starts=1, timers=1, failures=1, strays=1),
        Budget(starts=2, timers=1),
        Budget(saves=1, resumes=2),
        Budget(saves=1, resumes=1, cuts=1, timers=1),
        Budget(saves=1, resumes=1, crashes=1, cancels=1),
    ],
    ids=name_of_misfortunes,
)
def test_every_order_of_events_has_one_outcome(misfortunes: Budget) -> None:
    assert explore(World(misfortunes)) > 50


def test_every_order_after_ready_has_one_outcome_though_a_third_process_takes_part() -> None:
    world = World(Budget(starts=2, cuts=1, crashes=1))
    world.perform(("start", "D1"))
    while not world.takers or world.takers[0].machine.state is not TakingState.READY:
        world.perform(world.progress()[0])
    assert explore(world) > 500


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_long_runs_of_misfortunes_have_one_outcome(data: st.DataObject) -> None:
    world = World(
        Budget(
            starts=3,
            saves=2,
            resumes=3,
            cuts=4,
            crashes=2,
            cancels=2,
            failures=1,
            strays=3,
            timers=6,
        )
    )
    wander(world, data, steps=[60, 30, 10])


def test_undisturbed_handoff_moves_the_connection() -> None:
    world = World(Budget(starts=1))
    world.perform(("start", "D1"))
    world.settle()
    assert world.awake == "D1"
    assert world.source_outcomes == [[Outcome.GIVEN]]


def test_undisturbed_resume_from_a_file_moves_the_connection() -> None:
    world = World(Budget(saves=1, resumes=2))
    world.perform(("save",))
    world.perform(("seal", 1))
    world.perform(("resume", "D1"))
    world.perform(("resume", "D2"))
    world.settle()
    assert sorted(taker.outcomes[0].value for taker in world.takers) == ["discarded", "resumed"]
    assert world.awake in ("D1", "D2")
