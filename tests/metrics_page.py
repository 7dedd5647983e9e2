"""Writes the table in `docs/metrics.md` from the code: `python -m tests.metrics_page`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from quicbaton.service.metric_families import FAMILIES, Family

PAGE: Final = Path(__file__).parent.parent / "docs" / "metrics.md"
_BEGIN: Final = "<!-- `make metrics` writes this table. -->\n"
_END: Final = "\n<!-- end of the table -->"


def page() -> str:
    """The page with the table as it must be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{_table()}\n{_END}{after}"


def _table() -> str:
    rows = [
        "| metric | type | unit | labels beside `node`, `worker` | meaning |",
        "|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        own = ", ".join(f"`{name}`" for name in family.labels if name not in ("node", "worker"))
        rows.append(
            f"| `{_shown(family)}` | {family.kind} | {_unit(family)} | {own} | {family.text} |"
        )
    return "\n".join(rows)


def _shown(family: Family) -> str:
    """The name as queries have it."""
    return f"{family.name}_total" if family.kind == "counter" else family.name


def _unit(family: Family) -> str:
    units = ("bytes", "seconds")
    return next((unit for unit in units if f"_{unit}" in family.name), "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
