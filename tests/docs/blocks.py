"""Fenced blocks of pages of documentation, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
_NOTE: Final = re.compile(r"<!-- (.*) -->")


class Block(NamedTuple):
    """A fenced block. `note` is the HTML comment in the line before it."""

    page: str
    line: int
    language: str
    note: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines that a reader types, without comments at their ends."""
        typed = [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]
        return [re.sub(r"\s+#.*", "", line) for line in typed]


def blocks_of(page: Path) -> list[Block]:
    found = []
    lines = page.read_text(encoding="utf-8").splitlines()
    begin = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if begin is None:
            begin = number
            continue
        note = _NOTE.fullmatch(lines[begin - 1].strip()) if begin else None
        found.append(
            Block(
                str(page.relative_to(ROOT)),
                begin + 1,
                lines[begin][3:].strip(),
                note[1] if note else "",
                "\n".join(lines[begin + 1 : number]),
            )
        )
        begin = None
    return found
