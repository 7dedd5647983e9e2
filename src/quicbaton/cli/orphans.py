"""The workers of a service whose supervisor was killed: they serve on, and can be stopped."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from quicbaton.cli import user_state
from quicbaton.cli.control import Server
from quicbaton.cli.control_names import Where, has_processes, is_service, service_of
from quicbaton.cli.fleet import ask_all
from quicbaton.cli.options.commands import ServiceOptions
from quicbaton.errors import PeerError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import connect_channel
from quicbaton.service.supervisor.control_paths import controls_of_workers


def find_orphans(options: ServiceOptions) -> tuple[Path, list[Server]] | None:
    """The service that the options name, by the control socket of its supervisor, and its workers,
    old ones included. None when its supervisor answers, or when none of them lives."""
    controls = _controls(options.server)
    found = []
    for control in controls:
        if _is_dead(control) and (orphans := asyncio.run(_workers_beside(control))):
            found.append((control, orphans))
    # With several, or beside a service that has its supervisor, the user is to say which.
    return found[0] if len(found) == len(controls) == 1 else None


def is_orphan(server: Server) -> bool:
    """Whether a process is a worker whose supervisor is gone."""
    if server.path is None:
        return False
    if is_service(server.path) or not _is_dead(server.path.with_stem(service_of(server.path))):
        return False
    return bool(asyncio.run(ask_all([server], c.WorkerStatus(), c.WorkerState)))


def remove_dead(control: Path) -> None:
    """Remove the control socket of a supervisor that is gone."""
    if _is_dead(control):
        with contextlib.suppress(OSError):
            control.unlink(missing_ok=True)


# --- helpers ----------------------------------------------------------------------------------


def _controls(text: str | None) -> list[Path]:
    """The control sockets of the supervisors that may be meant. The paths need not exist."""
    if text is None:
        return _services_of(user_state.all_control_sockets())
    where = Where.parse(text)
    if where is None:
        return [Path(text).absolute()]
    folder = user_state.runtime_folder()
    if where.host and not has_processes(folder, where):
        where = where._replace(host="")
    named = [folder / f"{where.stem}.sock"]
    return named if where.host else _services_of(user_state.control_sockets(where.port)) or named


def _services_of(paths: list[Path]) -> list[Path]:
    return sorted({path.with_stem(service_of(path)) for path in paths})


def _is_dead(control: Path) -> bool:
    async def knock() -> bool:
        try:
            channel = await connect_channel(control)
        except PeerError as error:
            return error.code is Reason.UNREACHABLE
        channel.close()
        return False

    return asyncio.run(knock())


async def _workers_beside(control: Path) -> list[Server]:
    """The workers of the supervisor that had this control socket, each once."""
    paths = controls_of_workers(control)
    servers = [Server(path, str(path), None) for path in paths if path.is_socket()]
    answers = await ask_all(servers, c.WorkerStatus(), c.WorkerState)
    # A worker answers at its predecessor's socket, too.
    return list({state.pid: server for server, state in answers}.values())
