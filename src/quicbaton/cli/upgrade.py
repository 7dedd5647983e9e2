"""`quicbaton upgrade`: a running service becomes the program that is installed now, its supervisor
included."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from quicbaton.cli import service
from quicbaton.cli.control import Server
from quicbaton.cli.options.argument import add_command
from quicbaton.cli.options.commands import UpgradeOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import PeerError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.timing import NEW_SUPERVISOR_S, SUPERVISOR_LOOK_S


def add_parser(commands: Any) -> None:
    add_command(
        commands,
        "upgrade",
        UpgradeOptions,
        run,
        "replace a service's supervisor, and then all workers",
    )


def run(options: UpgradeOptions, reporter: Reporter) -> int:
    server = service.find(options)
    state = asyncio.run(_replace_supervisor(server))
    reporter.event(
        "supervisor_replaced",
        f"the supervisor, pid {state.pid}, runs the program that is installed now",
        pid=state.pid,
        address=state.address,
    )
    return service.reload(options, reporter)


async def _replace_supervisor(server: Server) -> c.Service:
    """Return when the new program answers. Raises when the old one goes on, or nobody answers."""
    with await server.begin() as conversation:
        answer = await conversation.follow(c.Upgrade(), c.Answer, lambda _step: None)
        if not answer.ok:
            reason, text = answer.heard()
            raise PeerError(text, code=reason)
        # The channel ends with the old program.
        with contextlib.suppress(PeerError):
            await conversation.next()
    try:
        async with asyncio.timeout(NEW_SUPERVISOR_S):
            while True:
                try:
                    return await server.say(c.ServiceStatus(), c.Service)
                except PeerError:
                    await asyncio.sleep(SUPERVISOR_LOOK_S)
    except TimeoutError:
        raise PeerError(
            f"the new supervisor does not answer after {NEW_SUPERVISOR_S:g} s; the workers serve "
            "on: start the service's command again, which finds them",
            code=Reason.UNREACHABLE,
        ) from None
