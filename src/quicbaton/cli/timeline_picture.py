"""Draws timelines of handoffs as an SVG: a row for each, its phases as bars.

The left panel goes up to the destination's first datagram, the right one from there to the
cutover, which takes the client a round trip or more: on one scale nothing else would be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Final, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from quicbaton.cli import palette
from quicbaton.handoff.timeline import Phase, Seen, Timeline

_WIDTH: Final = 1180
_ROW: Final = 44
_TOP: Final = 92
_BOTTOM: Final = 44
_BAR: Final = 18
#: Where the panels begin, and how wide they are.
_LEFT: Final = (250, 560)
_RIGHT: Final = (872, 276)
#: The width of a character of a bar's label.
_CHARACTER: Final = 6.2
_MOST_TICKS: Final = 6


class Kind(NamedTuple):
    """A kind of bar: its name in the legend, and its colour."""

    name: str
    colour: str


class Bar(NamedTuple):
    """What happened from a moment to another, in microseconds since the row's beginning."""

    kind: Kind
    start_us: int
    end_us: int


_COPYING: Final = Kind("copying ahead", palette.FAINT)
_ASKING: Final = Kind("asking", palette.PALE_BLUE)
_SEALING: Final = Kind("freezing, sealing", palette.ORANGE)
_REBUILDING: Final = Kind("rebuilding", palette.BLUE)
_COMMITTING: Final = Kind("committing", palette.RED)
_RESUMING: Final = Kind("resuming", palette.GREEN)
_THAWING: Final = Kind("taking back", palette.PURPLE)
_FORWARDING: Final = Kind("forwarding, until the cutover", palette.PALE_GREEN)
_KINDS: Final = (
    _COPYING,
    _ASKING,
    _SEALING,
    _REBUILDING,
    _COMMITTING,
    _RESUMING,
    _THAWING,
    _FORWARDING,
)
#: The kind of the bar that ends with a phase, and begins with the one before.
_ENDS_WITH: Final[dict[str, Kind]] = {
    Phase.OFFER: _ASKING,
    Phase.ACCEPT: _ASKING,
    Phase.FREEZE: _ASKING,
    Phase.BATON: _SEALING,
    Phase.READY: _REBUILDING,
    Phase.COMMIT: _COMMITTING,
    Phase.FIRST_DATAGRAM: _RESUMING,
    Phase.THAW: _THAWING,
}


def bars_before(timeline: Timeline) -> list[Bar]:
    """The bars of the left panel: up to the first datagram, or to the thaw."""
    bars: list[Bar] = []
    last_us = 0
    for phase, at_us in timeline.in_order().at_us.items():
        kind = _ENDS_WITH.get(phase)
        if phase == Phase.OFFER and Phase.COPY in timeline.at_us:
            kind = _COPYING
        if kind is None or at_us <= last_us:
            continue
        if bars and bars[-1].kind is kind:
            bars[-1] = bars[-1]._replace(end_us=at_us)
        else:
            bars.append(Bar(kind, last_us, at_us))
        last_us = at_us
    return bars


def bars_after(timeline: Timeline) -> list[Bar]:
    """The bar of the right panel, from the first datagram on; none where that never came."""
    spoke_us = timeline.at_us.get(Phase.FIRST_DATAGRAM)
    ended_us = timeline.at_us.get(Phase.CUTOVER, timeline.at_us.get(Phase.END))
    if spoke_us is None or ended_us is None or ended_us < spoke_us:
        return []
    return [Bar(_FORWARDING, 0, ended_us - spoke_us)]


def draw(timelines: Sequence[Timeline]) -> str:
    """The SVG of these handoffs, from top to bottom."""
    height = _TOP + _ROW * len(timelines) + _BOTTOM
    rows = [(timeline, bars_before(timeline), bars_after(timeline)) for timeline in timelines]
    left = _Scale(*_LEFT, max((bar.end_us for _, bars, _ in rows for bar in bars), default=0))
    right = _Scale(*_RIGHT, max((bar.end_us for _, _, bars in rows for bar in bars), default=0))
    drawn = [kind for kind in _KINDS if any(bar.kind is kind for row in rows for bar in _all(row))]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="12" '
        f'fill="{palette.INK}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="{palette.PAPER}"/>',
        _text(16, 26, "Handoffs of live QUIC connections", size=17, bold=True),
        *_legend(drawn),
        *left.axis(height, "since the handoff began"),
        *right.axis(height, "since the first datagram"),
    ]
    for number, (timeline, before, after) in enumerate(rows):
        top = _TOP + _ROW * number
        lines += [*_label(timeline, top)]
        lines += [left.bar(bar, top) for bar in before]
        lines += [right.bar(bar, top) for bar in after]
    return "\n".join([*lines, "</svg>", ""])


