"""The pictures of docs/congestion.md, in the style of all plots, from the figures of
`congestion_grid`: the same figures give the same file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from demo import style

_COLOURS: Final = {"cubic": style.BASELINE, "bbr": style.OURS}
#: Of the second download of a couple.
_PALE: Final = {"cubic": style.GRID, "bbr": style.OURS_TOO}


def draw(name: str, figures: Any, path: Path) -> None:
    """Draw one of `PICTURES` into a file."""
    with style.styled(name):
        figure = Figure(figsize=(style.WIDTH_INCHES, 3.2), layout="constrained")
        PICTURES[name](figures, figure)
        # No date: the same figures give the same file.
        figure.savefig(path, metadata={"Date": None})


def _draw_goodput(grid: Mapping[tuple[float, float], Mapping[str, Any]], figure: Any) -> None:
    """A panel for each round trip; losses are categories, since one of them is none."""
    losses = sorted({loss for loss, _ in grid})
    rtts_s = sorted({rtt_s for _, rtt_s in grid})
    panels = figure.subplots(1, len(rtts_s), sharey=True)
    for axes, rtt_s in zip(panels, rtts_s, strict=True):
        for name, colour in _COLOURS.items():
            shares = [grid[loss, rtt_s][name].goodput * 100 for loss in losses]
            axes.plot(shares, "o-", color=colour, label=name)
        axes.set_xticks(range(len(losses)), [f"{loss * 100:g}" for loss in losses])
        axes.set_title(f"round trip {rtt_s * 1000:g} ms")
        axes.set_xlabel("random loss, %")
        axes.grid(axis="y")
        axes.set_ylim(0, 104)
    panels[0].set_ylabel("goodput, % of the link's rate")
    panels[0].legend(loc="lower left")


def _draw_queueing(grid: Mapping[tuple[float, float], Mapping[str, Any]], figure: Any) -> None:
    rooms_ms = [room_s * 1000 for _, room_s in grid]
    axes = figure.subplots()
    for name, colour in _COLOURS.items():
        waits_ms = [found[name].queue_ms for found in grid.values()]
        axes.plot(rooms_ms, waits_ms, "o-", color=colour, label=name)
        axes.annotate(
            f"{waits_ms[-1]:.0f} ms",
            (rooms_ms[-1], waits_ms[-1]),
            (0, 6),
            textcoords="offset points",
        )
    axes.set_xscale("log")
    axes.set_xticks(rooms_ms, [f"{room_ms:g}" for room_ms in rooms_ms])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("room in the queue, ms")
    axes.set_ylabel("a datagram waits, mean ms")
    axes.set_title("What a download adds to a round trip of 50 ms")
    axes.grid(axis="y")
    axes.margins(y=0.12)
    axes.legend(loc="upper left")


def _draw_sharing(
    shares: Mapping[tuple[tuple[str, str], float], tuple[float, float]], figure: Any
) -> None:
    """A panel for each queue, a bar for each couple."""
    rooms_s = sorted({room_s for _, room_s in shares})
    couples = list(dict.fromkeys(couple for couple, _ in shares))
    panels = figure.subplots(1, len(rooms_s), sharey=True)
    for axes, room_s in zip(panels, rooms_s, strict=True):
        for row, couple in enumerate(couples):
            first, second = (share * 100 for share in shares[couple, room_s])
            axes.barh(row, first, color=_COLOURS[couple[0]], height=0.62)
            axes.barh(row, second, left=first, color=_PALE[couple[1]], height=0.62)
            ink = style.PAPER if couple[0] == "bbr" else style.INK
            axes.text(1.5, row, f"{couple[0]} {first:.0f}", va="center", color=ink)
            axes.text(
                first + second - 1.5, row, f"{couple[1]} {second:.0f}", va="center", ha="right"
            )
        axes.axvline(50, color=style.INK, linewidth=0.8, linestyle="--")
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the link")
        axes.set_title(f"room in the queue {room_s * 1000:g} ms")
        axes.set_yticks(range(len(couples)), [", then ".join(couple) for couple in couples])
        axes.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()


PICTURES: Final[Mapping[str, Callable[[Any, Any], None]]] = {
    "goodput": _draw_goodput,
    "queueing": _draw_queueing,
    "sharing": _draw_sharing,
}
