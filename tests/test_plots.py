"""All plots have one style: the demo's, those of benchmarks, and timelines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench import report
from bench.benchmark import discover
from quicbaton.cli import palette
from tests.transport import congestion_pictures
from tests.transport.congestion_grid import ALGORITHMS, COUPLES, Alone

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


@pytest.mark.parametrize("name", congestion_pictures.PICTURES)
def test_pictures_of_congestion_control_are_drawn_in_the_style_of_all(
    name: str, tmp_path: Path
) -> None:
    found = {name: Alone(0.9, 8.0, 0.01) for name in ALGORITHMS}
    grid = {(loss, column): found for loss in (0.0, 0.01) for column in (0.05, 0.2)}
    shares = {(couple, room_s): (0.6, 0.3) for couple in COUPLES for room_s in (0.05, 0.2)}
    pictures = []
    for file in (tmp_path / "first.svg", tmp_path / "second.svg"):
        congestion_pictures.draw(name, shares if name == "sharing" else grid, file)
        pictures.append(file.read_text(encoding="utf-8"))
    assert pictures[0] == pictures[1]
    kept = (ROOT / "docs" / f"congestion-{name}.svg").read_text(encoding="utf-8")
    for picture in (pictures[0], kept):
        assert set(_COLOUR.findall(picture)) <= PALETTE
        assert 'width="691.2pt"' in picture
