"""The names, units and labels of a service's metrics, and their samples from tallies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from quicbaton.service.peers.tally import SUPERVISOR, Histogram, Tally


class Family(NamedTuple):
    """One metric. `key` is its name in tallies."""

    key: str
    name: str
    kind: str  # counter, gauge, histogram
    text: str
    labels: tuple[str, ...] = ("node", "worker")


def _gauge(key: str, text: str) -> Family:
    return Family(key, f"quicbaton_{key}", "gauge", text)


def _counter(key: str, text: str) -> Family:
    return Family(key, f"quicbaton_{key}", "counter", text)


def _kinds(key: str, name: str, text: str, *labels: str) -> Family:
    """A counter by kind: the words of a kind are the values of its labels."""
    return Family(key, f"quicbaton_{name}", "counter", text, ("node", "worker", *labels))


FAMILIES: Final = (
    _gauge("connections", "Live connections, sleeping ones included."),
    _gauge("sleeping", "Connections that are asleep: encoded, until their next packet or timer."),
    _gauge("handshakes", "Handshakes under way."),
    _gauge("tcp_connections", "TCP connections of an ASGI program that are open."),
    _gauge("tcp_handshakes", "TLS handshakes over TCP under way."),
    _gauge("open_forwards", "Connections given away whose strays are still sent on."),
    _gauge(
        "relayed_streams", "Streams whose request runs here although the connection has moved on."
    ),
    _gauge(
        "memory_held_bytes",
        "Bytes that connections hold: not consumed, or not acknowledged, or over TCP not sent.",
    ),
    _gauge("memory_budget_bytes", "Limit of the bytes that all connections together may hold."),
    _gauge("memory_pressure", "0 enough, 1 windows shrink, 2 no credit, 3 no new clients, 4 full."),
    _gauge("draining", "1 while the process is drained."),
    _counter("accepted", "Handshakes begun."),
    _counter("datagrams_received", "Datagrams read from the UDP socket."),
    _counter("datagrams_sent", "Datagrams given to the UDP socket."),
    _counter("strays", "Datagrams that arrived for a connection given away, and were sent on."),
    _counter(
        "tossed",
        "Datagrams that belonged to another worker or node by their ID, and were sent on.",
    ),
    _counter("resets", "Stateless resets sent."),
    _counter("slept", "Times a connection fell asleep."),
    _counter("woken", "Times a connection woke."),
    _counter("streams_relayed", "Streams relayed because their request could not move."),
    _counter("streams_cut", "Relayed streams cut when the grace period had passed."),
    _counter("lines_lost", "Lines of output and logs that could not be written."),
    _counter("keys_lost", "TLS secrets that could not be written to the key log."),
    _counter("qlog_records_lost", "Events that could not be written to a qlog file."),
    _counter(
        "closed_for_memory", "Connections closed because memory was full and they held most of it."
    ),
    _counter("requests", "Requests, WebSockets and sessions with which an ASGI program has begun."),
    _counter("tcp_requests", "Those of quicbaton_requests that came by HTTP/1.1 and HTTP/2."),
    _counter("tcp_accepted", "TCP clients accepted."),
    _counter("tcp_refused", "TCP clients turned away while memory was nearly full."),
    _kinds(
        "handoffs",
        "handoffs",
        "Handoffs that ended, by outcome and reason.",
        "outcome",
        "reason",
    ),
    _kinds(
        "placements",
        "placements",
        "New connections for which a placement policy was asked, by outcome.",
        "outcome",
    ),
    _kinds(
        "refused_peers",
        "refused_peers",
        "Connections of other hosts that were refused, by reason.",
        "reason",
    ),
    _kinds(
        "dropped",
        "dropped_datagrams",
        "Datagrams that reached no connection, by reason.",
        "reason",
    ),
    Family(
        "blackout",
        "quicbaton_blackout_seconds",
        "histogram",
        "From a handoff's freeze to the new owner's first datagram.",
    ),
)


def families(tallies: Sequence[Tally]) -> list[Metric]:
    """All metrics, with a sample for each tally that has the figure."""
    return [_family(family, tallies) for family in FAMILIES]


# --- helpers ----------------------------------------------------------------------------------


def _family(family: Family, tallies: Sequence[Tally]) -> Metric:
    name, text, labels = family.name, family.text, family.labels
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for one in tallies:
            values = one.histograms.get(family.key)
            if values is not None:
                histogram.add_metric(_place(one), _buckets(values), values.sum / 1e6)
        return histogram
    if family.kind == "gauge":
        gauge = GaugeMetricFamily(name, text, labels=labels)
        for one in tallies:
            if family.key in one.gauges:
                gauge.add_metric(_place(one), one.gauges[family.key])
        return gauge
    counter = CounterMetricFamily(name, text, labels=labels)
    for values_of_labels, count in _counts(family, tallies):
        counter.add_metric(values_of_labels, count)
    return counter


def _counts(family: Family, tallies: Iterable[Tally]) -> Iterator[tuple[list[str], int]]:
    own = len(family.labels) - 2
    for one in tallies:
        if own:
            for kind, count in sorted(one.kinds.get(family.key, {}).items()):
                words = kind.split(" ", own - 1)
                yield [*_place(one), *words, *[""] * (own - len(words))], count
        elif family.key in one.counters:
            yield _place(one), one.counters[family.key]


def _place(tally: Tally) -> list[str]:
    worker = "supervisor" if tally.worker == SUPERVISOR else str(tally.worker)
    return [str(tally.node), worker]


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts, as the format wants them."""
    total = 0
    buckets: list[tuple[str, float]] = []
    bounds = [*(f"{bound / 1e6:g}" for bound in histogram.bounds), "+Inf"]
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
