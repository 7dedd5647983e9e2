"""Goodput of a download over a path that loses packets, and delays some more than others, and how
long its packets wait before the link.

Every cell of the grid is a link of 200 Mbit/s (`bench.link`) with a loss, 0, 0.1, 1 or 3 % of all
packets both ways, a round trip, 10, 50 or 200 ms, and, where there are losses, with or without
jitter: up to a fifth of the delay more for each packet, which reorders them. Before the link 50 ms'
worth of packets find room. One libcurl takes as much of a body as comes within some seconds and
compares it; one server at a time, the same chance for each of them. quicbaton takes part once with
CUBIC and once with BBR.
"""

import argparse
import datetime
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.benchmark import Benchmark
from bench.processes import Client, Link, Server
from bench.rounds import alternate, median
from demo import style
from quicbaton.cli.certificate import write_self_signed

MBIT = 200
LOSSES_PERCENT = (0.0, 0.1, 1.0, 3.0)
RTTS_MS = (10, 50, 200)
QUEUE_MS = 50
#: Of the one-way delay, each way.
JITTER_SHARE = 0.2

_MB = 1_000_000
_CUBIC, _BBR = "quicbaton_cubic", "quicbaton_bbr"
_OURS = {_CUBIC: "cubic", _BBR: "bbr"}
_PEERS = ("qh3", "aioquic")
CONTESTANTS = (*_OURS, *_PEERS)


@dataclass(frozen=True)
class _Cell:
    loss_percent: float
    rtt_ms: int
    jitter_ms: float

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The cell's key among the figures."""
        return f"loss_{self.loss_percent:g}_rtt_{self.rtt_ms}ms" + "_jitter" * bool(self.jitter_ms)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--seconds", type=int, default=0, help="of each download (8; quick: 3)")
    parser.add_argument("--servers", default=",".join(CONTESTANTS), help="a comma-separated choice")
    parser.add_argument("--cells", default="", help="only those whose name contains this")


def run(options: argparse.Namespace, step: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Measure all servers in each cell, in alternating rounds."""
    seconds = options.seconds or (3 if options.quick else 8)
    names = options.servers.split(",")
    cells = [cell for cell in _cells() if options.cells in cell.name]
    body_bytes = int(MBIT / 8 * seconds * 1.1) * _MB
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_self_signed(folder, datetime.datetime.now(datetime.UTC))
        servers = {name: stack.enter_context(_server(name, files, body_bytes)) for name in names}
        client = stack.enter_context(Client(files.certificate, body_bytes))
        for number, name, cell in alternate(options.rounds, names, cells, step):
            measured = _measure(servers[name], client, cell, seconds, number)
            rounds.append({"round": number, "cell": cell.name, "server": name, **measured})
    return _figures(names, cells, rounds, seconds)


def plot(figures: dict[str, Any], axes: Any) -> None:
    """Draw the goodput of each server in every cell, and below how long its packets waited."""
    panels = {"goodput_mb_s": axes}
    if "queue_ms" in figures:
        figure = axes.figure
        axes.remove()
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 3))
        panels = {"goodput_mb_s": upper, "queue_ms": lower}
        lower.set_ylabel(f"in the queue, ms of {QUEUE_MS}")
    colours = (style.OURS_TOO, style.OURS, style.OTHER, style.BASELINE)
    for key, panel in panels.items():
        cells = figures[key]
        for name, colour in zip(CONTESTANTS, colours, strict=True):
            values = [found.get(name) for found in cells.values()]
            if any(values):
                panel.plot(values, "o-", color=colour, label=name.replace("_", ", "), linewidth=1)
        labels = [
            cell.removeprefix("loss_").replace("_rtt_", " %\n").replace("_", "\n") for cell in cells
        ]
        panel.set_xticks(range(len(cells)), labels, fontsize=7)
    goodput = panels["goodput_mb_s"]
    goodput.set_yscale("log")
    goodput.set_ylabel("goodput, MB/s")
    goodput.set_title(f"A download over {MBIT} Mbit/s with loss, by round trip", loc="left")
    goodput.legend(frameon=False, ncols=4, loc="lower left")


def report(figures: dict[str, Any]) -> list[str]:
    """The cells in which a peer was faster."""
    return [
        f"{cell}: the best peer is faster ({ratio:.2f} of its goodput)"
        for cell, ratio in figures["goodput_ratio_to_best_peer"].items()
        if ratio < 1
    ]


def _cells() -> list[_Cell]:
    return [
        _Cell(loss, rtt, rtt / 2 * share)
        for share in (0.0, JITTER_SHARE)
        for loss in LOSSES_PERCENT
        for rtt in RTTS_MS
        if loss or not share
    ]


def _server(name: str, files: Any, body_bytes: int) -> Server:
    if name in _OURS:
        return Server("quicbaton", files, body_bytes, {"variant": _OURS[name]})
    return Server(name, files, body_bytes, {})


def _measure(
    server: Server, client: Client, cell: _Cell, seconds: int, seed: int
) -> dict[str, float]:
    with Link(
        server.ready.port,
        mbit=MBIT,
        delay_ms=cell.rtt_ms / 2,
        jitter_ms=cell.jitter_ms,
        loss=cell.loss_percent / 100,
        queue_ms=QUEUE_MS,
        seed=seed,
    ) as link:
        client.ask("open", link.port)
        answer = client.ask("download_for", link.port, seconds)
        client.ask("close", link.port)
        queue = link.end()
    return {"mb_s": answer.received_bytes / _MB / answer.seconds, "queue_ms": queue.wait_ms}


def _figures(
    names: list[str], cells: list[_Cell], rounds: list[dict[str, Any]], seconds: int
) -> dict[str, Any]:
    def each(quantity: str, digits: int) -> dict[str, dict[str, float]]:
        return {
            cell.name: {
                name: round(median(rounds, quantity, cell=cell.name, server=name), digits)
                for name in names
            }
            for cell in cells
        }

    goodputs = each("mb_s", 3)
    ours, peers = set(names) & set(_OURS), set(names) & set(_PEERS)
    ratios = {
        cell: round(max(values[one] for one in ours) / max(values[one] for one in peers), 3)
        for cell, values in goodputs.items()
        if ours and peers
    }
    return {
        "goodput_ratio_to_best_peer": ratios,
        "goodput_mb_s": goodputs,
        "queue_ms": each("queue_ms", 2),
        "method": {
            "seconds": seconds,
            "mbit": MBIT,
            "room_in_the_queue_ms": QUEUE_MS,
            "peers": "each library's default",
        },
        "rounds": rounds,
    }


BENCHMARK = Benchmark(
    summary="goodput and queueing over lossy and jittery paths, beside each peer's",
    configure=configure,
    run=run,
    plot=plot,
    report=report,
)
