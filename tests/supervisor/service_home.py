"""Whole services as users run them: a supervisor, its workers, and clients on every worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quicbaton.service.supervisor.service_figures import ServiceFigures
from quicbaton.service.supervisor.tally_file import TallyFile
from tests.cli.command_line import Download, Home, Server, wait_for

#: The file that clients download, this slowly; in the end they may go as fast as they can.
FILE_BYTES = 6_000_000
RATE = 300_000


class ServiceHome(Home):
    """A home whose services are gone with it, workers that outlived their supervisor included."""

    def service(self, workers: int, *arguments: str | Path, port: int = 0) -> Service:
        """A service that is ready."""
        options = ("--host", "127.0.0.1", "--port", str(port), "--workers", str(workers))
        what = () if "--app" in arguments else (self.files,)
        return Service(
            self, self.start("quicbaton", "serve", *what, "--json", *options, *arguments)
        )

    def service_of_file(self) -> Service:
        """A service whose options are in quicbaton.toml, that is ready."""
        return Service(self, self.start("quicbaton", "serve"))

    def adopt(self, process: subprocess.Popen[str]) -> None:
        """End it, too, when the home goes."""
        self._started.append(process)

    def worker_pids(self) -> list[int]:
        """Worker processes of this home's services, under any parent."""
        mark = str(self.path / "run").encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (folder / "cmdline").read_bytes()
                    if b"quicbaton.cli.worker" in line and mark in line:
                        found.append(int(folder.name))
        return found

    def close(self) -> None:
        super().close()
        for pid in self.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Service(Server):
    """A supervisor process that is ready, and its workers."""

    def __init__(self, home: ServiceHome, process: Any) -> None:
        super().__init__(process)
        self.home = home
        self.ready = self.events[-1]

    def status(self) -> list[dict[str, Any]]:
        """Its workers, as it sees them."""
        workers: list[dict[str, Any]] = self.home.json("workers", self.control)["workers"]
        return workers

    def all_serve(self) -> list[dict[str, Any]]:
        """Wait until every worker serves."""
        return wait_for(
            self.status, lambda workers: all(worker["state"] == "serving" for worker in workers)
        )

    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.all_serve()]

    def connections(self, worker: int) -> list[dict[str, Any]]:
        """The open connections of one worker."""
        control = self.status()[worker]["control"]
        listed = self.home.json("ps", control)["connections"]
        return [info for info in listed if info["state"] == "open"]

    def names(self, worker: int) -> set[str]:
        """The open connections of one worker, by name."""
        return {info["connection"] for info in self.connections(worker)}

    def download_everywhere(self, name: str, each: int = 1) -> list[Download]:
        """Clients in the middle of a download, so many at least on each worker."""
        downloads: list[Download] = []
        for _ in range(200):
            download = self.home.download(self, name, RATE)
            download.wait_for_bytes(1)
            downloads.append(download)
            if all(worker["connections"] >= each for worker in self.status()):
                return downloads
        raise AssertionError(f"no client came to one of the workers: {self.status()}")


def no_figures() -> ServiceFigures:
    """The figures of a service that has counted nothing."""
    return ServiceFigures(TallyFile.make(), 0, {})


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def last_event(text: str) -> dict[str, Any]:
    """The last of a command's JSON lines."""
    event: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return event


@contextmanager
def service_home(path: Path) -> Iterator[ServiceHome]:
    made = ServiceHome(path)
    try:
        yield made
    finally:
        made.close()
