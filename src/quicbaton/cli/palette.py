"""The colours of all our pictures: timelines, the demo's, those of benchmarks."""

from __future__ import annotations

from typing import Final

INK: Final = "#1f2937"
MUTED: Final = "#5b6472"
FAINT: Final = "#9aa3af"
GRID: Final = "#e6e8ec"
PAPER: Final = "#ffffff"

#: The two processes of a handoff, and what is measured first and second.
BLUE: Final = "#2f6fde"
ORANGE: Final = "#f08c2e"
#: What ends badly, or is compared with.
RED: Final = "#c92a2a"
GREEN: Final = "#2b8a5e"
PURPLE: Final = "#7c4dbd"
DEEP_BLUE: Final = "#1b4aa3"
MID_BLUE: Final = "#7ba3ec"
PALE_BLUE: Final = "#b9cdf5"
PALE_GREEN: Final = "#a9dcc3"
