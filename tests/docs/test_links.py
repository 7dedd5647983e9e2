"""Every link in the texts of the repository leads to a file, and to a heading of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.builder.links import Target, anchors, targets

_ROOT = Path(__file__).parents[2]


def texts() -> Iterator[Path]:
    """The Markdown files of the repository; of the folder itself, those that lie directly there."""
    yield from sorted(_ROOT.glob("*.md"))
    for folder in ("docs", "examples", "bench", "tests", "demo"):
        yield from sorted((_ROOT / folder).rglob("*.md"))


def broken(page: Path) -> list[str]:
    """The page's links that lead to nothing."""
    return [
        "#".join(filter(None, target))
        for target in targets(page.read_text(encoding="utf-8"))
        if not _leads_somewhere(page, target)
    ]


def _leads_somewhere(page: Path, target: Target) -> bool:
    path = page.parent / target.path if target.path else page
    if not path.exists():
        return False
    if not target.anchor:
        return True
    return path.suffix == ".md" and target.anchor in anchors(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", list(texts()), ids=lambda page: str(page.relative_to(_ROOT)))
def test_all_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, twice\n\n# A heading, twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[1](other.md) [2](other.md#a-heading-twice) [3](other.md#a-heading-twice-1) "
        "[4](https://example.org/gone) [5](#here)\n# `Here`\n```\n# No heading\n[6](gone.md)\n```\n"
        "`[7](gone.md)` [8](gone.md) [9](other.md#gone) [10](#no-heading)\n"
    )
    assert broken(page) == ["gone.md", "other.md#gone", "no-heading"]
