"""Replaces the supervisor's program in its own process, as execve(2) does.

    old program                                new program, of the same process
    tries the new one: `quicbaton check`
    Answer ──────────────────────────────►     (to the command)
    execve, with the port's sockets, the
    service's figures and the workers'
    rosters as systemd passes them             takes them, finds the workers, adopts them

The process keeps its number: systemd, and a container whose first process it is, notice nothing.
Workers serve on meanwhile. The sockets stay in the order that the kernel's choice rests on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from quicbaton.errors import CallerError
from quicbaton.reasons import Reason
from quicbaton.service.node.control import Handler
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel
from quicbaton.service.supervisor.reload import Reloads
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.systemd import (
    FIRST_DESCRIPTOR,
    LISTENER_NAME,
    TALLIES_NAME,
    roster_name,
    socket_name,
)
from quicbaton.service.timing import SIGNALS_S

#: What a signal would do between the two programs: end the process, and leave the workers alone.
HELD_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The variable with that number.
SCALED: Final = "QUICBATON_SCALED"
_COMMAND: Final = ("-m", "quicbaton")


class Begin(NamedTuple):
    """The beginning of a supervisor's next program."""

    arguments: list[str]  # of `quicbaton serve`
    workers: int  # as `quicbaton scale` has said; 0: as the configuration says


class _Failure(msgspec.Struct):
    """An error as a command reports it with --json."""

    message: str


class Upgrades:
    """Answers `Upgrade` for a supervisor."""

    def __init__(
        self, supervisor: Supervisor, reloads: Reloads, next_program: Callable[[], Begin]
    ) -> None:
        """`next_program()` says how it is to begin."""
        self._supervisor = supervisor
        self._reloads = reloads
        self._next_program = next_program

    def handlers(self) -> dict[type[c.Frame], Handler]:
        return {c.Upgrade: self._upgrade}

    async def _upgrade(self, channel: Channel, _frame: c.Upgrade) -> None:
        async with self._reloads.alone("an upgrade"):
            begin = self._next_program()
            await self._try(begin.arguments)
            signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
            try:
                # One that came before would be lost with this program's event loop.
                await asyncio.sleep(SIGNALS_S)
                if self._supervisor.stopping:
                    raise CallerError("the service is stopping", code=Reason.STOPPING)
                channel.write(c.encode(c.Answer(True, Reason.OK, "the new program begins")))
                channel.close()
                self._replace(begin)
            finally:
                # This program goes on.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)

    async def _try(self, arguments: Sequence[str]) -> None:
        """Let the new program say whether it could serve. Raises CallerError if not."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, *_COMMAND, "check", *arguments, "--json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self._supervisor.settings.health_timeout_s):
                _, said = await child.communicate()
        except TimeoutError:
            child.kill()
            await child.wait()
            said = b"`quicbaton check` does not end"
        if child.returncode:
            why = said.decode(errors="replace").strip()
            with contextlib.suppress(msgspec.DecodeError):
                why = msgspec.json.decode(said, type=_Failure).message
            raise CallerError(
                f"the new program could not serve, and the old one goes on: {why}",
                code=Reason.NOT_READY,
            )

    def _replace(self, begin: Begin) -> None:
        """Become the new program. Raises OSError if there is none."""
        passed = self._passed()
        self._supervisor.figures.write_own()
        environment = os.environ | {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(passed)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in passed),
            SCALED: str(begin.workers),
        }
        # Descriptors may lie in each other's way: first above all places, then at their own.
        above = max(FIRST_DESCRIPTOR + len(passed), *(number for _, number in passed)) + 1
        high = [os.dup2(number, above + n) for n, (_, number) in enumerate(passed)]
        for place, number in enumerate(high, FIRST_DESCRIPTOR):
            os.dup2(number, place)
            os.close(number)
        os.execve(
            sys.executable, [sys.executable, *_COMMAND, "serve", *begin.arguments], environment
        )

    def _passed(self) -> list[tuple[str, int]]:
        """Names and descriptors that the new program gets."""
        group = self._supervisor.group
        passed = [(socket_name(n), sock.fileno()) for n, sock in enumerate(group.sockets)]
        if group.listener.sock is not None:
            passed.append((LISTENER_NAME, group.listener.sock.fileno()))
        passed.append((TALLIES_NAME, self._supervisor.figures.file.descriptor))
        passed += [
            (roster_name(slot.number, process.pid), process.roster)
            for slot in self._supervisor.slots
            for process in slot.processes
            if process.roster >= 0
        ]
        return passed
