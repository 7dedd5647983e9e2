"""Writes `docs/reasons.md` from the enum: `python -m tests.reasons_page`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from quicbaton.reasons import Fault, Reason

PAGE: Final = Path(__file__).parent.parent / "docs" / "reasons.md"

_PARAGRAPHS: Final = (
    "# Reasons",
    "Whatever is refused, fails or ends early has a reason: `error` of a command with `--json`, a "
    "label of the metrics, `code` of an exception (`quicbaton.reasons.Reason`). The message beside "
    "it has the particulars; where the last column is empty, it also says what to do, or nothing "
    "need be done. This page is made from the code by `make reasons`.",
    "**Final** reasons are those that no waiting changes, for this connection and this "
    "destination: `quicbaton drain` tries such a connection no more. A reason that a process of "
    "a later release gives, and this one does not know, is `unknown`; its message has the other's "
    "word.",
    "## It was done",
)


def page() -> str:
    """The text of the page."""
    parts = [*_PARAGRAPHS, _table([one for one in Reason if one.is_success])]
    for fault in Fault:
        reasons = [one for one in Reason if one.fault is fault and not one.is_success]
        parts += [f"## {fault.value}", _table(reasons)]
    return "\n\n".join(parts) + "\n"


def _table(reasons: list[Reason]) -> str:
    rows = ["| reason | what it means | what to do |", "|---|---|---|"]
    for one in sorted(reasons):
        meaning = f"{one.meaning} **Final.**" if one.is_final else one.meaning
        rows.append(f"| `{one}` | {meaning} | {one.advice} |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
