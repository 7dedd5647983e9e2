"""The verdict on a checker's run: no unexpected result may pass unseen."""

from __future__ import annotations

import pytest

from tests.conformance.outcome import Check, Outcome, judge, numbered
from tests.conformance.peregrine import read

_PRINTED = """peregrine HTTP/3 tests (server)

Basics
  ok   a GET is answered
  FAIL the server names itself
       expected: b'peregrine'
       actual:   None
  ok   an unread body stops the peer (1048576 bytes taken)
  ok   a GET is answered
  FAIL compression raised
Traceback (most recent call last):
  File "http3-test.py", line 1008, in main
    await test()
gzip.BadGzipFile: Not a gzipped file

passed: 3   failed: 2"""


def test_failures_that_are_known_and_nothing_else_pass() -> None:
    outcome = Outcome([Check("right", passed=True), Check("wrong", passed=False)])
    assert not judge(outcome, {"wrong": "a reason"})


@pytest.mark.parametrize(
    ("outcome", "known", "line"),
    [
        (Outcome([Check("a", passed=False, why="b")]), {}, "FAILED a\n    b"),
        (Outcome([Check("a", passed=True)]), {"a": ""}, "PASSED, though listed as failing: a"),
        (Outcome([Check("b", passed=True)]), {"a": ""}, "NOT RUN, though listed as failing: a"),
        (Outcome([Check("b", passed=True)], ["it broke off"]), {}, "FAULT it broke off"),
        (Outcome([]), {}, "FAULT no check was run"),
    ],
    ids=["a failure", "a pass", "one that was not run", "a fault", "nothing"],
)
def test_what_was_not_to_be_expected_is_named(
    outcome: Outcome, known: dict[str, str], line: str
) -> None:
    surprises = judge(outcome, known)
    assert surprises
    assert surprises.lines() == [line]


def test_checks_of_one_name_are_told_apart() -> None:
    checks = numbered([Check("a", passed=True), Check("b", passed=True), Check("a", passed=False)])
    assert [check.name for check in checks] == ["a", "b", "a (2)"]


def test_what_a_script_prints_is_read() -> None:
    outcome = read(_PRINTED)
    assert not outcome.faults
    assert [(check.name, check.passed) for check in outcome.checks] == [
        ("a GET is answered", True),
        ("the server names itself", False),
        ("an unread body stops the peer", True),
        ("a GET is answered (2)", True),
        ("compression raised", False),
    ]
    assert outcome.checks[1].why == "expected: b'peregrine' actual:   None"
    assert "BadGzipFile" in outcome.checks[4].why


@pytest.mark.parametrize(
    "printed",
    [
        _PRINTED.removesuffix("passed: 3   failed: 2"),
        _PRINTED.replace("passed: 3", "passed: 4"),
        _PRINTED.replace("  ok   a GET", "  ..   skipped a GET", 1),
        "",
    ],
    ids=["no summary", "another summary", "a skipped check", "nothing"],
)
def test_a_script_that_has_not_run_whole_is_a_fault(printed: str) -> None:
    assert read(printed).faults
