"""Runs a command that runs pytest, and what failed a second time, alone.

    python .ci/twice.py make test

A test that fails twice fails the run. One that failed once is printed as FLAKY, with the output of
its failure, and the run goes on: it is a fault to be mended, of the test or of the product. So is
a run in which no test was executed, or that broke off: that fails at once. The closing line of
pytest's first run is the last line of the output.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

#: More failures than this are no flakes, and running them one by one would take for ever.
MAX_REPEATED = 20
#: pytest's exit codes: all passed, or some failed. Anything else is a run that broke off, say with
#: a file that cannot be imported.
PASSED, FAILED = 0, 1
BROKEN_OFF = -1
_SUMMARY = re.compile(r"(\d+ (passed|failed|skipped|errors?)|no tests ran)\b.* in [\d.]+s")


class Run(NamedTuple):
    """What became of one run of pytest."""

    status: int  # pytest's exit code, which make does not pass on
    executed: int
    failures: dict[str, str]  # a test's id, and the output of its failure
    summary: str  # pytest's closing line


def run(command: list[str], *, shown: bool) -> Run:
    """Run it, its output `shown` as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        reports = Path(folder, "reports")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(reports),
        )
        assert process.stdout is not None
        summary = ""
        for line in process.stdout:
            if shown:
                print(line, end="", flush=True)
            if _SUMMARY.search(line):
                summary = line.strip()
        process.wait()
        return _read(reports, summary)


def _environment(reports: Path) -> dict[str, str]:
    """By the environment, since no argument passes through make unharmed."""
    here = str(Path(__file__).parent)
    path = [here, os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [here]
    options = f"{os.environ.get('PYTEST_ADDOPTS', '')} -p ci_reports --ci-reports={reports}"
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTEST_ADDOPTS": options.strip(),
    }


def _read(reports: Path, summary: str) -> Run:
    status, executed, failures = BROKEN_OFF, 0, {}
    for line in reports.read_text().splitlines() if reports.exists() else ():
        report = json.loads(line)
        if "status" in report:
            status = report["status"]
            continue
        executed += report["executed"]
        if report["failed"]:
            failures.setdefault(report["id"], report["output"])
    return Run(status, executed, failures, summary)


def repeat(failures: dict[str, str]) -> list[str]:
    """Run each alone; those that failed again."""
    failed_twice = []
    for test, output in failures.items():
        print(f"once more, alone: {test}", flush=True)
        again = run([sys.executable, "-m", "pytest", test], shown=False)
        if again.status == PASSED and again.executed:
            print(f"FLAKY {test}\n{output}", flush=True)
        else:
            failed_twice.append(test)
            print(f"FAILED TWICE {test}\n{again.failures.get(test, again)}", flush=True)
    return failed_twice


def judge(first: Run) -> str:
    """Why the run fails; empty when it does not."""
    failed = len(first.failures)
    if not first.executed:
        return "no test was executed"
    if first.status not in (PASSED, FAILED) or (first.status == FAILED and not failed):
        return f"pytest broke off (exit code {first.status})"
    if failed > MAX_REPEATED:
        return f"{failed} tests failed, too many to be run once more"
    failed_twice = repeat(first.failures)
    return f"failed twice: {', '.join(failed_twice)}" if failed_twice else ""


def main() -> int:
    command = sys.argv[1:]
    first = run(command, shown=True)
    why = judge(first)
    if why:
        print(f"{' '.join(command)}: {why}")
    print(first.summary)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
