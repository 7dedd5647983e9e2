"""The paths of workers' control sockets, beside their supervisor's.

A worker listens at a path with its own pid, and at its predecessor's, for those who know that one.
Whoever is killed leaves both behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

from quicbaton.errors import PeerError
from quicbaton.reasons import Reason
from quicbaton.service.peers.channel import connect_channel
from quicbaton.service.supervisor.lingering import LINGERING_SUFFIX


def worker_paths(control: Path) -> list[Path]:
    """All paths of workers of the supervisor at `control`, in order."""
    return sorted(
        path
        for suffix in (control.suffix, LINGERING_SUFFIX)
        for path in control.parent.glob(f"{control.stem}-*{suffix}")
    )


async def remove_dead_paths(paths: Iterable[Path]) -> None:
    """Remove those at which nobody listens. None of them may be about to become another worker's:
    between the look and the removal it could be put into place."""
    await asyncio.gather(*(_remove_if_dead(path) for path in paths))


async def _remove_if_dead(path: Path) -> None:
    try:
        channel = await connect_channel(path)
    except PeerError as error:
        if error.code is Reason.UNREACHABLE:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    else:
        channel.close()
