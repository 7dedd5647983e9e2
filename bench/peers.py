"""Other ASGI servers, and our own code compiled: each in an environment of its own, which is made
when it is first needed.

Those of other servers lie in a cache folder (`XDG_CACHE_HOME`), so that their dependencies are none
of ours. Packages that we use, too, are pinned to the same versions. A peer that cannot be installed
is missing with a reason; a benchmark prints it and goes on.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_REPOSITORY = Path(__file__).parent.parent
_CONSTRAINTS = _REPOSITORY / "constraints.txt"
_INSTALL_TIMEOUT_S = 300.0
_COMPILE_TIMEOUT_S = 900.0
#: A server of ours that runs on compiled modules, as `make wheel` brings them.
COMPILED = "quicbaton_compiled"
#: Imports of the benchmarks' programs, and the event loop that `quicbaton serve` uses.
_SHARED = ("msgspec", "starlette", "uvloop")


@dataclass(frozen=True)
class Peer:
    """A server, and what `pip` knows it by."""

    name: str
    requirement: str


HYPERCORN = Peer("hypercorn", "hypercorn[h3]==0.18.0")
PEREGRINE = Peer("peregrine", "peregrine-server==1.2.0")
PEERS = (HYPERCORN, PEREGRINE)


class PeerMissingError(Exception):
    """The peer cannot be had here; the message says why."""


def environment_of(peer: Peer) -> Path:
    """The `bin` folder of the peer's environment; PeerMissingError if it cannot be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache / "quicbaton-bench" / f"{peer.requirement}-python{version}"
    stamp = folder / ".installed"
    # The stamp comes last, so an installation that was broken off is done again.
    if not stamp.exists():
        _install(peer, folder)
        stamp.touch()
    return folder / "bin"


def installed() -> tuple[dict[str, Path], dict[str, str]]:
    """The environments of the peers that there are; of the others the reason, in a line."""
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for peer in PEERS:
        try:
            found[peer.name] = environment_of(peer)
        except PeerMissingError as reason:
            missing[peer.name] = str(reason)
    return found, missing


def compiled_python() -> str:
    """An interpreter with the present source, compiled, which is made anew where a file has changed
    since; PeerMissingError if it cannot be made, say without a compiler."""
    _run(COMPILED, ["make", "--silent", "compiled"], _COMPILE_TIMEOUT_S, cwd=_REPOSITORY)
    return str(_REPOSITORY / ".compiled" / "bin" / "python")


def _install(peer: Peer, folder: Path) -> None:
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    what = ("--constraint", str(_CONSTRAINTS), peer.requirement, *_SHARED)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "python"), *pip, *what],
    ):
        _run(peer.requirement, command, _INSTALL_TIMEOUT_S)


def _run(what: str, command: list[str], timeout_s: float, cwd: Path | None = None) -> None:
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=timeout_s, cwd=cwd
        )
    except subprocess.CalledProcessError as failure:
        lines = (failure.stderr or failure.stdout).strip().splitlines() or ["no message"]
        raise PeerMissingError(f"{what}: {lines[-1]}") from failure
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise PeerMissingError(f"{what}: {failure}") from failure
