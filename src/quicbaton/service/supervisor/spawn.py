"""One worker process as its supervisor has it: started or found, watched, asked, killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

from quicbaton.errors import ConfigurationError, PeerError, QuicbatonError
from quicbaton.limits import MAX_LAST_WORDS_BYTES
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from quicbaton.service.supervisor.adoption import Found
from quicbaton.service.supervisor.control_paths import (
    control_of,
    controls_of_workers,
    remove_dead,
)
from quicbaton.service.supervisor.group import Group
from quicbaton.service.supervisor.lingering import lingering_control
from quicbaton.service.supervisor.roster import make_roster
from quicbaton.service.supervisor.service_figures import ServiceFigures
from quicbaton.service.supervisor.tally_file import TallyPlace
from quicbaton.service.timing import LOOK_ANSWER_S

#: Variables that systemd sets for its own child. A worker must not take them for itself.
_NOT_INHERITED: Final = frozenset(
    {
        *("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID"),
        *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    }
)


class NotReadyError(PeerError):
    """A new worker did not become healthy. The message has its last words."""

    code = Reason.NOT_READY


class Process:
    """A worker process. `on_exit(process)` is called once, when it has exited."""

    def __init__(
        self,
        pid: int,
        control: Path,
        roster: int,
        on_exit: Callable[[Process], None],
        *,
        child: subprocess.Popen[bytes] | None = None,
        words: int = -1,
        ready: int = -1,
        pidfd: int = -1,
        place: TallyPlace | None = None,
    ) -> None:
        """`words` is the file to which its standard error goes. `ready` is a pipe whose other end
        it closes when it is ready. `pidfd` identifies a process that is not our child, since a pid
        may be used again."""
        self.pid = pid
        self.control = control
        #: Its roster's descriptor; -1 without one.
        self.roster = roster
        #: Where its figures stand.
        self.place = place
        #: It is of a release that writes none: the supervisor writes there what it was told.
        self.is_written_for = False
        self.since_s = monotonic()
        #: When it first was ready; 0: not yet.
        self.ready_s = 0.0
        #: It was told to serve.
        self.begun = False
        #: Another one serves in its place. It lives until requests of moved connections, which
        #: still run in it, have ended.
        self.replaced = False
        self.state: c.WorkerState | None = None
        #: Seconds without an answer, while its supervisor has listened.
        self.silent_s = 0.0
        self.exited = asyncio.Event()
        self._child = child
        self._words = words
        self._ready = ready
        #: It is ready, or has ended.
        self._is_up = asyncio.Event()
        self._on_exit = on_exit
        self._last_words = ""
        self._loop = asyncio.get_running_loop()
        try:
            self._pidfd = os.pidfd_open(pid) if pidfd < 0 else pidfd
        except ProcessLookupError:
            self._pidfd = -1
            self._loop.call_soon(self._over)
        except (OSError, AttributeError) as error:
            raise ConfigurationError(
                f"--workers needs pidfds (Linux 5.3): {error}", code=Reason.NO_PIDFD
            ) from error
        else:
            self._loop.add_reader(self._pidfd, self._over)
        if ready >= 0:
            self._loop.add_reader(ready, self._on_ready)

    def __repr__(self) -> str:
        return f"<worker process {self.pid}>"

    @property
    def serves(self) -> bool:
        """Whether it was told to serve, and no other process has replaced it."""
        return self.begun and not self.replaced

    @property
    def lived_s(self) -> float:
        """Seconds since it was ready; 0 if it never was."""
        return monotonic() - self.ready_s if self.ready_s else 0.0

    def be_replaced(self) -> None:
        """Another process answers at its control socket from here on."""
        self.replaced = True
        self.control = lingering_control(self.control)

    async def look(self, timeout_s: float = LOOK_ANSWER_S) -> None:
        """Ask for its state. PeerError when it does not answer, or listens no more
        (`unreachable`)."""
        state = await ask(self.control, c.WorkerStatus(), c.WorkerState, timeout_s)
        self.silent_s = 0.0
        if state.pid == self.pid:
            self.state = state
        else:
            self.be_replaced()

    async def wait_ready(self, timeout_s: float) -> None:
        """Return when it has everything that it needs to serve. NotReadyError when it ends before
        that. If it takes longer, it is killed, and the same is raised."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_up.wait()
                while not self.exited.is_set():
                    try:
                        await self.look()
                    except PeerError as error:
                        if error.code is not Reason.DEADLINE:
                            await self.exited.wait()  # it listens no more
                    else:
                        self.ready_s = monotonic()
                        return
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.exited.wait()
            raise NotReadyError(
                f"the new worker was not ready within {timeout_s:g} s{self.last_words()}"
            ) from None
        raise NotReadyError(f"the new worker {self.ending()}{self.last_words()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, never to another one with the same number."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    @property
    def has_failed(self) -> bool:
        """Whether it has ended otherwise than in good order, as far as we can know."""
        return self._child is not None and bool(self._child.returncode)

    def ending(self) -> str:
        """How it ended, as far as we can know."""
        code = self._child.returncode if self._child is not None else None
        if code is None:
            return "ended"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit status {code}"

    def last_words(self) -> str:
        """The last lines that it wrote on standard error before it was ready."""
        if self._words < 0:
            return self._last_words
        size = os.fstat(self._words).st_size
        start = max(0, size - MAX_LAST_WORDS_BYTES)
        text = os.pread(self._words, MAX_LAST_WORDS_BYTES, start).decode(errors="replace").strip()
        return f": {text}" if text else ""

    def close(self) -> None:
        """Watch it no more. It lives on, and its last words are kept."""
        self._last_words = self.last_words()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._on_ready()
        for descriptor in (self.roster, self._words):
            if descriptor >= 0:
                os.close(descriptor)
        self.roster = self._words = -1
        if self._child is not None and self._child.returncode is None:
            # It is to survive us: the supervisor that adopts it reaps it.
            self._child.returncode = 0

    def _on_ready(self) -> None:
        ready, self._ready = self._ready, -1
        if ready >= 0:
            self._loop.remove_reader(ready)
            os.close(ready)
        self._is_up.set()

    def _over(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._child is not None:
            self._child.wait()
        else:
            # A child of the program that was this process's before.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
        self._on_ready()
        self.exited.set()
        self._on_exit(self)


class Spawner:
    """Starts worker processes: fresh interpreters, so that they run what is installed now."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        group: Group,
        control: Path,
        figures: ServiceFigures,
    ) -> None:
        """`module` is run with an assignment (see `worker`) and `arguments`. The workers' control
        sockets are named after `control`, the supervisor's. Their figures are added to
        `figures` when they end."""
        self.figures = figures
        self._module = module
        self.arguments = list(arguments)
        self._group = group
        self._control = control

    async def remove_dead_sockets(self) -> None:
        """Remove the control sockets that killed workers have left."""
        await remove_dead(*controls_of_workers(self._control))

    def start(self, worker: int, on_exit: Callable[[Process], None]) -> Process:
        """Start a process for a worker number. It serves when it is told to begin."""
        opened: list[int] = []
        child = None
        place = self.figures.file.take_place()
        try:
            opened.append(roster := make_roster())
            opened.append(words := os.memfd_create("quicbaton-stderr"))
            ready, childs_end = os.pipe()
            opened.append(ready)
            try:
                child = self._run(worker, roster, words, childs_end, place)
            finally:
                os.close(childs_end)
            return Process(
                child.pid,
                control_of(self._control, child.pid),
                roster,
                partial(self._on_exit, on_exit),
                child=child,
                words=words,
                ready=ready,
                place=place,
            )
        except (OSError, QuicbatonError) as error:
            if child is not None:
                # No supervisor would know of it.
                child.kill()
                child.wait()
            for descriptor in opened:
                os.close(descriptor)
            place.free()
            if isinstance(error, QuicbatonError):
                raise
            raise NotReadyError(
                f"no new worker can be started: {error.strerror or error}", code=Reason.OS
            ) from error

    def adopt(self, found: Found, on_exit: Callable[[Process], None]) -> Process:
        """A worker that a former supervisor started, and that serves."""
        process = Process(
            found.state.pid,
            found.control,
            found.roster,
            partial(self._on_exit, on_exit),
            pidfd=found.pidfd,
            place=self.figures.place_of(found.state.pid),
        )
        process.begun = True
        process.ready_s = monotonic()
        process.state = found.state
        return process

    def _on_exit(self, then: Callable[[Process], None], process: Process) -> None:
        if process.place is not None:
            self.figures.end(process.place)
        then(process)

    def _run(
        self, worker: int, roster: int, words: int, ready: int, place: TallyPlace
    ) -> subprocess.Popen[bytes]:
        sockets = [sock.fileno() for sock in self._group.sockets]
        listener = self._group.listener
        listening = [] if listener.sock is None else [listener.sock.fileno()]
        # Its standard error is ours again once it serves.
        stderr = os.dup(2)
        assignment: dict[str, Any] = {
            "worker": worker,
            "sockets": sockets,
            "listener": listening[0] if listening else -1,
            "no_listener": listener.refusal,
            "roster": roster,
            "stderr": stderr,
            "ready": ready,
            "control": str(self._control),
            "tallies": place.descriptor,
            "place": place.number,
            "use": place.use,
        }
        environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
        try:
            return subprocess.Popen(
                [sys.executable, "-m", self._module, json.dumps(assignment), *self.arguments],
                stdin=subprocess.DEVNULL,
                stderr=words,
                pass_fds=(*sockets, *listening, roster, stderr, ready, place.descriptor),
                env=environment,
                # A terminal's Ctrl-C is for the supervisor, which stops the workers in good order.
                process_group=0,
            )
        finally:
            os.close(stderr)
