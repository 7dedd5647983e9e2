"""Programs that a forker starts are as if they had been executed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif("QUICBATON_TEST_EXEC" in os.environ, reason="everything is executed"),
]

_REPOSITORY = str(Path(__file__).parents[2])
_COMMAND = (sys.executable, "-m", "tests.forker.told")


def _run(status: int, **options: Any) -> tuple[int, dict[str, Any]]:
    options.setdefault("input", "")
    command = [*_COMMAND, f"{status}", "and more"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, **options)
    return done.returncode, json.loads(done.stdout)


def test_a_program_is_a_forked_child_with_its_status_and_streams() -> None:
    status, told = _run(7, input="a line\n")
    assert status == 7
    assert told["forked"]
    assert told["parent"] == os.getpid()
    assert told["arguments"] == ["7", "and more"]
    assert told["command_line"] == " ".join([*_COMMAND, "7", "and more"])
    assert told["input"] == "a line\n"


def test_a_program_has_the_folder_environment_and_group_that_it_was_given(tmp_path: Path) -> None:
    environment = {**os.environ, "WORD": "given", "PYTHONPATH": _REPOSITORY}
    _, told = _run(0, cwd=tmp_path, env=environment, process_group=0)
    assert told["forked"]
    assert told["folder"] == told["path"] == str(tmp_path.resolve())
    assert told["words"]["WORD"] == "given"
    assert told["group"] == told["pid"]
    # Nothing of that is left for the next one.
    _, told = _run(0)
    assert told["folder"] == os.getcwd()
    assert told["words"]["WORD"] is None
    assert told["group"] == os.getpgid(0)


def test_a_program_has_the_descriptors_that_it_was_given_and_no_others() -> None:
    reader, writer = os.pipe()
    try:
        _, told = _run(0, pass_fds=(writer,))
    finally:
        os.close(reader)
        os.close(writer)
    assert told["forked"]
    assert told["descriptors"] == [0, 1, 2, writer]


def test_a_program_ends_by_the_signal_that_it_gets() -> None:
    with subprocess.Popen([*_COMMAND, "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL


async def test_asyncio_s_programs_are_forked_too() -> None:
    child = await asyncio.create_subprocess_exec(
        *(*_COMMAND, "3"), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    assert child.returncode == 3
    assert json.loads(output)["forked"]


def test_a_word_to_the_interpreter_has_a_program_executed() -> None:
    status, told = _run(5, env={**os.environ, "PYTHONUTF8": "1"})
    assert status == 5
    assert not told["forked"]
    assert told["words"]["PYTHONUTF8"] == "1"
