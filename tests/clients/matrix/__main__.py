"""Runs the matrix: `python -m tests.clients.matrix [CLIENT...] [--scene NAME] [--write FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.clients.matrix.driven import DrivenClient
from tests.clients.matrix.relay import Relay
from tests.clients.matrix.report import Cell, Row, print_row, write_page
from tests.clients.matrix.roster import ROSTER, Entry
from tests.clients.matrix.scenes import SCENES, Gap, Stage
from tests.clients.matrix.service import Service

#: A cell that takes longer hangs.
_CELL_S = 60.0
#: Rows at a time: a client waits more than it computes.
_ROWS = 2


async def play(entry: Entry, service: Service, title: str, row: Row) -> Cell:
    """One client through one scene."""
    log = service.folder / "client.log"
    began = time.monotonic()
    try:
        async with (
            asyncio.timeout(_CELL_S),
            Relay(("127.0.0.1", service.port)) as relay,
            DrivenClient(entry.command, relay.port, service.authority, log) as client,
        ):
            row.version = client.name
            stage = Stage(client, service, relay, await service.accepted())
            try:
                await SCENES[title](stage)
            finally:
                await stage.clear()
    except Gap as gap:
        return Cell("gap", str(gap))
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return Cell("failed", f"{why}\n--- client ---\n{log.read_text()[-3000:]}")
    return Cell("ok", "", time.monotonic() - began)


async def run_row(entry: Entry, titles: list[str]) -> Row:
    """One client through all scenes, against a service of its own."""
    row = Row(entry.name, entry.engine)
    if entry.missing:
        row.missing = f"{entry.missing} is not there: make clients"
        return row
    with tempfile.TemporaryDirectory(prefix="quicbaton-clients-") as folder:
        async with Service(Path(folder)) as service:
            for title in titles:
                row.cells[title] = await _play_twice(entry, service, title, row)
    return row


async def _play_twice(entry: Entry, service: Service, title: str, row: Row) -> Cell:
    """What fails is played once more, as in `.ci/twice.py`: what failed once is printed as FLAKY,
    and is a fault to be mended, too."""
    first = await play(entry, service, title, row)
    if first.outcome != "failed":
        return first
    log = f"--- service ---\n{service.log()[-3000:]}"
    second = await play(entry, service, title, row)
    if second.outcome == "failed":
        second.detail += f"\n{log}"
    else:
        print(f"FLAKY {entry.name}, {title}: {first.detail}\n{log}", flush=True)
    return second


async def run(entries: list[Entry], titles: list[str]) -> list[Row]:
    turns = asyncio.Semaphore(_ROWS)

    async def in_turn(entry: Entry) -> Row:
        async with turns:
            row = await run_row(entry, titles)
            print_row(row)
            return row

    return list(await asyncio.gather(*(in_turn(entry) for entry in entries)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.matrix", description=__doc__)
    parser.add_argument("clients", nargs="*", help="which (default: all)")
    parser.add_argument("--scene", action="append", choices=list(SCENES), help="which (all)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the matrix there")
    options = parser.parse_args()
    names = options.clients or [entry.name for entry in ROSTER]
    entries = [entry for entry in ROSTER if entry.name in names]
    rows = asyncio.run(run(entries, options.scene or list(SCENES)))
    if options.write:
        write_page(options.write, rows, SCENES)
    # In CI a client that is not there is a failure.
    failed = [row for row in rows if row.failed or (row.missing and os.environ.get("CI"))]
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
