"""A process's idle connections moved to another of the same host, and one with a full buffer.

Clients of our own (real handshakes, one small request each) are idle when `Drain` moves all of
them. All three processes share the machine, so its cores bound the rate. Destinations report the
blackout: from the source's freeze to their first datagram. After each drain every client makes
another request.

For the size of the buffer, one connection of our own stops reading in the middle of a response
that lies in the server's send buffer as a whole, of 1 KB or of 64 MB, and is handed over to and
fro; medians are compared.
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
from bench.owners import Owner, make_folder, tell
from bench.pair import percentile
from bench.processes import Program
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.cli.control import Server
from quicbaton.cli.fleet import follow
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask

_DEADLINE_S = 120.0
_SMALL_BYTES = 1000
_LARGE_BYTES = 64_000_000
_MOVES = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--connections", type=int, default=0, help="5,000; quick: 300")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure everything."""
    return asyncio.run(_run(options, step))


async def _run(
    options: argparse.Namespace, step: Callable[[int, int, str], None]
) -> dict[str, Any]:
    count = options.connections or (300 if options.quick else 5000)
    rounds = 2 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_folder(folder)
        step(0, rounds + 2, f"opening {count} connections")
        drains, cpu_us = await _drains(folder, files, count, rounds, step)
        step(rounds, rounds + 2, "blackout and the send buffer")
        small = await _blackouts_us(folder, files, _SMALL_BYTES, _MOVES)
        step(rounds + 1, rounds + 2, "blackout and the send buffer")
        large = await _blackouts_us(folder, files, _LARGE_BYTES, 4 if options.quick else _MOVES)
        step(rounds + 2, rounds + 2, "done")
    blackouts = sorted(us for drained in drains for us in drained.blackouts_us)
    rates = [drained.moved / drained.seconds for drained in drains]
    small_us, large_us = statistics.median(small), statistics.median(large)
    return {
        "connections_per_s": round(statistics.median(rates), 1),
        "refused": sum(drained.left for drained in drains),
        "blackout_us": {
            "p50": percentile(blackouts, 50, 0),
            "p99": percentile(blackouts, 99, 0),
            "max": blackouts[-1],
        },
        "blackout_large_over_small": round(large_us / small_us, 2),
        "connections": count,
        "cpu_us_per_connection": cpu_us,
        "rounds_connections_per_s": [round(rate, 1) for rate in rates],
        "buffer": {
            "small_bytes": _SMALL_BYTES,
            "large_bytes": _LARGE_BYTES,
            "small_blackout_us": sorted(small),
            "large_blackout_us": sorted(large),
        },
    }


async def _drains(
    folder: Path,
    files: CertificateFiles,
    count: int,
    rounds: int,
    step: Callable[[int, int, str], None],
) -> tuple[list[c.Drained], dict[str, float]]:
    """All connections from one process to the other, and back, and so on; and the CPU it took."""
    drains = []
    cpu_s: dict[str, float] = {"source": 0.0, "destination": 0.0, "clients": 0.0}
    with ExitStack() as stack:
        first = stack.enter_context(Owner(folder, files, "first"))
        second = stack.enter_context(Owner(folder, files, "join", first.control))
        crowd = stack.enter_context(Program("bench.crowd", str(first.started.port), "quicbaton"))
        tell(crowd, "open", count)
        here, there = first, second
        # New connections fall on both: all of them begin here.
        await _drain(second, first)
        for number in range(rounds):
            step(number, rounds + 2, f"draining {count} connections")
            roles = {"source": here, "destination": there, "clients": crowd}
            before = {role: program.cpu_s() for role, program in roles.items()}
            drained = await _drain(here, there)
            for role, program in roles.items():
                cpu_s[role] += program.cpu_s() - before[role]
            if drained.moved + drained.left != count:
                raise RuntimeError(f"{count} connections, but {drained.moved} moved, {drained}")
            drains.append(drained)
            tell(crowd, "ask")
            here, there = there, here
    return drains, {
        role: round(seconds / rounds / count * 1e6, 1) for role, seconds in cpu_s.items()
    }


async def _drain(source: Owner, destination: Owner) -> c.Drained:
    command = c.Drain([destination.control], proxy=False, count=-1, deadline_s=_DEADLINE_S)
    path = Path(source.control)
    drained = await follow(Server(path, source.control, None), command, c.Drained, lambda _: None)
    await ask(path, c.StopDraining(), c.Answer)
    return drained


async def _blackouts_us(folder: Path, files: CertificateFiles, size: int, moves: int) -> list[int]:
    """Of one connection whose client has stopped reading with `size` bytes in the send buffer."""
    blackouts: list[int] = []
    with ExitStack() as stack:
        first = stack.enter_context(Owner(folder, files, "first"))
        second = stack.enter_context(Owner(folder, files, "join", first.control))
        crowd = stack.enter_context(Program("bench.crowd", str(first.started.port), "quicbaton"))
        tell(crowd, "hold", size)
        await _drain(second, first)
        here, there = first, second
        for _ in range(moves):
            drained = await _drain(here, there)
            if drained.moved != 1:
                raise RuntimeError(f"it did not move: {drained}")
            blackouts += drained.blackouts_us
            here, there = there, here
        tell(crowd, "release")
    return blackouts


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Blackout by the size of the send buffer."""
    buffer = figures["buffer"]
    axes.boxplot(
        [buffer["small_blackout_us"], buffer["large_blackout_us"]],
        tick_labels=["1 KB", "64 MB"],
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("blackout, µs")
    axes.set_xlabel(
        f"in the send buffer; {figures['connections_per_s']:,.0f} idle connections/s drained"
    )


BENCHMARK = Benchmark(
    summary="draining a process: idle connections a second, blackout and the send buffer",
    configure=configure,
    run=run,
    plot=plot,
)
