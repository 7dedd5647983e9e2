"""The answers of a whole service at its control socket, in the form of one server's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from itertools import chain
from pathlib import Path

from quicbaton.errors import CallerError, QuicbatonError
from quicbaton.handoff.timeline import Timeline
from quicbaton.reasons import Reason
from quicbaton.service.node.connections import check_moves
from quicbaton.service.node.control import Control, Handler
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask, splice
from quicbaton.service.peers.channel import Channel, Listener, connect_channel
from quicbaton.service.peers.listing import at_their_owners
from quicbaton.service.supervisor.old_processes import read_old_processes
from quicbaton.service.supervisor.reload import Reloads
from quicbaton.service.supervisor.spawn import Process
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.worker_slot import WorkerSlot
from quicbaton.service.timing import LIST_S


class ServiceControl:
    """Listens at `control` on a supervisor's behalf.

    `on_stop(grace_s, to)` ends the service; `on_reload(on_step)` replaces its workers.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        control: Path,
        *,
        reloads: Reloads,
        on_stop: Callable[[float, str], Awaitable[c.Left]],
    ) -> None:
        self._supervisor = supervisor
        self._reloads = reloads
        self._on_stop = on_stop
        handlers: dict[type[c.Frame], Handler] = {
            c.ListConnections: self._list,
            c.ListByWorker: self._list_by_worker,
            c.HandOff: self._pass_on,
            c.HandOffProxied: self._pass_on,
            c.Save: self._pass_on,
            c.Freeze: self._freeze,
            c.Revive: self._revive,
            c.ReadTimelines: self._read_timelines,
            c.PassSocket: self._pass_socket,
            c.ServiceStatus: self._status,
            c.ListOldProcesses: self._list_old,
            c.ReadTallies: self._read_tallies,
            c.Reload: self._reload,
            c.Stop: self._stop,
        }
        #: Takes further commands: `control.add`.
        self.control = Control(
            handlers,
            # Connections live in workers, which hold the links.
            open_link=lambda channel, _rest: channel.abort(),
            spawn=lambda work: supervisor.spawn(work()),
        )
        self._listener = Listener(control, self.control.on_channel)

    def close(self) -> None:
        self._listener.close()

    # --- handlers -------------------------------------------------------------------------------

    async def _list(self, _channel: Channel, _frame: c.ListConnections) -> c.Frame:
        listed = [answer for _, _, answer in await self._lists()]
        return c.Connections(
            pid=os.getpid(),
            address=self._supervisor.group.address,
            accepted=sum(one.accepted for one in listed),
            resumed=sum(one.resumed for one in listed),
            given=sum(one.given for one in listed),
            datagrams_sent=sum(one.datagrams_sent for one in listed),
            datagrams_received=sum(one.datagrams_received for one in listed),
            datagrams_forwarded=sum(one.datagrams_forwarded for one in listed),
            connections=[info for one in listed for info in one.connections],
        )

    async def _list_by_worker(self, _channel: Channel, _frame: c.ListByWorker) -> c.Frame:
        lists = await self._lists()
        return c.ByWorker(
            pid=os.getpid(),
            address=self._supervisor.group.address,
            workers=[c.WorkerConnections(worker, listed) for worker, _, listed in lists],
        )

    async def _pass_on(
        self, _channel: Channel, frame: c.HandOff | c.HandOffProxied | c.Save
    ) -> c.Frame:
        """Pass the command to the worker that has the connection."""
        owner = await self._owner(frame.connection)
        return await ask(owner.control, frame, c.Answer)

    async def _owner(self, prefix: str) -> Process:
        """The worker that has the connection whose name begins with `prefix`."""
        check_moves(prefix)
        prefix = prefix.lower()
        owners = [
            process
            for _, process, listed in await self._lists()
            for info in listed.connections
            if info.connection.startswith(prefix) and info.state not in ("handshake", "tcp")
        ]
        if len(owners) != 1:
            text = "no connection" if not owners else f"{len(owners)} connections"
            raise CallerError(
                f"{text} here whose name begins with {prefix!r}: see `ps`",
                code=Reason.NO_SUCH_CONNECTION,
            )
        return owners[0]

    async def _freeze(self, channel: Channel, frame: c.Freeze) -> None:
        """Connect the caller with the worker that has the connection: they talk to each other
        then."""
        owner = await self._owner(frame.connection)
        splice(channel, await connect_channel(owner.control), c.encode(frame))

    async def _revive(self, _channel: Channel, frame: c.Revive) -> c.Frame:
        """Have any worker revive the connection."""
        workers = list(self._supervisor.serving().values())
        if not workers:
            raise CallerError("no worker serves", code=Reason.NO_WORKER)
        return await ask(workers[0], frame, c.Answer)

    async def _read_timelines(self, _channel: Channel, frame: c.ReadTimelines) -> c.Frame:
        """The timelines of all workers. A worker that does not answer is left out."""

        async def one(process: Process) -> list[Timeline]:
            try:
                wait_s = frame.wait_s + LIST_S
                return (await ask(process.control, frame, c.Timelines, wait_s)).timelines
            except QuicbatonError:
                return []

        found = await asyncio.gather(*(one(process) for _, process in self._serving()))
        return c.Timelines(sorted(chain(*found), key=lambda timeline: timeline.began))

    async def _pass_socket(self, channel: Channel, frame: c.PassSocket) -> None:
        sockets = self._supervisor.group.sockets
        if not 0 <= frame.number < len(sockets):
            raise CallerError(f"there are {len(sockets)} sockets", code=Reason.NO_SUCH_SOCKET)
        channel.write_descriptors(
            c.encode(c.SocketOf(frame.number, len(sockets))), [sockets[frame.number].fileno()]
        )

    async def _status(self, _channel: Channel, _frame: c.ServiceStatus) -> c.Frame:
        supervisor = self._supervisor
        await asyncio.gather(
            *(process.look() for _, process in self._serving()), return_exceptions=True
        )
        return c.Service(
            pid=os.getpid(),
            address=supervisor.group.address,
            workers=[_describe(slot) for slot in supervisor.slots],
        )

    async def _list_old(self, _channel: Channel, _frame: c.ListOldProcesses) -> c.Frame:
        return c.OldProcesses(await read_old_processes(self._supervisor))

    async def _read_tallies(self, _channel: Channel, _frame: c.ReadTallies) -> c.Frame:
        return c.Tallies(await self._supervisor.tallies())

    async def _reload(self, channel: Channel, frame: c.Reload) -> c.Frame:
        peer = channel.peer
        return await self._reloads.run(
            lambda step: channel.write(c.encode(step)),
            frame.health_timeout_s,
            frame.grace_s,
            by=f"node {peer.node}" if channel.is_remote else f"pid {peer.pid}",
            is_wanted=lambda: not channel.closed,
        )

    async def _stop(self, _channel: Channel, frame: c.Stop) -> c.Frame:
        grace_s = self._supervisor.settings.grace_s if frame.grace_s < 0 else frame.grace_s
        return await self._on_stop(grace_s, frame.to)

    # --- helpers --------------------------------------------------------------------------------

    def _serving(self) -> list[tuple[int, Process]]:
        """Serving processes by worker number. During a reload there are two of one number."""
        return [
            (slot.number, process)
            for slot in self._supervisor.slots
            for process in slot.processes
            if process.serves
        ]

    async def _lists(self) -> list[tuple[int, Process, c.Connections]]:
        """The connections of each worker. A worker that does not answer is left out."""

        async def one(worker: int, process: Process) -> tuple[int, Process, c.Connections] | None:
            try:
                listed = await ask(process.control, c.ListConnections(), c.Connections, LIST_S)
            except QuicbatonError:
                return None
            return worker, process, listed if process.serves else _without_counters(listed)

        old = [
            (slot.number, process)
            for slot in self._supervisor.slots
            for process in slot.processes
            if process.replaced
        ]
        answers = await asyncio.gather(*(one(*each) for each in self._serving() + old))
        found = [answer for answer in answers if answer is not None]
        once = at_their_owners([listed for _, _, listed in found])
        return [
            (worker, process, listed)
            for (worker, process, _), listed in zip(found, once, strict=True)
        ]


def _without_counters(listed: c.Connections) -> c.Connections:
    """The connections of an old process. What it has counted, of clients that had come to it, is
    no part of the present."""
    return c.Connections(
        listed.pid, listed.address, 0, 0, 0, 0, 0, 0, connections=listed.connections
    )


def _describe(slot: WorkerSlot) -> c.WorkerInfo:
    process = slot.current
    state = process.state if process is not None else None
    return c.WorkerInfo(
        worker=slot.number,
        pid=process.pid if process is not None else 0,
        state=slot.state,
        control=str(process.control) if process is not None else "",
        restarts=slot.restarts,
        connections=state.connections if state is not None else 0,
        handshakes=state.handshakes if state is not None else 0,
        accepted=state.accepted if state is not None else 0,
        tossed=state.tossed if state is not None else 0,
        reset=state.reset if state is not None else 0,
        requests=state.requests if state is not None else 0,
        message=slot.message,
    )