def duration(us: float) -> str:
    """A time in the unit that suits it."""
    if us < 1000:
        return f"{us:.0f} µs"
    return f"{us / 1000:.3g} ms" if us < 999_500 else f"{us / 1e6:.3g} s"


# --- helpers ----------------------------------------------------------------------------------


class _Scale:
    """The axis of a panel: microseconds to coordinates."""

    def __init__(self, left: int, width: int, longest_us: int) -> None:
        self._left = left
        self._width = width
        self._step_us = _step(max(longest_us, 1))
        self._end_us = -(-max(longest_us, 1) // self._step_us) * self._step_us

    def x(self, us: int) -> float:
        return self._left + self._width * us / self._end_us

    def axis(self, height: int, text: str) -> Iterator[str]:
        """The ticks with their units, and what they count."""
        bottom = height - _BOTTOM
        for us in range(0, self._end_us + 1, self._step_us):
            x = f"{self.x(us):.2f}"
            yield (
                f'<line x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{bottom}" stroke="{palette.GRID}"/>'
            )
            yield _text(self.x(us), bottom + 16, duration(us), anchor="middle", size=11)
        yield _text(self._left, bottom + 34, text, size=11, colour=palette.MUTED)

    def bar(self, bar: Bar, top: int) -> str:
        """A bar with its duration on it, where that fits, and in its tooltip."""
        start, end = self.x(bar.start_us), self.x(bar.end_us)
        took = duration(bar.end_us - bar.start_us)
        shown = (
            f'<rect x="{start:.2f}" y="{top + 4}" width="{end - start:.2f}" height="{_BAR}" '
            f'fill="{bar.kind.colour}"><title>{escape(f"{bar.kind.name}: {took}")}</title></rect>'
        )
        if len(took) * _CHARACTER < end - start:
            pale = bar.kind.colour in (palette.PALE_BLUE, palette.PALE_GREEN)
            colour = palette.INK if pale else palette.PAPER
            middle = (start + end) / 2
            shown += _text(middle, top + 17, took, anchor="middle", size=11, colour=colour)
        return shown


def _step(longest_us: int) -> int:
    """The distance of ticks: 1, 2 or 5 times a power of ten."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if longest_us <= factor * power * _MOST_TICKS:
                return factor * power
        power *= 10


def _legend(kinds: Sequence[Kind]) -> Iterator[str]:
    x = 16.0
    for kind in kinds:
        yield f'<rect x="{x:.2f}" y="44" width="12" height="12" fill="{kind.colour}"/>'
        yield _text(x + 18, 54, kind.name)
        x += 18 + _CHARACTER * len(kind.name) + 24


def _label(timeline: Timeline, top: int) -> Iterator[str]:
    """The row's words: who, from where to where; what came of it, below the bars."""
    where = f"{_short(timeline.source)} → {_short(timeline.destination)}"
    if timeline.seen_by is Seen.BY_DESTINATION:
        where += ", as it arrived"
    yield _text(16, top + 13, timeline.connection[:16], bold=True)
    yield _text(16, top + 29, where, size=11)
    said = [timeline.outcome or "open"]
    if timeline.code not in ("", "ok"):
        said.append(timeline.code)
    if timeline.blackout_us is not None:
        said.append(f"blackout {duration(timeline.blackout_us)}")
    if timeline.baton_bytes:
        said.append(f"baton {timeline.baton_bytes:,} bytes")
    said.append(f"{timeline.forwards:,} forwarded")
    yield _text(_LEFT[0], top + 36, " · ".join(said), size=11, colour=palette.MUTED)


def _short(name: str) -> str:
    """A process's name as it fits: of a control socket's path, the file's."""
    return (PurePath(name).stem if name.startswith("/") else name) or "?"


def _all(row: tuple[Timeline, list[Bar], list[Bar]]) -> list[Bar]:
    return [*row[1], *row[2]]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    bold: bool = False,
    colour: str = palette.INK,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.2f}" y="{y:g}" text-anchor={quoteattr(anchor)} font-size="{size}"{weight} '
        f'fill="{colour}">{escape(text)}</text>'
    )
