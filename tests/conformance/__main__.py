"""Runs the checkers: `python -m tests.conformance [CHECKER...] [--write FILE]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.conformance import aioquic_asyncio, autobahn, known, migration, peregrine, served
from tests.conformance.fetch import PACKAGES, SDISTS, FetchError
from tests.conformance.outcome import Outcome, judge
from tests.conformance.page import Ran, write_page


class Part(Struct, frozen=True):
    """A checker: its name for people, what is fetched for it, how it is run."""

    title: str
    fetched: str
    run: Callable[[], Outcome]
    known: Mapping[str, str] = {}


_KOSOKU: Final = next(package for package in PACKAGES if package.startswith("kosoku"))
PARTS: Final = {
    "http3": Part(
        "peregrine's http3-test.py",
        SDISTS["peregrine"],
        partial(peregrine.run_script, "http3-test.py"),
        known.HTTP3,
    ),
    "webtransport": Part(
        "peregrine's webtransport-test.py",
        SDISTS["peregrine"],
        partial(peregrine.run_script, "webtransport-test.py"),
    ),
    "autobahn": Part("Autobahn over TCP", _KOSOKU, autobahn.over_tcp),
    "autobahn-http3": Part("Autobahn over HTTP/3", _KOSOKU, autobahn.over_http3),
    "migration": Part("quic-migration-tester", SDISTS["migration"], migration.run),
    "aioquic": Part(
        "aioquic's test_asyncio",
        SDISTS["aioquic"],
        aioquic_asyncio.run,
        known.AIOQUIC_ASYNCIO,
    ),
    "starlette": Part(
        "Starlette's own tests",
        SDISTS["starlette"],
        partial(served.run, "starlette"),
        known.STARLETTE,
    ),
    "fastapi": Part(
        "FastAPI's own tests",
        SDISTS["fastapi"],
        partial(served.run, "fastapi"),
        known.FASTAPI,
    ),
}


def _run(part: Part) -> Outcome:
    try:
        return part.run()
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        return Outcome([], [f"it hangs: {error}"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("checkers", nargs="*", help=f"which (default: all): {', '.join(PARTS)}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    options = parser.parse_args()
    ran, wrong = [], 0
    for name, part in PARTS.items():
        if options.checkers and name not in options.checkers:
            continue
        began_s = time.monotonic()
        try:
            outcome = _run(part)
            surprises = judge(outcome, part.known)
            if surprises:
                # Others' scripts know times, and machines are slow at times: seen, and tried again.
                print(f"{part.title}: FLAKY?", *surprises.lines(), sep="\n", flush=True)
                outcome = _run(part)
                surprises = judge(outcome, part.known)
        except FetchError as error:
            print(f"{part.title}: MISSING: {error}")
            # In CI a checker that cannot be had is a failure.
            wrong += bool(os.environ.get("CI"))
            continue
        wrong += bool(surprises)
        passed = sum(check.passed for check in outcome.checks)
        seconds = time.monotonic() - began_s
        print(f"{part.title}: {passed} of {len(outcome.checks)} passed in {seconds:.0f} s")
        print(*surprises.lines(), sep="\n", end="\n" if surprises else "", flush=True)
        ran.append(Ran(part.title, part.fetched.partition("==")[2], part.known, outcome))
    if options.write and not wrong and len(ran) == len(PARTS):
        write_page(options.write, ran)
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
