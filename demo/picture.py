"""The demo's picture: throughput, the owner of the connection, and the client's view."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from demo.recording import Figures, Recording, throughput

_COLOURS: Final = ("#2f6fde", "#f08c2e")
_KILL: Final = "#c92a2a"
_INK: Final = "#1f2937"
_FAINT: Final = "#9aa3af"
_GRID: Final = "#e6e8ec"
_STEP_NS: Final = 100_000_000

_STYLE: Final[Any] = {  # the names are matplotlib's
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "svg.hashsalt": "quicbaton",
}


def draw(recording: Recording, found: Figures, path: Path) -> None:
    """Write an SVG file."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 5.4), layout="constrained")
        FigureCanvasSVG(figure)
        rates, owners, gaps = figure.subplots(
            3, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 0.9, 1.5], "hspace": 0.06}
        )
        _draw_rates(rates, recording, found)
        _draw_owners(owners, recording)
        _draw_gaps(gaps, recording, found)
        _draw_moments((rates, owners, gaps), recording)
        gaps.set_xlim(0, recording.seconds)
        gaps.set_xlabel("seconds since the client began to connect")
        figure.suptitle(
            f"One QUIC connection, {found.handshakes} handshake, {found.handoffs} handoffs "
            "between two processes",
            x=0.012,
            ha="left",
            fontsize=14,
            fontweight="bold",
        )
        figure.savefig(path, format="svg", metadata={"Date": None})


def _seconds(recording: Recording, at_ns: int) -> float:
    return (at_ns - recording.outcome.started_ns) / 1e9


def _colour(recording: Recording, pid: int) -> str:
    return _COLOURS[recording.processes.index(pid)]


def _draw_rates(axes: Any, recording: Recording, found: Figures) -> None:
    """Bars that touch: each step of time has the colour of who owned the connection in it."""
    outcome = recording.outcome
    for start_ns, end_ns, pid in recording.owners():
        samples = [sample for sample in outcome.samples if sample[0] >= start_ns]
        before = max((s[1] for s in outcome.samples if s[0] < start_ns), default=0)
        samples = [(at_ns, total - before) for at_ns, total in samples]
        points = throughput(samples, start_ns, end_ns, _STEP_NS)
        if not points:
            continue
        times = [_seconds(recording, at_ns) for at_ns, _ in points]
        edges = [_seconds(recording, start_ns), *times, _seconds(recording, end_ns)]
        values = [points[0][1], *(rate for _, rate in points), points[-1][1]]
        colour = _colour(recording, pid)
        axes.fill_between(edges, values, color=colour, alpha=0.22, linewidth=0)
        axes.plot(edges, values, color=colour, linewidth=1.8, solid_capstyle="butt")
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylabel("MB/s")
    axes.set_title(
        f"libcurl downloads {recording.size / 1e6:.0f} MB, at a rate that it limits itself; "
        f"the hash is {'right' if found.sha256_ok else 'WRONG'}",
        loc="left",
        fontsize=9.5,
    )
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _draw_owners(axes: Any, recording: Recording) -> None:
    """A lane for each process, filled while it owned the connection."""
    for start_ns, end_ns, pid in recording.owners():
        start, end = _seconds(recording, start_ns), _seconds(recording, end_ns)
        lane = 1 - recording.processes.index(pid)
        axes.barh(lane, end - start, left=start, height=0.62, color=_colour(recording, pid))
    if recording.killed_ns:
        at = _seconds(recording, recording.killed_ns)
        axes.hlines(1, at, recording.seconds, color=_GRID, linewidth=1.2)
        axes.plot(at, 1, "X", color=_KILL, markersize=9, zorder=5)
    axes.set_yticks([1, 0], [f"pid {pid}" for pid in recording.processes])
    for label, colour in zip(axes.get_yticklabels(), _COLOURS, strict=True):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.set_ylim(-0.6, 1.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _draw_gaps(axes: Any, recording: Recording, found: Figures) -> None:
    """The client's pause at each handoff, beside the cost of reconnecting."""
    for handoff in recording.handoffs:
        at = _seconds(recording, handoff.resumed_ns)
        gap = recording.gap_ms(handoff)
        colour = _colour(recording, handoff.destination)
        axes.vlines(at, 0, gap, color=colour, linewidth=2)
        axes.plot(at, gap, "o", color=colour, markersize=5)
    reconnect = found.reconnect_ms.p50
    axes.axhline(reconnect, color=_KILL, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        f"closing and reconnecting: {reconnect:.1f} ms",
        (0, reconnect),
        xycoords=("axes fraction", "data"),
        xytext=(6, 4),
        textcoords="offset points",
        color=_KILL,
    )
    axes.set_ylim(0, 1.45 * max(reconnect, found.gap_ms.max))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylabel("client's gap, ms")
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _draw_moments(panels: tuple[Any, ...], recording: Recording) -> None:
    """Handoffs and the kill, through all panels."""
    for panel in panels:
        for handoff in recording.handoffs:
            at = _seconds(recording, handoff.resumed_ns)
            panel.axvline(at, color=_FAINT, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0.5)
        if recording.killed_ns:
            at = _seconds(recording, recording.killed_ns)
            panel.axvline(at, color=_KILL, linewidth=1.2, zorder=0.6)
    if recording.killed_ns:
        panels[0].annotate(
            f"SIGKILL to pid {recording.first_owner}, which had accepted the connection",
            (_seconds(recording, recording.killed_ns), 0.9),
            xycoords=("data", "axes fraction"),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            color=_KILL,
        )
