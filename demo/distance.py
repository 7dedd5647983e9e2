"""The second act: what a handoff costs a client that is 50 ms away, and what reconnecting costs.

On the loopback a new connection is made in milliseconds, so that closing and reconnecting looks as
good as handing over. Here a live stream comes through a link with a delay (`bench.link`), at the
rate at which the server makes it, so that no queue hides a pause of the server.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.owners import Owner, Watcher, make_folder
from bench.pair import Pair, pauses_ns
from bench.processes import Link


class DistanceScript(Struct, frozen=True):
    """How much of everything. `delay_ms` is one way."""

    delay_ms: int = 50
    rate_bytes_per_s: int = 1_500_000
    seconds: int = 8
    every_s: float = 0.5
    reconnects: int = 10


class Distance(Struct, frozen=True):
    """The pauses of the client, in ms: around each handoff, half-way between two of them, and from
    giving up a connection until the first byte over a new one."""

    delay_ms: int
    handoffs_ms: list[float]
    quiet_ms: list[float]
    reconnects_ms: list[float]


#: The stream has reached the client at its full rate.
_WARM_UP_S: Final = 1.5
_RECONNECT_BYTES: Final = 100_000


async def measure(folder: Path, script: DistanceScript) -> Distance:
    """Hand a live stream to and fro, then reconnect, over one link. `folder` exists, and is
    empty."""
    files = make_folder(folder)
    with (
        Owner(folder, files, "first") as first,
        Owner(folder, files, "join", first.control) as second,
        Watcher(files.certificate) as watcher,
        Link(first.started.port, delay_ms=script.delay_ms) as link,
    ):
        pair = Pair((first, second), watcher)
        run = await pair.download(
            link.port,
            script.rate_bytes_per_s * script.seconds,
            script.every_s,
            _WARM_UP_S,
            rate=script.rate_bytes_per_s,
        )
        reconnects_ns = await pair.reconnect(link.port, _RECONNECT_BYTES, script.reconnects)
    # A handoff's effect reaches the client after the delay.
    moments = [one.answered_ns + script.delay_ms * 1_000_000 for one in run.handoffs]
    between = [(earlier + later) // 2 for earlier, later in pairwise(moments)]
    return Distance(
        delay_ms=script.delay_ms,
        handoffs_ms=_milliseconds(pauses_ns(run, moments)),
        quiet_ms=_milliseconds(pauses_ns(run, between)),
        reconnects_ms=_milliseconds(reconnects_ns),
    )


def _milliseconds(values_ns: list[int]) -> list[float]:
    return [round(value / 1e6, 3) for value in values_ns]
