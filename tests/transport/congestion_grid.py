"""The figures of docs/congestion.md: what each algorithm makes of a link, in the simulator.

    python -m tests.transport.congestion_grid --write docs/congestion.md

writes the page's tables and, beside it, the pictures of three of them (`congestion_pictures`).
Nothing here depends on the machine: the clock is virtual, and all chance comes from seeds. It takes
some minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from quicbaton.testing import run_together
from tests.transport import congestion_pictures
from tests.transport.bottleneck import Narrow

ALGORITHMS: Final = ("cubic", "bbr")
#: 20 Mbit/s.
RATE: Final = 2_500_000
LOSSES: Final = (0.0, 0.001, 0.01, 0.03, 0.1)
RTTS_S: Final = (0.01, 0.05, 0.2)
#: What finds room in the queue where that is what differs.
ROOMS_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5)
#: The first and the second of two downloads.
COUPLES: Final = (("cubic", "cubic"), ("bbr", "bbr"), ("bbr", "cubic"), ("cubic", "bbr"))
SHARED_ROOMS_S: Final = (0.05, 0.2)
_DATA: Final = bytes(64 << 20)


class Alone(NamedTuple):
    """One download; `goodput` is a share of the link's rate."""

    goodput: float
    queue_ms: float  # the mean of what a datagram waited
    lost: float  # of the packets sent


def alone(
    algorithm: str, loss: float, rtt_s: float, jitter: float, queue_s: float, seconds: float
) -> Alone:
    """One download; `jitter` is a share of the round trip."""
    narrow = Narrow(
        algorithm,
        rate=RATE,
        rtt_s=rtt_s,
        queue_s=queue_s,
        loss=loss,
        jitter_s=jitter * rtt_s,
        seed=f"{loss}{rtt_s}",
    )
    narrow.write(_DATA)
    queued: list[float] = []
    for _ in range(round(seconds / 0.01)):
        narrow.run(0.01)
        queued.append(narrow.queued_s())
    lost = narrow.pair.server.connection._engine.recovery.packets_lost
    return Alone(
        narrow.received / (seconds * RATE),
        sum(queued) / len(queued) * 1000,
        lost / narrow.state.numbers.next_number,
    )


def together(first: str, second: str, rtt_s: float, queue_s: float) -> tuple[float, float]:
    """The shares of half that rate that two downloads have, the second begun a second after the
    first, from the fourth second to the sixteenth."""
    one, two = (
        Narrow(name, rate=RATE / 2, rtt_s=rtt_s, queue_s=queue_s, seed=f"{name} {index}")
        for index, name in enumerate((first, second))
    )
    two.pair.link.share_queue(one.pair.link, "server")
    pairs = [one.pair, two.pair]
    one.write(_DATA)
    run_together(pairs, seconds=1)
    two.write(_DATA)
    run_together(pairs, seconds=3)
    before = one.received, two.received
    run_together(pairs, seconds=12)
    total = RATE / 2 * 12
    return (one.received - before[0]) / total, (two.received - before[1]) / total


# --- figures ------------------------------------------------------------------------------------

#: Of one table: by row, column and algorithm.
Grid = dict[tuple[float, float], dict[str, Alone]]
#: By couple and room in the queue.
Shares = dict[tuple[tuple[str, str], float], tuple[float, float]]


def goodput(
    pool: ProcessPoolExecutor, losses: Sequence[float], seconds: float, *, jitter: float
) -> Grid:
    """By loss and round trip; the queue has room for a round trip, 20 ms at least."""
    cells = list(itertools.product(losses, RTTS_S))
    return _grid(pool, cells, lambda loss, rtt_s: (loss, rtt_s, jitter, max(rtt_s, 0.02), seconds))


def queueing(pool: ProcessPoolExecutor) -> Grid:
    """By loss, none, and room in the queue."""
    cells = [(0.0, queue_s) for queue_s in ROOMS_S]
    return _grid(pool, cells, lambda loss, queue_s: (loss, 0.05, 0.0, queue_s, 6.0))


