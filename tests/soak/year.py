"""What is done to a service in a year, and what must not have come of it.

The steps come in an order of chance, one after the other. Nothing but the death of its own worker
may cost a connection, and nothing may grow: descriptors, files, sockets, processes, memory.
"""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import msgspec

from quicbaton.cli.certificate import write_self_signed
from tests.cli.command_line import Download, check_whole, wait_for
from tests.soak.clients import Loss, Report
from tests.supervisor.service_home import Service, ServiceHome

_CONNECTIONS: Final = 24
_FILES: Final = (300, 20_000, 150_000)
_LARGE_BYTES: Final = 3_000_000
_LARGE_RATE: Final = 600_000
_DOWNLOADS: Final = 3
#: A connection whose handshake was under way when a worker died may be lost with it.
_HANDSHAKE_S: Final = 12.0
#: What a process's memory may differ by, with the same work behind it and before it.
_MEMORY_SLACK_KB: Final = 16_384


class Plan(NamedTuple):
    """How often each thing is done."""

    reloads: int
    deaths: int
    upgrades: int
    renewals: int
    scalings: int
    full_disks: int
    dead_supervisors: int


#: A year, and what fits into a usual run of the tests.
YEAR: Final = Plan(200, 50, 20, 10, 20, 4, 4)
TWO_MINUTES: Final = Plan(8, 3, 1, 1, 2, 1, 1)


class Size(NamedTuple):
    """What must not grow."""

    descriptors: int
    files: int
    sockets: int
    processes: int
    memory_kb: int


class LostError(AssertionError):
    """A connection was lost for no good reason."""


