"""One handoff from host to host under a running download, with one fault at one point.

    source, destination: KILL, or STOP and go on, before or after the other side's deadline
    servers, client: the network between them, or between client and source, is CUT and mended,
        before or after every deadline

The process that passes the point raises the signal, on itself or on the other. A cut is exact, too:
the process that passes the point stops, the network is cut, and the process goes on.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Self

from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.lossy_link import CLEAR, Condition
from tests.hosts.sites import CUT, Site, hand_over, two_hosts
from tests.processes.cells import (
    RATE,
    SIZE,
    STEPS,
    HandoffCell,
    connection_of,
    ending,
    struck,
    waits_of,
)
from tests.processes.harness import Curl, Server
from tests.processes.matrix import Faults, TooLateError
from tests.processes.wire import Verdict

FAULTS: Faults = (
    ("source", "KILL"),
    ("source", "STOP"),
    ("source", "STOP long"),
    ("destination", "KILL"),
    ("destination", "STOP"),
    ("destination", "STOP long"),
    ("servers", "CUT"),
    ("servers", "CUT long"),
    ("client", "CUT"),
)
#: The client of a long fault is to be there when it is over.
_SLOW_RATE = 190_000
_BEGIN_AT = 40_000
_SHORT_S = 0.05
#: Above every wait for the other side but the one for strays.
_LONG_S = 1.3
#: A short fault that a busy machine made longer proves nothing of deadlines.
STILL_SHORT_S = 1.0
#: A handoff that was broken off is over on both sides, and the next one is made, within this.
_TIME_TO_HAND_ON_S = 1.5
#: Nobody can tell whether a host beyond a partition lives. Its clients find out by themselves.
_CLIENT_TIMEOUT_S = 5.0


class HostCell(HandoffCell):
    """A fault of one of two hosts, or of the network between them."""

    @property
    def action(self) -> str:
        return "KILL" if self.fault == "KILL" else "STOP"

    @property
    def survives(self) -> bool:
        """Whether the connection must outlive the fault."""
        at = STEPS.index(self.step)
        if self.fault == "KILL":
            # The source has it until it commits; once COMMITTED is out the destination does.
            if self.victim == "source":
                return at > STEPS.index("after_committed")
            # Once the baton is out it may have said READY by the time that it dies.
            return at < STEPS.index("after_baton")
        return not self.is_long

    @property
    def is_given_up(self) -> bool:
        """Whether its client waits for a few seconds only, rather than until it is handed on."""
        return self.is_long or (self.fault == "KILL" and not self.survives)

    @property
    def may_be_lost(self) -> bool:
        """Whether the owner may be gone without anybody who could tell the client."""
        return self.fault == "KILL" or self.is_long


@dataclass
class HostOutcome:
    """How a cell's client ended, and what the wire showed."""

    client: str  # whole, reset, closed, lost; or what must not be
    error: str
    verdict: Verdict
    fault_s: float
    in_time: bool
    #: The results of handing the connection over, and of handing it on after the fault.
    answers: list[str]
    #: It was handed on, or its client had all that it wanted before there was time for that.
    handed_on: bool

    def __str__(self) -> str:
        return self.client


CELLS = [HostCell(step, victim, fault) for step in STEPS for victim, fault in FAULTS]


class Sites:
    """Several pairs of hosts, each for one cell at a time."""

    def __init__(self, folder: Path, certificate: CertificateFiles, seed: str, count: int) -> None:
        self._folder = folder
        self._certificate = certificate
        self._seed = seed
        self._count = count
        self._free: asyncio.Queue[Site] = asyncio.Queue()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for number in range(self._count):
            folder = self._folder / f"{number}"
            folder.mkdir()
            site = two_hosts(folder, f"{self._seed}/{number}", self._certificate, shared=True)
            self._free.put_nowait(await self._stack.enter_async_context(site))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Site]:
        """A pair on which nothing runs."""
        site = await self._free.get()
        try:
            await site.network.forget()
            yield site
        finally:
            for world in site.worlds.values():
                for server in world.servers:
                    if server.alive:
                        server.signal(signal.SIGKILL)
                        await server.gone()
                world.servers.clear()
            await site.between_servers(CLEAR)
            await site.between_client_and("a", CLEAR)
            self._free.put_nowait(site)


