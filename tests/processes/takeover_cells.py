"""One takeover under two downloads, with one fault at one point: a cell of the second matrix.

The fault strikes when the takeover passes the point, at either process, as in `cells`.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from quicbaton.service.failpoints import DEPARTURE_POINTS, SOURCE_POINTS
from tests.processes.cells import STILL_SHORT_S, ending, strike, waits_of
from tests.processes.harness import World, until
from tests.processes.matrix import Cell, Faults, TooLateError
from tests.processes.wire import Relay, Verdict

#: Every step of a takeover, in order, with those of its first handoff that matter.
STEPS = (
    "takeover_asked",
    "takeover_socket_passed",
    "takeover_listening",
    "takeover_linked",
    "takeover_stopped_reading",
    "takeover_reading",
    "after_freeze",
    "rebuilt",
    "after_destroy",
    "after_resume",
    "takeover_handed_over",
    "takeover_done",
    "takeover_settled",
)
FAULTS: Faults = (
    ("old", "KILL"),
    ("old", "STOP"),
    ("old", "STOP long"),
    ("new", "KILL"),
    ("new", "STOP"),
    ("new", "STOP long"),
    ("link", "CUT"),
)
#: A server that dies when no other process has its socket: no library can tell its clients.
_LONELY = (
    ("takeover_asked", "old"),
    ("takeover_handed_over", "new"),
    ("takeover_done", "new"),
    ("takeover_settled", "new"),
)

_SIZE = 500_000
_RATE = 500_000
_SLOW_RATE = 220_000
_BEGIN_AT = 40_000
_DOWNLOADS = 2
_DEADLINE_S = 20.0


class TakeoverCell(Cell):
    """A fault between an old process and its successor."""

    @property
    def all_survive(self) -> bool:
        """Whether no connection may be lost."""
        at = STEPS.index(self.step)
        if self.fault == "STOP long" and self.victim == "old":
            # Between its commit and COMMITTED it makes the new process wait too long.
            return self.step != "after_destroy"
        if self.fault != "KILL":
            return True
        if self.victim == "old":
            return at >= STEPS.index("takeover_handed_over")
        # The old process keeps everything, until it has given the first away.
        return at < STEPS.index("after_destroy")


@dataclass
class TakeoverOutcome:
    """How the clients ended, and whether the port is served afterwards."""

    clients: list[str]
    errors: list[str]
    verdicts: list[Verdict]
    served: bool
    log: str

    def __str__(self) -> str:
        kinds = sorted(set(self.clients), reverse=True)
        return "+".join(kinds) if self.served else "+".join(kinds) + ", NOT SERVED"


TAKEOVER_CELLS = [
    TakeoverCell(step, victim, fault)
    for step in STEPS
    for victim, fault in FAULTS
    if not (fault == "KILL" and (step, victim) in _LONELY)
    # It may be gone by then.
    and not (step == "takeover_settled" and victim == "old" and fault != "KILL")
]


async def run_takeover_cell(world: World, cell: TakeoverCell) -> TakeoverOutcome:
    """Download, take over, fail; see how the clients end, and whether a new one is served."""
    victims = world.folder / f"{cell}.victim"
    at_old = cell.step in (*DEPARTURE_POINTS, *SOURCE_POINTS)
    spec = cell.failpoint("new" if at_old else "old", victims)
    waits = waits_of(cell)
    old = await world.start(waits=waits, failpoint=spec if at_old else "")
    port = await old.port()
    rate = _SLOW_RATE if cell.is_long else _RATE
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(Relay(port)) for _ in range(_DOWNLOADS)]
        curls = [
            await stack.enter_async_context(world.curl(relay.port, _SIZE, rate=rate))
            for relay in relays
        ]
        for curl in curls:
            await curl.received(_BEGIN_AT)
        new = await world.fork(
            "takeover",
            old,
            waits=waits,
            failpoint="" if at_old else spec,
            deadline_s=_DEADLINE_S,
            hold=str(victims),
        )
        victim = new if cell.victim == "new" else old
        victims.with_suffix(".new").write_text(str(victim.pid))
        victims.with_suffix(".new").rename(victims)
        stopped_s = await strike(cell.fault, victim, curls)
        for curl in curls:
            await curl.finish()
        verdicts = [relay.check([Path(old.options.keylog)]) for relay in relays]
        clients = [ending(curl, verdict) for curl, verdict in zip(curls, verdicts, strict=True)]
        errors = [curl.outcome.error for curl in curls if curl.outcome is not None]
        # The process that is left has the port to itself, and serves.
        await until(lambda: old.alive != new.alive, "one of the two to be left")
        async with world.curl(port, 2000) as late:
            await late.end()
            served = late.whole
        for server in (old, new):
            if server.alive:
                server.signal(signal.SIGKILL)
            server.assert_no_mistake()
    await asyncio.sleep(0)
    if cell.fault == "STOP" and stopped_s > STILL_SHORT_S and set(clients) != {"whole"}:
        raise TooLateError(f"a short stop lasted {stopped_s:.1f} s: {errors}")
    return TakeoverOutcome(clients, errors, verdicts, served, f"{old.log()}\n---\n{new.log()}")
