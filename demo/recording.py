"""The recording of a run of the demo, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from msgspec import Struct

from demo.curl import Outcome, longest_pause_ns
from demo.distance import Distance

#: A pause of the client counts as a handoff's when it touches this much time around it.
GAP_WINDOW_NS: Final = 100_000_000

MIN_HANDOFFS: Final = 10
MIN_SECONDS: Final = 10.0
MIN_DIRECT_SHARE: Final = 0.2


class Handoff(Struct, frozen=True):
    """The connection went from one process to another; times are CLOCK_MONOTONIC in ns."""

    source: int  # pid
    destination: int
    asked_ns: int
    resumed_ns: int


class Counts(Struct, frozen=True):
    """A process's own figures at its end, or just before it."""

    accepted: int
    datagrams_sent: int
    datagrams_received: int


class Recording(Struct):
    """One run."""

    size: int
    sha256: str
    first_owner: int  # pid of the process that accepted the connection
    processes: tuple[int, int]
    handoffs: list[Handoff]
    killed_ns: int
    outcome: Outcome
    counts: dict[int, Counts]
    distance: Distance | None = None

    @property
    def seconds(self) -> float:
        return (self.outcome.ended_ns - self.outcome.started_ns) / 1e9

    def owners(self) -> list[tuple[int, int, int]]:
        """(from ns, to ns, pid) of every stretch with one owner."""
        starts = [self.outcome.first_byte_ns, *(h.resumed_ns for h in self.handoffs)]
        pids = [self.first_owner, *(h.destination for h in self.handoffs)]
        return list(zip(starts, [*starts[1:], self.outcome.ended_ns], pids, strict=True))

    def gap_ms(self, handoff: Handoff) -> float:
        """The client's longest pause between body bytes around a handoff."""
        middle = (handoff.asked_ns + handoff.resumed_ns) // 2
        within = (handoff.resumed_ns - handoff.asked_ns) // 2 + GAP_WINDOW_NS
        pause = longest_pause_ns(self.outcome.samples, around_ns=middle, within_ns=within)
        return (pause or 0) / 1e6

    def quiet_gap_ms(self) -> float:
        """The same where nothing was handed over, half-way between two handoffs: the median."""
        pauses = []
        for earlier, later in pairwise(self.handoffs):
            middle = (earlier.resumed_ns + later.asked_ns) // 2
            pause = longest_pause_ns(
                self.outcome.samples, around_ns=middle, within_ns=GAP_WINDOW_NS
            )
            if pause is not None:
                pauses.append(pause / 1e6)
        return median(pauses) if pauses else 0.0

    def shares(self, pid: int) -> tuple[float, float]:
        """The part of all datagrams that this process sent, and that came to its own socket."""
        own = self.counts[pid]
        sent = sum(counts.datagrams_sent for counts in self.counts.values())
        received = sum(counts.datagrams_received for counts in self.counts.values())
        return own.datagrams_sent / max(1, sent), own.datagrams_received / max(1, received)


class Spread(Struct, frozen=True):
    """Milliseconds."""

    p50: float
    max: float


class Median(Struct, frozen=True):
    """Milliseconds."""

    p50: float


class FarFigures(Struct, frozen=True):
    """Gaps of a client that is `delay_ms` away, one way."""

    delay_ms: int
    gap_ms: Spread
    quiet_gap_ms: Spread
    reconnect_ms: Spread


class Figures(Struct, frozen=True):
    """The figures that `--json` writes."""

    bytes: int
    seconds: float
    sha256_ok: bool
    handoffs: int
    handshakes: int
    killed_original_owner: bool
    direct_share: dict[int, float]  # pid -> the smaller of its shares of sent and received
    datagrams: dict[int, Counts]
    gap_ms: Spread
    quiet_gap_ms: Median
    far: FarFigures


class Check(Struct, frozen=True):
    """One thing that had to hold."""

    name: str
    held: bool
    text: str