async def run_host_cell(sites: Sites, cell: HostCell) -> HostOutcome:
    """Download, hand over, fail; see how the client ends."""
    async with sites.one() as site:
        return await _run(site, cell)


async def _run(site: Site, cell: HostCell) -> HostOutcome:
    victims = site.cluster / f"{cell}.victim"
    spec = cell.failpoint("destination" if cell.at_source else "source", victims)
    waits = waits_of(cell)
    source = await site.start("a", waits=waits, failpoint=spec if cell.at_source else "")
    destination = await site.start("b", waits=waits, failpoint="" if cell.at_source else spec)
    keylogs = [Path(one.options.keylog) for one in (source, destination)]
    rate = _SLOW_RATE if cell.is_long else RATE
    patience = {"timeout_s": _CLIENT_TIMEOUT_S, "holds": False} if cell.is_given_up else {}
    async with site.curl("a", SIZE, rate=rate, **patience) as curl:
        connection = await connection_of(curl, source)
        await curl.received(_BEGIN_AT)
        if cell.victim in ("source", "destination"):
            victim = source if cell.victim == "source" else destination
        else:
            victim = source if cell.at_source else destination
        victims.write_text(str(victim.pid))
        over = asyncio.Event()
        began = monotonic()
        asking = asyncio.create_task(_ask(source, connection, over))
        try:
            fault_s = await _strike(site, cell, victim, curl, lambda: _has_failed(asking))
            in_time = monotonic() - began - fault_s < waits.frozen_s
            since = monotonic()
        finally:
            over.set()
            answers = await asking
        answered_in_time = monotonic() - since < waits.frozen_s
        since = monotonic()
        answers += await _hand_on(source, destination, curl)
        handed_on = (
            answers[-1].endswith((" ok", "closed")) or monotonic() - since < _TIME_TO_HAND_ON_S
        )
        ended = await curl.finish()
        verdict = (await site.datagrams()).check(keylogs)
        for server in (source, destination):
            server.assert_no_mistake()
    client = ending(curl, verdict)
    if cell.survives and client != "whole" and not answered_in_time:
        raise TooLateError(f"a deadline after the fault was missed: {ended.error}")
    return HostOutcome(
        client="lost" if client == "TIMEOUT" else client,
        error=ended.error,
        verdict=verdict,
        fault_s=fault_s,
        in_time=in_time,
        answers=answers,
        handed_on=handed_on,
    )


def _has_failed(asking: asyncio.Task[list[str]]) -> bool:
    return asking.done() and asking.result()[-1] != "ok"


async def _ask(source: Server, connection: str, over: asyncio.Event) -> list[str]:
    """Hand over; again, when a busy machine has missed a deadline before the point was reached."""
    answers = []
    while True:
        answer = await hand_over(source, connection, "b/0")
        answers.append(answer.code)
        if answer.ok or over.is_set() or answer.code == "no_such_connection":
            return answers
        await asyncio.sleep(0.01)


async def _strike(
    site: Site, cell: HostCell, victim: Server, curl: Curl, has_failed: Callable[[], bool]
) -> float:
    """Wait for the fault, and end it. For how long it lasted."""
    await struck(cell.fault, victim, [curl], has_failed)
    if cell.fault == "KILL":
        return 0.0
    since = monotonic()
    long_s = _LONG_S if cell.is_long else _SHORT_S
    if cell.fault.startswith("CUT"):
        await _set(site, cell.victim, CUT)
        victim.signal(signal.SIGCONT)
        await asyncio.sleep(long_s)
        await _set(site, cell.victim, CLEAR)
    else:
        await asyncio.sleep(long_s)
        victim.signal(signal.SIGCONT)
    return monotonic() - since


async def _set(site: Site, victim: str, condition: Condition) -> None:
    if victim == "servers":
        await site.between_servers(condition)
    else:
        await site.between_client_and("a", condition)


async def _hand_on(source: Server, destination: Server, curl: Curl) -> list[str]:
    """Hand the connection on, from its owner to the other process: it can go on living."""
    answers = []
    while source.alive and destination.alive and curl.outcome is None:
        for owner, other in ((source, "b/0"), (destination, "a/0")):
            infos = (await owner.list()).connections
            if infos:
                answer = await hand_over(owner, infos[0].connection, other)
                answers.append(f"{other} {answer.code}")
                if answer.ok:
                    return answers
        await asyncio.sleep(0.01)
    return answers
