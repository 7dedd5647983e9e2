"""One handoff by a shared store under a running download, with one fault at one point.

Points and faults are as in `cells`; the processes share an SQLite store.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cells import Fault, Outcome, Victim, ending, hand_on, strike
from harness import SHORT_WAITS, Server, World
from wire import Relay, check

#: Every step between the offer in the store and the source's keys, in order.
STEPS = (
    "before_publish",
    "after_publish",
    "after_baton",
    "before_take",
    "after_take",
    "after_resume",
    "after_taken",
    "after_destroy",
)
_SOURCE_STEPS = ("before_publish", "after_publish", "after_baton", "after_destroy")

_SIZE = 400_000
_RATE = 400_000
#: The client of a long stop is to be there when it is over.
_SLOW_RATE = 160_000
_BEGIN_AT = 40_000
_WAITS = msgspec.structs.replace(SHORT_WAITS, doubt_s=3.0)


@dataclass(frozen=True)
class Cell:
    """A point, a victim and a fault."""

    step: str
    victim: Victim
    fault: Fault

    def __str__(self) -> str:
        return f"{self.step}-{self.victim}-{self.fault.replace(' ', '_')}"

    @property
    def survives(self) -> bool:
        """Whether the connection must outlive the fault: somebody who lives has it, or may take
        it. Between the destination's commit and its end nobody else can."""
        at = STEPS.index(self.step)
        if self.fault != "KILL":
            return True
        if self.victim == "source":
            return at >= STEPS.index("after_baton")
        return at < STEPS.index("after_take") and self.step != "after_baton"


async def run_cell(world: World, cell: Cell) -> Outcome:
    """Download, hand over, fail; see how the client ends."""
    victims = world.folder / f"{cell}.victim"
    spec = f"{cell.step}:{cell.fault.partition(' ')[0]}"
    at_source = cell.step in _SOURCE_STEPS
    if cell.victim == ("destination" if at_source else "source"):
        spec += f":{victims}"
    options = {"waits": _WAITS, "store": f"sqlite:{world.folder / 'owners'}"}
    source = await world.start(failpoint=spec if at_source else "", **options)
    rate = _SLOW_RATE if cell.fault == "STOP long" else _RATE
    async with (
        Relay(await source.port()) as relay,
        world.curl(relay.port, _SIZE, rate=rate) as curl,
    ):
        connection = await source.the_connection()
        joined = "" if at_source else spec
        destination = await world.start("join", source, failpoint=joined, **options)
        await curl.received(_BEGIN_AT)
        victim = destination if cell.victim == "destination" else source
        victims.write_text(str(victim.pid))
        command = asyncio.create_task(_hand_over(connection, source, destination, cell, victim))
        stopped_s = await strike(cell.fault, victim, curl)
        await command
        handed_on = await hand_on(source, destination, curl)
        ended = await curl.end()
        verdict = check(relay.sent, relay.client_id_bytes, [Path(source.options.keylog)])
        for server in (source, destination):
            if server.alive:
                await server.list()
                server.signal(signal.SIGKILL)
    return Outcome(ending(curl, verdict), ended.error, verdict, stopped_s, handed_on)


async def _hand_over(
    connection: str, source: Server, destination: Server, cell: Cell, victim: Server
) -> None:
    """On a busy machine an offer may time out before anything is struck: then once more."""
    while source.alive and destination.alive:
        answer = await source.hand_over(connection, destination)
        if answer.ok or cell.fault == "CUT" or not victim.alive or victim.stopped:
            return
        if answer.code not in ("deadline", "cutover_pending", "unreachable"):
            return
