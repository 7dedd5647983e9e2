"""`quicbaton ps`, `handoff`, `save`, `resume`: a running server's connections, one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from quicbaton.baton.header import peek
from quicbaton.cli import user_state
from quicbaton.cli.control import (
    Server,
    ask_in_turn,
    at_another_process,
    find_servers,
    name_for,
    old_processes_of,
    your_servers,
)
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.cluster import ClusterOptions
from quicbaton.cli.options.commands import (
    HandoffOptions,
    PsOptions,
    ResumeOptions,
    SaveOptions,
)
from quicbaton.cli.orphans import is_orphan
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.timelines import TimelineWatch
from quicbaton.errors import ConfigurationError, PeerError, QuicbatonError
from quicbaton.handoff.timeline import Seen
from quicbaton.limits import BATON_LIFETIME_S
from quicbaton.reasons import Reason
from quicbaton.service.node.baton_files import read_baton, write_baton
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, Conversation
from quicbaton.service.peers.listing import at_their_owners

_T = TypeVar("_T")

_PIPE_COLUMNS: Final = 240
_COUNTERS: Final = (
    "accepted",
    "resumed",
    "given",
    "datagrams_sent",
    "datagrams_received",
    "datagrams_forwarded",
)


def add_parser(commands: Any) -> None:
    add_command(commands, "ps", PsOptions, _list, "list a server's live connections")
    add_command(
        commands,
        "handoff",
        HandoffOptions,
        _hand_off,
        "move a connection to another server process",
    )
    add_command(commands, "save", SaveOptions, _save, "freeze a connection into a file")
    add_command(commands, "resume", ResumeOptions, _resume, "bring a saved connection back to life")


def _list(options: PsOptions, reporter: Reporter) -> int:
    if options.server is None:
        servers = your_servers()
    else:
        servers = find_servers(options.server, options.cluster)
    if not servers and not reporter.as_json:
        print(f"no servers of yours run on this host{user_state.closed_folder_hint()}")
    found: dict[int, tuple[Server, c.ByWorker]] = {}
    for server in servers:
        try:
            answer = server.ask(c.ListByWorker(), c.ByWorker)
        except QuicbatonError:
            # A supervisor has none, and a server that is just ending lists none.
            if len(servers) == 1 and options.server is not None:
                raise
            continue
        # A worker answers at its predecessor's socket, too.
        found.setdefault(answer.pid, (server, answer))
    for server, listed in _at_their_owners(list(found.values())):
        orphaned = is_orphan(server)
        if reporter.as_json:
            old = [msgspec.structs.asdict(one) for one in old_processes_of(server)]
            fields = {"server": server.name, "orphaned": orphaned, **_named(listed)}
            reporter.value({**fields, "lingering": old})
        else:
            _print(server, listed)
            if orphaned:
                print(
                    "its supervisor is gone: start the same command again, which finds it, or end "
                    f"it with `quicbaton stop {_port(listed.address)}`"
                )
    return 0


def _at_their_owners(
    found: list[tuple[Server, c.ByWorker]],
) -> list[tuple[Server, c.ByWorker]]:
    """The answers of servers that were asked one after the other, with each connection in one."""
    lists = iter(at_their_owners([each.listed for _, one in found for each in one.workers]))
    return [
        (
            server,
            msgspec.structs.replace(
                one, workers=[c.WorkerConnections(each.worker, next(lists)) for each in one.workers]
            ),
        )
        for server, one in found
    ]


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _print(server: Server, found: c.ByWorker) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and for people only
    from rich.table import Table  # noqa: PLC0415

    # A pipe has no width. Names must not be cut, since other commands take them.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    total = _total(found)
    console.print(
        f"{server}: pid {found.pid} at {found.address}: {total['accepted']} accepted, "
        f"{total['resumed']} resumed, {total['given']} given away; datagrams: "
        f"{total['datagrams_received']:,} received, {total['datagrams_sent']:,} sent, "
        f"{total['datagrams_forwarded']:,} forwarded",
        soft_wrap=True,
    )
    if not any(worker.listed.connections for worker in found.workers):
        console.print("no connections")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in _COLUMNS:
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for each in found.workers:
        for info in each.listed.connections:
            table.add_row(info.connection, str(each.worker), *_row(info))
    console.print(table)


_COLUMNS = (
    ("CONN", "left"),
    ("WORKER", "right"),
    ("STATE", "left"),
    ("PEER", "left"),
    ("ALPN", "left"),
    ("AGE", "right"),
    ("RTT", "right"),
    ("STREAMS", "right"),
    ("BUFFERED", "right"),
    ("TERM", "right"),
    ("CUTOVER", "left"),
)


def _row(info: c.ConnectionInfo) -> tuple[str, ...]:
    return (
        info.state,
        info.peer,
        info.alpn,
        f"{info.age_s:.1f} s",
        f"{info.rtt_ms:.1f} ms",
        str(info.streams),
        f"{info.buffered_bytes:,}",
        str(info.term),
        "pending" if info.cutover_pending else "",
    )


def _named(found: c.ByWorker) -> dict[str, Any]:
    """With names for the fields: frames are arrays on the wire, but readers of the JSON want
    names."""
    return {
        "pid": found.pid,
        "address": found.address,
        **_total(found),
        "connections": [
            {**msgspec.structs.asdict(info), "worker": each.worker}
            for each in found.workers
            for info in each.listed.connections
        ],
    }


def _total(found: c.ByWorker) -> dict[str, int]:
    """The sums of all workers' counters."""
    return {name: sum(getattr(each.listed, name) for each in found.workers) for name in _COUNTERS}


