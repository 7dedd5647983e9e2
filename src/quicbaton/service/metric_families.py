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

from quicbaton.service.peers.tally import CERTIFICATE_END, SUPERVISOR, Histogram, Tally


class Family(NamedTuple):
    """One metric. `key` is its name in tallies."""

    key: str
    name: str
    kind: str  # counter, gauge, histogram
    text: str
    labels: tuple[str, ...] = ("node", "worker")
    #: Labels whose values are the words of a kind in a tally.
    of_kind: tuple[str, ...] = ()


def _gauge(key: str, text: str) -> Family:
    return Family(key, f"quicbaton_{key}", "gauge", text)


def _counter(key: str, text: str) -> Family:
    return Family(key, f"quicbaton_{key}", "counter", text)


def _kinds(key: str, text: str, *labels: str, name: str = "") -> Family:
    return Family(
        key, f"quicbaton_{name or key}", "counter", text, ("node", "worker", *labels), labels
    )


def _histogram(key: str, text: str) -> Family:
    return Family(key, f"quicbaton_{key}_seconds", "histogram", text)


#: Not among the kinds of a tally: the builds of its processes.
BUILD: Final = "build"

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
    Family(
        CERTIFICATE_END,
        f"quicbaton_{CERTIFICATE_END}",
        "gauge",
        "Until when each certificate that new clients are shown is valid, as Unix time; of the 32 "
        "that expire first. Labelled with the first name in it.",
        ("node", "worker", "certificate"),
        ("certificate",),
    ),
    _counter("accepted", "Handshakes begun."),
    _counter("datagrams_received", "Datagrams read from the UDP socket."),
    _counter("datagrams_sent", "Datagrams given to the UDP socket."),
    _counter("received_bytes", "Bytes of those read: UDP payload."),
    _counter("sent_bytes", "Bytes of those given: UDP payload."),
    _counter("packets_lost", "Packets of established connections that were declared lost."),
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
    _kinds("handoffs", "Handoffs that ended, by outcome and reason.", "outcome", "reason"),
    _kinds(
        "placements",
        "New connections for which a placement policy was asked, by outcome.",
        "outcome",
    ),
    _kinds("refused_peers", "Connections of other hosts that were refused, by reason.", "reason"),
    _kinds(
        "dropped",
        "Datagrams that reached no connection, by reason.",
        "reason",
        name="dropped_datagrams",
    ),
    _kinds(
        "responses",
        "Requests that were answered, by version of HTTP and class of the status (`none`: the "
        "client was gone before, or got a reset).",
        "http_version",
        "status",
    ),
    Family(
        "worker_restarts",
        "quicbaton_worker_restarts",
        "counter",
        "Processes that were started in place of one that had died, by worker number.",
        of_kind=("worker",),
    ),
    Family(
        "reloads",
        "quicbaton_reloads",
        "counter",
        "Reloads that ended: `ok`, or `failed`, and old workers went on.",
        ("node", "outcome"),
        ("outcome",),
    ),
    _histogram("blackout", "From a handoff's freeze to the new owner's first datagram."),
    _histogram("handshake", "From a client's first datagram to its handshake's confirmation."),
    _histogram(
        "rtt",
        "Smoothed round trips: each open connection's once a second (256 connections a second at "
        "most, in turn), and at its end or when it leaves.",
    ),
    Family(
        BUILD,
        "quicbaton_build_info",
        "gauge",
        "1 for each version of quicbaton and of Python that a living process has, and each form of "
        "quicbaton: `compiled` or `python`.",
        ("node", "worker", "version", "python", "form"),
        ("version", "python", "form"),
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
    kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
    metric = kind(name, text, labels=labels)
    for values_of_labels, value in _samples(family, tallies):
        metric.add_metric(values_of_labels, value)
    return metric


def _samples(family: Family, tallies: Iterable[Tally]) -> Iterator[tuple[list[str], int]]:
    """Values of labels, in their order, and the value."""
    for one in tallies:
        place = dict(zip(("node", "worker"), _place(one), strict=True))
        for words, value in _values(family, one):
            given = dict(zip(family.of_kind, words, strict=True))
            yield [given.get(label) or place.get(label, "") for label in family.labels], value


def _values(family: Family, one: Tally) -> Iterator[tuple[list[str], int]]:
    """The words of a kind, and the value."""
    if family.key == BUILD:
        yield from ((build.split(" "), 1) for build in one.builds)
    elif not family.of_kind:
        values = one.gauges if family.kind == "gauge" else one.counters
        if family.key in values:
            yield [], values[family.key]
    else:
        words = len(family.of_kind)
        for kind, value in sorted(_kinds_of(family, one).items()):
            said = kind.split(" ", words - 1)
            yield said + [""] * (words - len(said)), value


def _kinds_of(family: Family, one: Tally) -> dict[str, int]:
    """A figure's values by kind. Gauges have the kind after their name."""
    if family.kind == "counter":
        return one.kinds.get(family.key, {})
    named = ((*name.partition(" "), value) for name, value in one.gauges.items())
    return {kind: value for name, _, kind, value in named if name == family.key}


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
