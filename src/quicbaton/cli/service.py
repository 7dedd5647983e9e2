"""`quicbaton reload`, `stop`, `workers`: a running service as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

import msgspec

from quicbaton.cli import user_state
from quicbaton.cli.control import (
    Server,
    find_server,
    local_servers,
    old_processes_of,
    tallies_of,
)
from quicbaton.cli.control_names import is_service
from quicbaton.cli.fleet import follow, step_fields
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import (
    ReloadOptions,
    ServiceOptions,
    StopOptions,
    WorkersOptions,
)
from quicbaton.cli.orphans import find_orphans, remove_dead
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.timelines import SETTLE_S, read_timelines, tell_timelines, without
from quicbaton.cli.totals import Totals
from quicbaton.counted import counted
from quicbaton.errors import ConfigurationError, QuicbatonError
from quicbaton.handoff.timeline import Seen
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.old_process import describe
from quicbaton.service.peers.tally import CERTIFICATE_END, Tally

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
    wants_timelines = options.timelines and reporter.as_json
    known = read_timelines(server, "", 0) if wants_timelines else []
    try:
        if reporter.as_json or not _is_terminal():
            steps = _Steps(reporter)
            answer = asyncio.run(follow(server, _command(options), c.Answer, steps.on_step))
        else:
            answer = _reload_with_bar(server, options)
    except KeyboardInterrupt:
        text = "a reload that has begun goes on in the service: `quicbaton workers` shows it"
        reporter.event("interrupted", text, message=text)
        raise
    if not answer.ok:
        reporter.error(*answer.heard())
        return 1
    old = [msgspec.structs.asdict(one) for one in old_processes_of(server)]
    reporter.event("reloaded", answer.message, message=answer.message, lingering=old)
    # The old workers' end with them: those of the new ones are left.
    found = read_timelines(server, "", SETTLE_S) if wants_timelines else []
    tell_timelines(without(known, found), Seen.BY_DESTINATION, reporter)
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
    orphaned = find_orphans(options)
    command = c.Stop(_seconds(options.grace), to)
    try:
        if orphaned is None:
            left = asyncio.run(_stop_at(find(options), command, reporter))
        else:
            control, workers = orphaned
            left = asyncio.run(_stop_all(workers, command, reporter))
            remove_dead(control)
    except KeyboardInterrupt:
        text = "the server goes on stopping"
        reporter.event("interrupted", text, message=text)
        raise
    text = f"stopped: {counted(left.moved, 'connection')} moved, {left.closed} closed"
    if left.cut:
        text += f", {left.cut} of them with requests that had not ended"
    reporter.event("stopped", text, moved=left.moved, closed=left.closed, cut=left.cut)
    return 0


def _workers(options: WorkersOptions, reporter: Reporter) -> int:
    server = find(options)
    service = server.ask(c.ServiceStatus(), c.Service)
    lingering = old_processes_of(server)
    tallies = tallies_of(server)
    totals = Totals.of(tallies) if tallies else None
    if reporter.as_json:
        fields = msgspec.structs.asdict(service)
        certificates = _certificates(tallies)
        fields["workers"] = [
            {
                **msgspec.structs.asdict(worker),
                "certificates": certificates.get(worker.worker, []),
            }
            for worker in service.workers
        ]
        fields["lingering"] = [msgspec.structs.asdict(old) for old in lingering]
        fields["since_start"] = totals
        reporter.value(fields)
        return 0
    _print_workers(service, lingering, totals)
    return 0


def _certificates(tallies: list[Tally]) -> dict[int, list[dict[str, str]]]:
    """The certificates that each worker shows, and until when they are valid."""
    found: dict[int, list[dict[str, str]]] = {}
    for tally in tallies:
        for gauge, value in tally.gauges.items():
            key, _, name = gauge.partition(" ")
            if key == CERTIFICATE_END:
                end = datetime.fromtimestamp(value, UTC).isoformat()
                found.setdefault(tally.worker, []).append({"name": name, "not_after": end})
    return found


def _print_workers(
    service: c.Service, lingering: list[c.OldProcessInfo], totals: Totals | None
) -> None:
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
    if totals is not None:
        console.print(str(totals))


# --- helpers ----------------------------------------------------------------------------------


def find(options: ServiceOptions) -> Server:
    if options.server is not None:
        return find_server(options.server, options.cluster)
    paths = [path for path in user_state.all_control_sockets() if is_service(path)]
    if len(paths) != 1:
        found = ", ".join(map(str, paths)) or "none"
        raise ConfigurationError(
            f"expected one service of yours here, found {found}: name it by its port"
            + user_state.closed_folder_hint(),
            code=Reason.UNKNOWN_SERVER,
        )
    if not local_servers(paths):
        raise ConfigurationError(
            f"nobody answers at {paths[0]}: if the supervisor was killed, start the same command "
            "again, which finds its workers, or end them with `quicbaton stop`",
            code=Reason.UNREACHABLE,
        )
    return find_server(str(paths[0]), options.cluster)


def _command(options: ReloadOptions) -> c.Reload:
    return c.Reload(_seconds(options.health_timeout), _seconds(options.grace))


def _seconds(given: float | None) -> float:
    return _ITS_OWN if given is None else given


async def _stop_at(server: Server, command: c.Stop, reporter: Reporter) -> c.Left:
    """Send the command without a deadline: the server has one of its own. What it waits for is said
    once a second."""
    waits = asyncio.create_task(_report_waits(server, reporter))
    try:
        return await server.say(command, c.Left, math.inf)
    finally:
        waits.cancel()


async def _stop_all(servers: Sequence[Server], command: c.Stop, reporter: Reporter) -> c.Left:
    """As `_stop_at`, for several processes at once."""
    ends = await asyncio.gather(*(_stop_at(server, command, reporter) for server in servers))
    return c.Left(
        moved=sum(end.moved for end in ends),
        closed=sum(end.closed for end in ends),
        cut=sum(end.cut for end in ends),
    )


async def _report_waits(server: Server, reporter: Reporter) -> None:
    with contextlib.suppress(QuicbatonError):
        while True:
            await asyncio.sleep(1)
            listed = await server.say(c.ListConnections(), c.Connections)
            if left := len(listed.connections):
                text = f"waiting for requests of {counted(left, 'connection')}"
                reporter.event("waiting", text, connections=left)
