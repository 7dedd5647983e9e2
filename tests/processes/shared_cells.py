"""One handoff by a shared store under a running download, with one fault at one point.

Points and faults are as in `cells`; the processes share an SQLite store.
"""

from __future__ import annotations

import msgspec

from quicbaton.service.peers import commands as c
from tests.processes.cells import FAULTS, HandoffCell, Outcome, run_handoff
from tests.processes.harness import SHORT_WAITS, Server, World

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
_WAITS = msgspec.structs.replace(SHORT_WAITS, doubt_s=3.0)


class SharedCell(HandoffCell):
    """A fault between two that share a store."""

    @property
    def at_source(self) -> bool:
        return self.step in _SOURCE_STEPS

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


CELLS = [SharedCell(step, victim, fault) for step in STEPS for victim, fault in FAULTS]


async def run_shared_cell(world: World, cell: SharedCell) -> Outcome:
    """Download, hand over, fail; see how the client ends."""

    async def hand_over(source: Server, connection: str, destination: Server) -> c.Answer:
        victim = destination if cell.victim == "destination" else source
        # On a busy machine an offer may time out before anything is struck: then once more.
        while True:
            answer = await source.hand_over(connection, destination)
            if answer.ok or cell.fault == "CUT" or not victim.alive or victim.stopped:
                return answer
            if answer.code not in ("deadline", "cutover_pending", "unreachable"):
                return answer

    store = f"sqlite:{world.folder / 'owners'}"
    rate = _SLOW_RATE if cell.is_long else _RATE
    return await run_handoff(world, cell, hand_over, _SIZE, rate, waits=_WAITS, store=store)
