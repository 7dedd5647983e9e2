"""A process's counters and gauges, as `top` and metrics read them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Final

from quicbaton.asyncio.beside import Beside
from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.requests import RequestCount
from quicbaton.reasons import Reason
from quicbaton.service.moving.registry import HandoffRegistry
from quicbaton.service.peers import commands as c

#: Counters of an endpoint that are no reason for which a datagram was dropped.
_NOT_DROPPED: Final = frozenset({"forwarded", "tossed", "reset", "retry", "closed_for_memory"})


class Blackouts:
    """A histogram of the time that clients of connections given away waited."""

    def __init__(self) -> None:
        self.counts = [0] * (len(c.BLACKOUT_BUCKETS_US) + 1)
        self.sum_us = 0

    def note(self, blackout_us: int) -> None:
        self.counts[bisect_left(c.BLACKOUT_BUCKETS_US, blackout_us)] += 1
        self.sum_us += blackout_us


def read_figures(
    endpoint: Endpoint,
    handoffs: HandoffRegistry,
    blackouts: Blackouts,
    *,
    name: str,
    pid: int,
    draining: bool,
    placed: Mapping[str, int],
    beside: Beside,
    requests: RequestCount,
    lost: Mapping[str, int],
    refused_peers: Mapping[str, int],
) -> c.Figures:
    """The `Figures` of a process. `placed` are outcomes of placements. `beside` is its TCP server.
    `requests` counts the requests of its program, `lost` lines that could not be written, and
    `refused_peers` refused connections of other hosts, by reason."""
    counters = endpoint.counters
    return c.Figures(
        name=name,
        pid=pid,
        node=endpoint.table.place.node,
        worker=endpoint.table.place.worker,
        draining=draining,
        gauges={
            "connections": endpoint.connection_count,
            "sleeping": len(endpoint.asleep),
            "handshakes": len(endpoint.handshakes),
            "tcp_connections": beside.running - beside.handshakes,
            "tcp_handshakes": beside.handshakes,
            "open_forwards": handoffs.unfinished,
            "relayed_streams": handoffs.relays.left,
            "memory_held_bytes": endpoint.budget.held_bytes,
            "memory_budget_bytes": endpoint.budget.total_bytes,
            "memory_pressure": int(endpoint.budget.pressure),
        },
        counters={
            "accepted": endpoint.accepted,
            "datagrams_received": endpoint.udp.datagrams_received,
            "datagrams_sent": endpoint.udp.datagrams_sent,
            "strays": handoffs.counts.forwarded,
            "tossed": counters["tossed"],
            "resets": counters["reset"],
            "slept": endpoint.asleep.slept,
            "woken": endpoint.asleep.woken,
            "streams_relayed": handoffs.relays.relayed,
            "streams_cut": handoffs.relays.cut,
            "closed_for_memory": counters["closed_for_memory"],
            "requests": requests.total,
            "tcp_requests": requests.over_tcp,
            "tcp_accepted": beside.accepted,
            "tcp_refused": beside.refused,
            "lines_lost": lost.get("lines", 0),
            "keys_lost": lost.get("keys", 0),
            "qlog_records_lost": lost.get("qlog", 0),
        },
        handoffs=_by_outcome(handoffs.outcomes),
        dropped={
            str(reason): count for reason, count in counters.items() if reason not in _NOT_DROPPED
        },
        placements=dict(placed),
        refused_peers=dict(refused_peers),
        blackouts=list(blackouts.counts),
        blackout_sum_us=blackouts.sum_us,
    )


def _by_outcome(outcomes: Mapping[tuple[str, Reason], int]) -> dict[str, int]:
    """`given` and `kept` on the way out, `resumed` and `refused` on the way in, with the code."""
    named: Counter[str] = Counter()
    for (direction, code), count in outcomes.items():
        if direction == "out":
            outcome = "given" if code.is_success else "kept"
        else:
            outcome = "resumed" if code.is_success else "refused"
        named[f"{outcome} {code}"] += count
    return dict(named)
