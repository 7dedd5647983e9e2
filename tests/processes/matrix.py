"""Matrices of cells: run several at a time, and shown as tables at the end of a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import pytest

_Cell = TypeVar("_Cell")
_World = TypeVar("_World", bound="AbstractAsyncContextManager[Any]")
_Outcome = TypeVar("_Outcome")

#: Title -> text.
TABLES: dict[str, str] = {}
#: How often a cell is begun before it counts as one whose point cannot be reached.
_ATTEMPTS = 4


class PointNotReachedError(Exception):
    """The download was over, and whole, before the cell's point: a busy machine missed a deadline.
    Nothing was struck, so nothing is shown; such a cell is begun again."""


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
    show: Callable[[dict[_Cell, _Outcome]], str],
) -> dict[_Cell, _Outcome | AssertionError]:
    """Run all cells, `at_once` at a time, in a world, and print and keep their table.

    Most of the time each of them waits for a deadline, or for its client's rate. An assertion that
    fails in one is that one's outcome.
    """

    async def run() -> dict[_Cell, _Outcome | AssertionError]:
        turns = asyncio.Semaphore(at_once)
        found: dict[_Cell, _Outcome | AssertionError] = {}

        async def one(cell: _Cell) -> None:
            async with turns:
                for _ in range(_ATTEMPTS):
                    try:
                        found[cell] = await run_cell(world, cell)
                    except PointNotReachedError as error:
                        found[cell] = AssertionError(f"{error}, {_ATTEMPTS} times")
                        continue
                    except AssertionError as error:
                        found[cell] = error
                    break

        async with world, asyncio.TaskGroup() as group:
            for cell in cells:
                group.create_task(one(cell))
        return found

    began = time.monotonic()
    found = asyncio.run(run())
    text = show({cell: out for cell, out in found.items() if not isinstance(out, AssertionError)})
    print(f"\n{text}")
    TABLES[f"{title}: {len(found)} cells in {time.monotonic() - began:.0f} s"] = text
    return found
