"""One cell of the matrix: a handoff under a running download, with one fault at one point.

    source, destination: KILL, or STOP and go on, before or after the other side's deadline
    link: CUT

The fault strikes when the handoff passes the point, on either side: the process that passes it
raises the signal, on itself or on the other.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from quicbaton.handoff import Waits
from quicbaton.service.failpoints import SOURCE_POINTS
from quicbaton.service.peers import commands as c
from tests.processes.harness import GUARD_S, SHORT_WAITS, Curl, Server, World
from tests.processes.matrix import Cell, Fault, Faults, TooLateError
from tests.processes.wire import Relay, Verdict

#: Every step of a handoff, in the order in which it is passed.
STEPS = (
    "before_offer",
    "after_offer",
    "before_accept",
    "after_accept",
    "before_freeze",
    "after_freeze",
    "before_baton",
    "after_baton",
    "rebuilt",
    "before_ready",
    "after_ready",
    "before_destroy",
    "after_destroy",
    "before_committed",
    "after_committed",
    "before_resume",
    "after_resume",
    "before_cutover",
    "after_cutover",
    "before_cutover_ack",
    "after_cutover_ack",
)
FAULTS: Faults = (
    ("source", "KILL"),
    ("source", "STOP"),
    ("source", "STOP long"),
    ("destination", "KILL"),
    ("destination", "STOP"),
    ("destination", "STOP long"),
    ("link", "CUT"),
)

SIZE = 600_000
RATE = 500_000
#: The client of a long stop is to be there when it is over.
_SLOW_RATE = 190_000
_BEGIN_AT = 40_000
_SHORT_STOP_S = 0.03
#: Above every wait for the other side but the one for strays.
_LONG_STOP_S = 1.3
#: A short stop that a busy machine made longer proves nothing of deadlines.
STILL_SHORT_S = 1.0
#: Who ended is looked for so long after its last answer.
_DEAD_S = 2.0
#: A connection that neither side has for so long has been closed: its client will be told.
_NOBODYS_S = 10.0


class HandoffCell(Cell):
    """A fault between a source and a destination."""

    @property
    def at_source(self) -> bool:
        """Whether it is the source that passes the point."""
        return self.step in SOURCE_POINTS

    @property
    def survives(self) -> bool:
        """Whether the connection must outlive the fault, rather than be closed properly."""
        at = STEPS.index(self.step)
        if self.fault == "KILL":
            # The source has it until it commits; once COMMITTED is out the destination does.
            if self.victim == "source":
                return at >= STEPS.index("after_committed")
            # Once the baton is out it may have said READY by the time that it dies.
            return at < STEPS.index("after_baton")
        return self.fault != "STOP long"


@dataclass
class Outcome:
    """How a cell's client ended, and what the wire showed."""

    client: str  # whole, reset, closed; or what must not be
    error: str
    verdict: Verdict
    stopped_s: float
    in_time: bool  # no deadline can have passed before the fault
    handed_on: bool  # after the fault the owner handed the connection on once more

    def __str__(self) -> str:
        return self.client


CELLS = [HandoffCell(step, victim, fault) for step in STEPS for victim, fault in FAULTS]


async def run_cell(world: World, cell: HandoffCell) -> Outcome:
    """Download, hand over, fail; see how the client ends."""
    rate = _SLOW_RATE if cell.is_long else RATE
    waits = waits_of(cell)
    return await run_handoff(world, cell, Server.hand_over, SIZE, rate, waits=waits)


def waits_of(cell: Cell) -> Waits:
    """How long its processes wait for each other: less than a long fault lasts, and otherwise as
    long as ever, so that a busy machine makes no long fault of a short one."""
    return SHORT_WAITS if cell.is_long else Waits()


