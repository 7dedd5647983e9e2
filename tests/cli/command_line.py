"""`quicbaton` as users run it: its commands and servers, each test with a home of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

from quicbaton.cli.main import main

#: Hang guards: nothing waits so long unless it is broken.
GUARD_S = 60.0
_LOOK_S = 0.02
_REPOSITORY = Path(__file__).parent.parent.parent

_Value = TypeVar("_Value")


class Finished(NamedTuple):
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


class Home:
    """A user's folders, and what is started for them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = path / "files"
        self.files.mkdir()
        (path / "run").mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(path / "state"),
            "XDG_RUNTIME_DIR": str(path / "run"),
            "COLUMNS": "200",
        }
        self.ca = path / "state" / "quicbaton" / "cert.pem"
        self.keys = path / "state" / "quicbaton" / "cluster.keys"
        self._started: list[subprocess.Popen[str]] = []

    def write(self, name: str, size: int) -> bytes:
        """Make a file of random bytes to serve."""
        content = os.urandom(size)
        (self.files / name).write_bytes(content)
        return content

    def run(self, *arguments: str | Path) -> Finished:
        """A command, to its end; in this process, since starting another takes half a second."""
        out, errors = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
            contextlib.chdir(self.path),
            mock.patch.dict(os.environ, self.environment, clear=True),
        ):
            try:
                code = _command([str(argument) for argument in arguments])
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
        return Finished(code, out.getvalue(), errors.getvalue())

    def json(self, *arguments: str | Path) -> Any:
        """A command that must succeed, with --json; what it printed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def serve(self, *arguments: str | Path) -> Server:
        """A server that is ready."""
        options = list(arguments)
        if not {"--join", "--takeover", "--port"} & set(map(str, options)):
            options += ["--host", "127.0.0.1", "--port", "0"]
        return Server(self.start("quicbaton", "serve", self.files, "--json", *options))

    def download(self, server: Server, name: str, rate: int) -> Download:
        """libcurl, at so many bytes per second.

        With a rate it holds back the last quarter of a file, so that the download is under way,
        however long a busy machine takes for what a test does to it, until its outcome is asked
        for.
        """
        url = f"https://localhost:{server.port}/{name}"
        file = self.files / name
        hold_at = file.stat().st_size * 3 // 4 if rate and file.is_file() else 0
        limits = ("--rate", str(rate), "--hold-at", str(hold_at))
        return Download(self.start("demo.curl", url, "--ca", self.ca, *limits, folder=_REPOSITORY))

    def connection(self, server: Server) -> dict[str, Any]:
        """What `ps` says of the one connection that this server has."""
        (connection,) = self.json("ps", server.control)["connections"]
        return connection  # type: ignore[no-any-return]

    def close(self) -> None:
        """End what a failed test left running."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def start(
        self, module: str, *arguments: str | Path, folder: Path | None = None
    ) -> subprocess.Popen[str]:
        """A process; in this folder, else in the home."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=self.environment,
            cwd=folder or self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process


class Server:
    """A `quicbaton serve` process and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        ready = self.wait_for("ready")
        self.port: int = ready["port"]
        self.control = Path(ready["control"])
        self.pid: int = ready["pid"]

    def wait_for(self, name: str) -> dict[str, Any]:
        """Read events until one of this name."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            self.events.append(event)
            if event["event"] == name:
                return event
        assert self.process.stderr is not None
        raise AssertionError(f"no {name}: {self.events} {self.process.stderr.read()}")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(GUARD_S)


class Download:
    """A client process in the middle of its work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._begun = False

    def wait_for_bytes(self, count: int) -> None:
        """Until so much of the body has arrived."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            assert message["type"] == "progress", message["error"]
            self._begun = True
            if message["received_bytes"] >= count:
                return

    def outcome(self) -> dict[str, Any]:
        """How it ended; as fast as it can from now on."""
        if self._begun:
            self.process.send_signal(signal.SIGUSR1)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message: dict[str, Any] = json.loads(line)
            if message["type"] == "outcome":
                self.process.wait(GUARD_S)
                return message
            if not self._begun:
                # Before its first words the signal would end it.
                self._begun = True
                self.process.send_signal(signal.SIGUSR1)
        raise AssertionError("the client's program broke off")


def check_whole(download: Download, content: bytes) -> None:
    """The download went on over one connection, and every byte is right."""
    outcome = download.outcome()
    assert not outcome["error"], outcome
    assert outcome["connections"] == 1
    assert outcome["sha256"] == hashlib.sha256(content).hexdigest()


@contextmanager
def home(path: Path) -> Iterator[Home]:
    made = Home(path)
    try:
        yield made
    finally:
        made.close()


def _command(arguments: list[str]) -> int:
    """Has a loop of its own: in a coroutine test, whose loop stands still meanwhile, in a thread of
    its own, too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return main(arguments)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(main, arguments).result()


def wait_for(
    look: Callable[[], _Value], holds: Callable[[_Value], Any], guard_s: float = GUARD_S
) -> _Value:
    """Look again until it holds."""
    until = time.monotonic() + guard_s
    while time.monotonic() < until:
        value = look()
        if holds(value):
            return value
        time.sleep(_LOOK_S)
    raise AssertionError(f"never came: {value}")


def is_stopped(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return stat.rpartition(")")[2].split()[0] == "T"


def waits_for_a_lock(pid: int) -> bool:
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any("->" in line and str(pid) in line.split() for line in lines)
