"""Options of `quicbaton serve` for those who run it: where connections go, what is measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quicbaton.cli.control import Server
from quicbaton.cli.fleet import ask_all
from quicbaton.cli.program import import_named, make
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason
from quicbaton.routing.placement import Placement, parse_placement
from quicbaton.service.node.placing import check_names, names_elsewhere
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.timing import GATHER_S

if TYPE_CHECKING:
    from quicbaton.service.metrics import Metrics


def add_options(parser: Any) -> None:
    parser.add_argument(
        "--placement",
        default="stay",
        metavar="POLICY",
        help="which worker gets a new connection: stay (where the kernel brought it), round-robin, "
        "consistent-hash, least-loaded, path:/PREFIX=WORKER,... by the first request, where WORKER "
        "is a number, or NODE or NODE/WORKER of the cluster, or MODULE:NAME (default: stay)",
    )
    parser.add_argument(
        "--metrics",
        type=_address,
        metavar="[HOST:]PORT",
        help="serve figures as OpenMetrics over HTTP (default host: 127.0.0.1)",
    )


def find_placement(options: argparse.Namespace, cluster: Cluster | None) -> Placement | None:
    """The policy that the options name.

    Raises ConfigurationError: there is none, or it names workers that are not in the cluster.
    """
    placement = load_placement(options.placement)
    check_names(names_elsewhere(placement), cluster)
    return placement


def load_placement(text: str) -> Placement | None:
    """A policy of ours by its name, or one of the user's own.

    Raises ConfigurationError: there is none.
    """
    if ":" not in text or text.startswith("path:"):
        return parse_placement(text)
    _, maker = import_named(text, what="--placement", code=Reason.PLACEMENT)
    made = make(maker, what=f"the placement {text}", code=Reason.PLACEMENT)
    if not callable(getattr(made, "choose", None)) or not hasattr(made, "wants_path"):
        raise ConfigurationError(
            f"{text} is no placement: it needs choose(newcomer, members, here) and wants_path",
            code=Reason.PLACEMENT,
        )
    placement: Placement = made
    return placement


def serve_metrics(
    options: argparse.Namespace, reporter: Reporter, workers: Callable[[], Sequence[str]]
) -> Metrics | None:
    """Serve them, if asked for; `workers` names the control sockets of those that are asked."""
    if options.metrics is None:
        return None
    from quicbaton.service.metrics import Metrics  # noqa: PLC0415 - an extra

    async def gather() -> list[c.Figures]:
        servers = [Server(Path(control), control, None) for control in workers()]
        # One that is starting, or gone, is left out.
        answers = await ask_all(servers, c.ReadFigures(), c.Figures, GATHER_S)
        return [figures for _, figures in answers]

    host, port = options.metrics
    metrics = Metrics(gather, port, host)
    url = f"http://{host}:{metrics.port}/metrics"
    reporter.event("metrics", f"  metrics      {url}", port=metrics.port, url=url)
    return metrics


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5) or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"expected PORT or HOST:PORT, got {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)
