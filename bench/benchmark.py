"""The form of a benchmark, and where benchmarks are found: every module in `bench/benchmarks`.

To add one, write `bench/benchmarks/NAME.py` with a `BENCHMARK`. No list needs an entry.
"""

import argparse
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bench.benchmarks


@dataclass(frozen=True)
class Benchmark:
    """One measurement with its picture.

    `run(options, step)` returns the figures under their published keys, raw rounds included; it
    calls `step(done, total, label)` as it goes. `plot(figures, axes)` draws one chart. `configure`
    adds the benchmark's own options to those that all share: `--rounds` and `--quick`. `report`
    says in lines what to know at once: targets met and missed, peers that are not there.
    """

    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Callable[[int, int, str], None]], dict[str, Any]]
    plot: Callable[[dict[str, Any], Any], None]
    report: Callable[[dict[str, Any]], list[str]] = lambda _figures: []


def discover() -> dict[str, Benchmark]:
    """Return every benchmark by its name, which is its module's."""
    return {
        module.name: importlib.import_module(f"bench.benchmarks.{module.name}").BENCHMARK
        for module in pkgutil.iter_modules(bench.benchmarks.__path__)
    }
