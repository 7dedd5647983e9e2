"""Results as files: NAME.json, and NAME.svg beside it."""

import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.benchmark import Benchmark

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
    picture = path.with_suffix(".svg")
    # A fixed salt and no date: the same figures give the same file, so a diff shows a change.
    with mpl.rc_context({"svg.hashsalt": name, "font.size": 11, "svg.fonttype": "path"}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        benchmark.plot(figures, axes)
        figure.savefig(picture, metadata={"Date": None})
    return [path, picture]
