"""Live connections handed from process to process under libcurl, and a whole process's takeover.

Two server processes share a UDP port. A connection over which libcurl downloads, unthrottled, is
handed to and fro every 200 ms, each time to the process that was not reading it. Measured are:

* the blackout: from the last datagram that the source gave the kernel to the destination's first
  with bytes of the body, both stamped (CLOCK_MONOTONIC) in the server processes before the system
  call. The controlling process only says when. Since a source sends two short trains in the course
  of a handoff, the longest silence around it is published, too: the longest time in which neither
  process gave the kernel bytes of the body, within 10 ms of the change;
* goodput, of a download with handoffs over that of one without, in alternating rounds;
* through a link with 10 ms each way (`bench.link`): the longest pause between body bytes within
  100 ms of a handoff, less the median of the same in a download without handoffs, beside the time
  for closing and connecting anew, until the next byte of a body;
* connections per second when a new process takes over all of another one's, most of them idle and
  some making requests all the time; afterwards every one of them makes a request.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.benchmark import Benchmark
from bench.owners import Owner, Watcher, make_folder, tell
from bench.pair import MB, Pair, Run, pauses_ns, percentile, quiet_moments
from bench.processes import Link, Program
from demo import style
from quicbaton.cli.certificate import CertificateFiles

#: One in so many connections is busy during a takeover.
_HUMMING_SHARE = 20
#: Over the link the window grows until the queue overflows, and the client then waits for what was
#: lost, handoff or not.
_WARM_UP_LINK_S = 1.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--mb", type=int, default=0, help="unthrottled download (600; quick: 300)")
    parser.add_argument("--every-ms", type=int, default=200, help="time between handoffs (200)")
    parser.add_argument("--delay-ms", type=float, default=10.0, help="the link's, each way (10)")
    parser.add_argument("--mbit", type=float, default=100.0, help="the link's rate, 0: none (100)")
    parser.add_argument("--link-mb", type=int, default=0, help="over the link (100; quick: 40)")
    parser.add_argument("--connections", type=int, default=0, help="taken over (1000; quick: 200)")
    parser.add_argument(
        "--only", choices=["local", "link", "takeover"], help="one part, for trials"
    )


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure everything."""
    return asyncio.run(_run(options, step))


