"""peregrine's own tests: its scripts drive our server, by aioquic, with its example programs.

A script prints a line for each check. `quicbaton serve` is started by the script itself, through
`as_peregrine`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.fetch import environment, sdist
from tests.conformance.outcome import Check, Outcome, numbered

#: A script that takes longer hangs.
_SCRIPT_S = 240.0
_PASSED = re.compile(r"  ok   (.+)")
_FAILED = re.compile(r"  FAIL (.+)")
_SKIPPED = re.compile(r"  (?:\.\.|skip) +(.+)")
_SUMMARY = re.compile(r"(?:passed: )?(\d+)(?: passed,)?\s+(?:failed: )?(\d+)(?: failed)?")
#: A check's measurement is part of its name.
_MEASURED = re.compile(r" \(\d+ bytes taken\)")


def run_script(name: str) -> Outcome:
    """One script of its `scripts` folder."""
    folder = sdist("peregrine") / "scripts"
    with tempfile.TemporaryDirectory(prefix="quicbaton-conformance-") as home:
        server = Path(home, "server")
        python = f"exec {sys.executable} -m tests.conformance.as_peregrine"
        server.write_text(f'#!/bin/sh\n{python} "$@"\n')
        server.chmod(0o700)
        printed = Path(home, "printed")
        with printed.open("w") as output:
            script = subprocess.Popen(
                [sys.executable, str(folder / name), str(server)],
                cwd=home,
                env=environment(XDG_STATE_HOME=home, XDG_RUNTIME_DIR=home, PYTHONUNBUFFERED="1"),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            script.wait(_SCRIPT_S)
        except subprocess.TimeoutExpired:
            pass  # it says how far it came
        finally:
            # With the server that it has started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
            script.wait()
        return read(printed.read_text())


def read(printed: str) -> Outcome:
    """The results in a script's output."""
    checks: list[Check] = []
    faults: list[str] = []
    lines = printed.splitlines()
    for number, line in enumerate(lines):
        if found := _PASSED.fullmatch(line):
            checks.append(Check(_MEASURED.sub("", found[1]), passed=True))
        elif found := _FAILED.fullmatch(line):
            why = _why(found[1], lines[number + 1 :])
            checks.append(Check(_MEASURED.sub("", found[1]), passed=False, why=why))
        elif found := _SKIPPED.fullmatch(line):
            faults.append(f"skipped: {found[1]}")
    said = _SUMMARY.fullmatch(lines[-1]) if lines else None
    if said is None or int(said[1]) + int(said[2]) != len(checks):
        faults.append(f"the script broke off: {printed[-2000:]}")
    return Outcome(numbered(checks), faults)


def _why(name: str, below: list[str]) -> str:
    """The lines below a failed check: expected and actual, or a traceback, whose end counts."""
    if not name.endswith(" raised"):
        return " ".join(line.strip() for line in below[:2])
    traceback = itertools.takewhile(lambda line: line and not line.startswith("  FAIL"), below)
    return " ".join(line.strip() for line in list(traceback)[-3:])
