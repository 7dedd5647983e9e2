"""Bars in groups: one bar for each server in each group."""

from collections.abc import Mapping
from typing import Any


def draw_groups(
    axes: Any,
    groups: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    *,
    numbers: str = "%.2f",
) -> None:
    """Draw the groups by their labels, and in each the bars in the order of `colours`, which may
    name some that no group has. `numbers` is how each bar's is written above it."""
    names = [name for name in colours if name in next(iter(groups.values()))]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        bars = axes.bar(
            [group + (index - (len(names) - 1) / 2) * width for group in range(len(groups))],
            [values[name] for values in groups.values()],
            width * 0.92,
            label=name,
            color=colours[name],
        )
        axes.bar_label(bars, fmt=numbers, padding=2)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.tick_params(axis="x", length=0)
    axes.margins(y=0.25)
    axes.legend(frameon=False, ncols=len(names), loc="upper left")
