"""The processes of a service that were replaced and live on."""

from __future__ import annotations

import asyncio

from quicbaton.errors import QuicbatonError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from quicbaton.service.supervisor.spawn import Process
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.timing import LIST_S


async def read_old_processes(supervisor: Supervisor) -> list[c.OldProcessInfo]:
    """What each of them lives on for; one that is about to end is left out. One that does not
    answer, or is of a release that does not know the question, is listed without."""

    async def one(worker: int, process: Process) -> c.OldProcessInfo | None:
        try:
            old = await ask(process.control, c.ReadOldProcess(), c.OldProcessInfo, LIST_S)
        except QuicbatonError as error:
            if process.exited.is_set() or error.code is Reason.UNREACHABLE:
                return None  # it listens no more
            return c.OldProcessInfo(worker, process.pid, 0, 0.0, 0, 0, 0, 0)
        return None if old.is_idle else old

    old = [
        one(slot.number, process)
        for slot in supervisor.slots
        for process in slot.processes
        if process.replaced
    ]
    return [found for found in await asyncio.gather(*old) if found is not None]
