"""`.ci/run` with tests that fail, tried on folders of small ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TWICE = Path(__file__).parents[1] / ".ci" / "twice.py"
#: Options for several processes.
_SEVERAL = ("-p", "xdist.plugin", "-n", "2")
_PASSES = "def test_right():\n    pass\n"
_FAILS = "def test_wrong():\n    assert 1 == 2, 'always'\n"
#: Fails when it is run for the first time, in any process.
_FAILS_ONCE = """
import pathlib, pytest

@pytest.mark.parametrize("case", ["a b", "$x[1]'\\""])
def test_now_and_then(case):
    print("what it printed")
    seen = pathlib.Path(__file__).with_name(f"seen-{ord(case[0])}")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time")
"""
_SKIPS = "import pytest\n\ndef test_skipped():\n    pytest.skip('not here')\n"
_FAILS_AT_THE_END = """
import pytest

@pytest.fixture
def resource():
    yield
    raise AssertionError("while tidying up")

def test_untidy(resource):
    pass
"""
#: Passes, by running pytest on a file whose test fails.
_RUNS_PYTEST = """
import os, pathlib, subprocess, sys

def test_that_runs_pytest(tmp_path):
    (tmp_path / "test_inner.py").write_text("def test_inner(): assert 0")
    assert "PYTHONPATH" not in os.environ
    done = subprocess.run([sys.executable, "-m", "pytest", "--rootdir", tmp_path, tmp_path])
    assert done.returncode == 1
"""


def judged(folder: Path, *options: str, **files: str) -> tuple[int, list[str]]:
    """The script's exit code and the lines it printed, for a folder of these test files."""
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    (folder / "Makefile").write_text(
        f"test:\n\t{sys.executable} -m pytest -q {' '.join(options)}\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "PYTHONPATH", "MAKE", "MFLAGS"))
    } | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, str(_TWICE), "make", "test"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("options", [(), _SEVERAL], ids=["one process", "several"])
def test_what_fails_once_is_named_with_its_output_and_the_run_goes_on(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    status, lines = judged(tmp_path, *options, flaky=_FAILS_ONCE, right=_PASSES)
    assert status == 0, lines
    assert sum(line.startswith("FLAKY test_flaky.py::test_now_and_then[") for line in lines) == 2
    named = next(number for number, line in enumerate(lines) if line.startswith("FLAKY"))
    output = "\n".join(lines[named:])
    assert "AssertionError: the first time" in output
    assert "what it printed" in output
    assert lines[-1].startswith("2 failed, 1 passed in ")


def test_what_fails_twice_fails_the_run(tmp_path: Path) -> None:
    status, lines = judged(tmp_path, flaky=_FAILS_ONCE, wrong=_FAILS, right=_PASSES)
    assert status == 1
    assert "FAILED TWICE test_wrong.py::test_wrong" in lines
    assert "make test: failed twice: test_wrong.py::test_wrong" in lines
    assert lines[-1].startswith("3 failed, 1 passed in ")


def test_a_run_without_failures_ends_with_its_summary(tmp_path: Path) -> None:
    status, lines = judged(tmp_path, right=_PASSES, skipped=_SKIPS)
    assert status == 0
    assert lines[-1].startswith("1 passed, 1 skipped in ")
    assert not any(line.startswith("FLAKY") for line in lines)


@pytest.mark.parametrize("options", [(), _SEVERAL], ids=["one process", "several"])
def test_what_a_test_makes_fail_itself_is_no_failure(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    status, lines = judged(tmp_path, *options, runs=_RUNS_PYTEST)
    assert status == 0, lines
    assert lines[-1].startswith("1 passed in ")


def test_failing_while_tidying_up_is_failing(tmp_path: Path) -> None:
    status, lines = judged(tmp_path, untidy=_FAILS_AT_THE_END)
    assert status == 1
    assert "FAILED TWICE test_untidy.py::test_untidy" in lines


@pytest.mark.parametrize("files", [{}, {"skipped": _SKIPS}], ids=["no tests", "all skipped"])
def test_a_run_that_executes_nothing_fails(tmp_path: Path, files: dict[str, str]) -> None:
    status, lines = judged(tmp_path, **files)
    assert status == 1
    assert "make test: no test was executed" in lines


@pytest.mark.parametrize("options", [(), _SEVERAL], ids=["one process", "several"])
def test_a_file_that_cannot_be_read_fails_the_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, lines = judged(tmp_path, *options, right=_PASSES, broken="import no_such_module\n")
    assert status == 1, lines


def test_a_command_that_runs_no_tests_at_all_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(_TWICE), "true"], cwd=tmp_path, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == 1


def test_a_flood_of_failures_is_not_run_again(tmp_path: Path) -> None:
    many = "import pytest\n@pytest.mark.parametrize('n', range(30))\ndef test_n(n):\n    assert 0\n"
    status, lines = judged(tmp_path, many=many)
    assert status == 1
    assert "make test: 30 tests failed, too many to be run once more" in lines
