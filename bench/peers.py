"""Other ASGI servers, each in an environment of its own, which is made when it is first needed.

They lie in a cache folder (`XDG_CACHE_HOME`), so that their dependencies are none of ours. Packages
that we use, too, are pinned to the same versions. A peer that cannot be installed is missing with a
reason; a benchmark prints it and goes on.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
_INSTALL_TIMEOUT_S = 300.0
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


def _install(peer: Peer, folder: Path) -> None:
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    what = ("--constraint", str(_CONSTRAINTS), peer.requirement, *_SHARED)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "python"), *pip, *what],
    ):
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S
            )
        except subprocess.CalledProcessError as failure:
            lines = (failure.stderr or failure.stdout).strip().splitlines() or ["no message"]
            raise PeerMissingError(f"{peer.requirement}: {lines[-1]}") from failure
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise PeerMissingError(f"{peer.requirement}: {failure}") from failure
