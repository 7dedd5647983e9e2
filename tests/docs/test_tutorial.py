"""docs/tutorial.md, word for word: its files are written, and its commands typed into a shell."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

from tests.cli.command_line import GUARD_S, wait_for
from tests.docs.terminal import free_port
from tests.supervisor.service_home import ServiceHome, service_home

pytestmark = pytest.mark.process

_PAGE: Final = Path(__file__).parents[2] / "docs" / "tutorial.md"
_BLOCK: Final = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
#: The file that a block of Python is: the last that the text before has named.
_FILE: Final = re.compile(r"This is `(?P<name>\w+\.py)`")
_PROMPT: Final = "$ "
_PIP: Final = "pip install "
_PORT: Final = "4433"


class Shell:
    """A shell as a user has it, with jobs; what it and they print is in a file."""

    def __init__(self, home: ServiceHome, port: int) -> None:
        self._port = str(port)
        self._commands = 0
        self._began = 0  # where the output of the last job begins
        folder = Path(sys.executable).parent
        environment = {
            **{key: value for key, value in home.environment.items() if key != "XDG_STATE_HOME"},
            "HOME": str(home.path),
            "PATH": f"{folder}:{home.environment['PATH']}",
            "QUICBATON_PORT": self._port,
        }
        self._output = home.path / "output"
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                ["bash"],
                cwd=home.path,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                text=True,
            )
        self._write("set -m")

    def run(self, command: str, shown: list[str]) -> None:
        """A command that must succeed. Returns when it has ended or is in the background, and the
        lines that are shown have come, in this order, others between them."""
        begin = len(self._output.read_text())
        if command.endswith("&"):
            self._began = begin
        elif command.startswith("wait "):
            # The job may have said it before.
            begin = self._began
        self._write(command.replace(_PORT, self._port))
        self._commands += 1
        done = f"command {self._commands} is done with status "
        self._write(f'echo "{done}$?"')

        def printed() -> list[str]:
            return self._output.read_text()[begin:].split("\n")[:-1]

        lines = wait_for(printed, lambda lines: any(line.startswith(done) for line in lines))
        assert f"{done}0" in lines, f"{command}: {lines}"
        if command.endswith("&"):
            wait_for(printed, lambda lines: not missing(shown, lines))
        else:
            assert missing(shown, lines) == [], f"{command}: {lines}"

    def close(self) -> None:
        """End it, and the jobs that are left."""
        pid = self._process.pid
        jobs = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (pid, *map(int, jobs)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait(GUARD_S)
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


def missing(shown: list[str], lines: list[str]) -> list[str]:
    """The shown lines that are not among those that came, in their order."""
    waiting = list(shown)
    for line in lines:
        if waiting and pattern_of(waiting[0]).fullmatch(line):
            del waiting[0]
    return waiting


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with service_home(tmp_path) as home:
        made = Shell(home, free_port())
        try:
            yield made
        finally:
            made.close()


def pattern_of(shown: str) -> re.Pattern[str]:
    """What a shown line stands for: other numbers, and anything for " ..." at its end."""
    text = " ".join(shown.split())
    text = re.escape(text.removesuffix(" ...")).replace(r"\ ", r"\s+")
    number = r"\d+(\.\d+)?"
    text = re.sub(r"\d+(\\\.\d+)?", lambda _: number, text)
    return re.compile(rf"\s*{text}" + (".*" if shown.endswith(" ...") else ""))


def commands_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a block, each with the lines that are shown below it."""
    for part in ("\n" + text).split("\n" + _PROMPT)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        yield command, shown


def test_the_tutorial_does_what_it_says(shell: Shell, tmp_path: Path) -> None:
    text = _PAGE.read_text(encoding="utf-8")
    written, run = set(), 0
    for block in _BLOCK.finditer(text):
        if block["language"] == "python":
            name = _FILE.findall(text[: block.start()])[-1]
            assert name not in written, "two blocks are one file"
            written.add(name)
            (tmp_path / name).write_text(block["text"], encoding="utf-8")
            continue
        assert block["language"] == "console"
        for command, shown in commands_of(block["text"]):
            run += 1
            if command.startswith(_PIP):
                # The test's own environment has it.
                assert all(version(name) for name in command.removeprefix(_PIP).split())
            else:
                shell.run(command, shown)
    assert (len(written), run) == (4, 19)
    # What step 3 says: two processes wrote, one after the other.
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert [int(line.split()[1]) for line in lines] == list(range(100_000))
    writers = [line.split()[4] for line in lines]
    assert writers == sorted(writers, key=writers.index)
    assert len(set(writers)) == 2


def test_lines_that_are_shown_stand_for_other_numbers() -> None:
    assert pattern_of("1 passed in 0.67s").fullmatch("12 passed in 3s")
    assert pattern_of("  60000 19270").fullmatch("40000 7")
    assert pattern_of("1 moved ...").fullmatch("2 moved; more")
    assert not pattern_of("2 workers replaced").fullmatch("2 workers kept")
