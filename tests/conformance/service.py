"""`quicbaton serve` for checkers that do not start their server themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.conformance.fetch import ROOT, environment

_STOP_S = 15.0


class Server(NamedTuple):
    port: int
    certificate: Path


@contextmanager
def serving(home: Path, program: str) -> Iterator[Server]:
    """The program, over UDP and TCP, while the block runs. Its state and log lie in `home`."""
    command = [sys.executable, "-m", "quicbaton", "serve", program, "--app-dir", str(ROOT)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0", "--grace", "1", "--json"],
            env=environment(XDG_STATE_HOME=str(home), XDG_RUNTIME_DIR=str(home)),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield _ready(process, home)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[str], home: Path) -> Server:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            return Server(event["port"], Path(event["certificate"]))
    raise RuntimeError(f"the server did not start: {(home / 'log').read_text()}")
