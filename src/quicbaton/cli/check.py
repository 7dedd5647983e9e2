"""`quicbaton check`: whether a configuration would serve, and where its options come from."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from quicbaton.cli import environment, serve
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.serve import CheckOptions
from quicbaton.cli.options.sources import Given, Sources
from quicbaton.cli.reporter import Reporter
from quicbaton.counted import counted


def add_parser(commands: Any) -> None:
    add_command(
        commands, "check", CheckOptions, run, "say what `serve` would do with these options"
    )


def run(sources: Sources[CheckOptions], reporter: Reporter) -> int:
    options = sources.read()
    serve.check(options)
    environment.read(options.env_file)
    what, congestion_control = asyncio.run(_try(options))
    given = {
        name: one
        for name, one in sources.all().items()
        if one.origin != "default" and name not in ("json", "config")
    }
    workers = options.workers
    by = "one process" if workers is None else counted(workers, "worker")
    port = str(options.port or "any free port")
    text = f"fine: would serve {what} at {options.host or 'any address'}, {port}, with {by}"
    reporter.event(
        "checked",
        "\n".join([text, *_lines(given)]),
        serves=what,
        host=options.host,
        port=options.port,
        workers=workers,
        congestion_control=congestion_control,
        options={
            name: {"value": _plain(one.value), "from": one.origin} for name, one in given.items()
        },
    )
    return 0


async def _try(options: CheckOptions) -> tuple[str, str]:
    """All that a server does before it has a socket: read keys and certificates, shake hands with
    itself, import the program, let it begin and end. Returns the program's name, and its congestion
    control."""
    server = serve.Server(options, Reporter(as_json=options.json), Counter())
    try:
        await server.prepare()
    finally:
        await server.close()
    return server.program_name, server.congestion_control


def _lines(given: dict[str, Given]) -> list[str]:
    width = max((len(name) for name in given), default=0)
    values = {name: str(_plain(one.value)) for name, one in given.items()}
    longest = max((len(value) for value in values.values()), default=0)
    return [
        f"  {name:{width}}  {values[name]:{longest}}  {one.origin}" for name, one in given.items()
    ]


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
