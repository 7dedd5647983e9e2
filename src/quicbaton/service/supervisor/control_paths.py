"""The control sockets of a service's workers, and what a killed one leaves of its own."""

from __future__ import annotations

import asyncio
import contextlib
from glob import escape
from pathlib import Path
from typing import Final

from quicbaton.errors import PeerError
from quicbaton.reasons import Reason
from quicbaton.service.peers.channel import connect_channel
from quicbaton.service.supervisor.lingering import LINGERING_SUFFIX

#: Of workers' sockets, whatever the supervisor's is called.
_SUFFIX: Final = ".sock"


def control_of(service: Path, pid: int) -> Path:
    """The control socket of a worker with this pid; `service` is the supervisor's."""
    return service.with_name(f"{service.stem}-{pid}{_SUFFIX}")


def controls_of_workers(service: Path) -> list[Path]:
    """The control sockets of all workers, old ones included; they need not be alive."""
    return sorted(
        path
        for suffix in (_SUFFIX, LINGERING_SUFFIX)
        for path in service.parent.glob(f"{escape(service.stem)}-*{suffix}")
    )


async def remove_dead(*paths: Path) -> None:
    """Remove the sockets at which no process listens any more."""
    await asyncio.gather(*map(_remove_if_dead, paths))


async def _remove_if_dead(path: Path) -> None:
    try:
        channel = await connect_channel(path)
    except PeerError as error:
        if error.code is Reason.UNREACHABLE:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    else:
        channel.close()
