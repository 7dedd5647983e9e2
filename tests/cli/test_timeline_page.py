"""docs/handoff-timeline.md names each field and each phase."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from quicbaton.cli.timeline_picture import duration
from quicbaton.handoff.timeline import Phase, Timeline

PAGE = Path(__file__).parents[2] / "docs" / "handoff-timeline.md"


def _first_column(heading: str) -> list[str]:
    """The names in the first column of the table under this heading."""
    table = PAGE.read_text(encoding="utf-8").partition(f"| {heading} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_the_page_has_all_fields_in_their_order() -> None:
    assert _first_column("field") == list(Timeline.__struct_fields__)


def test_the_record_on_the_page_is_one() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("```json\n")[2].partition("```")[0]
    timeline = msgspec.json.decode(text, type=Timeline)
    assert set(msgspec.json.decode(text)) == set(Timeline.__struct_fields__)
    assert set(timeline.at_us) < {phase.value for phase in Phase}
    drawn = PAGE.with_suffix(".svg").read_text(encoding="utf-8")
    assert timeline.connection[:16] in drawn
    assert f"blackout {duration(timeline.blackout_us or 0)}" in drawn


def test_the_page_has_all_phases_in_their_order() -> None:
    assert _first_column("phase") == [phase.value for phase in Phase]