def sharing(pool: ProcessPoolExecutor) -> Shares:
    cells = list(itertools.product(COUPLES, SHARED_ROOMS_S))
    arguments = [(*couple, 0.05, queue_s) for couple, queue_s in cells]
    return dict(zip(cells, pool.map(together, *zip(*arguments, strict=True)), strict=True))


def _grid(
    pool: ProcessPoolExecutor,
    cells: Sequence[tuple[float, float]],
    conditions: Callable[[float, float], tuple[float, ...]],
) -> Grid:
    arguments = [(name, *conditions(*cell)) for cell in cells for name in ALGORITHMS]
    results = pool.map(alone, *zip(*arguments, strict=True))
    return {cell: {name: next(results) for name in ALGORITHMS} for cell in cells}


# --- tables -------------------------------------------------------------------------------------


def goodput_rows(grid: Grid) -> list[str]:
    rows = _head("loss", [f"{rtt_s * 1000:g} ms" for rtt_s in RTTS_S])
    for loss in sorted({loss for loss, _ in grid}):
        cells = [
            " · ".join(f"{grid[loss, rtt_s][name].goodput * 100:.0f}" for name in ALGORITHMS)
            for rtt_s in RTTS_S
        ]
        rows.append(_row(f"{loss * 100:g} %", cells))
    return rows


def queueing_rows(grid: Grid) -> list[str]:
    rows = _head("room in the queue", ALGORITHMS)
    for (_, room_s), found in grid.items():
        cells = [
            f"{one.queue_ms:.0f} ms, {one.lost * 100:.1f} % lost, {one.goodput * 100:.0f}"
            for one in found.values()
        ]
        rows.append(_row(f"{room_s * 1000:g} ms", cells))
    return rows


def sharing_rows(shares: Shares) -> list[str]:
    rows = _head("first, second", [f"queue {room_s * 1000:g} ms" for room_s in SHARED_ROOMS_S])
    for couple in COUPLES:
        found = [shares[couple, room_s] for room_s in SHARED_ROOMS_S]
        rows.append(
            _row(", ".join(couple), [f"{one * 100:.0f}, {two * 100:.0f}" for one, two in found])
        )
    return rows


def _head(first: str, others: Sequence[str]) -> list[str]:
    return [_row(first, others), "|---|" + "---|" * len(others)]


def _row(first: str, others: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(others)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", type=Path, help="put tables into this page, pictures beside it")
    parser.add_argument("tables", nargs="*", help="these alone")
    options = parser.parse_args()
    page: Path | None = options.write
    made: dict[str, tuple[Callable[[ProcessPoolExecutor], Any], Callable[[Any], list[str]]]] = {
        "goodput": (lambda pool: goodput(pool, LOSSES, 8.0, jitter=0.0), goodput_rows),
        "jitter": (lambda pool: goodput(pool, (0.0, 0.01), 6.0, jitter=0.2), goodput_rows),
        "queueing": (queueing, queueing_rows),
        "sharing": (sharing, sharing_rows),
    }
    chosen = [name for name in made if not options.tables or name in options.tables]
    with ProcessPoolExecutor(2) as pool:
        figures = {name: made[name][0](pool) for name in chosen}
    tables = {name: made[name][1](found) for name, found in figures.items()}
    for name, rows in tables.items():
        print(name, *rows, "", sep="\n")
    if page:
        page.write_text(_filled(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
        for name in figures.keys() & congestion_pictures.PICTURES.keys():
            congestion_pictures.draw(name, figures[name], page.with_name(f"congestion-{name}.svg"))
    return 0


def _filled(text: str, tables: Mapping[str, Sequence[str]]) -> str:
    """The page with these tables in their places."""
    for name, rows in tables.items():
        table = "\n".join(rows)
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


if __name__ == "__main__":
    sys.exit(main())
