"""aioquic's own tests of `aioquic.asyncio`, from its source distribution, run against ours.

    python -m tests.conformance.aioquic_asyncio FILE

runs them in this process and writes their outcome to the file, as JSON. `run` does so in a process
of its own, which it can end.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import msgspec

from tests.conformance.fetch import environment, import_tests_of, sdist
from tests.conformance.outcome import Check, Outcome

_TESTS_S = 120.0


def run() -> Outcome:
    sdist("aioquic")
    with tempfile.TemporaryDirectory(prefix="quicbaton-conformance-") as home:
        found = Path(home, "found.json")
        done = subprocess.run(
            [sys.executable, "-m", "tests.conformance.aioquic_asyncio", str(found)],
            env=environment(XDG_STATE_HOME=home, XDG_RUNTIME_DIR=home),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TESTS_S,
            check=False,
        )
        if done.returncode:
            return Outcome([], [f"the tests broke off: {done.stdout[-2000:]}"])
        return Outcome(msgspec.json.decode(found.read_bytes(), type=list[Check]))


class _Result(unittest.TestResult):
    """Notes every test, and what failed in it first."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: dict[str, str] = {}
        self.names: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self.names.append(_name(test))

    def addError(self, test, err) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self.wrong.setdefault(_name(test), f"{type(err[1]).__name__}: {err[1]}")

    def addFailure(self, test, err) -> None:  # type: ignore[no-untyped-def]  # noqa: N802
        self.addError(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self.wrong.setdefault(_name(test), f"skipped: {reason}")


def _name(test: unittest.TestCase) -> str:
    return test.id().rpartition(".")[2]


def main() -> None:
    import_tests_of(sdist("aioquic"))
    suite = unittest.TestLoader().loadTestsFromName("tests.test_asyncio")
    result = _Result()
    suite.run(result)
    checks = [
        Check(name, name not in result.wrong, result.wrong.get(name, "")) for name in result.names
    ]
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(checks))


if __name__ == "__main__":
    main()
