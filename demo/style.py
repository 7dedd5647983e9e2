"""The one style of all plots, the demo's and those of `bench`: sizes, fonts, and what each colour
stands for. `quicbaton timeline` takes its colours from the same palette."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

import matplotlib as mpl
from cycler import cycler

from quicbaton.cli import palette

#: What the plot is about: ours, or with a handoff.
OURS: Final = palette.BLUE
#: A second kind of ours, and parts of one thing, from the first to the last.
OURS_TOO: Final = palette.PALE_BLUE
PARTS: Final = (palette.DEEP_BLUE, palette.BLUE, palette.MID_BLUE, palette.PALE_BLUE)
#: Without a handoff, or another server.
BASELINE: Final = palette.FAINT
OTHER: Final = palette.MUTED
#: The second of two processes.
SECOND: Final = palette.ORANGE
#: What a client loses otherwise, and what a limit promises.
LOSS: Final = palette.RED
INK: Final = palette.INK
GRID: Final = palette.GRID
PAPER: Final = palette.PAPER

WIDTH_INCHES: Final = 9.6
HEIGHT_INCHES: Final = 5.4

_RC: Final[Any] = {  # the names are matplotlib's
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[OURS, BASELINE, OTHER, SECOND]),
    "boxplot.boxprops.color": INK,
    "boxplot.whiskerprops.color": INK,
    "boxplot.capprops.color": INK,
    "boxplot.flierprops.markeredgecolor": INK,
    "boxplot.medianprops.color": OURS,
    "boxplot.medianprops.linewidth": 2.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": BASELINE,
    "ytick.color": BASELINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.fonttype": "path",
}


def styled(salt: str) -> AbstractContextManager[None]:
    """Figures that are made and saved within have the style. Element IDs follow from `salt`: the
    same figures give the same file, so a diff shows a change."""
    return mpl.rc_context({**_RC, "svg.hashsalt": salt})
