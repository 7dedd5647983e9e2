"""A service's figures as OpenMetrics, over HTTP.

The exposition is prometheus-client's; this module says which figures there are and what they are
called. They are gathered from the workers when somebody asks, so nothing is counted twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final
from wsgiref.simple_server import WSGIServer

from quicbaton.asyncio.peers import commands as c
from quicbaton.errors import ConfigurationError

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError as error:  # pragma: no cover - an extra that the tests install
    raise ConfigurationError(
        "metrics need prometheus-client: pip install 'quicbaton[metrics]'", code="no_prometheus"
    ) from error

#: A scrape waits so long for the workers; one that does not answer is left out.
GATHER_TIMEOUT_S: Final = 2.0

Gather = Callable[[], Awaitable[Sequence[c.Figures]]]

_GAUGES: Final = {
    "connections": "Live connections, sleeping ones included.",
    "sleeping": "Connections that are asleep: encoded, until their next packet or timer.",
    "handshakes": "Handshakes under way.",
    "open_forwards": "Connections given away whose strays are still sent on.",
    "relayed_connections": "Connections whose packets go through this process both ways.",
    "relayed_streams": "Streams whose request still runs at an earlier owner of the connection.",
}
_COUNTERS: Final = {
    "accepted": "Handshakes begun.",
    "datagrams_received": "Datagrams read from the UDP socket.",
    "datagrams_sent": "Datagrams given to the UDP socket.",
    "strays": "Datagrams that arrived for a connection given away, and were sent on.",
    "tossed": "Datagrams that belonged to another worker or node by their ID, and were sent on.",
    "resets": "Stateless resets sent.",
    "slept": "Times a connection fell asleep.",
    "woken": "Times a connection woke.",
    "streams_relayed": "Streams relayed since their request could not move.",
    "streams_cut": "Relayed streams cut when the grace period had passed.",
}


class Metrics:
    """Serves `/metrics` on an address of its own until `close`.

    The HTTP server runs in a thread of prometheus-client's; the figures are gathered on the event
    loop that made this object.
    """

    def __init__(self, gather: Gather, port: int, host: str = "127.0.0.1") -> None:
        """Raises ConfigurationError when the port cannot be had."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Service(gather, asyncio.get_running_loop()))
        try:
            self._server: WSGIServer
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigurationError(
                f"cannot serve metrics at {host} port {port}: {error.strerror or error}; "
                "choose another --metrics PORT",
                code="metrics_port",
            ) from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Service(Collector):
    """Turns what the workers say into metric families, worker by worker."""

    def __init__(self, gather: Gather, loop: asyncio.AbstractEventLoop) -> None:
        self._gather = gather
        self._loop = loop

    def describe(self) -> Iterable[Metric]:
        """Nothing is gathered when the collector is registered: the workers start later."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Ask the workers. Called in the HTTP server's thread."""
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        return _families(asked.result(2 * GATHER_TIMEOUT_S))

    async def _ask(self) -> Sequence[c.Figures]:
        return await self._gather()


def _families(workers: Sequence[c.Figures]) -> list[Metric]:
    place = ["node", "worker"]
    gauges = {
        name: GaugeMetricFamily(f"quicbaton_{name}", text, labels=place)
        for name, text in _GAUGES.items()
    }
    counters = {
        name: CounterMetricFamily(f"quicbaton_{name}", text, labels=place)
        for name, text in _COUNTERS.items()
    }
    draining = GaugeMetricFamily("quicbaton_draining", "1 while it is emptied.", labels=place)
    handoffs = CounterMetricFamily(
        "quicbaton_handoffs",
        "Handoffs that ended, by outcome and reason.",
        labels=[*place, "outcome", "reason"],
    )
    dropped = CounterMetricFamily(
        "quicbaton_dropped_datagrams",
        "Datagrams that reached no connection, by reason.",
        labels=[*place, "reason"],
    )
    blackout = HistogramMetricFamily(
        "quicbaton_blackout_seconds",
        "From a handoff's freeze to the new owner's first datagram.",
        labels=place,
    )
    for worker in workers:
        labels = [str(worker.node), str(worker.worker)]
        for name, gauge in gauges.items():
            gauge.add_metric(labels, worker.gauges.get(name, 0))
        for name, counter in counters.items():
            counter.add_metric(labels, worker.counters.get(name, 0))
        draining.add_metric(labels, int(worker.draining))
        for outcome, count in sorted(worker.handoffs.items()):
            what, _, reason = outcome.partition(" ")
            handoffs.add_metric([*labels, what, reason], count)
        for reason, count in sorted(worker.dropped.items()):
            dropped.add_metric([*labels, reason], count)
        blackout.add_metric(labels, _buckets(worker.blackouts), worker.blackout_sum_us / 1e6)
    return [*gauges.values(), *counters.values(), draining, handoffs, dropped, blackout]


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative, as the format wants them."""
    total = 0
    buckets: list[tuple[str, float]] = []
    bounds = [*(f"{bound / 1e6:g}" for bound in c.BLACKOUT_BUCKETS_US), "+Inf"]
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
