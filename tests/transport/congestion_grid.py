"""The figures of docs/congestion.md: what each algorithm makes of a link, in the simulator.

    python -m tests.transport.congestion_grid --write docs/congestion.md

Nothing here depends on the machine: the clock is virtual, and all chance comes from seeds. It takes
some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from quicbaton.testing import run_together
from tests.transport.bottleneck import Narrow

ALGORITHMS: Final = ("cubic", "bbr")
#: 20 Mbit/s.
RATE: Final = 2_500_000
LOSSES: Final = (0.0, 0.001, 0.01, 0.03, 0.1)
RTTS_S: Final = (0.01, 0.05, 0.2)
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


# --- tables -------------------------------------------------------------------------------------


def goodput(
    pool: ProcessPoolExecutor, losses: Sequence[float], seconds: float, *, jitter: float
) -> list[str]:
    """Rows of goodput by loss and round trip."""
    cells = [
        (name, loss, rtt_s, jitter, max(rtt_s, 0.02), seconds)
        for loss in losses
        for rtt_s in RTTS_S
        for name in ALGORITHMS
    ]
    results = iter(pool.map(alone, *zip(*cells, strict=True)))
    rows = [
        "| loss | " + " | ".join(f"{rtt_s * 1000:g} ms" for rtt_s in RTTS_S) + " |",
        "|---|" + "---|" * len(RTTS_S),
    ]
    for loss in losses:
        row = f"| {loss * 100:g} % |"
        for _ in RTTS_S:
            found = [next(results).goodput for _ in ALGORITHMS]
            row += " " + " · ".join(f"{share * 100:.0f}" for share in found) + " |"
        rows.append(row)
    return rows


def queueing(pool: ProcessPoolExecutor) -> list[str]:
    sizes_s = (0.02, 0.1, 0.5)
    cells = [(name, 0.0, 0.05, 0.0, queue_s, 6.0) for queue_s in sizes_s for name in ALGORITHMS]
    results = iter(pool.map(alone, *zip(*cells, strict=True)))
    rows = [
        "| room in the queue | " + " | ".join(ALGORITHMS) + " |",
        "|---|" + "---|" * len(ALGORITHMS),
    ]
    for queue_s in sizes_s:
        row = f"| {queue_s * 1000:g} ms |"
        for _ in ALGORITHMS:
            found = next(results)
            row += (
                f" {found.queue_ms:.0f} ms, {found.lost * 100:.1f} % lost, "
                f"{found.goodput * 100:.0f} |"
            )
        rows.append(row)
    return rows


def sharing(pool: ProcessPoolExecutor) -> list[str]:
    couples = (("bbr", "bbr"), ("bbr", "cubic"), ("cubic", "bbr"))
    queues_s = (0.05, 0.2)
    cells = [(*couple, 0.05, queue_s) for couple in couples for queue_s in queues_s]
    results = iter(pool.map(together, *zip(*cells, strict=True)))
    rows = [
        "| first, second | " + " | ".join(f"queue {q * 1000:g} ms" for q in queues_s) + " |",
        "|---|" + "---|" * len(queues_s),
    ]
    for first, second in couples:
        shares = [next(results) for _ in queues_s]
        cell = " | ".join(f"{one * 100:.0f}, {two * 100:.0f}" for one, two in shares)
        rows.append(f"| {first}, {second} | {cell} |")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", type=Path, help="put the tables into this page")
    parser.add_argument("tables", nargs="*", help="these alone")
    options = parser.parse_args()
    page: Path | None = options.write
    made: dict[str, Callable[[ProcessPoolExecutor], list[str]]] = {
        "goodput": lambda pool: goodput(pool, LOSSES, 8.0, jitter=0.0),
        "jitter": lambda pool: goodput(pool, (0.0, 0.01), 6.0, jitter=0.2),
        "queueing": queueing,
        "sharing": sharing,
    }
    with ProcessPoolExecutor(2) as pool:
        tables = {
            name: make(pool)
            for name, make in made.items()
            if not options.tables or name in options.tables
        }
    text = page.read_text(encoding="utf-8") if page else ""
    for name, rows in tables.items():
        print(name, *rows, "", sep="\n")
        table = "\n".join(rows)
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    if page:
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
