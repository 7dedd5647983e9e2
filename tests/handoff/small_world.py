"""The common parts of small worlds, in which every possible order of events is tried.

`actions()` lists the possible next events, `perform(action)` lets one happen. An action is a plain
tuple, so that a sequence of them replays a run. Times are adversarial: any armed timer may be the
next to fire, however many others are overdue.
"""

import pickle
from abc import ABC, abstractmethod
from typing import Any

from hypothesis import strategies as st

CID = b"the connection"
DIGEST = b"d" * 32
Action = tuple[str | int, ...]


class SmallWorld(ABC):
    """Processes with one connection among them. A subclass has a method `_do_...` for each name of
    an action."""

    def __init__(self, budget: Any) -> None:
        #: How often each misfortune may still happen.
        self.budget = budget
        self.now_us = 0
        self.crashed: set[str] = set()
        #: The process that has the connection, and may send.
        self.awake: str | None = None
        self.was_closed = False
        self.resets = False
        #: Of batons: number -> term; the baton id is derived from the number.
        self.terms: list[int] = []
        self.activated: set[int] = set()

    def actions(self) -> list[Action]:
        return self.progress() + self.misfortunes()

    @abstractmethod
    def progress(self) -> list[Action]:
        """The event that happens by itself when nothing goes wrong and no time is lost."""

    @abstractmethod
    def misfortunes(self) -> list[Action]:
        """What operators, time, machines and the network may do to us."""

    def perform(self, action: Action) -> None:
        name, *arguments = action
        getattr(self, f"_do_{name}")(*arguments)

    def _spend(self, what: str) -> None:
        setattr(self.budget, what, getattr(self.budget, what) - 1)

    def _reset(self) -> None:
        assert self.awake is None, f"reset while {self.awake} owns the connection"
        self.resets = True

    def settle(self) -> None:
        """Let everything under way come to its end, time included, without new misfortunes."""
        for _ in range(1000):
            progress = self.progress()
            if progress:
                self.perform(progress[0])
                continue
            timers = self._timers()
            if not timers:
                break
            self.budget.timers += 1
            self.perform(("timer", min(timers)[1]))
        else:
            raise AssertionError("the world does not come to rest")
        self._check_the_end()

    @abstractmethod
    def _timers(self) -> list[tuple[int, int]]:
        """Armed timers, and the numbers by which they are performed."""

    @abstractmethod
    def _check_the_end(self) -> None:
        """Whether what the world came to is right."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Equal for worlds that can go on in the same ways; clocks do not matter."""


def explore(start: SmallWorld) -> int:
    """Try every order of everything that may happen; return how many states there are."""
    seen = set[str]()
    frontier = [start]
    while frontier:
        world = frontier.pop()
        # Twice as fast as a deep copy for each action.
        saved = pickle.dumps(world, pickle.HIGHEST_PROTOCOL)
        for action in world.actions():
            following: SmallWorld = pickle.loads(saved)
            following.perform(action)
            fingerprint = following.fingerprint()
            if fingerprint not in seen:
                seen.add(fingerprint)
                frontier.append(following)
        # From wherever misfortune stops, the world comes to rest with one outcome.
        world.settle()
    return len(seen)


def wander(world: SmallWorld, data: st.DataObject, steps: list[int]) -> None:
    """Let so many things happen as are drawn from `steps`, each of them drawn, and come to rest."""
    for _ in range(data.draw(st.sampled_from(steps), label="steps")):
        # Without a push most runs would end in misfortune before anything has moved.
        actions = (data.draw(st.booleans()) and world.progress()) or world.actions()
        if not actions:
            break
        world.perform(data.draw(st.sampled_from(actions), label="action"))
    world.settle()


def name_of_misfortunes(budget: object) -> str:
    """A test's ID: how often what may happen."""
    return repr({name: times for name, times in vars(budget).items() if times})


def baton_id(number: int) -> bytes:
    return bytes([number]) * 16
