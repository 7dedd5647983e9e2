"""`quicbaton scale`: another number of workers under live connections."""

from __future__ import annotations

import asyncio
from typing import Any

from quicbaton.cli import service
from quicbaton.cli.fleet import follow, step_fields
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import ScaleOptions, ServiceOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.service.peers import commands as c


def add_parser(commands: Any) -> None:
    add_command(commands, "scale", ScaleOptions, run, "change a service's number of workers")


def run(options: ScaleOptions, reporter: Reporter) -> int:
    named = ServiceOptions(server=options.server, cluster=options.cluster)
    server = service.find(named)

    def on_step(step: c.Frame) -> None:
        if isinstance(step, c.ReloadStep) and step.phase == "done":
            text = f"worker {step.worker}: pid {step.pid}"
            reporter.event("worker", text, **step_fields(step))

    answer = asyncio.run(follow(server, c.Scale(options.workers), c.Answer, on_step))
    if not answer.ok:
        reporter.error(*answer.heard())
        return 1
    reporter.event("scaled", answer.message, workers=options.workers, message=answer.message)
    return 0
