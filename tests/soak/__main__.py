"""`make soak`: a year of operation in about eighteen minutes."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.soak.year import TWO_MINUTES, YEAR, Year
from tests.supervisor.service_home import service_home


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    options = parser.parse_args()
    plan = TWO_MINUTES if options.quick else YEAR
    print(f"QUICBATON_SEED={options.seed}", flush=True)
    began = time.monotonic()
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        service_home(Path(folder)) as home,
        Progress(*columns) as progress,
    ):
        task = progress.add_task("starting", total=sum(plan) + 6)

        def on_step(name: str) -> None:
            progress.update(task, description=name, advance=1)

        year = Year(home, plan, options.seed)
        year.run(on_step)
    done = ", ".join(f"{count} x {name}" for name, count in year.done.items())
    print(
        f"{done}: no connection lost outside the deaths, nothing has grown; "
        f"{year.requests} requests in {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