def figures(recording: Recording) -> Figures:
    """The figures of a run."""
    outcome = recording.outcome
    gaps = [recording.gap_ms(handoff) for handoff in recording.handoffs]
    killed = recording.killed_ns > 0 and outcome.ended_ns > recording.killed_ns
    return Figures(
        bytes=outcome.received_bytes,
        seconds=round(recording.seconds, 3),
        sha256_ok=outcome.ok and outcome.sha256 == recording.sha256,
        handoffs=len(recording.handoffs),
        handshakes=sum(counts.accepted for counts in recording.counts.values()),
        killed_original_owner=killed,
        direct_share={pid: round(min(recording.shares(pid)), 4) for pid in recording.counts},
        datagrams=recording.counts,
        gap_ms=_spread(gaps),
        quiet_gap_ms=Median(_rounded(recording.quiet_gap_ms())),
        far=_far_figures(recording.distance),
    )


def checks(recording: Recording, found: Figures) -> list[Check]:
    """Everything that a run must have shown."""
    outcome = recording.outcome
    equal = "equal on both sides" if found.sha256_ok else outcome.error or "different"
    survivors = sum(handoff.resumed_ns < recording.killed_ns for handoff in recording.handoffs)
    return [
        Check(
            "sha256",
            found.sha256_ok and found.bytes == recording.size,
            f"{equal} ({found.bytes:,} bytes in {found.seconds:.1f} s)",
        ),
        Check("duration", found.seconds >= MIN_SECONDS, f"{found.seconds:.1f} s"),
        Check(
            "handshakes",
            found.handshakes == 1,
            f"{found.handshakes} seen by all servers together",
        ),
        Check("handoffs", found.handoffs >= MIN_HANDOFFS, str(found.handoffs)),
        Check(
            "SIGKILL",
            found.killed_original_owner,
            f"pid {recording.first_owner}, which had accepted the connection, after {survivors} "
            "handoffs"
            if found.killed_original_owner
            else "the accepting process was not killed during the download",
        ),
        *(_share_check(recording, pid) for pid in recording.processes if pid in recording.counts),
    ]


def _share_check(recording: Recording, pid: int) -> Check:
    sent, received = recording.shares(pid)
    counts = recording.counts[pid]
    return Check(
        f"pid {pid}",
        min(sent, received) >= MIN_DIRECT_SHARE,
        f"sent {counts.datagrams_sent:,} datagrams ({sent:.0%}), received "
        f"{counts.datagrams_received:,} directly ({received:.0%})",
    )


def throughput(
    samples: Sequence[tuple[int, int]], start_ns: int, end_ns: int, step_ns: int
) -> list[tuple[int, float]]:
    """(middle of a step in ns, MB/s in it) from `start_ns` on, from (time, bytes so far)."""
    points: list[tuple[int, float]] = []
    index = 0
    before = 0
    for step_start in range(start_ns, end_ns, step_ns):
        step_end = min(step_start + step_ns, end_ns)
        total = before
        while index < len(samples) and samples[index][0] < step_end:
            total = samples[index][1]
            index += 1
        if step_end - step_start >= step_ns // 2:
            rate = (total - before) / (step_end - step_start) * 1e3
            points.append(((step_start + step_end) // 2, rate))
        before = total
    return points


def _far_figures(distance: Distance | None) -> FarFigures:
    if distance is None:
        return FarFigures(0, _spread([]), _spread([]), _spread([]))
    return FarFigures(
        delay_ms=distance.delay_ms,
        gap_ms=_spread(distance.handoffs_ms),
        quiet_gap_ms=_spread(distance.quiet_ms),
        reconnect_ms=_spread(distance.reconnects_ms),
    )


def _spread(values_ms: Sequence[float]) -> Spread:
    return Spread(p50=_rounded(median(values_ms or [0])), max=_rounded(max(values_ms, default=0)))


def _rounded(value: float) -> float:
    return round(value, 3)
