"""Python programs that tests start begin as copies of a process that has imported everything.

Python takes half a second of CPU to import aioquic and quicbaton, and the tests start a thousand
programs. After `install` a *forker* starts `python -m MODULE ...` for `subprocess`, and so for
asyncio: a process that clones itself (`__main__.py`). The clone is a child of the process that
asked, as if that had executed it; it gets the descriptors, environment, folder and process group
that it was to have, and runs the module as `__main__`. It differs from a program that was executed
in one way: what it imports is in its memory already.

A command that nsenter(1) runs on another host of a test (`tests/hosts`) is forked as well.

Executed as ever are other commands, modules of others, and what has another environment for the
interpreter or the loader than ours. With QUICBATON_TEST_EXEC in the environment everything is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

_REPOSITORY = str(Path(__file__).parents[2])
#: Modules of these packages may be run by a forker.
_OURS = frozenset({"bench", "demo", "quicbaton", "tests"})
#: `gid, gids, uid, umask, preexec_fn` of a process that is to be nothing but its program.
_NOTHING_ELSE = [None, None, None, -1, None]
#: Room in the forker's command line for that of a clone, which `ps` shows.
_COMMAND_LINE_BYTES = 8192

_execute = subprocess._fork_exec  # type: ignore[attr-defined]
#: The forker, and the socket by which it is told.
_running = ExitStack()


class Order(msgspec.Struct):
    """A program to run, in these namespaces of the process `host` if that is not 0. `targets` are
    the numbers that the descriptors sent along are to have."""

    host: int
    namespaces: list[str]
    command: list[str]
    environment: dict[str, str]
    folder: str
    targets: list[int]
    new_session: bool
    process_group: int


class Forker:
    """The forker of this process, as this process has it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def fork_exec(
        self,
        command: Sequence[Any],
        executables: Sequence[bytes],
        close_fds: bool,
        kept: Sequence[int],
        folder: str | None,
        environment: Sequence[bytes] | None,
        *rest: Any,
    ) -> int:
        """In place of the function of this name by which `subprocess` starts a process: the same
        arguments, and the new process's number."""
        stdin, _, _, stdout, _, stderr, _, errors, _, new_session, group, *others = rest
        host, namespaces, words = _entered([os.fsdecode(word) for word in command])
        variables = _variables(environment)
        if close_fds and others[:5] == _NOTHING_ELSE and _may_be_forked(words, variables):
            targets = [number for number in kept if number != errors]
            standard = [
                given if given >= 0 else n for n, given in enumerate((stdin, stdout, stderr))
            ]
            where = os.fsdecode(folder or os.getcwd())
            numbers = [0, 1, 2, *targets]
            order = Order(host, namespaces, words, variables, where, numbers, new_session, group)
            pid = self._ask(order, [*standard, *targets])
            if pid:
                return pid
        started: int = _execute(command, executables, close_fds, kept, folder, environment, *rest)
        return started

    def _ask(self, order: Order, descriptors: Sequence[int]) -> int:
        """The process's number; 0 where none can be forked."""
        with self._lock:
            socket.send_fds(self._channel, [msgspec.msgpack.encode(order)], descriptors)
            answer = self._channel.recv(16)
        if not answer:
            raise RuntimeError("the forker broke off: its stderr says why")
        return int(answer)


def _entered(command: list[str]) -> tuple[int, list[str], list[str]]:
    """A process and those of its namespaces in which nsenter is to run a command; that command."""
    if command[:2] != ["nsenter", "--target"] or "--" not in command:
        return 0, [], command
    end = command.index("--")
    namespaces = [option.removeprefix("--") for option in command[3:end]]
    return int(command[2]), namespaces, command[end + 1 :]


def _variables(environment: Sequence[bytes] | None) -> dict[str, str]:
    if environment is None:
        return dict(os.environ)
    return {name: value for name, _, value in (os.fsdecode(x).partition("=") for x in environment)}


def _may_be_forked(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    return (
        len(command) > 2
        and command[:2] == [sys.executable, "-m"]
        and command[2].partition(".")[0] in _OURS
        and environment.get("PYTHONPATH", _REPOSITORY) == _REPOSITORY
        and _words_to_python(environment) == _words_to_python(os.environ)
    )


def _words_to_python(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(("PYTHON", "LD_")) and name != "PYTHONPATH"
    }


def install() -> None:
    """From now on a forker starts programs for this process."""
    if os.environ.get("QUICBATON_TEST_EXEC") or sys.platform != "linux":
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        _running.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), " " * _COMMAND_LINE_BYTES],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                cwd=_REPOSITORY,
            )
        )
    use(_running.enter_context(ours))


def use(channel: socket.socket) -> None:
    """Have the forker at the other end start programs."""
    subprocess._fork_exec = Forker(channel).fork_exec  # type: ignore[attr-defined]


def uninstall() -> None:
    """Programs are executed again; the forker has ended."""
    subprocess._fork_exec = _execute  # type: ignore[attr-defined]
    _running.close()
