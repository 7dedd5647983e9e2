"""ASGI servers as users run them: ours, hypercorn and peregrine, each by its own command.

All of them listen on the loopback with one certificate, and run one program of `bench.servers`.
The peers serve TCP on the same port, as they do by themselves.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.processes import Client, cpu_s_of
from quicbaton.cli.certificate import CertificateFiles

OURS = "quicbaton"
_REPOSITORY = Path(__file__).parent.parent
_START_TIMEOUT_S = 30.0
_LOOK_S = 0.1
_RELOAD_TIMEOUT_S = 120.0
#: Larger than any upload of the benchmarks: peregrine refuses more than 16 MiB by default.
_MAX_BODY_BYTES = 1 << 30


class AsgiServer:
    """One server with its workers, whose figures are of all of its processes.

    `name` says whose it is, `program` what runs as MODULE:NAME; `bin_folders` holds the peers'
    environments; `environment` is for the program. What the server says is in `folder`.
    """

    def __init__(
        self,
        name: str,
        program: str,
        folder: Path,
        files: CertificateFiles,
        bin_folders: Mapping[str, Path],
        environment: Mapping[str, str],
        workers: int = 0,
    ) -> None:
        folder.mkdir(parents=True)
        (folder / "run").mkdir(mode=0o700)
        self.port = _free_port()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(_REPOSITORY),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            **environment,
        }
        self._name = name
        self._reload: subprocess.Popen[str] | None = None
        self.log = folder / "log"
        command = _command(name, program, self.port, files, bin_folders, workers)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A stop in good order would wait for the clients.
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def wait_until_open(self, client: Client) -> None:
        """Until a request is answered over HTTP/3. RuntimeError: not within half a minute."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self._process.poll() is None:
            try:
                client.ask("open", self.port)
                client.ask("close", self.port)
                return
            except RuntimeError as failure:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self._name}: {failure}; its log: {self.log}") from failure
            time.sleep(_LOOK_S)
        raise RuntimeError(f"{self._name} ended: {self.log.read_text()}")

    def cpu_s(self) -> float:
        """User and system time of all processes that live."""
        return sum(cpu_s_of(pid) for pid in self._pids())

    def resident_mb(self) -> float:
        """Resident memory of all processes, in 10^6 bytes."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def begin_reload(self) -> None:
        """Have the workers replaced, by the server's own means."""
        if self._name == OURS:
            command = [sys.executable, "-m", "quicbaton", "reload", str(self.port)]
            self._reload = subprocess.Popen(
                command,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        else:
            self._process.send_signal(signal.SIGHUP)

    def end_reload(self) -> None:
        """Wait for the command that reloads, if there is one; RuntimeError if it failed."""
        if self._reload is None:
            return
        output, _ = self._reload.communicate(timeout=_RELOAD_TIMEOUT_S)
        if self._reload.returncode:
            raise RuntimeError(f"the reload failed: {output}")

    def _pids(self) -> list[int]:
        return list(_tree(self._process.pid))


def _command(
    name: str,
    program: str,
    port: int,
    files: CertificateFiles,
    bin_folders: Mapping[str, Path],
    workers: int,
) -> list[str]:
    if name.startswith(OURS):
        shared = ["--host", "127.0.0.1", "--port", str(port)]
        keys = ["--cert", str(files.certificate), "--key", str(files.key)]
        several = ["--workers", str(workers)] if workers else []
        quiet = ["--no-access-log"]  # as the others
        return [
            sys.executable,
            "-m",
            "quicbaton",
            "serve",
            program,
            *quiet,
            *shared,
            *keys,
            *several,
        ]
    address = f"127.0.0.1:{port}"
    count = str(workers or 1)
    if name == "hypercorn":
        keys = ["--certfile", str(files.certificate), "--keyfile", str(files.key)]
        options = ["--bind", address, "--quic-bind", address, "-k", "uvloop", "-w", count]
        return [str(bin_folders[name] / "hypercorn"), *options, *keys, program]
    keys = ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--http3", "--workers", count]
    limits = ["--max-body", str(_MAX_BODY_BYTES)]
    return [str(bin_folders[name] / "peregrine"), *options, *keys, *limits, program]


def _free_port() -> int:
    """One that is free for UDP and for TCP."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            udp.bind(("127.0.0.1", 0))
            port: int = udp.getsockname()[1]
            with contextlib.suppress(OSError):
                tcp.bind(("127.0.0.1", port))
                return port


def _tree(pid: int) -> Iterator[int]:
    """The process and its descendants that live."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))
