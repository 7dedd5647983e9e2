"""Sleeping connections: the memory of one, and the time that it takes to wake.

A thousand real clients (aioquic's, in a process of their own) connect over the loopback and make a
request each; the others are states of real ones with keys and IDs of their own. Every one of them
is a live connection with HTTP/3 and its program first, and is put to sleep by the same call.

* Memory is the growth of the process's resident set (`/proc/self/smaps_rollup`) from before the
  first of these connections until all sleep, over their number: routing table, timers, ledger,
  allocator and the rest of the handshakes included.
* Waking is wall-clock time, from the moment at which a datagram that was read is handed out until
  the connection is rebuilt; `answer_us` goes on until the answer is with the kernel. The clients
  that ask are the real ones, all of them, once a round. `wake_cpu_us` is the thread's CPU for the
  same: for the rest of the time another process had the core.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.benchmark import Benchmark
from bench.owners import make_folder, tell
from bench.processes import Program
from bench.servers.handoff_server import Started
from bench.servers.sleep_server import Report
from demo import style
from quicbaton.cli.certificate import CertificateFiles

_CONNECTIONS = 100_000
_REAL = 1000
_QUICK_CONNECTIONS = 5000
_QUICK_REAL = 100
#: Connections that come and go before anything is measured: what is loaded once is no one's.
_WARM_UP = 50

_LIMIT_BYTES = 2500


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument(
        "--connections", type=int, default=0, help=f"that sleep ({_CONNECTIONS}; quick: 5000)"
    )


class _Sleeper(Program):
    """The server process."""

    def __init__(self, folder: Path, files: CertificateFiles) -> None:
        options = {
            "control": folder / f"{os.urandom(4).hex()}.sock",
            "ring": folder / "ring",
            "certificate": files.certificate,
            "key": files.key,
        }
        super().__init__(
            "bench.servers.sleep_server",
            *(f"--{name}={value}" for name, value in options.items()),
        )
        self.started = msgspec.json.decode(self.read_line(), type=Started)

    def ask(self, line: str) -> Report:
        """Have it do something."""
        self.write_line(line)
        return msgspec.json.decode(self.read_line(), type=Report)


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure everything."""
    real = _QUICK_REAL if options.quick else _REAL
    count = options.connections or (_QUICK_CONNECTIONS if options.quick else _CONNECTIONS)
    steps = 4 + options.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_folder(folder)
        with _Sleeper(folder, files) as server:
            port = str(server.started.port)
            step(0, steps, "warming up")
            with Program("bench.crowd", port) as others:
                tell(others, "open", _WARM_UP)
                server.ask("rest")
                tell(others, "ask")
                server.ask("rest")
            before = server.ask("report")
            with Program("bench.crowd", port) as crowd:
                step(1, steps, f"{real} real clients")
                tell(crowd, "open", real)
                rested = server.ask("rest")
                step(2, steps, f"{count - real} clones")
                cloned = server.ask(f"clone {count - real}")
                after = server.ask("report")
                rounds = []
                for number in range(options.rounds):
                    step(3 + number, steps, "waking")
                    tell(crowd, "ask")
                    rounds.append(server.ask("report"))
                    server.ask("rest")
                step(3 + options.rounds, steps, "closing")
                closed = server.ask("close")
        step(steps, steps, "done")
    asleep = after.asleep - before.asleep
    wake_us = [sample for one in rounds for sample in one.wake_us]
    wake_cpu_us = [sample for one in rounds for sample in one.wake_cpu_us]
    answer_us = [sample for one in rounds for sample in one.answer_us]
    return {
        "rss_bytes_per_sleeping_connection": round(
            (after.resident_bytes - before.resident_bytes) / asleep
        ),
        "wake_us": _spread(wake_us),
        "connections": after.asleep,
        "real_connections": real,
        "wake_cpu_us": _spread(wake_cpu_us),
        "answer_us": _spread(answer_us),
        "state_bytes": after.payload_bytes,
        "put_to_sleep_and_clone_us": round(cloned.spent_s / (count - real) * 1e6, 1),
        "full_collection_ms": round(after.collector_pause_ms, 1),
        "close_all_s": round(closed.spent_s, 2),
        "resident_mb": {
            "before": round(before.resident_bytes / 1e6, 1),
            "real_clients_asleep": round(rested.resident_bytes / 1e6, 1),
            "all_asleep": round(after.resident_bytes / 1e6, 1),
            "after_waking": round(rounds[-1].resident_bytes / 1e6, 1) if rounds else None,
        },
        "method": {"wakes": len(wake_us), "rounds": options.rounds},
        "wake_us_by_round": [_spread(one.wake_us) for one in rounds],
    }


def _spread(samples: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    if len(samples) < 2:
        return {}
    return {
        "p50": round(statistics.median(samples), 1),
        "p99": round(statistics.quantiles(samples, n=100)[98], 1),
    }


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw what one takes, beside what it may take."""
    held = figures["rss_bytes_per_sleeping_connection"]
    state = figures["state_bytes"]
    axes.barh(0, state, color=style.OURS, label=f"its state, {state} bytes")
    axes.barh(
        0,
        held - state,
        left=state,
        color=style.OURS_TOO,
        label="IDs, routing table, timer, ledger, allocator",
    )
    axes.axvline(_LIMIT_BYTES, color=style.OTHER, linestyle=":")
    axes.annotate("may take", (_LIMIT_BYTES, 0.45), ha="right", fontsize=9, color=style.OTHER)
    axes.set_ylim(-0.8, 0.9)
    axes.set_xlim(0, _LIMIT_BYTES * 1.05)
    axes.set_yticks([])
    axes.set_xlabel("resident bytes per sleeping connection")
    axes.set_title(
        f"{figures['connections']:,} sleeping connections in one process, {held} bytes each; "
        f"one wakes in {figures['wake_us']['p50']:.0f} µs (p99 {figures['wake_us']['p99']:.0f})",
        loc="left",
        fontsize=10,
    )
    axes.legend(frameon=False, loc="lower left")


BENCHMARK = Benchmark(
    summary="sleeping connections: resident memory of each, and the time in which one wakes",
    configure=configure,
    run=run,
    plot=plot,
)