async def run_handoff(
    world: World,
    cell: HandoffCell,
    hand_over: Callable[[Server, str, Server], Awaitable[c.Answer]],
    size: int,
    rate: int,
    *,
    waits: Waits,
    **options: Any,
) -> Outcome:
    """A download of `size` bytes at `rate`, between servers with these options; `hand_over` is
    given the source, the connection's name and the destination."""
    options["waits"] = waits
    victims = world.folder / f"{cell}.victim"
    spec = cell.failpoint("destination" if cell.at_source else "source", victims)
    source = await world.start(failpoint=spec if cell.at_source else "", **options)
    port = await source.port()
    async with Relay(port) as relay, world.curl(relay.port, size, rate=rate) as curl:
        connection = await connection_of(curl, source)
        joined = "" if cell.at_source else spec
        destination = await world.start("join", source, failpoint=joined, **options)
        await curl.received(_BEGIN_AT)
        victim = destination if cell.victim == "destination" else source
        victims.write_text(str(victim.pid))
        began = monotonic()
        command = asyncio.ensure_future(hand_over(source, connection, destination))
        stopped_s = await strike(cell.fault, victim, [curl], lambda: _has_failed(command))
        # A fault that comes later is not the first thing that went wrong: on a very busy machine a
        # deadline was, and the connection may have been taken back.
        in_time = monotonic() - began - stopped_s < waits.frozen_s
        since = monotonic()
        await command
        answered_in_time = monotonic() - since < waits.frozen_s
        handed_on = await hand_on(source, destination, curl)
        ended = await curl.finish()
        verdict = relay.check([Path(source.options.keylog)])
        for server in (source, destination):
            if server.alive:
                await server.list()
                server.signal(signal.SIGKILL)
            server.assert_no_mistake()
    if cell.survives and not curl.whole and not answered_in_time:
        raise TooLateError(f"a deadline after the fault was missed: {ended.error}")
    return Outcome(ending(curl, verdict), ended.error, verdict, stopped_s, in_time, handed_on)


def _has_failed(command: asyncio.Future[c.Answer]) -> bool:
    return command.done() and not command.result().ok


async def connection_of(curl: Curl, server: Server) -> str:
    """The name of the server's only connection, the client's.

    Raises TooLateError: the client is through already.
    """

    async def look() -> object:
        return await server.open_name() or curl.outcome

    found = await server.until(look, "a connection")
    if not isinstance(found, str):
        raise TooLateError("the download was over before its connection was looked for")
    return found


async def strike(
    fault: Fault,
    victim: Server,
    curls: Sequence[Curl],
    has_failed: Callable[[], bool] = lambda: False,
) -> float:
    """Wait for the fault; let a stopped process go on. For how long it stood still.

    Raises TooLateError: before, the clients had got all, the victim had ended, or what leads to the
    point had failed.
    """
    if fault == "CUT":
        return 0.0
    await struck(fault, victim, curls, has_failed)
    if fault == "KILL":
        return 0.0
    since = monotonic()
    await asyncio.sleep(_LONG_STOP_S if fault == "STOP long" else _SHORT_STOP_S)
    victim.signal(signal.SIGCONT)
    return monotonic() - since


async def struck(
    fault: str, victim: Server, curls: Sequence[Curl], has_failed: Callable[[], bool]
) -> None:
    """Wait until a signal has killed or stopped the victim."""

    def is_struck() -> bool:
        return not victim.alive if fault == "KILL" else victim.stopped

    def is_over() -> bool:
        has_ended = all(curl.outcome is not None for curl in curls)
        return not victim.alive or has_ended or has_failed()

    await victim.until(lambda: is_struck() or is_over(), f"the {fault}")
    # Others may have heard of its end before it can be seen.
    until_s = monotonic() + _DEAD_S
    while not is_struck():
        if monotonic() > until_s:
            errors = [curl.outcome.error for curl in curls if curl.outcome is not None]
            assert not any(errors), errors
            raise TooLateError(f"the point was never reached\n{victim.log()}")
        await asyncio.sleep(0.01)


async def hand_on(source: Server, destination: Server, curl: Curl) -> bool:
    """Hand the connection on, from whoever owns it to the other: it can go on living. False when
    there is none, or only one process is left."""
    async with asyncio.timeout(GUARD_S):
        seen = monotonic()
        while source.alive and destination.alive and curl.outcome is None:
            for owner, other in ((source, destination), (destination, source)):
                infos = (await owner.list()).connections
                if infos and (await owner.hand_over(infos[0].connection, other)).ok:
                    return True
                if infos:
                    seen = monotonic()
            if monotonic() - seen > _NOBODYS_S:
                break
            await asyncio.sleep(0.01)
    return False


def ending(curl: Curl, verdict: Verdict) -> str:
    """How a client ended: whole, reset, closed; or what must not be."""
    if curl.whole:
        return "whole"
    assert curl.outcome is not None
    if "curl error 28" in curl.outcome.error:
        return "TIMEOUT"
    if verdict.was_reset:
        return "reset"
    return "closed" if verdict.closed else "BROKEN"
