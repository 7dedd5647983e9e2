"""A process's counters and gauges, as `top` and metrics read them."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from operator import itemgetter
from typing import Final, Protocol

from quicbaton.asyncio.beside import Beside
from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.requests import RequestCount
from quicbaton.build import is_compiled, version
from quicbaton.limits import MAX_CERTIFICATE_FIGURES, MAX_LOOKS_PER_S
from quicbaton.reasons import Reason
from quicbaton.service.moving.registry import HandoffRegistry
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.incoming import Incoming
from quicbaton.service.peers.tally import CERTIFICATE_END, Histogram, Tally

#: Upper bounds of the histograms. A handshake with a client nearby takes 4 ms of CPU.
_HANDSHAKE_BUCKETS_US: Final = (
    *(2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 10_000_000),
)
_RTT_BUCKETS_US: Final = (
    *(250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000),
    *(250_000, 500_000, 1_000_000),
)
#: Between looks at open connections.
_LOOK_S: Final = 1.0
#: Counters of an endpoint that are no reason for which a datagram was dropped.
_NOT_DROPPED: Final = frozenset(
    {"forwarded", "tossed", "tossed_far", "reset", "retry", "closed_for_memory"}
)


class Counted(Protocol):
    """The parts of a node that count."""

    endpoint: Endpoint
    handoffs: HandoffRegistry
    incoming: Incoming
    beside: Beside
    requests: RequestCount
    lost: Mapping[str, int]
    starters: list[Callable[[], None]]
    closers: list[Callable[[], None]]


class NodeFigures(Observer):
    """Reads the figures of one process: of its endpoint, its handoffs, its program."""

    def __init__(self, node: Counted) -> None:
        self._node = node
        #: How long clients of connections given away waited.
        self._blackouts = Histogram.within(c.BLACKOUT_BUCKETS_US)
        self._handshakes = Histogram.within(_HANDSHAKE_BUCKETS_US)
        self._round_trips = Histogram.within(_RTT_BUCKETS_US)
        self._packets_lost = 0
        #: Open connections that are to be looked at in this round.
        self._round: Iterator[Session] = iter(())
        self._timer: asyncio.TimerHandle | None = None
        self._is_draining: Callable[[], bool] = lambda: False
        self._placed: Mapping[str, int] = {}
        self._keep: Callable[[Tally], None] = lambda _tally: None
        node.endpoint.observers.add(self)
        node.starters.append(self._look_round)
        node.closers.append(self._stop)

    def include(self, is_draining: Callable[[], bool], placed: Mapping[str, int]) -> None:
        """Count placements by their outcomes, too, and say whether the process is drained."""
        self._is_draining = is_draining
        self._placed = placed

    def keep_by(self, keep: Callable[[Tally], None]) -> None:
        """Call `keep(tally)` with all figures before they are given to anybody: nobody sees one
        that is lost with this process."""
        self._keep = keep

    def on_blackout(self, connection_id: bytes, blackout_us: int) -> None:
        self._blackouts.note(blackout_us)

    def on_handshake(self, took_us: int) -> None:
        self._handshakes.note(took_us)

    def on_slept(self, session: Session) -> None:
        self._look(session)

    def on_frozen(self, session: Session) -> None:
        self._look(session)

    def on_ended(self, session: Session) -> None:
        self._look(session)

    def read(self) -> Tally:
        """The figures as they are now."""
        place = self._node.endpoint.table.place
        tally = Tally(
            node=place.node,
            worker=place.worker,
            builds=[build()],
            gauges=self._gauges(),
            counters=self._counters(),
            kinds=self._kinds(),
            histograms={
                "blackout": self._blackouts.copy(),
                "handshake": self._handshakes.copy(),
                "rtt": self._round_trips.copy(),
            },
        )
        self._keep(tally)
        return tally

    # --- helpers --------------------------------------------------------------------------------

    def _look_round(self) -> None:
        """Look at open connections in turn, a bounded number a second."""
        for _ in range(MAX_LOOKS_PER_S):
            session = next(self._round, None)
            if session is None:
                self._round = iter(list(self._node.endpoint.sessions.values()))
                break
            if not session.is_over:
                self._look(session)
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look_round)

    def _look(self, session: Session) -> None:
        connection = session.connection
        self._packets_lost += connection.take_packets_lost()
        if connection.has_rtt:
            self._round_trips.note(round(connection.smoothed_rtt_s * 1e6))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _gauges(self) -> dict[str, int]:
        node = self._node
        endpoint, beside = node.endpoint, node.beside
        return {
            "draining": int(self._is_draining()),
            "connections": endpoint.connection_count,
            "sleeping": len(endpoint.asleep),
            "handshakes": len(endpoint.handshakes),
            "tcp_connections": beside.running - beside.handshakes,
            "tcp_handshakes": beside.handshakes,
            "open_forwards": node.handoffs.unfinished,
            "relayed_streams": node.handoffs.relays.left,
            "memory_held_bytes": endpoint.budget.held_bytes,
            "memory_budget_bytes": endpoint.budget.total_bytes,
            "memory_pressure": int(endpoint.budget.pressure),
            **self._certificate_ends(),
        }

    def _certificate_ends(self) -> dict[str, int]:
        """Those of the certificates that expire first, as a tally has room for no more."""
        certificates = self._node.endpoint.certificates
        ends = {} if certificates is None else certificates.ends
        first = sorted(ends.items(), key=itemgetter(1))[:MAX_CERTIFICATE_FIGURES]
        return {f"{CERTIFICATE_END} {name}": end for name, end in first}

    def _counters(self) -> dict[str, int]:
        node = self._node
        endpoint, handoffs, lost = node.endpoint, node.handoffs, node.lost
        counters = endpoint.counters
        return {
            "accepted": endpoint.accepted,
            "datagrams_received": endpoint.udp.datagrams_received,
            "datagrams_sent": endpoint.udp.datagrams_sent,
            "received_bytes": endpoint.udp.bytes_received,
            "sent_bytes": endpoint.udp.bytes_sent,
            "packets_lost": self._packets_lost,
            "strays": handoffs.counts.forwarded,
            "tossed": counters["tossed"] + counters["tossed_far"],
            "resets": counters["reset"],
            "slept": endpoint.asleep.slept,
            "woken": endpoint.asleep.woken,
            "streams_relayed": handoffs.relays.relayed,
            "streams_cut": handoffs.relays.cut,
            "closed_for_memory": counters["closed_for_memory"],
            "requests": node.requests.total,
            "tcp_requests": node.requests.over_tcp,
            "tcp_accepted": node.beside.accepted,
            "tcp_refused": node.beside.refused,
            "lines_lost": lost.get("lines", 0),
            "keys_lost": lost.get("keys", 0),
            "qlog_records_lost": lost.get("qlog", 0),
        }

    def _kinds(self) -> dict[str, dict[str, int]]:
        endpoint = self._node.endpoint
        return {
            "handoffs": _by_outcome(self._node.handoffs.outcomes),
            "dropped": {
                str(reason): count
                for reason, count in endpoint.counters.items()
                if reason not in _NOT_DROPPED
            },
            "placements": dict(self._placed),
            "responses": self._node.requests.by_class(),
            "refused_peers": dict(self._node.incoming.refused),
        }


@cache
def build() -> str:
    """The versions of this program and of its Python, and the program's form."""
    return f"{version()} {platform.python_version()} {'compiled' if is_compiled() else 'python'}"


