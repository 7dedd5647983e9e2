"""Writes `docs/reasons.md` from the enum: `python -m tests.reasons_page`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from quicbaton.reasons import Fault, Reason

PAGE: Final = Path(__file__).parent.parent / "docs" / "reasons.md"

_PARAGRAPHS: Final = (
    "# Reasons",
    "Every refusal, failure and early end has a reason: `error` of a command with `--json`, a "
    "label of the metrics, `code` of an exception (`quicbaton.reasons.Reason`). The message beside "
    "it has the particulars. Where the last column is empty, the message also says what to do, or "
    "nothing need be done. `make reasons` makes this page from the code.",
    "**Final** reasons do not change by waiting, for this connection and this destination: "
    "`quicbaton drain` does not try such a connection again. A reason of a later release that "
    "this process does not know is `unknown`; the message has its code.",
    "## The command was carried out",
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
