"""`quicbaton top`: nodes and workers, live."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quicbaton.cli import user_state
from quicbaton.cli.control import (
    Server,
    find_cluster,
    find_servers,
    your_servers,
)
from quicbaton.cli.fleet import all_workers, ask_all
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import TopOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.totals import Totals, by_first_word, percentile_us, read_totals
from quicbaton.counted import counted
from quicbaton.errors import ConfigurationError, QuicbatonError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c

_PIPE_COLUMNS = 240


def add_parser(commands: Any) -> None:
    add_command(commands, "top", TopOptions, run, "watch nodes and workers")


class Look(NamedTuple):
    """The answers of all workers at one time."""

    at_s: float
    figures: dict[str, c.Figures]
    totals: Totals | None = None


class Line(NamedTuple):
    """One worker between two looks. Rates are per second."""

    server: str
    node: int
    worker: int
    pid: int
    state: str
    connections: int
    sleeping: int
    handshakes: int
    tcp: int
    requests: float
    given: float
    resumed: float
    kept: float
    blackout_p50_us: int | None
    blackout_p99_us: int | None
    strays: float
    tossed: float
    received: float
    sent: float


def run(options: TopOptions, reporter: Reporter) -> int:
    if options.interval <= 0:
        raise ConfigurationError("--interval takes a number of seconds above 0")
    servers = _servers(options)
    if not servers:
        raise ConfigurationError(
            "no server of yours runs on this host: name one, or give --cluster"
            + user_state.closed_folder_hint(),
            code=Reason.UNKNOWN_SERVER,
        )
    asyncio.run(_watch(servers, options, reporter))
    return 0


def lines_between(before: Look, after: Look) -> list[Line]:
    """The rates from one look to the next, worker by worker, in the order of their names."""
    return [
        _line(name, before.figures.get(name), figures, max(1e-9, after.at_s - before.at_s))
        for name, figures in sorted(after.figures.items())
    ]


# --- helpers ----------------------------------------------------------------------------------


def _servers(options: TopOptions) -> list[Server]:
    if options.servers:
        return [
            server for text in options.servers for server in find_servers(text, options.cluster)
        ]
    cluster = find_cluster(options.cluster)
    if cluster is not None:
        return [Server(None, name, cluster) for name in cluster.nodes]
    return your_servers()


async def _watch(servers: Sequence[Server], options: TopOptions, reporter: Reporter) -> None:
    looks = 0
    before = await _look(servers)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    with Live(console=console, auto_refresh=False, screen=False) as live:
        if reporter.as_json:
            live.stop()
        while not options.count or looks < options.count:
            await asyncio.sleep(options.interval)
            after = await _look(servers)
            lines = lines_between(before, after)
            if reporter.as_json:
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                workers = [line._asdict() for line in lines]
                reporter.value({"time": now, "workers": workers, "since_start": after.totals})
            else:
                live.update(_picture(lines, after.totals), refresh=True)
            before = after
            looks += 1


async def _look(servers: Sequence[Server]) -> Look:
    """Ask all workers. They come and go, so their list is read anew every time."""
    reachable = [workers for server in servers if (workers := await _workers(server))]
    workers = [worker for each in reachable for worker in each]
    answers = await ask_all(workers, c.ReadFigures(), c.Figures)
    at_s = monotonic()
    totals = await read_totals(servers)
    return Look(at_s, {server.name: figures for server, figures in answers}, totals)


async def _workers(server: Server) -> list[Server]:
    try:
        return await all_workers([server])
    except QuicbatonError:
        return []


def _line(name: str, before: c.Figures | None, after: c.Figures, seconds: float) -> Line:
    if before is not None and before.pid != after.pid:
        # Another process with the same number: its counters began with it.
        before = None

    def rate(values: Mapping[str, int], earlier: Mapping[str, int], key: str) -> float:
        return round((values.get(key, 0) - earlier.get(key, 0)) / seconds, 1)

    counters = {} if before is None else before.counters
    handoffs = by_first_word(after.handoffs)
    earlier = {} if before is None else by_first_word(before.handoffs)
    blackouts = [
        count - (0 if before is None else before.blackouts[place])
        for place, count in enumerate(after.blackouts)
    ]
    return Line(
        server=name,
        node=after.node,
        worker=after.worker,
        pid=after.pid,
        state="draining" if after.draining else "serving",
        connections=after.gauges.get("connections", 0),
        sleeping=after.gauges.get("sleeping", 0),
        handshakes=after.gauges.get("handshakes", 0),
        tcp=after.gauges.get("tcp_connections", 0),
        requests=rate(after.counters, counters, "requests"),
        given=rate(handoffs, earlier, "given"),
        resumed=rate(handoffs, earlier, "resumed"),
        kept=rate(handoffs, earlier, "kept"),
        blackout_p50_us=percentile_us(c.BLACKOUT_BUCKETS_US, blackouts, 0.5),
        blackout_p99_us=percentile_us(c.BLACKOUT_BUCKETS_US, blackouts, 0.99),
        strays=rate(after.counters, counters, "strays"),
        tossed=rate(after.counters, counters, "tossed"),
        received=rate(after.counters, counters, "datagrams_received"),
        sent=rate(after.counters, counters, "datagrams_sent"),
    )


_COLUMNS = (
    "SERVER",
    "NODE",
    "WORKER",
    "PID",
    "STATE",
    "CONNS",
    "ASLEEP",
    "SHAKING",
    "TCP",
    "REQ/S",
    "OUT/S",
    "IN/S",
    "KEPT/S",
    "BLACKOUT P50",
    "P99",
    "STRAYS/S",
    "TOSSED/S",
    "RX/S",
    "TX/S",
)


def _picture(lines: Sequence[Line], totals: Totals | None) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    # A local server's name is a long path; its node and worker are shorter.
    columns = [title for title in _COLUMNS if title != "SERVER"]
    for title in columns:
        table.add_column(title, justify="left" if title == "STATE" else "right", no_wrap=True)
    for line in lines:
        cells = dict(zip(_COLUMNS, line, strict=True))
        table.add_row(*(_cell(title, cells[title]) for title in columns))
    connections = sum(line.connections for line in lines)
    moved = sum(line.resumed for line in lines)
    head = (
        f"{counted(connections, 'connection')} in {counted(len(lines), 'worker')}, "
        f"{sum(line.tcp for line in lines):,} over TCP, "
        f"{moved:,.1f} handoffs/s"
    )
    if totals is not None:
        head += f"\n{totals}"
    return Group(Text(head), table)


def _cell(title: str, value: object) -> str:
    if value is None:
        return "–"
    if title == "PID":
        return str(value)
    if title in ("BLACKOUT P50", "P99"):
        return f"≤{value:,} µs"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
