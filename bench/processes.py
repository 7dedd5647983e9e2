"""The processes of a measurement: a server whose CPU is read, and the client beside it."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from bench.client import Answer, Command
from bench.link import Queue
from bench.peers import COMPILED, compiled_python
from bench.servers.application import Ready
from quicbaton.cli.certificate import CertificateFiles

_EXIT_TIMEOUT_S = 10.0


def cpu_s_of(pid: int) -> float:
    """Return the user and system CPU time that a process has used so far, all threads.

    This is clock_getcpuclockid(3): the scheduler's nanoseconds, where the fields of /proc/PID/stat
    have the same sum rounded to 10 ms.
    """
    return time.clock_gettime((~pid << 3) | 2)


class Program:
    """A Python module running as a child, spoken to by lines; it ends when its stdin does."""

    def __init__(self, module: str, *arguments: str, python: str = sys.executable) -> None:
        self._child = subprocess.Popen(
            [python, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe(self._child.stdin).close()
        try:
            self._child.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._pipe(self._child.stdout).close()

    def cpu_s(self) -> float:
        """Return user and system CPU time used so far, all threads."""
        return cpu_s_of(self._child.pid)

    def read_line(self) -> str:
        """Return the child's next line; its end is an error."""
        line = self._pipe(self._child.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._child.args!r} ended before it answered")
        return line

    def write_line(self, line: str) -> None:
        """Send the child a line."""
        pipe = self._pipe(self._child.stdin)
        pipe.write(line + "\n")
        pipe.flush()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise RuntimeError("the child was started without pipes")
        return pipe


class Server(Program):
    """A server program of bench.servers, ready to be asked. PeerMissingError for one that cannot be
    had here."""

    def __init__(
        self, name: str, files: CertificateFiles, body_bytes: int, more: Mapping[str, Any]
    ) -> None:
        options: dict[str, Any] = {
            "certificate": files.certificate,
            "key": files.key,
            "body-bytes": body_bytes,
            **more,
        }
        super().__init__(
            f"bench.servers.{'quicbaton' if name == COMPILED else name}_server",
            *(f"--{option}={value}" for option, value in options.items()),
            python=compiled_python() if name == COMPILED else sys.executable,
        )
        self.ready = msgspec.json.decode(self.read_line(), type=Ready)


class Link(Program):
    """`bench.link` before a server, with its options: clients connect to `port`."""

    def __init__(self, server_port: int, **options: float) -> None:
        conditions = {"server-port": server_port, **options}
        super().__init__(
            "bench.link",
            *(f"--{name.replace('_', '-')}={value}" for name, value in conditions.items()),
        )
        self.port = int(self.read_line())

    def end(self) -> Queue:
        """End it, and return what its queue was like."""
        self.write_line("end")
        return msgspec.json.decode(self.read_line(), type=Queue)


class Client(Program):
    """libcurl in a process of its own: its CPU is nobody's figure."""

    def __init__(self, ca_file: Path, body_bytes: int) -> None:
        super().__init__("bench.client", str(ca_file), str(body_bytes))

    def ask(self, operation: str, port: int, count: int = 1) -> Answer:
        """Have the client do something and return what it measured."""
        answer = self.try_to(operation, port, count)
        if answer.error:
            raise RuntimeError(f"{operation} on port {port}: {answer.error}")
        return answer

    def try_to(self, operation: str, port: int, count: int = 1) -> Answer:
        """The same; a failure is an answer, too."""
        self.tell(operation, port, count)
        return self.answer()

    def tell(self, operation: str, port: int, count: int = 1) -> None:
        """Have the client begin something."""
        self.write_line(msgspec.json.encode(Command(operation, port, count)).decode())

    def answer(self) -> Answer:
        """The result, when it is done."""
        return msgspec.json.decode(self.read_line(), type=Answer)
