"""`quicbaton serve --workers N`, as users run it, in a home of its own."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.processes import cpu_s_of
from quicbaton.cli.control import Server
from quicbaton.cli.fleet import follow
from quicbaton.service.peers import commands as c

_START_TIMEOUT_S = 60.0
_LOOK_S = 0.05


class Service:
    """Serves the folder `files`; its control sockets, certificate and log are in `folder`."""

    def __init__(self, folder: Path, files: Path, workers: int) -> None:
        self.workers = workers
        run = folder / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        self._environment = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(run),
        }
        self._output = folder / "output"
        arguments = ("--host", "127.0.0.1", "--port", "0", "--workers", str(workers), "--json")
        with self._output.open("wb") as output, (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "quicbaton", "serve", str(files), *arguments],
                env=self._environment,
                stdout=output,
                stderr=log,
            )
        try:
            ready = self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        self.port = int(ready["port"])
        self.certificate = Path(ready["certificate"])
        self._control = Path(ready["control"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def reload(self) -> float:
        """Replace all workers; the seconds that it took."""
        begun = time.monotonic()
        command = c.Reload(health_timeout_s=-1.0, grace_s=-1.0)
        server = Server(self._control, "the service", None)
        answer = asyncio.run(follow(server, command, c.Answer, lambda _step: None))
        if not answer.ok:
            raise RuntimeError(f"the reload failed: {answer.message}")
        return time.monotonic() - begun

    def connections(self) -> list[int]:
        """How many each worker has."""
        return [worker["connections"] for worker in self._workers()]

    def cpu_s(self) -> float:
        """CPU time of the workers so far."""
        return sum(cpu_s_of(worker["pid"]) for worker in self._workers())

    def _workers(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "quicbaton", "workers", str(self._control), "--json"]
        output = subprocess.check_output(command, env=self._environment, text=True)
        workers: list[dict[str, Any]] = json.loads(output)["workers"]
        return workers

    def _wait_until_ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            *lines, _ = self._output.read_text().split("\n")  # the last is not whole yet, or empty
            for line in lines:
                event: dict[str, Any] = json.loads(line)
                if event["event"] == "ready":
                    return event
            time.sleep(_LOOK_S)
        raise RuntimeError(f"the service did not come up: {self._output.read_text()}")

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()
