"""`quicbaton drain`: all connections, and those that still come, go to other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from quicbaton.errors import CallerError
from quicbaton.reasons import Reason
from quicbaton.service.node.bulk import BulkHandoff, OwnConnections
from quicbaton.service.node.changes import Changes
from quicbaton.service.node.control import Handler
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.link import Link
from quicbaton.service.timing import PROGRESS_S


class Draining:
    """Answers `Drain` and `StopDraining` for one process."""

    def __init__(
        self,
        connections: OwnConnections,
        link_to: Callable[[str], Awaitable[Link]],
        running: Callable[[], int],
    ) -> None:
        """`running()`: streams of connections given away whose requests still run here. `changes`
        is to observe the connections."""
        self._connections = connections
        self._link_to = link_to
        self._running = running
        self.changes = Changes(lambda: self._bulk is not None and not self._bulk.waiting)
        self._bulk: BulkHandoff | None = None
        self._task: asyncio.Task[None] | None = None
        self._all = False
        #: A command waits for the drain.
        self._moving = False

    @property
    def active(self) -> bool:
        """Whether new connections are passed on."""
        return self._all

    def handlers(self) -> dict[type[c.Frame], Handler]:
        return {c.Drain: self._drain, c.StopDraining: self._stop_draining}

    def on_connection(self, name: bytes) -> None:
        """A connection is ours now."""
        if self._all and self._bulk is not None:
            self._bulk.add([name])

    def on_blackout(self, blackout_us: int) -> None:
        """A destination has reported how long a connection of ours stood still."""
        if self._bulk is not None:
            self._bulk.note_blackout(blackout_us)

    def stop(self) -> None:
        """Keep the connections that are here, and new ones."""
        self._all = False
        self._bulk = None
        self.changes.note()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # --- helpers --------------------------------------------------------------------------------

    async def _drain(self, channel: Channel, frame: c.Drain) -> c.Frame:
        if self._moving:
            raise CallerError(
                "a drain of this process is under way: wait for it, or end it with `drain --undo`",
                code=Reason.BUSY,
            )
        # A drain that is done still passes on new connections: from now on to the new destinations.
        self.stop()
        bulk = BulkHandoff(
            self._connections,
            self._link_to,
            frame.to,
            proxy=frame.proxy,
            on_done=self.changes.note,
        )
        self._bulk = bulk
        self._moving = True
        self._all = frame.count < 0
        names = self._connections.names()
        bulk.begin(names if self._all else names[: frame.count])
        self._task = asyncio.create_task(bulk.work())
        begun = monotonic()
        next_progress = begun
        finished = False
        try:
            # A process that is drained may end: running requests here are waited for, too.
            while bulk.waiting or (self._all and self._running()):
                if bulk.is_due(begun + frame.deadline_s) or channel.closed:
                    break
                if self._bulk is not bulk:
                    break  # Another command has ended it.
                if monotonic() >= next_progress:
                    next_progress += PROGRESS_S
                    done = bulk.moved + bulk.proxied
                    channel.write(c.encode(c.DrainProgress(done, bulk.left)))
                await self.changes.wait(next_progress)
            finished = True
        finally:
            self._moving = False
            if not (finished and self._all):
                self.stop()
        # The last connections' new owners have yet to report how long they stood still.
        await asyncio.sleep(PROGRESS_S)
        return c.Drained(
            moved=bulk.moved,
            proxied=bulk.proxied,
            left=bulk.left,
            running=self._running(),
            refused=dict(bulk.refused()),
            examples=bulk.examples(),
            seconds=monotonic() - begun - PROGRESS_S,
            blackouts_us=bulk.blackouts_us,
        )

    async def _stop_draining(self, _channel: Channel, _frame: c.StopDraining) -> c.Frame:
        self.stop()
        return c.Answer(True, Reason.OK, "connections stay here again")
