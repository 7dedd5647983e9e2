"""The command line: `python -m bench NAME [--json FILE]`, or `all`, or `redraw`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import machine, report
from bench.benchmark import Benchmark, discover


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark, or all of them one after the other."""
    benchmarks = discover()
    parser = _parser(benchmarks)
    options = parser.parse_args(arguments)
    if options.name == "redraw":
        for name, benchmark in benchmarks.items():
            if (path := report.RESULTS / f"{name}.json").exists():
                print(report.redraw(name, benchmark, path))
        return 0
    if options.name != "all":
        _run(options.name, benchmarks[options.name], options)
        return 0
    shared = ["--rounds", str(options.rounds), *(["--quick"] if options.quick else [])]
    for name, benchmark in benchmarks.items():
        _run(name, benchmark, parser.parse_args([name, *shared]))
    return 0


def _parser(benchmarks: dict[str, Benchmark]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    everything = names.add_parser("all", help="every benchmark, into bench/results")
    _add_shared(everything)
    names.add_parser("redraw", help="the pictures in bench/results from their figures")
    for name, benchmark in benchmarks.items():
        one = names.add_parser(name, help=benchmark.summary, description=benchmark.summary)
        _add_shared(one)
        one.add_argument("--json", type=Path, default=report.RESULTS / f"{name}.json")
        benchmark.configure(one)
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="medians are over these (5)")
    parser.add_argument("--quick", action="store_true", help="small sizes: a trial, not a figure")


def _run(name: str, benchmark: Benchmark, options: argparse.Namespace) -> None:
    console = Console(stderr=True)
    measured_on = machine.facts()
    columns = (
        TextColumn("[bold]{task.fields[name]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", name=name, total=None)
        figures = benchmark.run(
            options,
            lambda done, total, label: progress.update(
                task, completed=done, total=total, description=label
            ),
        )
    for line in benchmark.report(figures):
        console.print(line, highlight=False, soft_wrap=True)
    for path in report.write(name, benchmark, figures, options.json, measured_on):
        console.print(f"wrote {path}", style="dim", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