def figures_of(tally: Tally, name: str, pid: int) -> c.Figures:
    """A process's tally as `ReadFigures` is answered. `name` and `pid` are the process's."""
    blackouts = tally.histograms["blackout"]
    gauges = dict(tally.gauges)
    return c.Figures(
        name=name,
        pid=pid,
        node=tally.node,
        worker=tally.worker,
        draining=bool(gauges.pop("draining")),
        gauges=gauges,
        counters=tally.counters,
        handoffs=tally.kinds["handoffs"],
        dropped=tally.kinds["dropped"],
        placements=tally.kinds["placements"],
        refused_peers=tally.kinds["refused_peers"],
        blackouts=blackouts.counts,
        blackout_sum_us=blackouts.sum,
    )


def tally_of(figures: c.Figures) -> Tally:
    """The tally of a process of a release that answers with `Figures` alone."""
    blackouts = Histogram(list(c.BLACKOUT_BUCKETS_US), figures.blackouts, figures.blackout_sum_us)
    return Tally(
        node=figures.node,
        worker=figures.worker,
        builds=[],
        gauges={**figures.gauges, "draining": int(figures.draining)},
        counters=figures.counters,
        kinds={
            "handoffs": figures.handoffs,
            "dropped": figures.dropped,
            "placements": figures.placements,
            "refused_peers": figures.refused_peers,
        },
        histograms={"blackout": blackouts},
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
