"""Orders to a running service: stop, reload; by signals, commands, or changes of its files."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from time import monotonic

from quicbaton.cli.fleet import step_fields
from quicbaton.cli.reporter import Reporter
from quicbaton.counted import counted
from quicbaton.errors import QuicbatonError
from quicbaton.service.peers import commands as c
from quicbaton.service.supervisor.reload import Reloads
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.systemd import Systemd
from quicbaton.service.supervisor.upgrade import HELD_SIGNALS
from quicbaton.service.timing import LOOK_S


class Orders:
    """Carries out the orders to one service. `over` is set when it has stopped."""

    def __init__(
        self,
        supervisor: Supervisor,
        reloads: Reloads,
        reporter: Reporter,
        systemd: Systemd,
    ) -> None:
        self._supervisor = supervisor
        self._reloads = reloads
        self._reporter = reporter
        self._systemd = systemd
        self._stopping: asyncio.Task[c.Left] | None = None
        #: Signals to stop.
        self._signals = 0
        #: A reload that a signal asked for has not begun.
        self._signal_waits = False
        self.over = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stopping is not None

    def obey_signals(self) -> None:
        """SIGINT and SIGTERM stop the service, and end it at once the second time. SIGHUP reloads
        it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop_by_signal)
        loop.add_signal_handler(
            signal.SIGHUP, lambda: self._supervisor.spawn(self._reload_by_signal())
        )
        # Another program may have held them back when it made way for this one.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)

    async def stop(self, grace_s: float, to: str) -> c.Left:
        """Stop, once: all that ask for it get the same answer."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(grace_s, to))
        else:
            self._reporter.event("stopping", "the service is stopping already")
        return await asyncio.shield(self._stopping)

    async def reload(self, by: str, on_begin: Callable[[], None] = lambda: None) -> None:
        """Reload, in its turn, and report how it went. `on_begin` is called when it begins, or will
        not."""
        self._systemd.reloading()
        phases: set[str] = set()

        def on_step(step: c.ReloadStep) -> None:
            if step.phase == "queued" and not phases:
                self._reporter.event("queued", f"waiting: {step.message}", message=step.message)
            if step.phase != "queued" and phases <= {"queued"}:
                on_begin()
            phases.add(step.phase)
            if step.phase in ("done", "failed"):
                text = f"worker {step.worker}: {step.phase}, {step.message}"
                self._reporter.event("reload_step", text, **step_fields(step))

        try:
            answer = await self._reloads.run(on_step, by=by)
        except QuicbatonError as error:
            answer = c.Answer(False, error.code, str(error))
        if phases <= {"queued"}:
            on_begin()
        self._reporter.event(
            "reloaded" if answer.ok else "reload_failed",
            answer.message,
            ok=answer.ok,
            code=answer.code,
            message=answer.message,
        )
        self._systemd.ready(answer.message)

    # --- helpers, in reading order --------------------------------------------------------------

    def _stop_by_signal(self) -> None:
        self._signals += 1
        if self._signals > 1:
            self._supervisor.kill()
        else:
            self._supervisor.spawn(self.stop(self._supervisor.settings.grace_s, ""))

    async def _stop(self, grace_s: float, to: str) -> c.Left:
        self._systemd.stopping()
        self._reporter.event("stopping", "no new clients; running requests end")
        waits = asyncio.get_running_loop().create_task(self._report_waits(grace_s))
        try:
            left = await self._supervisor.stop(grace_s, to)
        finally:
            waits.cancel()
        await self._reloads.stop()
        # The callers get their answers first.
        asyncio.get_running_loop().call_later(0.05, self.over.set)
        return left

    async def _report_waits(self, grace_s: float) -> None:
        until = monotonic() + grace_s
        while True:
            await asyncio.sleep(LOOK_S)
            if left := await self._supervisor.count_connections():
                report_wait(self._reporter, left, until - monotonic())

    async def _reload_by_signal(self) -> None:
        if self._signal_waits:
            # The one that waits begins after this signal, and does what this one asks for.
            self._reporter.event("queued", "a reload waits already, for this signal, too")
            return
        self._signal_waits = True

        def on_begin() -> None:
            self._signal_waits = False

        await self.reload("SIGHUP", on_begin)


def report_wait(reporter: Reporter, connections: int, left_s: float) -> None:
    """Say what a stop waits for."""
    seconds = max(0.0, left_s)
    reporter.event(
        "waiting",
        f"waiting for requests of {counted(connections, 'connection')}, {seconds:.0f} s left "
        "(Ctrl-C: end at once)",
        connections=connections,
        seconds_left=round(seconds, 1),
    )
