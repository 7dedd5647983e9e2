"""A service's figures as OpenMetrics, over HTTP.

prometheus-client writes the exposition; this module names the figures. They are gathered from the
workers at each request, so nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from quicbaton.errors import ConfigurationError
from quicbaton.limits import MAX_METRICS_REQUESTS, METRICS_REQUEST_S
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.timing import GATHER_S

try:
    from prometheus_client import CollectorRegistry, make_wsgi_app
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError as error:  # pragma: no cover - an extra that the tests install
    raise ConfigurationError(
        "metrics need prometheus-client: pip install 'quicbaton[metrics]'",
        code=Reason.NO_PROMETHEUS,
    ) from error

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Gather = Callable[[], Awaitable[Sequence[c.Figures]]]

_GAUGES: Final = {
    "connections": "Live connections, sleeping ones included.",
    "sleeping": "Connections that are asleep: encoded, until their next packet or timer.",
    "handshakes": "Handshakes under way.",
    "tcp_connections": "TCP connections of an ASGI program that are open.",
    "tcp_handshakes": "TLS handshakes over TCP under way.",
    "open_forwards": "Connections given away whose strays are still sent on.",
    "relayed_streams": "Streams whose request runs here although the connection has moved on.",
    "memory_held_bytes": "Bytes that connections hold: not consumed, or not acknowledged, or "
    "over TCP not sent.",
    "memory_budget_bytes": "Limit of the bytes that all connections together may hold.",
    "memory_pressure": "0 enough, 1 windows shrink, 2 no credit, 3 no new clients, 4 full.",
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
    "streams_relayed": "Streams relayed because their request could not move.",
    "streams_cut": "Relayed streams cut when the grace period had passed.",
    "lines_lost": "Lines of output and logs that could not be written.",
    "keys_lost": "TLS secrets that could not be written to the key log.",
    "qlog_records_lost": "Events that could not be written to a qlog file.",
    "closed_for_memory": "Connections closed because memory was full and they held most of it.",
    "requests": "Requests, WebSockets and sessions with which an ASGI program has begun.",
    "tcp_requests": "Those of quicbaton_requests that came by HTTP/1.1 and HTTP/2.",
    "tcp_accepted": "TCP clients accepted.",
    "tcp_refused": "TCP clients turned away while memory was nearly full.",
}


_HEALTH: Final = "/healthz"
_PROBES: Final = (_HEALTH, "/readyz")


class Metrics:
    """Serves `/metrics` on an address of its own until `close`, and `/healthz` and `/readyz` for
    those who ask whether the service lives and whether it accepts clients: 200, or 503.

    The HTTP server runs in threads, one a request; the figures are gathered on the event loop that
    made this object.
    """

    def __init__(
        self, gather: Gather, ready: Callable[[], bool], port: int, host: str = "127.0.0.1"
    ) -> None:
        """Raises ConfigurationError when the port is not available. `ready` is called in any
        thread."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Service(gather, asyncio.get_running_loop()))
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(
                host,
                port,
                _with_probes(make_wsgi_app(registry), ready),
                server_class=kind,
                handler_class=_Handler,
            )
        except OSError as error:
            raise ConfigurationError(
                f"cannot serve metrics at {host} port {port}: {error.strerror or error}; "
                "choose another --metrics PORT",
                code=Reason.METRICS_PORT,
            ) from error
        self._host = f"[{host}]" if ":" in host else host
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._server.server_port)

    @property
    def url(self) -> str:
        """Of all that it serves, without a slash."""
        return f"http://{self._host}:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _with_probes(metrics: WSGIApplication, ready: Callable[[], bool]) -> WSGIApplication:
    """Answers probes, and leaves the rest to `metrics`."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path not in _PROBES:
            return metrics(environ, start_response)
        well = path == _HEALTH or ready()
        status = "200 OK" if well else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain"), ("Cache-Control", "no-store")])
        return [b"ok\n" if well else b"no worker accepts clients\n"]

    return application


class _Server(ThreadingMixIn, WSGIServer):
    """Hangs up on clients for which it has no thread: any program may connect to the port."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self._places = threading.Semaphore(MAX_METRICS_REQUESTS)
        super().__init__(*args)

    def verify_request(self, _request: Any, _client_address: Any) -> bool:
        return self._places.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Log nothing for a client that hangs up or is too slow."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = METRICS_REQUEST_S

    def log_message(self, *_: Any) -> None:
        """Log nothing for a scrape."""


class _Service(Collector):
    """Turns the workers' answers into metric families, worker by worker."""

    def __init__(self, gather: Gather, loop: asyncio.AbstractEventLoop) -> None:
        self._gather = gather
        self._loop = loop

    def describe(self) -> Iterable[Metric]:
        """Gather nothing when the collector is registered: the workers start later."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Ask the workers. Called in the HTTP server's thread."""
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        return _families(asked.result(2 * GATHER_S))

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
    draining = GaugeMetricFamily(
        "quicbaton_draining", "1 while the process is drained.", labels=place
    )
    handoffs = CounterMetricFamily(
        "quicbaton_handoffs",
        "Handoffs that ended, by outcome and reason.",
        labels=[*place, "outcome", "reason"],
    )
    placements = CounterMetricFamily(
        "quicbaton_placements",
        "New connections for which a placement policy was asked, by outcome.",
        labels=[*place, "outcome"],
    )
    refused = CounterMetricFamily(
        "quicbaton_refused_peers",
        "Connections of other hosts that were refused, by reason.",
        labels=[*place, "reason"],
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
        for family, counts in (
            (placements, worker.placements),
            (refused, worker.refused_peers),
            (dropped, worker.dropped),
        ):
            for label, count in sorted(counts.items()):
                family.add_metric([*labels, label], count)
        blackout.add_metric(labels, _buckets(worker.blackouts), worker.blackout_sum_us / 1e6)
    return [
        *gauges.values(),
        *counters.values(),
        draining,
        handoffs,
        placements,
        refused,
        dropped,
        blackout,
    ]


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative counts, as the format wants them."""
    total = 0
    buckets: list[tuple[str, float]] = []
    bounds = [*(f"{bound / 1e6:g}" for bound in c.BLACKOUT_BUCKETS_US), "+Inf"]
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
