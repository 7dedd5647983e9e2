"""Tests that are coroutine functions fail for every complaint that a loop may have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = """
import asyncio
import socket

import pytest
import uvloop


def complain():
    raise ValueError("from a callback")


async def test_passes(tmp_path):
    await asyncio.sleep(0)
    assert tmp_path.exists()


async def test_fails():
    await asyncio.sleep(0)
    assert "one" == "another"


@pytest.mark.loop(guard_s=0.1)
async def test_hangs():
    await asyncio.Event().wait()


async def test_leaves_a_raised_callback():
    asyncio.get_running_loop().call_soon(complain)
    await asyncio.sleep(0)


@pytest.mark.loop(expected_problems=1)
async def test_expects_a_raised_callback():
    asyncio.get_running_loop().call_soon(complain)
    await asyncio.sleep(0)


@pytest.mark.loop(expected_problems=1)
async def test_expects_too_much():
    await asyncio.sleep(0)


async def test_leaves_a_raised_task():
    async def work():
        complain()

    asyncio.ensure_future(work())
    await asyncio.sleep(0)


async def test_leaves_a_socket():
    socket.socket()


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop])
async def test_has_the_loop_that_it_asks_for(loop_factory):
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


@pytest.mark.parametrize("number", [1, 2])
class TestGroup:
    async def test_of_a_class(self, number):
        assert number == 1
"""
_OUTCOMES = {
    "test_passes": "PASSED",
    "test_fails": "FAILED",
    "test_hangs": "FAILED",
    "test_leaves_a_raised_callback": "FAILED",
    "test_expects_a_raised_callback": "PASSED",
    "test_expects_too_much": "FAILED",
    "test_leaves_a_raised_task": "FAILED",
    "test_leaves_a_socket": "FAILED",
    "test_has_the_loop_that_it_asks_for[new_event_loop]": "PASSED",
    "TestGroup::test_of_a_class[1]": "PASSED",
    "TestGroup::test_of_a_class[2]": "FAILED",
}


def test_what_goes_wrong_on_the_loop_of_a_test_fails_it(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(_TESTS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-rA", "-p", "tests.conftest"),
            *("-p", "no:cacheprovider", "-c", "pyproject.toml", str(file)),
        ],
        cwd=pytestconfig.rootpath,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    said = re.findall(r"^(PASSED|FAILED|ERROR) .*?::(\S+)", done.stdout, re.MULTILINE)
    assert {name: outcome for outcome, name in said} == _OUTCOMES, done.stdout
