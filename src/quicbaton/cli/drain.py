"""`quicbaton drain` and `quicbaton rebalance`: many connections from process to process."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quicbaton.cli.control import Server, find_servers, name_for
from quicbaton.cli.fleet import all_workers, ask_all, follow
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import BulkOptions, DrainOptions, RebalanceOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.timelines import SETTLE_S, read_all_timelines, tell_timelines, without
from quicbaton.counted import counted
from quicbaton.errors import ConfigurationError
from quicbaton.handoff.timeline import Seen
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c


def add_parser(commands: Any) -> None:
    add_command(
        commands, "drain", DrainOptions, _drain, "move all connections of a server elsewhere"
    )
    add_command(
        commands, "rebalance", RebalanceOptions, _rebalance, "even out connections between servers"
    )


class Transfer(NamedTuple):
    """A number of connections to move from one process to others; -1 is all of them."""

    source: Server
    to: tuple[str, ...]
    connections: int


def plan_rebalance(loads: Mapping[str, int]) -> dict[tuple[str, str], int]:
    """How many connections go from which server to which, so that their numbers differ by one at
    most."""
    share, rest = divmod(sum(loads.values()), len(loads))
    # The servers with the most connections keep the odd ones: so fewer connections move.
    ranked = sorted(loads, key=lambda name: (-loads[name], name))
    surplus = {name: loads[name] - share - (place < rest) for place, name in enumerate(ranked)}
    givers = [name for name in ranked if surplus[name] > 0]
    moves: dict[tuple[str, str], int] = {}
    for taker in ranked:
        while surplus[taker] < 0:
            giver = givers[-1]
            count = min(surplus[giver], -surplus[taker])
            moves[giver, taker] = count
            surplus[giver] -= count
            surplus[taker] += count
            if not surplus[giver]:
                givers.pop()
    return moves


# --- the commands -----------------------------------------------------------------------------


def _drain(options: DrainOptions, reporter: Reporter) -> int:
    sources = find_servers(options.server, options.cluster)
    if options.undo:
        return asyncio.run(_undo(sources, reporter))
    if not options.to:
        raise ConfigurationError(
            "say where connections are to go: --to SERVER...", code=Reason.NO_TO
        )
    named = [server for text in options.to for server in find_servers(text, options.cluster)]
    return asyncio.run(_run_drain(sources, named, options.bulk, reporter))


async def _undo(named: list[Server], reporter: Reporter) -> int:
    sources = await all_workers(named)
    undone = await ask_all(sources, c.StopDraining(), c.Answer)
    who = counted(len(undone), "process", "processes")
    verb = "keeps" if len(undone) == 1 else "keep"
    reporter.event("undone", f"{who} {verb} connections again", processes=len(undone))
    return 0 if len(undone) == len(sources) else 1


async def _run_drain(
    leaving: list[Server], named: list[Server], options: BulkOptions, reporter: Reporter
) -> int:
    sources = await all_workers(leaving)
    names = {server.name for server in sources}
    destinations = [server for server in await all_workers(named) if server.name not in names]
    if not destinations:
        raise ConfigurationError(
            "the connections would stay where they are: name another server with --to",
            code=Reason.SAME_PROCESS,
        )
    transfers = [
        Transfer(source, tuple(name_for(source, other) for other in destinations), -1)
        for source in sources
    ]
    return await _move(transfers, "drained", options, reporter)


def _rebalance(options: RebalanceOptions, reporter: Reporter) -> int:
    named = [server for text in options.servers for server in find_servers(text, options.cluster)]
    return asyncio.run(_run_rebalance(named, options.bulk, reporter))


async def _run_rebalance(named: list[Server], options: BulkOptions, reporter: Reporter) -> int:
    figures = await ask_all(await all_workers(named), c.ReadFigures(), c.Figures)
    servers = {server.name: server for server, _ in figures}
    loads = {server.name: each.gauges["connections"] for server, each in figures}
    if len(loads) < 2:
        raise ConfigurationError(
            "there is only one worker: name further servers to share its load", code=Reason.NO_TO
        )
    transfers = [
        Transfer(servers[giver], (name_for(servers[giver], servers[taker]),), count)
        for (giver, taker), count in plan_rebalance(loads).items()
    ]
    return await _move(transfers, "rebalanced", options, reporter)


# --- moving and telling -----------------------------------------------------------------------


async def _move(
    transfers: Sequence[Transfer], event: str, options: BulkOptions, reporter: Reporter
) -> int:
    """Carry the transfers out and tell what came of them. `event` names the end in JSON."""
    # People get the summary: a timeline is for programs, and `quicbaton timeline` draws it.
    wants_timelines = options.timelines and reporter.as_json
    sources = list(dict.fromkeys(transfer.source for transfer in transfers))
    known = await read_all_timelines(sources) if wants_timelines else []
    code = _tell(await _carry_all_out(transfers, options, reporter), event, reporter)
    found = await read_all_timelines(sources, SETTLE_S) if wants_timelines else []
    tell_timelines(without(known, found), Seen.BY_SOURCE, reporter)
    return code


async def _carry_all_out(
    transfers: Sequence[Transfer], options: BulkOptions, reporter: Reporter
) -> list[c.Drained]:
    """Those of one source in turn, sources side by side."""
    figures = await ask_all([each.source for each in transfers], c.ReadFigures(), c.Figures)
    present = {server.name: each.gauges["connections"] for server, each in figures}
    total = sum(
        present.get(each.source.name, 0) if each.connections < 0 else each.connections
        for each in transfers
    )
    moved: dict[Transfer, int] = {}
    console = Console(stderr=True)
    columns = (
        TextColumn("moving"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    by_source: defaultdict[str, list[Transfer]] = defaultdict(list)
    for transfer in transfers:
        by_source[transfer.source.name].append(transfer)
    with Progress(*columns, console=console, disable=reporter.as_json) as progress:
        task = progress.add_task("moving", total=total)

        def show(transfer: Transfer, count: int) -> None:
            moved[transfer] = count
            progress.update(task, completed=sum(moved.values()))

        async def carry_out(queue: list[Transfer]) -> list[c.Drained]:
            return [await _carry_out(transfer, options, show) for transfer in queue]

        results = await asyncio.gather(*(carry_out(queue) for queue in by_source.values()))
    return [drained for each in results for drained in each]


async def _carry_out(transfer: Transfer, options: BulkOptions, show: Any) -> c.Drained:
    def on_step(frame: c.Frame) -> None:
        if isinstance(frame, c.DrainProgress):
            show(transfer, frame.moved)

    command = c.Drain(list(transfer.to), options.proxy, transfer.connections, options.deadline)
    drained = await follow(transfer.source, command, c.Drained, on_step)
    show(transfer, drained.moved + drained.proxied)
    return drained


def _tell(results: Sequence[c.Drained], event: str, reporter: Reporter) -> int:
    """Print the summary. Returns 1 when a connection stayed that was to go."""
    refused: Counter[str] = Counter()
    for drained in results:
        refused.update(drained.refused)
    examples = [line for drained in results for line in drained.examples]
    moved = sum(drained.moved for drained in results)
    proxied = sum(drained.proxied for drained in results)
    left = sum(drained.left for drained in results)
    running = sum(drained.running for drained in results)
    seconds = max((drained.seconds for drained in results), default=0.0)
    blackouts = sorted(us for drained in results for us in drained.blackouts_us)
    blackout = {
        "p50": _percentile(blackouts, 0.5),
        "p99": _percentile(blackouts, 0.99),
        "max": blackouts[-1] if blackouts else None,
    }
    text = f"{moved} moved, {proxied} proxied, {left} left, in {seconds:.1f} s"
    if running:
        verb = "runs" if running == 1 else "run"
        text += f"; {counted(running, 'request')} still {verb} there, relayed"
    if blackouts:
        text += (
            f"; blackout p50 {blackout['p50']} µs, p99 {blackout['p99']} µs, "
            f"max {blackout['max']} µs"
        )
    text += "".join(f"\n  {count} refused: {code}" for code, count in refused.most_common())
    text += "".join(f"\n    {line}" for line in examples)
    reporter.event(
        event,
        text,
        moved=moved,
        proxied=proxied,
        left=left,
        running=running,
        refused=dict(refused),
        examples=examples,
        seconds=round(seconds, 3),
        blackout_us=blackout,
    )
    return 1 if left or running else 0


def _percentile(ascending: Sequence[int], share: float) -> int | None:
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))] if ascending else None
