"""A checker's outcome, and whether it was expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct


class Check(Struct, frozen=True):
    """One check of a checker's. `why` tells what failed, where something did."""

    name: str
    passed: bool
    why: str = ""


class Outcome(Struct, frozen=True):
    """A checker's run: its checks, and what else went wrong in it."""

    checks: list[Check]
    faults: list[str] = []


class Surprises(Struct, frozen=True):
    """Unexpected results. A run passes only without any."""

    failed: list[Check]
    #: Listed as failing, and passed.
    passed: list[str]
    #: Listed, and not among the checks.
    absent: list[str]
    faults: list[str]

    def __bool__(self) -> bool:
        return bool(self.failed or self.passed or self.absent or self.faults)

    def lines(self) -> list[str]:
        return [
            *(f"FAILED {check.name}\n    {check.why}" for check in self.failed),
            *(f"PASSED, though listed as failing: {name}" for name in self.passed),
            *(f"NOT RUN, though listed as failing: {name}" for name in self.absent),
            *(f"FAULT {fault}" for fault in self.faults),
        ]


def numbered(checks: list[Check]) -> list[Check]:
    """The same, with what has a name that was there before told apart: "a file is served (2)"."""
    seen: Counter[str] = Counter()
    result = []
    for check in checks:
        seen[check.name] += 1
        number = seen[check.name]
        name = check.name if number == 1 else f"{check.name} ({number})"
        result.append(Check(name, check.passed, check.why))
    return result


def judge(outcome: Outcome, known: Mapping[str, str]) -> Surprises:
    """Hold a run against the failures that are known: name and reason."""
    checks = {check.name: check for check in outcome.checks}
    faults = list(outcome.faults)
    if not checks:
        faults.append("no check was run")
    return Surprises(
        failed=[check for check in outcome.checks if not check.passed and check.name not in known],
        passed=[name for name in known if name in checks and checks[name].passed],
        absent=[name for name in known if name not in checks],
        faults=faults,
    )
