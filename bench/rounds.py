"""Rounds in which all servers take turns, and medians over them."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

_Server = TypeVar("_Server")
_Task = TypeVar("_Task")


def alternate(
    rounds: int,
    servers: Sequence[_Server],
    tasks: Sequence[_Task],
    step: Callable[[int, int, str], None],
) -> Iterator[tuple[int, _Server, _Task]]:
    """Yield round, server and task, for all of them.

    One server after the other has a task, then the next task comes. Which server begins turns from
    round to round, so what drifts on the machine hits each of them. `step` is told before each.
    """
    schedule = [
        (number, server, task)
        for number in range(rounds)
        for task in tasks
        for server in _turned(servers, number)
    ]
    for done, (number, server, task) in enumerate(schedule):
        step(done, len(schedule), f"{server}: {task}")
        yield number, server, task
    step(len(schedule), len(schedule), "done")


def median(rows: Sequence[dict[str, Any]], quantity: str, **where: object) -> float:
    """Return the median of a quantity over those rows that have these values."""
    found: list[float] = [row[quantity] for row in rows if where.items() <= row.items()]
    return statistics.median(found)


def _turned(servers: Sequence[_Server], by: int) -> list[_Server]:
    at = by % len(servers) if servers else 0
    return [*servers[at:], *servers[:at]]
