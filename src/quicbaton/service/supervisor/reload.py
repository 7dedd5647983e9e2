"""Replaces all workers of a service, one by one: start, become ready, hand off, stop.

The first new worker is the canary. Until a new worker is ready, its predecessor keeps everything.
If the new worker fails, its predecessor goes on, and the other workers are left as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Literal, NamedTuple

from quicbaton.counted import counted
from quicbaton.errors import CallerError, PeerError, QuicbatonError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from quicbaton.service.supervisor.old_processes import read_old_processes
from quicbaton.service.supervisor.scaling import Scaling
from quicbaton.service.supervisor.spawn import NotReadyError
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.worker_slot import WorkerSlot
from quicbaton.service.timing import LOOK_S


class Reread(NamedTuple):
    """A configuration that new workers have from now on."""

    take_back: Callable[[], None]
    workers: int  # how many there are to be


class Reloads:
    """At most one reload runs at a time. Others wait for their turn."""

    def __init__(
        self, supervisor: Supervisor, read_again: Callable[[], Reread], scaling: Scaling
    ) -> None:
        """`read_again()` makes the present configuration that of new workers."""
        self._supervisor = supervisor
        self._read_again = read_again
        self._scaling = scaling
        #: Held while workers are replaced.
        self._turn = asyncio.Lock()
        #: Those that wait for it.
        self._queue: set[asyncio.Task[Literal[True]]] = set()
        #: Who has it, and since when, by the monotonic clock.
        self._holder = ""
        self._since_s = 0.0
        for outcome in ("ok", "failed"):
            supervisor.figures.count("reloads", outcome, 0)

    @property
    def running(self) -> bool:
        """Whether workers are being replaced."""
        return self._turn.locked()

    async def run(
        self,
        on_step: Callable[[c.ReloadStep], None],
        health_timeout_s: float = -1.0,
        grace_s: float = -1.0,
        *,
        by: str,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> c.Answer:
        """Replace all workers, after reloads and renewals that have begun before. The answer says
        how it went. CallerError when the service stops before it begins, or when it `is_wanted` no
        more.

        `health_timeout_s` is the time for each new worker to become ready; negative means the
        default. `grace_s` is as in `Supervisor.begin`. `by` is told to those that wait.
        """
        async with self._its_turn(f"a reload by {by}", on_step):
            if not is_wanted():
                raise CallerError("the command has gone", code=Reason.LINK_LOST)
            return await self._counted(self._run(on_step, health_timeout_s, grace_s))

    @contextlib.asynccontextmanager
    async def alone(self, what: str) -> AsyncIterator[None]:
        """While no worker is replaced, for `what`. CallerError, which says what runs, while one is,
        and while the service stops."""
        self._check_not_stopping()
        if self.running:
            text = f"{self._describe_holder()}: ask again when it has ended"
            raise CallerError(text, code=Reason.BUSY)
        async with self._its_turn(what, lambda _step: None):
            yield

    async def renew(self, slot: WorkerSlot) -> None:
        """Replace one worker, unless others are being replaced. Raises when the old one goes on."""
        if self.running or self._supervisor.stopping:
            return
        async with self._its_turn(f"the renewal of worker {slot.number}", lambda _step: None):
            replacement = Replacement(self._supervisor, slot, lambda _step: None)
            await replacement.run(self._supervisor.settings.health_timeout_s, grace_s=-1.0)

    async def stop(self) -> None:
        """The service has stopped: return when no reload waits or runs any more."""
        for waiting in self._queue:
            waiting.cancel()
        async with self._turn:
            pass

    # --- helpers, in reading order --------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _its_turn(
        self, what: str, on_step: Callable[[c.ReloadStep], None]
    ) -> AsyncIterator[None]:
        await self._queue_up(on_step)
        try:
            self._check_not_stopping()
            self._holder, self._since_s = what, monotonic()
            yield
        finally:
            self._turn.release()

    async def _queue_up(self, on_step: Callable[[c.ReloadStep], None]) -> None:
        self._check_not_stopping()
        began_s = monotonic()
        acquiring = asyncio.get_running_loop().create_task(self._turn.acquire())
        self._queue.add(acquiring)
        try:
            await asyncio.sleep(0)
            while not acquiring.done():
                text, waited_s = self._describe_holder(), monotonic() - began_s
                on_step(_queued(len(self._supervisor.slots), waited_s, text))
                await asyncio.wait((acquiring,), timeout=LOOK_S)
        except asyncio.CancelledError:
            if acquiring.cancel():
                raise
            self._turn.release()
            raise
        finally:
            self._queue.discard(acquiring)
        if acquiring.cancelled():
            self._check_not_stopping()

    async def _counted(self, reload: Awaitable[c.Answer]) -> c.Answer:
        outcome = "failed"
        try:
            answer = await reload
            outcome = "ok" if answer.ok else "failed"
            return answer
        finally:
            self._supervisor.figures.count("reloads", outcome)

    def _describe_holder(self) -> str:
        return f"{self._holder} runs since {monotonic() - self._since_s:.0f} s"

    def _check_not_stopping(self) -> None:
        if self._supervisor.stopping:
            raise CallerError("the service is stopping", code=Reason.STOPPING)

    async def _run(
        self, on_step: Callable[[c.ReloadStep], None], health_timeout_s: float, grace_s: float
    ) -> c.Answer:
        slots = self._supervisor.slots
        if health_timeout_s < 0:
            health_timeout_s = self._supervisor.settings.health_timeout_s
        configured = self._read_again()
        moved = cut = 0
        before = {process.pid for slot in slots for process in slot.processes}
        for slot in slots:
            replacement = Replacement(self._supervisor, slot, on_step)
            try:
                await replacement.run(health_timeout_s, grace_s)
            except QuicbatonError as error:
                if slot is slots[0]:
                    # No process has the new configuration. One that dies comes back with the old.
                    configured.take_back()
                if self._supervisor.stopping:
                    return c.Answer(False, Reason.STOPPING, _stopped(slot, len(slots)))
                replacement.tell("failed", message=str(error))
                return c.Answer(False, error.code, _failure(slot, len(slots), error))
            moved += replacement.moved
            cut += replacement.cut
        text = f"{counted(len(slots), 'worker')} replaced, {counted(moved, 'connection')} moved"
        if cut:
            text += f", {cut} cut"
        going_on = [one for one in await read_old_processes(self._supervisor) if one.pid in before]
        text += _in_the_background(going_on)
        if configured.workers != len(slots):
            scaled = await self._scaling.run(configured.workers, on_step)
            text += f"; {scaled.message}"
        return c.Answer(True, Reason.OK, text)


class Replacement:
    """The replacement of one worker."""

    def __init__(
        self, supervisor: Supervisor, slot: WorkerSlot, on_step: Callable[[c.ReloadStep], None]
    ) -> None:
        self._supervisor = supervisor
        self._slot = slot
        self._on_step = on_step
        self._since_s = monotonic()
        self._pid = 0
        self.moved = 0
        self.left = 0
        self.cut = 0

    async def run(self, health_timeout_s: float, grace_s: float) -> None:
        """Return when the new worker serves. Raises when the old one goes on."""
        slot = self._slot
        slot.replacing = True
        try:
            await self._replace(health_timeout_s, grace_s)
        finally:
            slot.replacing = False
            if slot.current is None:
                # The old one died during the takeover, and the new one does not serve.
                self._supervisor.restart(slot)

    def tell(self, phase: str, message: str = "") -> None:
        """Report a step to the caller of the reload."""
        step = c.ReloadStep(
            worker=self._slot.number,
            workers=len(self._supervisor.slots),
            phase=phase,
            pid=self._pid,
            moved=self.moved,
            left=self.left,
            cut=self.cut,
            seconds=monotonic() - self._since_s,
            message=message,
        )
        self._on_step(step)

    async def _replace(self, health_timeout_s: float, grace_s: float) -> None:
        supervisor, slot = self._supervisor, self._slot
        if slot.restart is not None:
            # It is down: the process that comes up now has the new code in any case.
            slot.restart.cancel()
        new = supervisor.new_process(slot)
        self._pid = new.pid
        self.tell("starting")
        try:
            await new.wait_ready(health_timeout_s)
            answer = await supervisor.begin(
                slot, new, slot.current, self._on_frame, grace_s=grace_s
            )
        except NotReadyError:
            raise
        except PeerError as error:
            if new.exited.is_set():
                text = f"the new worker {new.ending()} while it took over{new.last_words()}"
                raise PeerError(text, code=error.code) from error
            raise
        finally:
            if slot.current is not new:
                new.signal(signal.SIGKILL)
        self.cut = self.left if answer.code == Reason.CUT else 0
        self.left = 0
        with contextlib.suppress(QuicbatonError):
            listed = await ask(new.control, c.ListConnections(), c.Connections)
            self.moved = listed.resumed
        self.tell("done", answer.message)

    def _on_frame(self, frame: c.Frame) -> None:
        if isinstance(frame, c.Progress):
            self.moved, self.left = frame.moved, frame.left
            self.tell("moving", "; ".join(frame.waiting))


def _failure(slot: WorkerSlot, workers: int, error: QuicbatonError) -> str:
    done = f"; {slot.number} of {counted(workers, 'worker')} replaced before" if slot.number else ""
    return f"worker {slot.number} could not be replaced and goes on as it was{done}: {error}"


def _stopped(slot: WorkerSlot, workers: int) -> str:
    return f"the service was stopped: {slot.number} of {counted(workers, 'worker')} replaced before"


def _queued(workers: int, seconds: float, text: str) -> c.ReloadStep:
    """A step of a reload that waits for its turn."""
    return c.ReloadStep(
        worker=-1,
        workers=workers,
        phase="queued",
        pid=0,
        moved=0,
        left=0,
        cut=0,
        seconds=seconds,
        message=text,
    )


def _in_the_background(old: list[c.OldProcessInfo]) -> str:
    """What goes on in old processes after a reload, for people; empty: nothing."""
    requests = sum(one.requests for one in old)
    unconfirmed = sum(one.unconfirmed for one in old)
    rest = [f"requests of {counted(requests, 'connection')}"] if requests else []
    if unconfirmed:
        left_s = max(one.seconds_left for one in old)
        what = counted(unconfirmed, "connection")
        rest.append(f"{what} that did not confirm the new ID ({left_s:.0f} s at most)")
    if proxied := sum(one.proxied + one.sent_for for one in old):
        rest.append(counted(proxied, "proxied connection"))
    if handshakes := sum(one.handshakes for one in old):
        rest.append(counted(handshakes, "handshake"))
    if not rest:
        return ""
    pids = ", ".join(str(one.pid) for one in old if not one.is_idle)
    return f"; in the background, in pid {pids}: {', '.join(rest)}"