class Year:
    """One service, its clients, and the steps."""

    def __init__(self, home: ServiceHome, plan: Plan, seed: int) -> None:
        self._home = home
        #: All certificates so far: a client may begin before the next and be answered after it.
        home.ca = home.path / "trusted.pem"
        self._plan = plan
        self._chance = Random(seed)
        self._workers = 2
        self._certificates = 0
        self._qlog = False
        self._excused: set[int] = set()
        self._deaths: list[float] = []
        self._downloads: list[Download] = []
        self.done: Counter[str] = Counter()
        self.requests = 0
        for size in _FILES:
            home.write(f"file-{size}", size)
        self._large = home.write("large", _LARGE_BYTES)
        (home.path / "small").mkdir()
        for size in _FILES:
            os.link(home.files / f"file-{size}", home.path / "small" / f"file-{size}")
        self._renew()
        self._configure()
        self._service = home.service_of_file()
        self._crowd = self._start_crowd()

    def run(self, on_step: Callable[[str], None]) -> None:
        """Do everything. LostError, or AssertionError for what has grown."""
        try:
            for name in ("reload", "scale", "upgrade", "death", "reload"):
                on_step(name)
                self._do(name)
            before = self._settle()
            for name in self._steps():
                on_step(name)
                self._do(name)
            self._settle()
            # What is known of dead workers goes when their connections are settled.
            wait_for(lambda: self._grown(before), lambda grown: not grown, guard_s=60.0)
        finally:
            self._crowd.kill()
            # Closes the pipes, too.
            self._crowd.communicate()

    # --- the steps ------------------------------------------------------------------------------

    def _steps(self) -> Iterator[str]:
        plan = self._plan
        early = ["upgrade"] * plan.upgrades + ["supervisor"] * plan.dead_supervisors
        steps = ["reload"] * plan.reloads + ["death"] * plan.deaths
        steps += ["renewal"] * plan.renewals + ["scale"] * plan.scalings
        steps += ["disk"] * plan.full_disks
        self._chance.shuffle(steps)
        # The second half is one supervisor's, whose memory is compared.
        half = steps[: len(steps) // 2] + early
        self._chance.shuffle(half)
        yield from half
        yield "upgrade"
        yield from steps[len(steps) // 2 :]

    def _do(self, name: str) -> None:
        self._keep_downloading()
        getattr(self, f"_{name}")()
        self.done[name] += 1
        self._check_clients()

    def _reload(self) -> None:
        self._command("reload")

    def _scale(self) -> None:
        self._workers = self._chance.choice([n for n in (1, 2, 3) if n != self._workers])
        self._configure()
        # One that leaves may have clients that have yet to use their new IDs.
        wait_for(
            lambda: self._home.run("scale", str(self._workers), "--json"),
            lambda done: done.returncode == 0,
        )

    def _upgrade(self) -> None:
        self._command("upgrade")

    def _death(self) -> None:
        # libcurl's do not say their ports.
        self._finish_downloads()
        victim = self._chance.choice(self._service.all_serve())
        listed = self._home.json("ps", victim["control"])["connections"]
        self._excused |= {int(one["peer"].rpartition(":")[2]) for one in listed}
        self._deaths.append(time.time())
        os.kill(victim["pid"], signal.SIGKILL)
        wait_for(self._service.pids, lambda pids: victim["pid"] not in pids)
        self._deaths.append(time.time())

    def _renewal(self) -> None:
        self._renew()
        if self._chance.random() < 0.5:
            self._command("reload")
        url = f"https://localhost:{self._service.port}/file-300"
        arguments = ("--ca", self._home.ca, "-o", self._home.path / "got")
        wait_for(lambda: self._home.run("get", url, *arguments), lambda done: done.returncode == 0)

    def _disk(self) -> None:
        """qlog to where there is no room, and back."""
        for full in (True, False):
            self._qlog = full
            self._configure()
            self._command("reload")

    def _supervisor(self) -> None:
        """Its log's reader goes with it."""
        process = self._service.process
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        port = self._service.port
        started = self._home.start("quicbaton", "serve", "--port", str(port))
        self._service = Service(self._home, started)
        # Nobody reads it: the pipe fills, or breaks.
        if self._chance.random() < 0.5:
            assert started.stderr is not None
            started.stderr.close()

    # --- clients --------------------------------------------------------------------------------

    def _start_crowd(self) -> subprocess.Popen[str]:
        arguments = (self._service.port, self._home.path / "small", _CONNECTIONS)
        return subprocess.Popen(
            [sys.executable, "-m", "tests.soak.clients", *map(str, arguments)],
            cwd=Path(__file__).parent.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _report(self) -> Report:
        assert self._crowd.stdin is not None
        assert self._crowd.stdout is not None
        self._crowd.stdin.write("\n")
        self._crowd.stdin.flush()
        return msgspec.json.decode(self._crowd.stdout.readline(), type=Report)

    def _keep_downloading(self) -> None:
        going_on = []
        for download in self._downloads:
            if download.process.poll() is None:
                going_on.append(download)
            else:
                check_whole(download, self._large)
        while len(going_on) < _DOWNLOADS:
            going_on.append(self._home.download(self._service, "large", _LARGE_RATE))
        self._downloads = going_on

    def _finish_downloads(self) -> None:
        """As fast as they can."""
        for download in self._downloads:
            check_whole(download, self._large)
        self._downloads = []

    def _check_clients(self) -> None:
        report = self._report()
        self.requests += report.requests
        if report.wrong:
            raise LostError(f"{report.wrong} bodies were not the files; done: {self.done}")
        for loss in report.losses:
            if loss.port in self._excused:
                self._excused.discard(loss.port)
            elif not self._was_beginning(loss):
                raise LostError(f"{loss}; done: {self.done}, deaths {self._deaths[-4:]}")

    def _was_beginning(self, loss: Loss) -> bool:
        """Whether it may have been in its handshake when a worker died."""
        return any(loss.began <= at + 0.5 and at - loss.began < _HANDSHAKE_S for at in self._deaths)

    # --- the service ----------------------------------------------------------------------------

    def _command(self, name: str, *arguments: str) -> None:
        done = self._home.run(name, *arguments, "--json")
        if done.returncode:
            raise LostError(f"{name} failed: {done.stderr}; done: {self.done}")

    def _renew(self) -> None:
        folder = self._home.path / "tls"
        folder.mkdir(exist_ok=True)
        # Clients find a certificate to trust by its subject.
        self._certificates += 1
        names = [f"number-{self._certificates}.localhost", "localhost"]
        made = write_self_signed(folder, datetime.datetime.now(datetime.UTC), names)
        with self._home.ca.open("ab") as trusted:
            trusted.write(made.certificate.read_bytes())

    def _configure(self) -> None:
        lines = [
            'folder = "files"',
            'host = "127.0.0.1"',
            "port = 0",
            f"workers = {self._workers}",
            "json = true",
            'cert = "tls/cert.pem"',
            'key = "tls/key.pem"',
            'keylog = "/dev/full"',
        ]
        if self._qlog:
            # A folder in which no file can be made, whoever asks.
            lines.append('qlog = "/proc/self/fdinfo"')
        (self._home.path / "quicbaton.toml").write_text("\n".join(lines) + "\n")

    def _settle(self) -> Size:
        """Once everything that was under way has ended."""
        self._finish_downloads()
        self._scale_to(2)
        wait_for(self._home.worker_pids, lambda pids: len(pids) == 2, guard_s=150.0)
        self._check_clients()
        return self._size()

    def _scale_to(self, workers: int) -> None:
        if self._workers != workers:
            self._workers = workers
            self._configure()
            self._command("scale", str(workers))

    def _size(self) -> Size:
        pid = self._service.pid
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        memory = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        rows = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
        place = f":{self._service.port:04X}"
        return Size(
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            files=len(list((self._home.path / "run").rglob("*"))),
            sockets=sum(row.split()[1].endswith(place) for row in rows),
            processes=len(self._home.worker_pids()),
            memory_kb=int(memory.split()[1]),
        )

    def _grown(self, before: Size) -> list[str]:
        # A worker answers at its predecessor's socket, too; one that came after a death has none.
        slack = Size(0, 2, 0, 0, _MEMORY_SLACK_KB)
        after = self._size()
        return [
            f"{name}: {was} before, {is_now} after"
            for name, was, is_now, more in zip(Size._fields, before, after, slack, strict=True)
            if is_now > was + more
        ]
