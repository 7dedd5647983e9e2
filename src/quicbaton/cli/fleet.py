"""Many processes at once: the workers behind a server's name, asked side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from quicbaton.cli.control import Server
from quicbaton.errors import QuicbatonError
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError

_Frame = TypeVar("_Frame", bound=c.Frame)

#: A process that does not answer within this is left out of an overview.
TIMEOUT_S: Final = 5.0


async def workers_of(server: Server) -> list[Server]:
    """The processes that serve behind a name: a supervisor's workers, or the server itself."""
    try:
        service = await server.say(c.ServiceStatus(), c.Service)
    except CommandFailedError:
        # A server that does not know the command has no workers.
        return [server]
    if server.is_remote:
        return [
            server._replace(name=f"{server.name}/{worker.worker}")
            for worker in service.workers
            if worker.pid
        ]
    return [
        Server(Path(worker.control), worker.control, server.cluster)
        for worker in service.workers
        if worker.pid
    ]


async def all_workers(servers: Iterable[Server]) -> list[Server]:
    """The processes behind several names, each once."""
    found = await asyncio.gather(*(workers_of(server) for server in servers))
    return list({worker.name: worker for workers in found for worker in workers}.values())


async def ask_all(
    servers: Sequence[Server], command: c.Frame, answer: type[_Frame], timeout_s: float = TIMEOUT_S
) -> list[tuple[Server, _Frame]]:
    """The answers of those that answer in time."""

    async def ask_one(server: Server) -> _Frame | None:
        try:
            return await server.say(command, answer, timeout_s)
        except QuicbatonError:
            return None

    answers = await asyncio.gather(*(ask_one(server) for server in servers))
    return [
        (server, given) for server, given in zip(servers, answers, strict=True) if given is not None
    ]


async def follow(
    server: Server, command: c.Frame, end: type[_Frame], on_step: Callable[[c.Frame], None]
) -> _Frame:
    """Send a command that takes long; `on_step` gets the frames before its end.

    CommandFailedError when the server refuses, PeerError when it hangs up.
    """
    with await server.begin() as conversation:
        try:
            return await conversation.follow(command, end, on_step)
        except QuicbatonError as error:
            raise type(error)(f"{server}: {error}", code=error.code) from error


def step_fields(step: c.ReloadStep) -> dict[str, Any]:
    """The fields of a step, for JSON."""
    return {
        "worker": step.worker,
        "phase": step.phase,
        "pid": step.pid,
        "moved": step.moved,
        "left": step.left,
        "cut": step.cut,
        "seconds": round(step.seconds, 3),
        "message": step.message,
    }
