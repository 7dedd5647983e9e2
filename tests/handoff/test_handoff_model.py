"""Handoffs over lossy links between processes that crash: one outcome, whatever happens when.

The checks are in `handoff_world`, outside the machines.
"""

import pytest
from handoff_world import Budget, World
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.handoff import Outcome


def explore(budget: Budget) -> tuple[int, int]:
    """Try every order of everything that the budget allows; (states seen, states at rest)."""
    seen = set[str]()
    at_rest = 0
    frontier = [World(budget)]
    while frontier:
        world = frontier.pop()
        actions = world.actions()
        for action in actions:
            following = world.fork()
            following.perform(action)
            fingerprint = following.fingerprint()
            if fingerprint not in seen:
                seen.add(fingerprint)
                frontier.append(following)
        # From wherever misfortune stops, the world comes to rest with one outcome.
        world.settle()
        at_rest += not actions
    return len(seen), at_rest


def budget(**changes: int) -> Budget:
    nothing = dict.fromkeys(Budget.__annotations__, 0)
    return Budget(**(nothing | changes))


@pytest.mark.parametrize(
    "misfortunes",
    [
        budget(starts=1, cuts=1, crashes=1),
        budget(starts=1, cuts=1, timers=1),
        budget(starts=1, cuts=1, cancels=1),
        budget(starts=1, crashes=1, timers=1),
        budget(starts=1, timers=1, failures=1, strays=1),
        budget(starts=2, timers=1),
        budget(saves=1, resumes=2),
        budget(saves=1, resumes=1, cuts=1, timers=1),
        budget(saves=1, resumes=1, crashes=1, cancels=1),
    ],
    ids=lambda misfortunes: repr({k: v for k, v in vars(misfortunes).items() if v}),
)
def test_every_order_of_events_has_one_outcome(misfortunes: Budget) -> None:
    states, _ = explore(misfortunes)
    assert states > 50


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
    for _ in range(data.draw(st.integers(0, 60), label="steps")):
        actions = world.actions()
        if not actions:
            break
        world.perform(actions[data.draw(st.integers(0, len(actions) - 1), label="action")])
    world.settle()


def test_undisturbed_handoff_moves_the_connection() -> None:
    world = World(budget(starts=1))
    world.perform(("start", "D1"))
    world.settle()
    assert world.awake == "D1"
    assert world.source_outcomes == [[Outcome.GIVEN]]


def test_undisturbed_resume_from_a_file_moves_the_connection() -> None:
    world = World(budget(saves=1, resumes=2))
    world.perform(("save",))
    world.perform(("seal", 1))
    world.perform(("resume", "D1"))
    world.perform(("resume", "D2"))
    world.settle()
    assert sorted(taker.outcomes[0].value for taker in world.takers) == ["discarded", "resumed"]
    assert world.awake in ("D1", "D2")
