"""Keeps the workers of a service alive: starts, watches and replaces them, and settles what a dead
one leaves.

It owns the port's sockets and never reads one. It can learn all that it knows of its workers anew
from them, so it may be killed at any time: the workers serve on, and the next supervisor of the
port gets the sockets and the workers back (`adoption`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask, follow
from quicbaton.service.peers.tally import Tally
from quicbaton.service.supervisor.adoption import Found
from quicbaton.service.supervisor.dead_workers import Announcer, Verdict, survey
from quicbaton.service.supervisor.ending import end
from quicbaton.service.supervisor.group import Group
from quicbaton.service.supervisor.settings import Keeper, Say, Settings
from quicbaton.service.supervisor.spawn import Process, Spawner
from quicbaton.service.supervisor.systemd import roster_name
from quicbaton.service.supervisor.worker_slot import WorkerSlot
from quicbaton.service.timing import END_S, LOOK_ANSWER_S, LOOK_S, SURVEY_AGAIN_S

#: The pid of a worker that is gone, and that no process remembers.
_UNKNOWN_PID: Final = 0
#: The reasons in a worker's answer to Begin that mean that it serves.
_SERVES: Final = frozenset({Reason.OK, Reason.CUT, Reason.PREDECESSOR_DIED})


class Supervisor:
    """`say(event, text, **fields)` is called with each event of the service."""

    def __init__(
        self,
        group: Group,
        spawner: Spawner,
        *,
        ring: Callable[[], KeyRing],
        settings: Settings,
        say: Say,
        keeper: Keeper,
        others_may_own: bool = False,
    ) -> None:
        self.group = group
        self.settings = settings
        self.say = say
        self.slots = [WorkerSlot(number) for number in range(len(group.sockets))]
        #: Slots that there are to be no more. Their processes end by themselves.
        self.leaving: list[WorkerSlot] = []
        self.stopping = False
        self.figures = spawner.figures
        self._spawner = spawner
        self._keeper = keeper
        #: A dead worker's connections may belong to processes that cannot be asked: those of other
        #: hosts, or any by a shared store.
        self._others_may_own = others_may_own
        self._announcer = Announcer(group.sockets[0], ring)
        self._tasks: set[asyncio.Task[None]] = set()

    # --- commands -------------------------------------------------------------------------------

    async def start(self, found: Sequence[Found] = ()) -> None:
        """Adopt living workers, and start those that are missing.

        Raises NotReadyError when none is adopted and one does not become healthy: the next would
        fail in the same way.
        """
        for one in found:
            self._adopt(one)
        missing = [slot for slot in self.slots if slot.current is None]
        if found:
            for slot in missing:
                # It died while no supervisor watched, and may have handed connections on before.
                slot.unsettled += 1
                slot.ended += 1
                self.spawn(self._settle(slot, _UNKNOWN_PID))
                self.restart(slot)
        else:
            processes = await asyncio.gather(*(self._fresh(slot) for slot in missing))
            for slot, process in zip(missing, processes, strict=True):
                await self.begin(slot, process)
        self.spawn(self._watch())

    async def declare_unknown_dead(self, name: str, pid: int, roster: int) -> None:
        """Reset the clients of a worker that died before our time, of which a roster is left."""
        await self._tell_clients(pid, roster)
        self._keeper.drop(name)
        os.close(roster)

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """Run a coroutine to its end in the background."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def new_process(self, slot: WorkerSlot) -> Process:
        """Start a process beside the slot's current one. Refused once the service stops."""
        if self.stopping:
            raise PeerError("the service is stopping", code=Reason.STOPPING)
        process = self._spawner.start(slot.number, lambda dead: self._on_exit(slot, dead))
        slot.others.add(process)
        # That there was none so far is to be seen before there is one.
        self.figures.count("worker_restarts", str(slot.number), 0)
        self._keeper.keep(roster_name(slot.number, process.pid), process.roster)
        return process

    async def begin(
        self,
        slot: WorkerSlot,
        process: Process,
        predecessor: Process | None = None,
        on_step: Callable[[c.Frame], None] = lambda _step: None,
        *,
        grace_s: float = -1.0,
    ) -> c.Answer:
        """Have a ready process serve. When it answers, it does.

        `grace_s` is the time for the part of its predecessor's work that cannot be handed over at
        once, running requests included. Negative: the service's own time for connections, and
        running requests go on in the background.
        """
        # Of two that begin at the same time the later one is told of the earlier, and tells it.
        workers = {
            other.number: str(other.newest.control)
            for other in self.slots
            if other is not slot and other.newest is not None and other.newest.begun
        }
        process.begun = True
        begin = c.Begin(
            workers=workers,
            predecessor="" if predecessor is None else str(predecessor.control),
            deadline_s=self.settings.takeover_s if grace_s < 0 else grace_s,
            linger_s=math.inf if grace_s < 0 else 0.0,
            elsewhere=slot.elsewhere,
            may_reset=self._may_reset(slot),
        )
        slot.beginning = process
        try:
            answer = await follow(process.control, begin, c.Answer, on_step)
        finally:
            slot.beginning = None
        reason, text = answer.heard()
        if reason not in _SERVES:
            raise PeerError(text, code=reason)
        if process.exited.is_set():
            # It ended after its answer, and is settled. As the current one it would stay for ever.
            raise PeerError(f"the new worker {process.ending()} when it served", code=Reason.DIED)
        if slot.current is not None:
            # It ends by itself, once it has nothing left to do.
            slot.current.be_replaced()
            slot.others.add(slot.current)
        slot.current = process
        slot.others.discard(process)
        slot.state = "serving"
        slot.message = ""
        self.say(
            "worker",
            f"worker {slot.number} serves: pid {process.pid}",
            worker=slot.number,
            pid=process.pid,
            control=str(process.control),
        )
        return answer

    def restart(self, slot: WorkerSlot, lived_s: float = 0.0) -> None:
        """Start a new process for a slot that has none. The last one served for `lived_s`."""
        if self.stopping or slot.leaves:
            return
        if slot.restart is None or slot.restart.done():
            slot.restart = asyncio.get_running_loop().create_task(self._bring_up(slot, lived_s))

    async def stop(self, grace_s: float, to: str) -> c.Left:
        """Have all workers stop in good order. Returns what became of their connections, when the
        workers have ended."""
        self.stopping = True
        for slot in self._all:
            slot.state = "stopping"
            if slot.restart is not None:
                slot.restart.cancel()
        everybody = [process for slot in self._all for process in slot.processes]
        ends = await asyncio.gather(*(end(process, grace_s, to) for process in everybody))
        return c.Left(
            moved=sum(end.moved for end in ends),
            closed=sum(end.closed for end in ends),
            cut=sum(end.cut for end in ends),
        )

    async def count_connections(self) -> int:
        """The number of connections of all workers that answer, old ones included."""
        processes = [process for slot in self.slots for process in slot.processes]
        await asyncio.gather(*(process.look() for process in processes), return_exceptions=True)
        states = [process.state for process in processes if not process.exited.is_set()]
        return sum(state.connections for state in states if state is not None)

    def serving(self) -> dict[int, Path]:
        """Control sockets of the workers that serve, by number."""
        return {
            slot.number: slot.current.control
            for slot in self.slots
            if slot.current is not None and slot.current.begun
        }

    async def tallies(self) -> list[Tally]:
        """The figures of the service, worker by worker, with those of ended processes."""
        return await self.figures.read(process for slot in self._all for process in slot.processes)

    async def kill_all(self) -> None:
        """As `kill`, and wait for their ends."""
        self.kill()
        processes = [process for slot in self.slots for process in slot.processes]
        await asyncio.gather(*(process.exited.wait() for process in processes))

    def kill(self) -> None:
        """End all workers at once. Their clients learn it by resets, if at all."""
        self.stopping = True
        for slot in self._all:
            for process in slot.processes:
                process.signal(signal.SIGKILL)

    async def close(self) -> None:
        """Release everything. Workers that live serve on."""
        tasks: list[asyncio.Task[None]] = list(self._tasks)
        tasks += [slot.restart for slot in self._all if slot.restart is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in self._all:
            for process in slot.processes:
                process.close()
        self.group.close()

    def keep(self, name: str, descriptor: int) -> None:
        """Have a descriptor kept for our successor."""
        self._keeper.keep(name, descriptor)

    def drop(self, name: str) -> None:
        """Have a descriptor kept no more."""
        self._keeper.drop(name)

    # --- lives ----------------------------------------------------------------------------------

    @property
    def _all(self) -> list[WorkerSlot]:
        return [*self.slots, *self.leaving]

    def _adopt(self, found: Found) -> None:
        slot = self.slots[found.state.worker]
        process = self._spawner.adopt(found, lambda dead: self._on_exit(slot, dead))
        rest = ""
        if found.state.state == "lingering":
            process.be_replaced()
            slot.others.add(process)
            rest = ", an old process, for requests that still run in it"
        elif slot.current is None or found.state.state == "serving":
            if slot.current is not None:
                slot.others.add(slot.current)
            slot.current = process
            slot.state = "serving"
        else:
            slot.others.add(process)
        self._keeper.keep(roster_name(slot.number, process.pid), process.roster)
        self.say(
            "adopted",
            f"worker {slot.number} is found alive: pid {process.pid}{rest}",
            worker=slot.number,
            pid=process.pid,
            control=str(process.control),
        )

    async def _fresh(self, slot: WorkerSlot) -> Process:
        process = self.new_process(slot)
        await process.wait_ready(self.settings.health_timeout_s)
        return process

    async def _bring_up(self, slot: WorkerSlot, lived_s: float) -> None:
        """Start a process for the slot until one serves."""
        while not self.stopping:
            wait_s = slot.backoff.after(lived_s)
            lived_s = 0.0
            if wait_s:
                slot.state = "backing off"
                await asyncio.sleep(wait_s)
            slot.state = "starting"
            slot.restarts += 1
            self.figures.count("worker_restarts", str(slot.number))
            process: Process | None = None
            try:
                process = self.new_process(slot)
                await process.wait_ready(self.settings.health_timeout_s)
                await self.begin(slot, process)
                return
            except QuicbatonError as error:
                slot.message = str(error)
                self.say(
                    "worker_failed",
                    f"worker {slot.number} does not come up: {error}",
                    worker=slot.number,
                    message=str(error),
                )
            finally:
                # Perhaps it was cancelled: a reload starts a process of its own, or the service
                # stops.
                if process is not None and slot.current is not process:
                    process.signal(signal.SIGKILL)

    def _on_exit(self, slot: WorkerSlot, process: Process) -> None:
        slot.others.discard(process)
        if process.replaced:
            # No other process ever has this path.
            with contextlib.suppress(OSError):
                process.control.unlink(missing_ok=True)
        was_current = slot.current is process
        if was_current:
            slot.current = None
        if self.stopping:
            return
        if process.begun:
            slot.ended += 1
            self.spawn(self._declare_dead(slot, process))
        else:
            self._let_go(slot, process)
        if slot.leaves and not process.has_failed:
            self.say(
                "worker_left",
                f"worker {slot.number} has nothing left and has ended: pid {process.pid}",
                worker=slot.number,
                pid=process.pid,
            )
            return
        if not was_current:
            if process.replaced and process.has_failed:
                self.say(
                    "worker_died",
                    f"the old process {process.pid} of worker {slot.number} {process.ending()}: "
                    "requests that still ran in it are reset",
                    worker=slot.number,
                    pid=process.pid,
                    message=process.ending(),
                )
            return
        slot.message = f"pid {process.pid} {process.ending()}"
        self.say(
            "worker_died",
            f"worker {slot.number} {slot.message}",
            worker=slot.number,
            pid=process.pid,
            message=process.ending(),
        )
        if slot.leaves:
            return
        if slot.replacing:
            slot.state = "replacing"
        elif not self._inherit(slot):
            slot.state = "starting"
            self.restart(slot, process.lived_s)

    def _inherit(self, slot: WorkerSlot) -> bool:
        """A takeover was under way when its two processes were adopted: the surviving one
        serves."""
        heir = next((other for other in slot.others if other.serves), None)
        if heir is not None:
            slot.others.discard(heir)
            slot.current = heir
        return heir is not None

    async def _declare_dead(self, slot: WorkerSlot, process: Process) -> None:
        """Settle a dead process's connections."""
        slot.unsettled += 1
        await self._tell_clients(process.pid, process.roster)
        await self._settle(slot, process.pid)
        self._let_go(slot, process)

    def _let_go(self, slot: WorkerSlot, process: Process) -> None:
        """Drop a dead process's roster: its clients have been told."""
        self._keeper.drop(roster_name(slot.number, process.pid))
        process.close()
        if not any(slot.beginning for slot in self.slots):
            # Otherwise one is about to listen at its predecessor's path.
            self.spawn(self._spawner.remove_dead_sockets())

    async def _tell_clients(self, pid: int, roster: int) -> None:
        announced = await self._announcer.announce(roster)
        if announced:
            self.say(
                "clients_told",
                f"{announced} clients of pid {pid} were told that it is gone",
                pid=pid,
                reset=announced,
            )

    async def _settle(self, slot: WorkerSlot, pid: int) -> None:
        """Ask all workers which of a dead process's connections live, then tell all of them. Until
        then the process counts as unsettled."""
        while True:
            living = {
                other.control: other_slot.number
                for other_slot in self._all
                for other in other_slot.processes
                if other.serves
            }
            verdict = await survey(pid, living)
            if verdict.whole or self.stopping:
                break
            await asyncio.sleep(SURVEY_AGAIN_S)
        slot.unsettled -= 1
        slot.elsewhere.update(verdict.elsewhere)
        await self._announce_verdict(slot, pid, verdict)

    def _may_reset(self, slot: WorkerSlot) -> bool:
        """Whether unknown IDs of a worker's number have no owner. Those of an old process that
        lives on are its own, and a worker that did not take over from it does not know them."""
        return (
            slot.unsettled == 0
            and not (self._others_may_own and slot.ended)
            and not any(process.replaced for process in slot.processes)
        )

    async def _announce_verdict(self, slot: WorkerSlot, pid: int, verdict: Verdict) -> None:
        dead = c.DeclareDead(
            pid=pid,
            worker=slot.number,
            sure=not self._others_may_own,
            names=verdict.names,
            elsewhere=verdict.elsewhere,
            may_reset=self._may_reset(slot),
        )

        async def tell(other: Process) -> None:
            # A worker that is not reached drops the dead one's handoffs by itself, and resets
            # no client.
            with contextlib.suppress(QuicbatonError):
                await ask(other.control, dead, c.Answer, END_S)

        everybody = [other for slot in self._all for other in slot.processes if other.serves]
        await asyncio.gather(*(tell(other) for other in everybody))

    async def _watch(self) -> None:
        """Look at each worker, and kill one that has not answered for too long."""
        while not self.stopping:
            await asyncio.sleep(LOOK_S)
            ready = [
                (slot, process)
                for slot in self._all
                for process in slot.processes
                if process.ready_s
            ]
            await asyncio.gather(*(self._look(*one) for one in ready))

    async def _look(self, slot: WorkerSlot, process: Process) -> None:
        asked_s = monotonic()
        try:
            await process.look()
        except QuicbatonError as error:
            if process.replaced and error.code is Reason.UNREACHABLE:
                return  # it is about to end, and listens no more
            # If we waited longer than intended, this process stood still, and perhaps the worker
            # with it.
            process.silent_s += LOOK_S + min(monotonic() - asked_s, LOOK_ANSWER_S)
            if process.silent_s > self.settings.silent_s:
                rest = ", and requests that still run in it are reset" if process.replaced else ""
                self.say(
                    "worker_silent",
                    f"pid {process.pid} has not answered for {process.silent_s:.0f} s and is "
                    f"killed{rest}",
                    pid=process.pid,
                )
                process.signal(signal.SIGKILL)
            return
        if process.replaced and slot.current is process and slot.beginning is None:
            slot.others.add(process)
            slot.current = None
            if not self._inherit(slot):
                self.restart(slot)
