"""One worker number of a service, and its processes."""

from __future__ import annotations

import asyncio

from quicbaton.service.supervisor.backoff import Backoff
from quicbaton.service.supervisor.spawn import Process


class WorkerSlot:
    """At most one of its processes is `current`; during a reload there are two for a while."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.current: Process | None = None
        #: It was told to serve, and has not answered yet.
        self.beginning: Process | None = None
        #: Processes beside it that are ready, arriving, departing or lingering.
        self.others: set[Process] = set()
        #: Whether a reload is replacing the current one.
        self.replacing = False
        #: The task that brings up a new current one.
        self.restart: asyncio.Task[None] | None = None
        self.backoff = Backoff()
        #: There are to be fewer workers: it gets no new process, and ends when it has nothing left.
        self.leaves = False
        self.restarts = 0
        self.state = "starting"
        #: The reason why it is down.
        self.message = ""
        #: Dead processes of this number about which not every worker has answered.
        self.unsettled = 0
        #: Processes of this number that served and have ended, in good order or not.
        self.ended = 0
        #: IDs of this number whose connections live in other workers, with the workers' numbers.
        self.elsewhere: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<WorkerSlot {self.number} {self.state} {self.current}>"

    @property
    def newest(self) -> Process | None:
        """The process that others are to know: it has the number, or is about to have it."""
        return self.beginning or self.current

    @property
    def processes(self) -> list[Process]:
        """All living processes of the number."""
        known = [*self.others] if self.current is None else [self.current, *self.others]
        return [process for process in known if not process.exited.is_set()]
