"""A service's workers replaced under 2,000 live connections with traffic, and 1 % loss.

`quicbaton serve --workers 2` stands behind a link that loses packets (`bench.link`). Every
connection of a crowd fetches a file every few seconds, all the time, and compares it. Then all
workers are replaced, one after the other, as `quicbaton reload` does it. Published are:

* how many connections ended, or got no answer, and how many answers were wrong: both are to be 0;
* `client_gap_ms`: per connection, the longest wait for an answer while the reload ran, less the
  median of all waits before; beside it the same of as long a time without a reload, since a lost
  packet makes a client wait, too.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.benchmark import Benchmark
from bench.pair import percentile
from bench.processes import Link, Program
from bench.service import Service
from bench.throng import Report
from demo import style

_LOSS = 0.01
_WORKERS = 2
_FILES = 16
_FILE_BYTES = 4096
#: How often a connection asks: 2,000 of them leave the clients' process half a core.
_EVERY_S = 10.0
#: After a reload, until everybody has asked again.
_AFTERWARDS_S = 2 * _EVERY_S + 2.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--connections", type=int, default=0, help="live ones (2000; quick: 300)")
    parser.add_argument("--quiet-s", type=float, default=10.0, help="measured before (10)")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure everything."""
    count = options.connections or (300 if options.quick else 2000)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = _make_files(folder / "files")
        service = stack.enter_context(Service(folder, files, _WORKERS))
        link = stack.enter_context(Link(service.port, delay_ms=0, loss=_LOSS))
        crowd = stack.enter_context(
            Program("bench.throng", "127.0.0.1", str(link.port), str(files), str(_EVERY_S))
        )
        step(0, options.rounds, f"{count} connections")
        _ask(crowd, f"open {count}")
        rounds = []
        for number in range(options.rounds):
            step(number, options.rounds, "no reload")
            _ask(crowd, "mark")
            time.sleep(options.quiet_s)
            quiet = _ask(crowd, "report")
            step(number, options.rounds, "reload")
            _ask(crowd, "mark")
            duration_s = service.reload()
            during = _ask(crowd, "report")
            time.sleep(_AFTERWARDS_S)
            after = _ask(crowd, "report")
            rounds.append(_round(duration_s, quiet, during, after))
    return _figures(count, rounds)


def _make_files(folder: Path) -> Path:
    folder.mkdir()
    for number in range(_FILES):
        (folder / f"{number}.bin").write_bytes(os.urandom(_FILE_BYTES))
    return folder


def _ask(crowd: Program, line: str) -> Report:
    crowd.write_line(line)
    return msgspec.json.decode(crowd.read_line(), type=Report)


def _round(duration_s: float, quiet: Report, during: Report, after: Report) -> dict[str, Any]:
    return {
        "duration_s": round(duration_s, 3),
        "dropped": after.dropped,
        "hash_errors": after.hash_errors,
        "first_failure": after.first_failure,
        "requests": {"before": quiet.requests, "meanwhile": during.requests},
        "gaps_ms": [round(one - quiet.median_ms, 1) for one in during.longest_ms],
        "quiet_gaps_ms": [round(one - quiet.median_ms, 1) for one in quiet.longest_ms],
    }


def _figures(count: int, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    def gaps(key: str) -> dict[str, float]:
        values = list(itertools.chain.from_iterable(one[key] for one in rounds))
        return {"p50": percentile(values, 50), "p99": percentile(values, 99)}

    return {
        "connections": count,
        "dropped": rounds[-1]["dropped"],
        "hash_errors": rounds[-1]["hash_errors"],
        "duration_s": round(statistics.median(one["duration_s"] for one in rounds), 3),
        "client_gap_ms": gaps("gaps_ms"),
        "client_gap_without_reload_ms": gaps("quiet_gaps_ms"),
        "workers": _WORKERS,
        "loss": _LOSS,
        "rounds": rounds,
    }


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw both distributions of the longest waits."""
    for key, label, color in (
        ("quiet_gaps_ms", "no reload", style.BASELINE),
        ("gaps_ms", "reload", style.OURS),
    ):
        gaps = sorted(max(0.1, gap) for one in figures["rounds"] for gap in one[key])
        shares = [100 * (index + 1) / len(gaps) for index in range(len(gaps))]
        axes.step(gaps, shares, where="post", color=color, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("a connection's longest wait for an answer above the median, ms")
    axes.set_ylabel("share of connections, %")
    axes.set_ylim(0, 100)
    axes.legend(loc="lower right")
    axes.set_title(
        f"All workers replaced under {figures['connections']} connections, 1 % loss: "
        f"{figures['dropped']} dropped",
        loc="left",
    )


BENCHMARK = Benchmark(
    summary="workers replaced under thousands of connections with traffic and loss: who notices",
    configure=configure,
    run=run,
    plot=plot,
)
