"""The demo's picture: throughput, the owner of the connection, and the client's view."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any, Final

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from demo import style
from demo.distance import Distance
from demo.recording import Figures, Recording, throughput

_COLOURS: Final = (style.OURS, style.SECOND)
_STEP_NS: Final = 100_000_000


def draw(recording: Recording, found: Figures, path: Path) -> None:
    """Write an SVG file."""
    with style.styled("quicbaton"):
        size = (style.WIDTH_INCHES, 1.4 * style.HEIGHT_INCHES)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        parts: Any = figure.subfigures(2, 1, height_ratios=[3, 1])
        near, far = parts
        rates, owners, gaps = near.subplots(
            3, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 0.9, 1.3], "hspace": 0.06}
        )
        _draw_rates(rates, recording, found)
        _draw_owners(owners, recording)
        _draw_gaps(gaps, recording, found)
        _draw_moments((rates, owners, gaps), recording)
        gaps.set_xlim(0, recording.seconds)
        gaps.set_xlabel("seconds since the client began to connect")
        if recording.distance is not None:
            _draw_distance(far.subplots(), recording.distance)
        near.suptitle(
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
    )
    axes.grid(axis="y")
    axes.tick_params(length=0)


def _draw_owners(axes: Any, recording: Recording) -> None:
    """A lane for each process, filled while it owned the connection."""
    for start_ns, end_ns, pid in recording.owners():
        start, end = _seconds(recording, start_ns), _seconds(recording, end_ns)
        lane = 1 - recording.processes.index(pid)
        axes.barh(lane, end - start, left=start, height=0.62, color=_colour(recording, pid))
    if recording.killed_ns:
        at = _seconds(recording, recording.killed_ns)
        axes.hlines(1, at, recording.seconds, color=style.GRID, linewidth=1.2)
        axes.plot(at, 1, "X", color=style.LOSS, markersize=9, zorder=5)
    axes.set_yticks([1, 0], [f"pid {pid}" for pid in recording.processes])
    for label, colour in zip(axes.get_yticklabels(), _COLOURS, strict=True):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.set_ylim(-0.6, 1.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _draw_gaps(axes: Any, recording: Recording, found: Figures) -> None:
    """The client's pause at each handoff."""
    for handoff in recording.handoffs:
        at = _seconds(recording, handoff.resumed_ns)
        gap = recording.gap_ms(handoff)
        colour = _colour(recording, handoff.destination)
        axes.vlines(at, 0, gap, color=colour, linewidth=2)
        axes.plot(at, gap, "o", color=colour, markersize=5)
    axes.axhline(found.quiet_gap_ms.p50, color=style.OTHER, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        f"without a handoff: {found.quiet_gap_ms.p50:.1f} ms",
        (0, found.quiet_gap_ms.p50),
        xycoords=("axes fraction", "data"),
        xytext=(6, 4),
        textcoords="offset points",
        color=style.OTHER,
    )
    axes.set_ylim(0, 1.45 * max(found.quiet_gap_ms.p50, found.gap_ms.max))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylabel("client's gap, ms")
    axes.grid(axis="y")
    axes.tick_params(length=0)


def _draw_distance(axes: Any, distance: Distance) -> None:
    """The pauses of a client that is far away, a lane for each kind."""
    lanes = (
        ("closing and reconnecting", distance.reconnects_ms, style.LOSS),
        ("handoff", distance.handoffs_ms, style.OURS),
        ("neither", distance.quiet_ms, style.BASELINE),
    )
    for lane, (_, gaps_ms, colour) in enumerate(reversed(lanes)):
        axes.plot(gaps_ms, [lane] * len(gaps_ms), "o", color=colour, markersize=6, alpha=0.45)
        if gaps_ms:
            axes.annotate(
                f"{median(gaps_ms):.1f} ms",
                (max(gaps_ms), lane),
                xytext=(10, 0),
                textcoords="offset points",
                va="center",
                color=colour if colour != style.BASELINE else style.OTHER,
                fontweight="bold",
            )
    axes.set_yticks(range(len(lanes)), [name for name, _, _ in reversed(lanes)])
    axes.set_ylim(-0.6, len(lanes) - 0.4)
    longest = max((gap for _, gaps_ms, _ in lanes for gap in gaps_ms), default=1)
    axes.set_xlim(0, 1.18 * longest)
    axes.set_xlabel("the client's gap, ms")
    axes.set_title(
        f"{distance.delay_ms} ms away: a live stream, handed over {len(distance.handoffs_ms)} times"
    )
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)


def _draw_moments(panels: tuple[Any, ...], recording: Recording) -> None:
    """Handoffs and the kill, through all panels."""
    for panel in panels:
        for handoff in recording.handoffs:
            at = _seconds(recording, handoff.resumed_ns)
            panel.axvline(
                at, color=style.BASELINE, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0.5
            )
        if recording.killed_ns:
            at = _seconds(recording, recording.killed_ns)
            panel.axvline(at, color=style.LOSS, linewidth=1.2, zorder=0.6)
    if recording.killed_ns:
        panels[0].annotate(
            f"SIGKILL to pid {recording.first_owner}, which had accepted the connection",
            (_seconds(recording, recording.killed_ns), 0.9),
            xycoords=("data", "axes fraction"),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            color=style.LOSS,
        )