def _hand_off(options: HandoffOptions, reporter: Reporter) -> int:
    kind = c.HandOffProxied if options.proxy else c.HandOff
    watch = TimelineWatch(options.connection, Seen.BY_SOURCE, wanted=reporter.as_json)

    def hand_off_to(destination: Server) -> c.Answer:
        def hand_off(server: Server) -> c.Answer:
            command = kind(options.connection, name_for(server, destination))
            watch.begin(server)
            return server.ask(command, c.Answer)

        return _by_whoever_has_it(options.server, options.cluster, hand_off)

    try:
        answer = at_another_process(options.to, options.cluster, hand_off_to)
    except CommandFailedError:
        _tell_failed(watch, reporter, "not_handed_over")
        raise
    proxied = answer.code == Reason.PROXIED
    text = f"handed over to {options.to}" + (", and proxied" if proxied else "")
    reporter.event(
        "handed_over",
        text,
        to=options.to,
        proxied=proxied,
        message=answer.message,
        timeline=watch.end(options.settle),
    )
    return 0


def _save(options: SaveOptions, reporter: Reporter) -> int:
    file = options.file.absolute()
    if file.exists():
        raise ConfigurationError(f"{file} exists already: name a new file", code=Reason.FILE_EXISTS)

    def save(server: Server) -> None:
        if server.is_remote:
            server.talk(lambda conversation: _fetch(conversation, options.connection, file))
        else:
            server.ask(c.Save(options.connection, str(file)), c.Answer)

    _by_whoever_has_it(options.server, options.cluster, save)
    text = (
        f"frozen into {file}; bring it back in another process, within {BATON_LIFETIME_S} s, "
        f"with: quicbaton resume {file} --to SERVER"
    )
    reporter.event("saved", text, file=str(file), bytes=file.stat().st_size)
    return 0


async def _fetch(conversation: Conversation, connection: str, file: Path) -> None:
    """Take the baton from a server on another host, write it here, and confirm that it is
    stored."""
    frozen = await conversation.ask(c.Freeze(connection), c.Frozen)
    write_baton(file, frozen.sealed)
    try:
        await conversation.ask(c.Kept(), c.Answer)
    except QuicbatonError as error:
        if isinstance(error, CommandFailedError):
            # The connection thaws there: this baton fits no claim any more.
            file.unlink()
            raise
        # The server may have heard `Kept`, and then this is the only copy of the connection.
        raise PeerError(
            f"{error}; whether the connection is frozen is not known, {file} is kept: "
            "`quicbaton resume` tells",
            code=error.code,
        ) from error


def _resume(options: ResumeOptions, reporter: Reporter) -> int:
    file = options.file.absolute()
    if not file.is_file():
        raise ConfigurationError(f"{file} is not a file: `quicbaton save` makes one")

    connection = peek(read_baton(file)).connection_id.hex() if reporter.as_json else ""
    watch = TimelineWatch(connection, Seen.BY_DESTINATION, wanted=reporter.as_json)

    def resume(server: Server) -> c.Answer:
        watch.begin(server)
        command = c.Revive(read_baton(file)) if server.is_remote else c.Resume(str(file))
        return server.ask(command, c.Answer)

    try:
        answer = at_another_process(options.to, options.cluster, resume)
    except CommandFailedError:
        _tell_failed(watch, reporter, "not_resumed")
        raise
    text = f"lives on in the process at {options.to}"
    timeline = watch.end(options.settle)
    reporter.event("resumed", text, to=options.to, message=answer.message, timeline=timeline)
    return 0


def _tell_failed(watch: TimelineWatch, reporter: Reporter, event: str) -> None:
    """Print the timeline of a handoff that began and failed. The error follows."""
    timeline = watch.end(0)
    if timeline is not None:
        reporter.event(event, timeline.message, timeline=timeline)


def _by_whoever_has_it(text: str, cluster: ClusterOptions, ask: Callable[[Server], _T]) -> _T:
    """Ask the processes of a port one by one until one has the connection."""
    elsewhere = (Reason.NO_SUCH_CONNECTION, Reason.UNEXPECTED_MESSAGE)
    return ask_in_turn(find_servers(text, cluster), ask, *elsewhere)
