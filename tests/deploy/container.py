"""The image of examples/deploy, built by buildah, and containers of it, run by crun.

No registry is asked: what stands for the image that the Dockerfile begins with is a Debian of the
test's own, kept in `.image`. A container has its process numbers, mounts and network for itself,
no privileges, and no limits.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.cli.command_line import GUARD_S
from tests.docs.blocks import ROOT

FOLDER: Final = ROOT / "examples" / "deploy"
DOCKERFILE: Final = FOLDER / "Dockerfile"
_CACHE: Final = ROOT / ".image"
_DEBIAN: Final = "bookworm"
_PACKAGES: Final = "ca-certificates,python3,python3-pip"
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
#: Mounts cgroup2 alone: crun takes no mixture of both versions.
_ALONE: Final = (
    "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null; "
    'mount --make-rprivate /; exec "$@"'
)


class Images:
    """A store of images of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        store = ("--root", str(folder / "store"), "--runroot", str(folder / "run"))
        self._buildah = ("buildah", *store, "--storage-driver", "vfs")

    def build(self, name: str, program: dict[str, str]) -> None:
        """As the Dockerfile says, for a program with these files, and with this checkout's
        quicbaton."""
        wheels, context = self._folder / "wheels", self._folder / "context"
        wheel = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels))
        _run(*wheel, str(ROOT))
        context.mkdir()
        for file, text in program.items():
            (context / file).write_text(text)
        base = re.findall(r"^FROM (\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
        self._make_base(*base)
        self._do(
            *("bud", "--isolation", "chroot", "--pull-never", "--network", "host"),
            *("--volume", f"{wheels}:/wheels:ro", "--file", str(DOCKERFILE), "--tag", name),
            str(context),
        )

    def configuration(self, name: str) -> dict[str, Any]:
        """What the image says of its containers."""
        told: dict[str, Any] = json.loads(self._do("inspect", "--type", "image", name))
        found: dict[str, Any] = told["OCIv1"]["config"]
        return found

    @contextmanager
    def root(self, name: str) -> Iterator[Path]:
        """The files of a new container."""
        container = self._do("from", "--pull-never", name).strip()
        try:
            yield Path(self._do("mount", container).strip())
        finally:
            self._do("rm", container)

    def _make_base(self, name: str) -> None:
        if not (_CACHE / "complete").exists():
            _CACHE.mkdir(exist_ok=True)
            system = _CACHE / "system"
            _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _DEBIAN, str(system))
            # As in the image that it stands for: pip is the user's own.
            for file in (system / "usr/lib").glob("python3*/EXTERNALLY-MANAGED"):
                file.unlink()
            (system / "etc/pip.conf").write_text("[global]\nfind-links = /wheels\n")
            (system / _CERTIFICATES.relative_to("/")).write_bytes(_CERTIFICATES.read_bytes())
            (_CACHE / "complete").touch()
        container = self._do("from", "scratch").strip()
        self._do("copy", container, str(_CACHE / "system"), "/")
        self._do("commit", "--quiet", container, name)
        self._do("rm", container)

    def _do(self, *words: str) -> str:
        return _run(*self._buildah, *words)


class Container:
    """A running one; it is killed when the test ends."""

    def __init__(
        self, process: subprocess.Popen[str], crun: tuple[str, ...], name: str, user: int
    ) -> None:
        self.process = process
        self._user = f"--user={user}:{user}"
        self._crun = crun
        self._name = name

    def run(self, *command: str) -> str:
        """A command in it, which must succeed; what it printed."""
        return _run(*self._crun, "exec", self._user, self._name, *command)

    def terminate(self) -> int:
        """As Kubernetes does; the exit status of the first process."""
        _run(*self._crun, "kill", self._name, "TERM")
        return self.process.wait(GUARD_S)


@contextmanager
def container(
    folder: Path, root: Path, configuration: dict[str, Any], words: list[str], *mounts: str
) -> Iterator[Container]:
    """Run `words` as the image's user, with these folders of `folder` at the same paths there."""
    # Which Kubernetes writes, too.
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").unlink(missing_ok=True)
    _run("crun", "spec", "--bundle", str(bundle))
    told = json.loads((bundle / "config.json").read_text())
    user = int(configuration["User"])
    told["root"] = {"path": str(root), "readonly": False}
    told["process"] |= {
        "terminal": False,
        "user": {"uid": user, "gid": user},
        "args": words,
        "env": configuration["Env"],
        "cwd": configuration.get("WorkingDir") or "/",
        "capabilities": {},
    }
    # Limits take privileges that whoever runs the test may not have.
    del told["process"]["rlimits"]
    told["linux"].pop("resources", None)
    told["linux"]["namespaces"] = [
        one for one in told["linux"]["namespaces"] if one["type"] != "cgroup"
    ]
    told["mounts"] = [one for one in told["mounts"] if one["type"] != "cgroup"] + [
        {"destination": path, "source": f"{folder}{path}", "type": "bind", "options": ["rbind"]}
        for path in mounts
    ]
    (bundle / "config.json").write_text(json.dumps(told))
    crun = ("unshare", "--mount", "sh", "-c", _ALONE, "sh", "crun", "--root", str(folder / "crun"))
    crun += ("--cgroup-manager=disabled",)
    name = f"quicbaton-{folder.name}"
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [*crun, "run", "--bundle", str(bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        yield Container(process, crun, name, user)
    finally:
        with contextlib.suppress(AssertionError):
            _run(*crun, "delete", "--force", name)
        process.wait(GUARD_S)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
