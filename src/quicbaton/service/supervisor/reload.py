"""Replaces all workers of a service, one by one: start, become ready, hand off, stop.

The first new worker is the canary. Until a new worker is ready, its predecessor keeps everything.
If the new worker fails, its predecessor goes on, and the other workers are left as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from time import monotonic

from quicbaton.counted import counted
from quicbaton.errors import CallerError, PeerError, QuicbatonError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from quicbaton.service.supervisor.spawn import NotReadyError
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.worker_slot import WorkerSlot


class Reloads:
    """At most one reload runs at a time."""

    def __init__(
        self, supervisor: Supervisor, read_again: Callable[[], Callable[[], None]]
    ) -> None:
        """`read_again()` makes the present configuration that of new workers, and returns a
        function that takes it back."""
        self._supervisor = supervisor
        self._read_again = read_again
        self.running = False
        #: Held while workers are replaced.
        self._turn = asyncio.Lock()

    async def run(
        self,
        on_step: Callable[[c.ReloadStep], None],
        health_timeout_s: float = -1.0,
        grace_s: float = -1.0,
    ) -> c.Answer:
        """Replace all workers. The answer says how it went. CallerError while one is running.

        `health_timeout_s` is the time for each new worker to become ready; negative means the
        default. `grace_s` is as in `Supervisor.begin`.
        """
        if self.running or self._supervisor.stopping:
            what = "a reload is under way" if self.running else "the service is stopping"
            raise CallerError(f"{what} already", code=Reason.BUSY)
        self.running = True
        try:
            # A worker that is being renewed at this moment is replaced once more, after that.
            async with self._turn:
                return await self._run(on_step, health_timeout_s, grace_s)
        finally:
            self.running = False

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While no worker is replaced. CallerError while one is, or while the service stops."""
        if self.running or self._turn.locked() or self._supervisor.stopping:
            raise CallerError("workers are being replaced, or stop", code=Reason.BUSY)
        async with self._turn:
            yield

    async def renew(self, slot: WorkerSlot) -> None:
        """Replace one worker, unless all are being replaced. Raises when the old one goes on."""
        if self.running or self._supervisor.stopping:
            return
        async with self._turn:
            replacement = Replacement(self._supervisor, slot, lambda _step: None)
            await replacement.run(self._supervisor.settings.health_timeout_s, grace_s=-1.0)

    async def _run(
        self, on_step: Callable[[c.ReloadStep], None], health_timeout_s: float, grace_s: float
    ) -> c.Answer:
        slots = self._supervisor.slots
        if health_timeout_s < 0:
            health_timeout_s = self._supervisor.settings.health_timeout_s
        take_back = self._read_again()
        moved = cut = 0
        for slot in slots:
            replacement = Replacement(self._supervisor, slot, on_step)
            try:
                await replacement.run(health_timeout_s, grace_s)
            except QuicbatonError as error:
                if slot is slots[0]:
                    # No process has the new configuration. One that dies comes back with the old.
                    take_back()
                replacement.tell("failed", message=str(error))
                return c.Answer(False, error.code, _failure(slot, len(slots), error))
            moved += replacement.moved
            cut += replacement.cut
        text = f"{counted(len(slots), 'worker')} replaced, {counted(moved, 'connection')} moved"
        return c.Answer(True, Reason.OK, text + (f", {cut} cut" if cut else ""))


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
