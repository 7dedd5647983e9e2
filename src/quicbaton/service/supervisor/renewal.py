"""Replaces workers that have reached their limit of requests (`--limit-max-requests`).

Such a limit is for programs that lose memory. It costs no client anything: a worker is replaced as
`quicbaton reload` replaces it, one at a time and never beside a reload, and requests go on.
"""

from __future__ import annotations

import asyncio
import random
from time import monotonic

from quicbaton.counted import counted
from quicbaton.errors import QuicbatonError
from quicbaton.limits import MAX_LINGERING_WORKERS
from quicbaton.service.peers import commands as c
from quicbaton.service.supervisor.backoff import Backoff
from quicbaton.service.supervisor.reload import Reloads
from quicbaton.service.supervisor.spawn import Process
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.worker_slot import WorkerSlot
from quicbaton.service.timing import LOOK_S


class Renewals:
    """The limit of each process is `most_requests` and a random number up to `jitter`, so that
    workers that began together are not replaced together."""

    def __init__(
        self, supervisor: Supervisor, reloads: Reloads, most_requests: int, jitter: int = 0
    ) -> None:
        self._supervisor = supervisor
        self._reloads = reloads
        self._most_requests = most_requests
        self._jitter = jitter
        self._terms = [_Term(slot) for slot in supervisor.slots]

    async def run(self) -> None:
        """Replace workers that have reached their limit, until the service stops."""
        while not self._supervisor.stopping:
            await asyncio.sleep(LOOK_S)
            for term in self._terms:
                if self._is_due(term):
                    await self._renew(term)

    # --- helpers, in reading order --------------------------------------------------------------

    def _is_due(self, term: _Term) -> bool:
        slot, process = term.slot, term.slot.current
        # A successor answers at the socket of its predecessor, too.
        if process is None or process.state is None or process.state.pid != process.pid:
            return False
        if term.process is not process:
            term.begin(process, self._most_requests + random.randint(0, self._jitter))
        if process.state.requests < term.most_requests or monotonic() < term.not_before_s:
            return False
        lingering = sum(other.replaced for other in slot.processes)
        if lingering < MAX_LINGERING_WORKERS:
            return True
        if not term.is_delayed:
            term.is_delayed = True
            self._supervisor.say(
                "renewal_waits",
                f"{_describe(term, process.state)}: it goes on until one of {lingering} processes "
                "before it has ended, in which requests still run (`quicbaton reload --grace "
                "SECONDS` cuts them)",
                worker=slot.number,
                pid=process.pid,
            )
        return False

    async def _renew(self, term: _Term) -> None:
        slot, process = term.slot, term.slot.current
        if self._reloads.running or process is None or process.state is None:
            return
        self._supervisor.say(
            "renewing",
            f"{_describe(term, process.state)}: it is replaced",
            worker=slot.number,
            pid=process.pid,
            requests=process.state.requests,
        )
        try:
            await self._reloads.renew(slot)
        except QuicbatonError as error:
            term.not_before_s = monotonic() + term.backoff.after(0.0)
            self._supervisor.say(
                "renewal_failed",
                f"worker {slot.number} could not be replaced and goes on as it was: {error}",
                worker=slot.number,
                message=str(error),
            )


class _Term:
    """One worker number's present process, and its limit."""

    def __init__(self, slot: WorkerSlot) -> None:
        self.slot = slot
        self.process: Process | None = None
        self.most_requests = 0
        self.is_delayed = False
        #: No earlier than this, after replacements that failed.
        self.not_before_s = 0.0
        self.backoff = Backoff()

    def begin(self, process: Process, most_requests: int) -> None:
        self.process = process
        self.most_requests = most_requests
        self.is_delayed = False
        self.not_before_s = 0.0
        self.backoff = Backoff()


def _describe(term: _Term, state: c.WorkerState) -> str:
    had = counted(state.requests, "request")
    return f"worker {term.slot.number} has had {had}, and its limit is {term.most_requests}"
