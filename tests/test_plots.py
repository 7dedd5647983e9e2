"""All plots have one style: the demo's, those of benchmarks, and timelines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench import report
from bench.benchmark import discover
from quicbaton.cli import palette

ROOT = Path(__file__).parent.parent
#: Colours as SVG and matplotlib write them.
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
PALETTE = {value for name, value in vars(palette).items() if name.isupper()}
RESULTS = sorted(report.RESULTS.glob("*.json"))


def test_the_palette_is_where_colours_are() -> None:
    sources = [*ROOT.glob("bench/**/*.py"), *ROOT.glob("demo/*.py")]
    sources += [ROOT / "src/quicbaton/cli/timeline_picture.py"]
    assert [file for file in sources if _COLOUR.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.stem)
def test_a_benchmark_is_drawn_in_the_style_of_all(result: Path, tmp_path: Path) -> None:
    drawn = report.draw(
        result.stem,
        discover()[result.stem],
        json.loads(result.read_text(encoding="utf-8")),
        tmp_path / "plot.svg",
    ).read_text(encoding="utf-8")
    kept = result.with_suffix(".svg").read_text(encoding="utf-8")
    for picture in (drawn, kept):
        assert set(_COLOUR.findall(picture)) <= PALETTE
        assert 'width="691.2pt" height="388.8pt"' in picture
