"""A service's figures as OpenMetrics, over HTTP.

prometheus-client writes the exposition, and `metric_families` names the figures. They are gathered
at each request.
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
from quicbaton.service.peers.tally import Tally
from quicbaton.service.timing import GATHER_S

try:
    from prometheus_client import CollectorRegistry, make_wsgi_app
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from quicbaton.service.metric_families import families
except ImportError as error:  # pragma: no cover - an extra that the tests install
    raise ConfigurationError(
        "metrics need prometheus-client: pip install 'quicbaton[metrics]'",
        code=Reason.NO_PROMETHEUS,
    ) from error

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Gather = Callable[[], Awaitable[Sequence[Tally]]]

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
    """Turns tallies into metric families, worker by worker."""

    def __init__(self, gather: Gather, loop: asyncio.AbstractEventLoop) -> None:
        self._gather = gather
        self._loop = loop

    def describe(self) -> Iterable[Metric]:
        """Gather nothing when the collector is registered: the workers start later."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Gather the figures. Called in the HTTP server's thread."""
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        return families(asked.result(2 * GATHER_S))

    async def _ask(self) -> Sequence[Tally]:
        return await self._gather()
