"""Shows the demo while it runs: a live panel in a terminal, a line for each event elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from demo import curl
from demo.recording import GAP_WINDOW_NS, Check, Figures, Handoff

#: Colours of the process that accepted the connection and of the other one.
COLOURS: Final = ("dodger_blue1", "orange1")
#: Throughput shown is the mean over this much time.
_RATE_NS: Final = 1_000_000_000


class Display:
    """A context manager; see `play.Display` for the methods."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None
        self._column = BarColumn(bar_width=None, complete_style=COLOURS[0])
        self._bar = Progress(TextColumn("{task.percentage:>3.0f}%"), self._column, DownloadColumn())
        self._task: TaskID | None = None
        self._started_s = time.monotonic()
        self._owners: list[int] = []  # pids, the accepting one first
        self._owner = 0
        self._handoffs: list[Handoff] = []
        self._killed = 0
        self._history: deque[curl.Progress] = deque()
        self._last_gap_ns = 0

    def __enter__(self) -> Display:
        if sys.stdout.isatty():
            self._live = Live(console=self._console, refresh_per_second=12, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        self._say(text)

    def begin(self, size: int, owner: int) -> None:
        self._owners = [owner]
        self._owner = owner
        self._task = self._bar.add_task("", total=size)
        self._say(f"pid {owner} accepted the client's connection")

    def progress(self, progress: curl.Progress) -> None:
        self._history.append(progress)
        while progress.at_ns - self._history[0].at_ns > _RATE_NS:
            self._history.popleft()
        if self._handoffs:
            since_ns = progress.at_ns - self._handoffs[-1].resumed_ns
            if since_ns < 2 * GAP_WINDOW_NS:
                self._last_gap_ns = max(self._last_gap_ns, progress.pause_ns)
        if self._task is not None:
            self._bar.update(self._task, completed=progress.received_bytes)
        if self._live is not None:
            self._live.update(self._panel())

    def handed_over(self, handoff: Handoff) -> None:
        self._handoffs.append(handoff)
        self._owner = handoff.destination
        self._last_gap_ns = 0
        if handoff.destination not in self._owners:
            self._owners.append(handoff.destination)
        self._column.complete_style = COLOURS[self._owners.index(self._owner)]
        took_ms = (handoff.resumed_ns - handoff.asked_ns) / 1e6
        if self._live is None:
            self._say(
                f"handoff {len(self._handoffs):>2}: pid {handoff.source} to pid "
                f"{handoff.destination} in {took_ms:.1f} ms, {self._rate():.1f} MB/s"
            )

    def killed(self, pid: int) -> None:
        self._killed = pid
        self._say(f"SIGKILL to pid {pid}, which had accepted the connection")

    def summary(self, checks: list[Check], found: Figures, picture: str) -> None:
        """The end: what had to hold, and the figures."""
        table = Table(box=None, show_header=False, pad_edge=False)
        for check in checks:
            mark = Text("✓", "bold green") if check.held else Text("✗", "bold red")
            table.add_row(mark, Text(check.name, "bold"), check.text)
        gap = (
            f"p50 {found.gap_ms.p50:.1f} ms, max {found.gap_ms.max:.1f} ms around a handoff; "
            f"{found.quiet_gap_ms.p50:.1f} ms without one"
        )
        far = found.far
        far_gap = (
            f"p50 {far.gap_ms.p50:.1f} ms, max {far.gap_ms.max:.1f} ms around a handoff; "
            f"{far.quiet_gap_ms.p50:.1f} ms without one; "
            f"{far.reconnect_ms.p50:.1f} ms when the client closes and reconnects"
        )
        table.add_row("", Text("gap", "bold"), gap)
        table.add_row("", Text(f"gap {far.delay_ms} ms away", "bold"), far_gap)
        table.add_row("", Text("picture", "bold"), picture)
        self._console.print()
        self._console.print(table, soft_wrap=True)

    # --- helpers --------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        seconds = time.monotonic() - self._started_s
        self._console.print(f"{seconds:5.1f} s  {text}", soft_wrap=True)

    def _rate(self) -> float:
        """MB/s lately."""
        if len(self._history) < 2:
            return 0.0
        first, last = self._history[0], self._history[-1]
        return (last.received_bytes - first.received_bytes) / (last.at_ns - first.at_ns) * 1e3

    def _panel(self) -> Panel:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_row("owner", self._owner_line())
        table.add_row("handoffs", str(len(self._handoffs)))
        table.add_row("throughput", f"{self._rate():.1f} MB/s")
        gap = f"{self._last_gap_ns / 1e6:.1f} ms" if self._last_gap_ns else "–"
        table.add_row("last gap", gap)
        return Panel(Group(self._bar, table), title="one connection, two processes")

    def _owner_line(self) -> Text:
        line = Text()
        for index, pid in enumerate(self._owners):
            name = f" pid {pid} "
            if pid == self._killed:
                line.append(name, "strike dim")
            elif pid == self._owner:
                line.append(name, f"bold black on {COLOURS[index % 2]}")
            else:
                line.append(name, "dim")
            line.append(" ")
        return line
