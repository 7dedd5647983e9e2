"""Changes the number of a service's workers under its connections.

More: the new sockets join the port's group behind the others, every worker gets a copy of them, and
the new workers begin; then the kernel is told of them.

Fewer: the last workers hand all that they have to the others, and what still comes; then the kernel
is told to leave them out, and the others close their copies of those sockets. Such a worker ends
when nothing is left in it: connections that cannot move, requests that run in it and whose streams
are relayed, clients that have yet to use their new IDs. The sockets of the others keep their places
in the group, since only the last ones go.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Final

from quicbaton.counted import counted
from quicbaton.errors import CallerError, PeerError, QuicbatonError
from quicbaton.limits import MAX_WORKERS
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import IdConfigs, IdLayout
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import Conversation, ask
from quicbaton.service.supervisor.spawn import Process
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.systemd import socket_name
from quicbaton.service.supervisor.worker_slot import WorkerSlot
from quicbaton.service.timing import LEAVE_S, LOOK_S, SHARE_S

#: For requests that run in a worker that leaves: as long as they take.
_AS_LONG_AS_IT_TAKES_S: Final = 30 * 86_400.0

OnStep = Callable[[c.ReloadStep], None]


class Scaling:
    """Adds and removes workers. One change at a time: the caller sees to it."""

    def __init__(self, supervisor: Supervisor, ids: Callable[[], IdLayout | IdConfigs]) -> None:
        """`ids()` are the present forms of connection IDs, which the kernel reads."""
        self._supervisor = supervisor
        self._ids = ids
        #: Tasks that wait for workers to end.
        self._ends: set[asyncio.Task[None]] = set()

    async def run(self, workers: int, on_step: OnStep) -> c.Answer:
        """Have that many workers. Raises when there are as many as before."""
        if not 1 <= workers <= MAX_WORKERS:
            raise CallerError(
                f"a service has 1 to {MAX_WORKERS} workers, not {workers}", code=Reason.WORKERS
            )
        before = len(self._supervisor.slots)
        if workers > before:
            await self._until_nobody_leaves()
            await self._grow(workers, on_step)
        left = await self._shrink(workers, on_step) if workers < before else 0
        text = f"{counted(workers, 'worker')}, {before} before"
        if left:
            text += f"; {counted(left, 'connection')} could not move yet and stay where they are"
        return c.Answer(True, Reason.OK, text)

    # --- helpers, in reading order --------------------------------------------------------------

    async def _until_nobody_leaves(self) -> None:
        """Return when no worker that is to end holds sockets. New ones would join the group behind
        them, and have other numbers there than their workers. CallerError when it takes long."""
        if self._ends:
            await asyncio.wait(self._ends, timeout=LEAVE_S)
        if leaving := self._supervisor.leaving:
            pids = [str(process.pid) for slot in leaving for process in slot.processes]
            raise CallerError(
                f"workers of the last change have not ended yet (pid {', '.join(pids)}): "
                "connections or requests are left in them. Try again, or end them by SIGTERM",
                code=Reason.BUSY,
            )

    async def _grow(self, workers: int, on_step: OnStep) -> None:
        supervisor = self._supervisor
        group = supervisor.group
        before = len(supervisor.slots)
        group.grow(workers)
        new = [WorkerSlot(number) for number in range(before, workers)]
        try:
            await self._share(before)
            processes = []
            for slot in new:
                processes.append(supervisor.new_process(slot))
                on_step(_step(slot, "starting", workers, processes[-1]))
            for process in processes:
                await process.wait_ready(supervisor.settings.health_timeout_s)
            supervisor.slots += new
            for slot, process in zip(new, processes, strict=True):
                await supervisor.begin(slot, process)
                supervisor.keep(socket_name(slot.number), group.sockets[slot.number].fileno())
                on_step(_step(slot, "done", workers, process))
        except BaseException:
            started = [process for slot in new for process in slot.processes]
            for slot in new:
                slot.leaves = True
            for process in started:
                process.signal(signal.SIGKILL)
            del supervisor.slots[before:]
            # Until then they hold the sockets open.
            await asyncio.gather(*(process.exited.wait() for process in started))
            group.shrink(before)
            group.steer(self._ids())
            with contextlib.suppress(QuicbatonError):
                await self._share(before)
            raise
        group.steer(self._ids())

    async def _shrink(self, workers: int, on_step: OnStep) -> int:
        """Returns the number of connections that have not moved."""
        supervisor = self._supervisor
        leaving = supervisor.slots[workers:]
        serving = supervisor.serving().items()
        staying = [str(path) for number, path in serving if number < workers]
        if not staying:
            raise CallerError("no worker would stay that serves", code=Reason.NO_WORKER)
        for slot in leaving:
            slot.leaves = True
            if slot.restart is not None:
                slot.restart.cancel()
        try:
            left = await asyncio.gather(*(self._empty(slot, staying, on_step) for slot in leaving))
        except BaseException:
            await self._stay(leaving)
            raise
        del supervisor.slots[workers:]
        supervisor.leaving += leaving
        supervisor.group.shrink(workers)
        supervisor.group.steer(self._ids())
        for slot in leaving:
            supervisor.drop(socket_name(slot.number))
        # A worker that is not reached keeps its copies open until it ends, and reads none.
        with contextlib.suppress(QuicbatonError):
            await self._share(workers)
        for slot in leaving:
            task = supervisor.spawn(self._let_end(slot, staying[0]))
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)
        return sum(left)

    async def _stay(self, slots: list[WorkerSlot]) -> None:
        """They do not go after all: they keep what comes, and are replaced when they die."""
        for slot in slots:
            slot.leaves = False
            if slot.current is None:
                self._supervisor.restart(slot)
                continue
            with contextlib.suppress(QuicbatonError):
                await ask(slot.current.control, c.StopDraining(), c.Answer)

    async def _empty(self, slot: WorkerSlot, staying: list[str], on_step: OnStep) -> int:
        """Have a worker hand over what it has and what comes. Returns what has not moved."""
        process = slot.current
        if process is None or not process.begun:
            return 0
        settings = self._supervisor.settings
        total = len(self._supervisor.slots)
        command = c.Drain(staying, proxy=False, count=-1, deadline_s=settings.takeover_s)
        left = 0
        try:
            with await Conversation.begin(process.control) as asked:
                asked.channel.write(c.encode(command))
                while isinstance(frame := await asked.next(), c.DrainProgress):
                    left = frame.left
                    on_step(_step(slot, "moving", total, process, frame.moved, left))
                    if not left:
                        # It would wait for requests, too, which go on without us.
                        break
                if isinstance(frame, c.Drained):
                    left = frame.left
        except PeerError:
            if not process.exited.is_set():
                raise
        on_step(_step(slot, "done", total, process, left=left))
        return left

    async def _let_end(self, slot: WorkerSlot, other: str) -> None:
        """Have a worker end when it has no connection any more."""
        supervisor = self._supervisor
        while (process := slot.current) is not None and not supervisor.stopping:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(QuicbatonError):
                await process.look()
                state = process.state
                if state is None or state.connections or state.handshakes:
                    continue
                stop = c.Stop(_AS_LONG_AS_IT_TAKES_S, other)
                await ask(process.control, stop, c.Left, _AS_LONG_AS_IT_TAKES_S)
                process.signal(signal.SIGTERM)
                await process.exited.wait()
        if slot in supervisor.leaving and not slot.processes:
            supervisor.leaving.remove(slot)

    async def _share(self, first: int) -> None:
        """Give every worker the sockets from number `first` on, in place of those that it has."""
        sockets = [sock.fileno() for sock in self._supervisor.group.sockets[first:]]

        async def share(process: Process) -> None:
            with await Conversation.begin(process.control, SHARE_S) as asked:
                asked.channel.write_descriptors(c.encode(c.ShareSockets(first)), sockets)
                await asked.expect(c.Answer)

        slots = self._supervisor.slots[:first]
        everybody = [process for slot in slots for process in slot.processes if process.begun]
        answers = await asyncio.gather(*map(share, everybody), return_exceptions=True)
        for process, answer in zip(everybody, answers, strict=True):
            if isinstance(answer, BaseException) and process.serves:
                raise answer


def _step(
    slot: WorkerSlot, phase: str, workers: int, process: Process, moved: int = 0, left: int = 0
) -> c.ReloadStep:
    return c.ReloadStep(slot.number, workers, phase, process.pid, moved, left, 0, 0.0, "")
