"""`quicbaton serve`, one process, as users run it, with figures of the process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.processes import cpu_s_of

#: Serves the folder, and what else the innocent beside an attack ask for.
NEIGHBOURHOOD = "bench.servers.neighbourhood:Neighbourhood"


class FileServer:
    """Serves the folder `files`, by the program `app` if there is one; what it keeps of its own is
    in `folder`, its log, which has a line for each request, too."""

    def __init__(self, folder: Path, files: Path, *options: str, app: str = "") -> None:
        run = folder / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        environment = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(run),
            "NEIGHBOURHOOD": str(files),
        }
        what = ("--app", app) if app else (str(files),)
        arguments = ("--host", "127.0.0.1", "--port", "0", "--json", *options)
        with tempfile.NamedTemporaryFile(prefix="log-", dir=folder, delete=False) as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "quicbaton", "serve", *what, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended: {Path(log.name).read_text()}")
        ready = json.loads(line)
        self.pid = self._process.pid
        self.port = int(ready["port"])
        self.certificate = Path(ready["certificate"])
        self.control = str(ready["control"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A stop in good order would wait for the clients.
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def cpu_s(self) -> float:
        """User and system time so far."""
        return cpu_s_of(self.pid)

    def forget_peak(self) -> None:
        """Begin to look for the peak of resident memory anew (proc_pid_clear_refs(5))."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", encoding="ascii")

    def resident_kb(self) -> tuple[int, int]:
        """Resident memory: now, and its peak since `forget_peak`."""
        found = {}
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("VmRSS", "VmHWM"):
                found[name] = int(value.split()[0])
        return found["VmRSS"], found["VmHWM"]
