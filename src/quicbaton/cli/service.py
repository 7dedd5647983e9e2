"""`quicbaton reload`, `stop`, `workers`: a running service as a whole."""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import Any, Final

import msgspec

from quicbaton.cli import user_state
from quicbaton.cli.control import (
    Server,
    find_server,
    local_servers,
    old_processes_of,
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
from quicbaton.service.peers.old_process import describe

#: Stands for the server's own setting.
_ITS_OWN: Final = -1.0
#: Seconds for which a reload may wait for something before it says so.
_QUIET_S: Final = 0.5


def add_parser(commands: Any) -> None:
    add_command(
        commands, "reload", ReloadOptions, reload, "replace all workers of a service by new ones"
    )
    add_command(commands, "stop", StopOptions, _stop, "stop a server in good order")
    add_command(commands, "workers", WorkersOptions, _workers, "show a service's workers")


def reload(options: ReloadOptions, reporter: Reporter) -> int:
    server = find(options)
    if reporter.as_json or not _is_terminal():
        steps = _Steps(reporter)
        answer = asyncio.run(follow(server, _command(options), c.Answer, steps.on_step))
    else:
        answer = _reload_with_bar(server, options)
    if not answer.ok:
        reporter.error(*answer.heard())
        return 1
    old = [msgspec.structs.asdict(one) for one in old_processes_of(server)]
    reporter.event("reloaded", answer.message, message=answer.message, lingering=old)
    return 0


class _Steps:
    """Reports the steps of a reload as lines. What it waits for is said again each second."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        #: No wait is reported before this time of the monotonic clock.
        self._quiet_until_s = monotonic() + _QUIET_S

    def on_step(self, step: c.Frame) -> None:
        if not isinstance(step, c.ReloadStep):
            return
        if step.phase in ("done", "failed"):
            text = (
                f"worker {step.worker}: {step.phase} after {step.seconds:.1f} s, "
                f"pid {step.pid}: {step.message}"
            )
            self._reporter.event("worker", text, **step_fields(step))
            return
        if step.phase == "queued":
            self._reporter.event(
                "queued",
                f"waiting: {step.message}",
                seconds=round(step.seconds, 3),
                message=step.message,
            )
        elif not step.message:
            self._quiet_until_s = monotonic() + _QUIET_S
        elif monotonic() >= self._quiet_until_s:
            self._quiet_until_s = monotonic() + 1
            text = f"worker {step.worker}: waiting: {step.message}"
            self._reporter.event("waiting", text, **step_fields(step))


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
            if step.phase == "queued":
                bar.console.print(f"waiting: {step.message}")
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
    server = find(options)
    service = server.ask(c.ServiceStatus(), c.Service)
    lingering = old_processes_of(server)
    if reporter.as_json:
        fields = msgspec.structs.asdict(service)
        fields["workers"] = [msgspec.structs.asdict(worker) for worker in service.workers]
        fields["lingering"] = [msgspec.structs.asdict(old) for old in lingering]
        reporter.value(fields)
        return 0
    _print_workers(service, lingering)
    return 0


def _print_workers(service: c.Service, lingering: list[c.OldProcessInfo]) -> None:
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
    for old in lingering:
        table.add_row(str(old.worker), str(old.pid), "lingering", "", "", "", "", "", describe(old))
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
