"""Options for operators: where connections go, and which figures are served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from quicbaton.cli.importing import import_named, make
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason
from quicbaton.routing.placement import Placement, parse_placement
from quicbaton.service.node.placing import check_names, names_elsewhere
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.tally import Tally

if TYPE_CHECKING:
    from quicbaton.service.metrics import Metrics


def find_placement(text: str, cluster: Cluster | None) -> Placement | None:
    """The policy that --placement names.

    Raises ConfigurationError: there is no such policy, or it names workers that are not in the
    cluster.
    """
    placement = load_placement(text)
    check_names(names_elsewhere(placement), cluster)
    return placement


def load_placement(text: str) -> Placement | None:
    """A policy of ours by its name, or a class of the user's.

    Raises ConfigurationError: there is no such policy.
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
    listener: tuple[str, int] | None,
    gather: Callable[[], Awaitable[Sequence[Tally]]],
    ready: Callable[[], bool],
) -> Metrics | None:
    """Serve figures at host and port, if asked for. `gather` returns them, and `ready` whether
    clients are accepted."""
    if listener is None:
        return None
    from quicbaton.service.metrics import Metrics  # noqa: PLC0415 - an extra

    host, port = listener
    return Metrics(gather, ready, port, host)


def report_metrics(metrics: Metrics | None, reporter: Reporter) -> None:
    """Report the URL of the metrics, if they are served."""
    if metrics is not None:
        url = f"{metrics.url}/metrics"
        reporter.event("metrics", f"  metrics      {url}", port=metrics.port, url=url)
