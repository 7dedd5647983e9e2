"""A machine of a test's own whose first process is the real systemd, of which nothing reaches this
machine: namespaces, a control group of its own, a read-only root (`boot.sh`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.cli.command_line import GUARD_S, wait_for

_HERE: Final = Path(__file__).parent
_REPOSITORY: Final = _HERE.parents[1]
UNITS: Final = _REPOSITORY / "examples" / "deploy" / "systemd"
#: The units on which others depend by default, empty here.
_TARGETS: Final = ("basic", "sysinit", "sockets", "shutdown", "network-online", "test", "umount")
_USERS: Final = (
    "root:x:0:0::/:/bin/sh",
    "quicbaton:x:990:990::/nowhere:/bin/sh",
    "other:x:991:991::/nowhere:/bin/sh",
)
_OUTPUT: Final = "[Service]\nStandardOutput=append:/opt/stage/output\nStandardError=inherit\n"
_GROUPS: Final = ("root:x:0:", "quicbaton:x:990:", "other:x:991:")


def what_is_missing() -> str:
    """Why no systemd can be booted here; empty where one can."""
    if os.getuid():
        return "root's rights"
    wanted = ("systemd", "systemctl", "unshare", "nsenter", "mount", "setpriv")
    missing = [name for name in wanted if shutil.which(name) is None]
    if _cgroup_root() is None:
        missing.append("a cgroup2 file system")
    return ", ".join(missing)


class Booted:
    """What the test does on that machine. `log` is the file that systemd and its units write."""

    def __init__(self, init: int, log: Path) -> None:
        self._init = init
        self.log = log

    def run(self, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """A command there, to its end."""
        number = {"root": 0, "quicbaton": 990, "other": 991}[user]
        identity = ("setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", "--")
        return subprocess.run(
            [
                *("nsenter", "--target", str(self._init), "--all", "--wd=/", "--"),
                *(identity if number else ()),
                *command,
            ],
            env={"PATH": "/opt/quicbaton/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GUARD_S,
            check=False,
        )

    def do(self, *command: str, user: str = "root") -> str:
        """A command that must succeed; what it printed."""
        done = self.run(*command, user=user)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.output()}"
        return done.stdout

    def output(self) -> str:
        """What systemd and the service have printed."""
        return self.log.read_text() + self.run("cat", "/opt/stage/output").stdout

    def main_pid(self) -> int:
        """The supervisor, by its number there."""
        return int(self.do("systemctl", "show", "--property=MainPID", "--value", "quicbaton"))


@contextmanager
def booted(folder: Path, units: dict[str, str], files: dict[str, bytes]) -> Iterator[Booted]:
    """Boot with these units, and these files in /opt/stage."""
    stage = folder / "stage"
    (stage / "units").mkdir(parents=True)
    for name in _TARGETS:
        (stage / "units" / f"{name}.target").write_text("[Unit]\n")
    for name, text in units.items():
        (stage / "units" / name).write_text(text)
        # No journal runs there.
        (stage / "units" / f"{name}.d").mkdir()
        (stage / "units" / f"{name}.d" / "output.conf").write_text(
            _OUTPUT if name.endswith(".service") else ""
        )
    (stage / "passwd").write_text("\n".join(_USERS) + "\n")
    (stage / "group").write_text("\n".join(_GROUPS) + "\n")
    for name, content in files.items():
        (stage / name).write_bytes(content)
    root = _cgroup_root()
    assert root is not None
    group = root / f"quicbaton-test-{os.getpid()}"
    group.mkdir()
    log = folder / "systemd.log"
    inside = f'echo $$ >{group}/cgroup.procs && exec unshare --cgroup -- sh {_HERE}/boot.sh "$@"'
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(
                    "unshare",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--uts",
                    "--ipc",
                    "--net",
                ),
                *("--", "sh", "-c", inside, "sh", str(stage), str(_REPOSITORY), sys.executable),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        init = wait_for(lambda: _child(process), lambda pid: pid)
        machine = Booted(init, log)
        wait_for(
            lambda: machine.run("systemctl", "is-active", "test.target"),
            lambda told: told.stdout.strip() == "active" or process.poll() is not None,
        )
        assert process.poll() is None, log.read_text()
        yield machine
    finally:
        process.kill()
        process.wait()
        wait_for((group / "cgroup.events").read_text, lambda text: "populated 0" in text)
        for path, _, _ in os.walk(group, topdown=False):
            Path(path).rmdir()


def _child(process: subprocess.Popen[bytes]) -> int:
    """The first process of the namespace, once it is systemd."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for word in path.read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{word}/comm").read_text().strip() == "systemd":
                return int(word)
    assert process.poll() is None, "it ended while it booted"
    return 0


def _cgroup_root() -> Path | None:
    """Where cgroup2 is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None
