"""`quicbaton ps`, `handoff`, `save`, `resume`: a running server's connections, one by one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from quicbaton.asyncio.peers import commands as c
from quicbaton.cli.control import ask_now
from quicbaton.cli.reporter import Reporter, add_json_option
from quicbaton.errors import ConfigurationError

_PIPE_COLUMNS: Final = 240


def add_parser(commands: Any) -> None:
    ps = commands.add_parser(
        "ps", help="list a server's live connections", description="List live connections."
    )
    _add_server(ps)
    ps.set_defaults(run=_list)

    handoff = commands.add_parser(
        "handoff",
        help="move a connection to another server process",
        description="Move a live connection to another process. The client sees nothing.",
    )
    _add_server(handoff)
    _add_connection(handoff)
    _add_destination(handoff)
    handoff.set_defaults(run=_hand_off)

    save = commands.add_parser(
        "save",
        help="freeze a connection into a file",
        description="Freeze a connection into a baton in a new file. It stands still until "
        "`quicbaton resume` brings it back; the server stays its arbiter and must live on.",
    )
    _add_server(save)
    _add_connection(save)
    save.add_argument("file", type=Path, metavar="FILE", help="the file to make")
    save.set_defaults(run=_save)

    resume = commands.add_parser(
        "resume",
        help="bring a saved connection back to life",
        description="Bring a saved connection back to life in another process, once.",
    )
    resume.add_argument("file", type=Path, metavar="FILE", help="what `quicbaton save` made")
    _add_destination(resume)
    resume.set_defaults(run=_resume)

    for parser in (ps, handoff, save, resume):
        add_json_option(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("socket", type=Path, metavar="SOCKET", help="the server's control socket")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "connection", metavar="CONN", help="its name as `quicbaton ps` says it, or how it begins"
    )


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="SOCKET",
        help="control socket of the process that gets it",
    )


def _list(options: argparse.Namespace, reporter: Reporter) -> int:
    listed = ask_now(options.socket, c.ListConnections(), c.Connections)
    if reporter.as_json:
        reporter.value(_named(listed))
        return 0
    # A pipe has no width: names are for other commands and must not be cut.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    console.print(
        f"pid {listed.pid} at {listed.address}: {listed.accepted} accepted, "
        f"{listed.resumed} resumed, {listed.given} given away; datagrams: "
        f"{listed.datagrams_received:,} received, {listed.datagrams_sent:,} sent, "
        f"{listed.datagrams_forwarded:,} forwarded",
        soft_wrap=True,
    )
    if not listed.connections:
        console.print("no connections")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in _COLUMNS:
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for info in listed.connections:
        table.add_row(*_row(info))
    console.print(table)
    return 0


_COLUMNS = (
    ("CONN", "left"),
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
        info.connection,
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


def _named(listed: c.Connections) -> dict[str, Any]:
    """Frames are arrays on the wire; programs that read JSON get names."""
    fields = msgspec.structs.asdict(listed)
    fields["connections"] = [msgspec.structs.asdict(info) for info in listed.connections]
    return fields


def _hand_off(options: argparse.Namespace, reporter: Reporter) -> int:
    command = c.HandOff(options.connection, str(options.to.absolute()))
    answer = ask_now(options.socket, command, c.Answer)
    text = f"handed over to {options.to}"
    reporter.event("handed_over", text, to=str(options.to), message=answer.message)
    return 0


def _save(options: argparse.Namespace, reporter: Reporter) -> int:
    file = options.file.absolute()
    if file.exists():
        raise ConfigurationError(f"{file} exists already: name a new file", code="file_exists")
    ask_now(options.socket, c.Save(options.connection, str(file)), c.Answer)
    text = f"frozen into {file}; bring it back with: quicbaton resume {file} --to SOCKET"
    reporter.event("saved", text, file=str(file), bytes=file.stat().st_size)
    return 0


def _resume(options: argparse.Namespace, reporter: Reporter) -> int:
    file = options.file.absolute()
    if not file.is_file():
        raise ConfigurationError(f"{file} is not a file: `quicbaton save` makes one")
    answer = ask_now(options.to, c.Resume(str(file)), c.Answer)
    text = f"lives on in the process at {options.to}"
    reporter.event("resumed", text, to=str(options.to), message=answer.message)
    return 0
