"""The cost of a handoff for a client that is 50 ms away: no round trip.

libcurl downloads through a link with 50 ms each way (`bench.link`), while its connection goes to
and fro between two server processes. In windows of 200 ms the longest pause between two pieces of
the body is taken: around the moment at which the handoff's effect reaches the client, and around
moments of downloads without handoffs. Beside them stands the time for closing and connecting anew,
until the next byte of a body.

* `gap_ms` is that of a live stream, which the server sends as time passes and no queue smooths: a
  pause of the server is a pause at the client;
* `bulk` has the same for a download as fast as it comes, through a link of 20 Mbit/s.

Target: the longest pause in a window with a handoff is at most the undisturbed p99 plus 5 ms.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.benchmark import Benchmark
from bench.owners import Owner, Watcher, make_folder
from bench.pair import MB, Pair, Run, pauses_ns, percentile, quiet_moments
from bench.processes import Link
from demo import style

_TARGET_MS = 5.0
#: The window has grown to what the download needs.
_WARM_UP_S = 2.0
_RECONNECT_BYTES = 100_000
#: Of the link for bulk data. A window that outgrows link and queue loses a packet, and its pause is
#: a round trip through the full queue, with handoffs and without: some windows in a hundred.
_BULK_MBIT = 20
_BULK_QUEUE_MS = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--delay-ms", type=float, default=50.0, help="the link's, each way (50)")
    parser.add_argument("--every-ms", type=int, default=500, help="time between handoffs (500)")
    parser.add_argument("--rate", type=int, default=1_500_000, help="live bytes/s (1,500,000)")
    parser.add_argument("--seconds", type=int, default=0, help="of each download (15; quick: 8)")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure everything."""
    return asyncio.run(_run(options, step))


async def _run(
    options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    seconds = options.seconds or (8 if options.quick else 15)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = make_folder(folder)
        first = stack.enter_context(Owner(folder, files, "first"))
        second = stack.enter_context(Owner(folder, files, "join", first.control))
        watcher = stack.enter_context(Watcher(files.certificate))
        pair = Pair((first, second), watcher)
        port, delay_ms = first.started.port, options.delay_ms
        bottleneck = {"mbit": _BULK_MBIT, "queue_ms": _BULK_QUEUE_MS}
        wide = stack.enter_context(Link(port, delay_ms=delay_ms))
        narrow = stack.enter_context(Link(port, delay_ms=delay_ms, **bottleneck))
        live = _Gaps(pair, wide.port, options, options.rate * seconds, options.rate)
        bulk = _Gaps(pair, narrow.port, options, _BULK_MBIT * MB // 8 * seconds, 0)
        reconnects: list[float] = []
        for number in range(options.rounds):
            step(number, options.rounds, "live")
            await live.measure()
            step(number, options.rounds, "bulk")
            await bulk.measure()
            again = await pair.reconnect(live.port, _RECONNECT_BYTES, 10)
            reconnects += [one / 1e6 for one in again]
    figures = live.figures()
    figures["gap_ms"]["reconnect"] = _summary(reconnects)
    return {**figures, "delay_ms": options.delay_ms, "bulk": bulk.figures()}


class _Gaps:
    """The windows of one kind of download."""

    def __init__(
        self, pair: Pair, port: int, options: argparse.Namespace, size: int, rate: int
    ) -> None:
        self.port = port
        self._pair = pair
        self._size = size
        self._rate = rate
        self._every_s = options.every_ms / 1e3
        self._delay_ns = int(options.delay_ms * 1e6)
        self._quiet: list[float] = []
        self._moved: list[float] = []

    async def measure(self) -> None:
        """One download without handoffs, one with."""
        plain = await self._download(None)
        self._quiet += _milliseconds(plain, quiet_moments(plain, _WARM_UP_S))
        moved = await self._download(self._every_s)
        moments = [one.answered_ns + self._delay_ns for one in moved.handoffs]
        self._moved += _milliseconds(moved, moments)

    def figures(self) -> dict[str, Any]:
        undisturbed = _summary(self._quiet)
        handoff = _summary(self._moved)
        return {
            "gap_ms": {"undisturbed": undisturbed, "handoff": handoff},
            "excess_ms": round(handoff["max"] - undisturbed["p99"], 3),
            "target_met": handoff["max"] <= undisturbed["p99"] + _TARGET_MS,
            "windows": {"undisturbed": len(self._quiet), "handoff": len(self._moved)},
            "pauses_ms": {
                "undisturbed": [round(one, 2) for one in self._quiet],
                "handoff": [round(one, 2) for one in self._moved],
            },
        }

    async def _download(self, every_s: float | None) -> Run:
        return await self._pair.download(
            self.port, self._size, every_s, _WARM_UP_S, rate=self._rate
        )


def _milliseconds(run: Run, moments_ns: Sequence[int]) -> list[float]:
    return [one / 1e6 for one in pauses_ns(run, moments_ns)]


def _summary(values_ms: Sequence[float]) -> dict[str, float]:
    return {
        "p50": percentile(values_ms, 50, 3),
        "p99": percentile(values_ms, 99, 3),
        "max": round(max(values_ms), 3),
    }


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw the distributions of the longest pauses, live."""
    for name, color in (("undisturbed", style.BASELINE), ("handoff", style.OURS)):
        pauses = sorted(figures["pauses_ms"][name])
        shares = [100 * (index + 1) / len(pauses) for index in range(len(pauses))]
        axes.step(pauses, shares, where="post", color=color, label=name)
    axes.axvline(figures["gap_ms"]["reconnect"]["p50"], color=style.LOSS, linestyle=":")
    axes.text(figures["gap_ms"]["reconnect"]["p50"], 50, "reconnect ", ha="right", color=style.LOSS)
    axes.set_xscale("log")
    axes.set_xlabel("longest pause in 200 ms, ms")
    axes.set_ylabel("share of windows, %")
    axes.set_ylim(0, 100)
    axes.legend(loc="lower right")
    axes.set_title(
        f"A live stream, {figures['delay_ms']:g} ms away: "
        f"{figures['windows']['handoff']} windows with a handoff",
        loc="left",
    )


BENCHMARK = Benchmark(
    summary="longest pause at a client 50 ms away: with and without a handoff, reconnecting",
    configure=configure,
    run=run,
    plot=plot,
)
