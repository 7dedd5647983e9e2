"""`quicbaton reload`, `stop`, `workers`: a running service as a whole."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import msgspec

from quicbaton.cli import user_state
from quicbaton.cli.control import (
    Server,
    find_server,
    local_servers,
)
from quicbaton.cli.fleet import follow, step_fields
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import (
    ReloadOptions,
    ServiceOptions,
    StopOptions,
    WorkersOptions,
)
from quicbaton.cli.reporter import Reporter
from quicbaton.counted import counted
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c

#: Stands for the server's own setting.
_ITS_OWN: Final = -1.0


def add_parser(commands: Any) -> None:
    add_command(
        commands, "reload", ReloadOptions, reload, "replace all workers of a service by new ones"
    )
    add_command(commands, "stop", StopOptions, _stop, "stop a server in good order")
    add_command(commands, "workers", WorkersOptions, _workers, "show a service's workers")


def reload(options: ReloadOptions, reporter: Reporter) -> int:
    server = find(options)
    if reporter.as_json or not _is_terminal():

        def on_step(step: c.Frame) -> None:
            if isinstance(step, c.ReloadStep) and step.phase in ("done", "failed"):
                text = (
                    f"worker {step.worker}: {step.phase} after {step.seconds:.1f} s, "
                    f"pid {step.pid}: {step.message}"
                )
                reporter.event("worker", text, **step_fields(step))

        answer = asyncio.run(follow(server, _command(options), c.Answer, on_step))
    else:
        answer = _reload_with_bar(server, options)
    if not answer.ok:
        reporter.error(*answer.heard())
        return 1
    reporter.event("reloaded", answer.message, message=answer.message)
    return 0


def _is_terminal() -> bool:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and for people only

    return Console().is_terminal


def _reload_with_bar(server: Server, options: ReloadOptions) -> c.Answer:
    from rich.progress import (  # noqa: PLC0415 - slow to import, and for people only
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    ) as bar:
        tasks: dict[int, Any] = {}

        def on_step(step: c.Frame) -> None:
            if not isinstance(step, c.ReloadStep):
                return
            if step.worker not in tasks:
                tasks[step.worker] = bar.add_task(f"worker {step.worker}", total=None, note="")
            total = step.moved + step.left or None
            if step.phase in ("done", "failed"):
                total = max(1, step.moved)
            bar.update(
                tasks[step.worker],
                completed=total if step.phase == "done" else step.moved,
                total=total,
                note=step.phase if step.phase != "moving" else step.message,
            )

        return asyncio.run(follow(server, _command(options), c.Answer, on_step))


def _stop(options: StopOptions, reporter: Reporter) -> int:
    to = ""
    if options.to is not None:
        destination = find_server(options.to, options.cluster)
        to = destination.name if destination.is_remote else str(destination.path)
    left = asyncio.run(_stop_at(find(options), c.Stop(_seconds(options.grace), to)))
    text = f"stopped: {counted(left.moved, 'connection')} moved, {left.closed} closed"
    if left.cut:
        text += f", {left.cut} of them with requests that had not ended"
    reporter.event("stopped", text, moved=left.moved, closed=left.closed, cut=left.cut)
    return 0


def _workers(options: WorkersOptions, reporter: Reporter) -> int:
    service = find(options).ask(c.ServiceStatus(), c.Service)
    if reporter.as_json:
        fields = msgspec.structs.asdict(service)
        fields["workers"] = [msgspec.structs.asdict(worker) for worker in service.workers]
        reporter.value(fields)
        return 0
    _print_workers(service)
    return 0


def _print_workers(service: c.Service) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and for people only
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        "WORKER",
        "PID",
        "STATE",
        "CONNS",
        "ACCEPTED",
        "REQUESTS",
        "TOSSED",
        "RESTARTS",
        "NOTE",
    ):
        table.add_column(title, justify="left" if title in ("STATE", "NOTE") else "right")
    for worker in service.workers:
        table.add_row(
            str(worker.worker),
            str(worker.pid or ""),
            worker.state,
            str(worker.connections),
            str(worker.accepted),
            str(worker.requests),
            str(worker.tossed),
            str(worker.restarts),
            worker.message,
        )
    console = Console(highlight=False)
    console.print(f"supervisor {service.pid} at {service.address}")
    console.print(table)


# --- helpers ----------------------------------------------------------------------------------


def find(options: ServiceOptions) -> Server:
    if options.server is not None:
        return find_server(options.server, options.cluster)
    paths = [path for path in user_state.all_control_sockets() if path.stem.isdigit()]
    if len(paths) != 1:
        found = ", ".join(map(str, paths)) or "none"
        raise ConfigurationError(
            f"expected one service of yours here, found {found}: name it by its port",
            code=Reason.UNKNOWN_SERVER,
        )
    if not local_servers(paths):
        raise ConfigurationError(
            f"nobody answers at {paths[0]}: if the supervisor was killed, start the same command "
            "again, which finds its workers",
            code=Reason.UNREACHABLE,
        )
    return find_server(str(paths[0]), options.cluster)


def _command(options: ReloadOptions) -> c.Reload:
    return c.Reload(_seconds(options.health_timeout), _seconds(options.grace))


def _seconds(given: float | None) -> float:
    return _ITS_OWN if given is None else given


async def _stop_at(server: Server, command: c.Stop) -> c.Left:
    """Send the command without a deadline: the server has one of its own."""
    return await server.say(command, c.Left, math.inf)