async def _run(
    options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = make_folder(folder)
        figures: dict[str, Any] = {}
        if options.only in (None, "takeover"):
            figures |= _takeovers(folder, files, options, step)
        first = stack.enter_context(Owner(folder, files, "first"))
        second = stack.enter_context(Owner(folder, files, "join", first.control))
        watcher = stack.enter_context(Watcher(files.certificate))
        pair = Pair((first, second), watcher)
        port = first.started.port
        if options.only in (None, "local"):
            figures |= await _local(pair, port, options, step)
        if options.only in (None, "link"):
            link = stack.enter_context(Link(port, delay_ms=options.delay_ms, mbit=options.mbit))
            figures |= await _over_link(pair, link.port, options, step)
        return figures


async def _local(
    pair: Pair, port: int, options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    size = (options.mb or (300 if options.quick else 600)) * MB
    runs: list[Run] = []
    ratios, rounds = [], []
    usual: list[float] = []
    for number in range(options.rounds):
        step(number, options.rounds, "unthrottled")
        plain = await pair.download(port, size, None)
        moved = await pair.download(port, size, options.every_ms / 1000)
        runs.append(moved)
        usual += plain.silences_us
        ratios.append(moved.goodput_mb_s / plain.goodput_mb_s)
        rounds.append(
            {
                "goodput_mb_s": {
                    "without": round(plain.goodput_mb_s, 1),
                    "with": round(moved.goodput_mb_s, 1),
                },
                "handoffs": len(moved.handoffs),
                "forwarded": moved.forwarded,
                "blackouts_us": [round(one) for one in moved.blackouts_us],
                "silences_us": [round(one) for one in moved.silences_us],
            }
        )
    blackouts = [one for moved in runs for one in moved.blackouts_us]
    silences = [one for moved in runs for one in moved.silences_us]
    handoffs = sum(len(moved.handoffs) for moved in runs)
    return {
        "blackout_us": {"p50": percentile(blackouts, 50), "p99": percentile(blackouts, 99)},
        "longest_silence_us": {
            "p50": percentile(silences, 50),
            "p99": percentile(silences, 99),
            "p50_without": percentile(usual, 50),
            "p99_without": percentile(usual, 99),
        },
        "goodput_ratio": round(statistics.median(ratios), 3),
        "datagrams_forwarded_per_handoff": round(sum(one.forwarded for one in runs) / handoffs, 2),
        "handoffs": handoffs,
        "rounds": rounds,
    }


async def _over_link(
    pair: Pair, port: int, options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    size = (options.link_mb or (40 if options.quick else 100)) * MB
    quiet: list[int] = []
    pauses: list[int] = []
    blackouts: list[float] = []
    reconnects: list[int] = []
    for number in range(options.rounds):
        step(number, options.rounds, "20 ms round trip")
        plain = await pair.download(port, size, None)
        quiet += pauses_ns(plain, quiet_moments(plain, _WARM_UP_LINK_S))
        moved = await pair.download(port, size, options.every_ms / 1000, _WARM_UP_LINK_S)
        blackouts += moved.blackouts_us
        pauses += pauses_ns(moved, [one.answered_ns for one in moved.handoffs])
        reconnects += await pair.reconnect(port, 100_000, 10)
    base = statistics.median(quiet)
    gaps = [max(0.0, (one - base) / 1e6) for one in pauses]
    return {
        "client_gap_ms": {
            "p50": round(statistics.median(gaps), 3),
            "max": round(max(gaps), 3),
        },
        "reconnect_ms": {"p50": round(statistics.median(reconnects) / 1e6, 3)},
        "over_the_link": {
            "handoffs": len(pauses),
            "pause_without_handoff_ms": {
                "p50": round(base / 1e6, 3),
                "p90": percentile([one / 1e6 for one in quiet], 90, 3),
                "max": round(max(quiet) / 1e6, 3),
            },
            "client_gap_ms": [round(one, 3) for one in gaps],
            "blackout_us": {"p50": percentile(blackouts, 50), "p99": percentile(blackouts, 99)},
        },
    }


def _takeovers(
    folder: Path,
    files: CertificateFiles,
    options: argparse.Namespace,
    step: Callable[[int, int, str], None],
) -> dict[str, Any]:
    """One process after the other replaces its predecessor, under the same clients."""
    count = options.connections or (200 if options.quick else 1000)
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        step(0, options.rounds, f"{count} connections")
        owner = stack.enter_context(Owner(folder, files, "first"))
        crowd = stack.enter_context(Program("bench.crowd", str(owner.started.port)))
        tell(crowd, "open", count)
        tell(crowd, "hum", count // _HUMMING_SHARE)
        for number in range(options.rounds):
            step(number, options.rounds, "takeover")
            owner = stack.enter_context(Owner(folder, files, "takeover", owner.control))
            started = owner.started
            if started.message or started.took_over != count:
                raise RuntimeError(f"{started.took_over} of {count} moved: {started.message}")
            rounds.append({"seconds": round(started.takeover_s, 3), "moved": started.took_over})
        requests = tell(crowd, "hush").succeeded
        tell(crowd, "ask")
    return {
        "takeover_connections_per_s": round(
            count / statistics.median(one["seconds"] for one in rounds), 1
        ),
        "takeover": {
            "connections": count,
            "with_requests": count // _HUMMING_SHARE,
            "requests_meanwhile": requests,
            "rounds": rounds,
        },
    }


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw the blackouts' distribution."""
    if "blackout_us" not in figures:
        return  # a trial of another part
    blackouts = sorted(one / 1000 for number in figures["rounds"] for one in number["blackouts_us"])
    shares = [100 * (index + 1) / len(blackouts) for index in range(len(blackouts))]
    axes.step(blackouts, shares, where="post", color=style.OURS)
    axes.axvline(figures["blackout_us"]["p50"] / 1000, color=style.BASELINE, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("blackout, ms")
    axes.set_ylabel("share of handoffs, %")
    axes.set_ylim(0, 100)
    axes.set_title(
        f"{len(blackouts)} handoffs between processes during a download: "
        f"p50 {figures['blackout_us']['p50'] / 1000:.2f} ms",
        loc="left",
    )


BENCHMARK = Benchmark(
    summary="blackout, goodput and client-side gap of handoffs under libcurl; takeover speed",
    configure=configure,
    run=run,
    plot=plot,
)
