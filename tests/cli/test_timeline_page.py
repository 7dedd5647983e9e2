"""docs/handoff-timeline.md names each field and each phase."""

from __future__ import annotations

import re
from pathlib import Path

from quicbaton.handoff.timeline import Phase, Timeline

PAGE = Path(__file__).parents[2] / "docs" / "handoff-timeline.md"


def _first_column(heading: str) -> list[str]:
    """The names in the first column of the table under this heading."""
    table = PAGE.read_text(encoding="utf-8").partition(f"| {heading} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_the_page_has_all_fields_in_their_order() -> None:
    assert _first_column("field") == list(Timeline.__struct_fields__)


def test_the_page_has_all_phases_in_their_order() -> None:
    assert _first_column("phase") == [phase.value for phase in Phase]
