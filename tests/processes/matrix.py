"""Matrices of cells, each a fault at a point: run several at a time, and shown as tables at the end
of a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import pytest

Fault = Literal["KILL", "STOP", "STOP long", "CUT", "CUT long"]
#: A victim and what is done to it: a column.
Faults = Sequence[tuple[str, Fault]]

#: Title -> text.
TABLES: dict[str, str] = {}
#: How often a cell is begun before being late counts as its outcome.
_ATTEMPTS = 4


class TooLateError(AssertionError):
    """A busy machine missed a deadline of the cell's: before its point, so that nothing was struck,
    or after it. That shows nothing of the fault; such a cell is begun again."""


@dataclass(frozen=True)
class Cell:
    """A point, a victim and a fault."""

    step: str
    victim: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.step}-{self.victim}-{self.fault.replace(' ', '_')}"

    @property
    def is_long(self) -> bool:
        """Whether the fault outlasts the other side's deadlines."""
        return self.fault.endswith("long")

    @property
    def action(self) -> str:
        """The action of the process that passes the point."""
        return self.fault.partition(" ")[0]

    def failpoint(self, other: str, victims: Path) -> str:
        """What arms a process that passes the point, and strikes itself, or the `other` one, whose
        number will be in the file `victims`."""
        spec = f"{self.step}:{self.action}"
        return f"{spec}:{victims}" if self.victim == other else spec


_Cell = TypeVar("_Cell", bound=Cell)
_World = TypeVar("_World", bound="AbstractAsyncContextManager[Any]")
_Outcome = TypeVar("_Outcome")


class Outcomes(Generic[_Cell, _Outcome]):
    """The result of each cell: an outcome, or the assertion that failed before there was one."""

    def __init__(self) -> None:
        self._found: dict[_Cell, _Outcome | AssertionError] = {}

    def note(self, cell: _Cell, found: _Outcome | AssertionError) -> None:
        self._found[cell] = found

    def of(self, cell: _Cell) -> _Outcome:
        """A cell's outcome; raises the assertion if there is none."""
        found = self._found[cell]
        if isinstance(found, AssertionError):
            raise found
        return found

    def table(self, cells: Sequence[_Cell], faults: Faults) -> str:
        """The texts of all outcomes, rows and columns in the order of what is given."""
        texts = {
            (cell.step, f"{cell.victim} {cell.fault}"): str(found)
            for cell, found in self._found.items()
            if not isinstance(found, AssertionError)
        }
        rows = list(dict.fromkeys(cell.step for cell in cells))
        return grid(rows, [f"{victim} {fault}" for victim, fault in faults], texts)


def grid(rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], str]) -> str:
    """Rows that have a cell at all, under their columns' names."""
    label = max(map(len, rows)) + 2
    widths = [
        max(len(column), *(len(cells.get((row, column), "-")) for row in rows)) + 2
        for column in columns
    ]
    heads = [column.ljust(width) for column, width in zip(columns, widths, strict=True)]
    lines = [" " * label + "".join(heads)]
    for row in rows:
        texts = [cells.get((row, column), "-") for column in columns]
        if any(text != "-" for text in texts):
            padded = [text.ljust(width) for text, width in zip(texts, widths, strict=True)]
            lines.append(row.ljust(label) + "".join(padded))
    return "\n".join(line.rstrip() for line in lines)


def selected(request: pytest.FixtureRequest) -> list[Any]:
    """The cells that this run's tests of the requesting module ask for."""
    return [
        item.callspec.params["cell"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and "cell" in item.callspec.params
    ]


def run_cells(
    title: str,
    world: _World,
    cells: Sequence[_Cell],
    run_cell: Callable[[_World, _Cell], Awaitable[_Outcome]],
    at_once: int,
    faults: Faults,
) -> Outcomes[_Cell, _Outcome]:
    """Run all cells, `at_once` at a time, in a world, and print and keep their table.

    Most of the time each of them waits for a deadline, or for its client's rate. An assertion that
    fails in one is that one's outcome.
    """

    outcomes: Outcomes[_Cell, _Outcome] = Outcomes()

    async def run() -> None:
        turns = asyncio.Semaphore(at_once)

        async def one(cell: _Cell) -> None:
            async with turns:
                for _ in range(_ATTEMPTS):
                    try:
                        outcomes.note(cell, await run_cell(world, cell))
                    except TooLateError as error:
                        outcomes.note(cell, error)
                        continue
                    except AssertionError as error:
                        outcomes.note(cell, error)
                    break

        async with world, asyncio.TaskGroup() as group:
            for cell in cells:
                group.create_task(one(cell))

    began = time.monotonic()
    asyncio.run(run())
    text = outcomes.table(cells, faults)
    print(f"\n{text}")
    TABLES[f"{title}: {len(cells)} cells in {time.monotonic() - began:.0f} s"] = text
    return outcomes
