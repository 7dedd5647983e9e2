"""Results as files: NAME.json, and NAME.svg beside it."""

import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.benchmark import Benchmark
from demo.style import HEIGHT_INCHES, WIDTH_INCHES, styled

RESULTS = Path(__file__).parent / "results"


def write(
    name: str,
    benchmark: Benchmark,
    figures: dict[str, Any],
    path: Path,
    measured_on: dict[str, Any],
) -> list[Path]:
    """Write the figures to `path` and their plot beside it; return both paths."""
    report = {
        "benchmark": name,
        "summary": benchmark.summary,
        "command": shlex.join([".venv/bin/python", "-m", "bench", *sys.argv[1:]]),
        "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": measured_on,
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    return [path, draw(name, benchmark, figures, path.with_suffix(".svg"))]


def redraw(name: str, benchmark: Benchmark, path: Path) -> Path:
    """Draw the picture of figures that were measured before."""
    return draw(name, benchmark, json.loads(path.read_text()), path.with_suffix(".svg"))


def draw(name: str, benchmark: Benchmark, figures: dict[str, Any], picture: Path) -> Path:
    """Draw the figures in the style of all plots; return the picture's path."""
    with styled(name):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        benchmark.plot(figures, figure.subplots())
        # No date: the same figures give the same file.
        figure.savefig(picture, metadata={"Date": None})
    return picture
