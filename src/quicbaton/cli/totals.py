"""What a service has counted since it began, its ended processes included."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from quicbaton.cli.control import Server
from quicbaton.cli.fleet import TIMEOUT_S
from quicbaton.counted import counted
from quicbaton.errors import QuicbatonError
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.tally import Histogram, Tally, sum_up


class Totals(msgspec.Struct, frozen=True):
    """Sums over all workers of one server or several."""

    accepted: int
    requests: int
    responses: dict[str, int]  # by class of status, "2xx" and so on
    received_bytes: int
    sent_bytes: int
    packets_lost: int
    given: int
    resumed: int
    kept: int
    blackout_p50_us: int | None
    blackout_p99_us: int | None
    restarts: int
    reloads: dict[str, int]  # "ok", "failed"

    @classmethod
    def of(cls, tallies: Iterable[Tally]) -> Totals:
        one = sum_up(tallies, 0, 0)
        handoffs = by_first_word(one.kinds.get("handoffs", {}))
        blackouts = one.histograms.get("blackout") or Histogram.within(())
        return cls(
            accepted=one.counters.get("accepted", 0),
            requests=one.counters.get("requests", 0),
            responses=_by_class(one.kinds.get("responses", {})),
            received_bytes=one.counters.get("received_bytes", 0),
            sent_bytes=one.counters.get("sent_bytes", 0),
            packets_lost=one.counters.get("packets_lost", 0),
            given=handoffs.get("given", 0),
            resumed=handoffs.get("resumed", 0),
            kept=handoffs.get("kept", 0),
            blackout_p50_us=percentile_us(blackouts.bounds, blackouts.counts, 0.5),
            blackout_p99_us=percentile_us(blackouts.bounds, blackouts.counts, 0.99),
            restarts=sum(one.kinds.get("worker_restarts", {}).values()),
            reloads=one.kinds.get("reloads", {}),
        )

    def __str__(self) -> str:
        """A line for people."""
        text = (
            f"since start: {counted(self.accepted, 'connection')} accepted, "
            f"{counted(self.requests, 'request')}, {_size(self.sent_bytes)} sent, "
            f"{_size(self.received_bytes)} received, {counted(self.resumed, 'handoff')}"
        )
        if self.blackout_p99_us is not None:
            text += f" (blackout p99 ≤{self.blackout_p99_us:,} µs)"
        return f"{text}, {counted(self.restarts, 'restart')}"


async def read_totals(servers: Sequence[Server]) -> Totals | None:
    """The totals of the servers together; None when none of them answers, as of release 0.2.0."""

    async def ask(server: Server) -> list[Tally] | None:
        try:
            return (await server.say(c.ReadTallies(), c.Tallies, TIMEOUT_S)).tallies
        except QuicbatonError:
            return None

    answers = await asyncio.gather(*(ask(server) for server in servers))
    found = [answer for answer in answers if answer is not None]
    return Totals.of(tally for answer in found for tally in answer) if found else None


def percentile_us(bounds: Sequence[int], counts: Sequence[int], share: float) -> int | None:
    """The upper bound of the histogram's bucket that has the percentile; None without samples."""
    total = sum(counts)
    if not total:
        return None
    seen = 0
    for bound, count in zip((*bounds, *bounds[-1:]), counts, strict=True):
        seen += count
        if seen >= total * share:
            return bound
    return None


def by_first_word(kinds: dict[str, int]) -> dict[str, int]:
    """Handoffs by outcome: the kinds name a reason, too."""
    sums: dict[str, int] = {}
    for kind, count in kinds.items():
        what = kind.partition(" ")[0]
        sums[what] = sums.get(what, 0) + count
    return sums


# --- helpers ----------------------------------------------------------------------------------


def _by_class(responses: dict[str, int]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for kind, count in responses.items():
        status = kind.rpartition(" ")[2]
        sums[status] = sums.get(status, 0) + count
    return sums


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
