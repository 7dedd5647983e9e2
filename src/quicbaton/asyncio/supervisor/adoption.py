"""Finds the workers that a supervisor has left behind, and gets the sockets back from them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Final, NamedTuple

from quicbaton.asyncio.peers import commands as c
from quicbaton.asyncio.peers.asking import (
    TIMEOUT_S,
    CommandFailedError,
    ask,
    ask_for_descriptor,
)
from quicbaton.asyncio.peers.channel import connect_channel
from quicbaton.asyncio.supervisor.group import Group
from quicbaton.errors import ConfigurationError, PeerError

_PASS_S: Final = 5.0


class Found(NamedTuple):
    """A living worker."""

    control: Path
    state: c.WorkerState
    roster: int  # a descriptor


async def find_workers(control: Path, silent_s: float) -> list[Found]:
    """The workers of the supervisor at `control`, which need not live.

    One that says nothing for `silent_s` is killed: it would wake up one day and read a socket that
    is another's by then. Paths at which nobody listens any more are removed.
    """
    paths = sorted(control.parent.glob(f"{control.stem}-*.sock"))
    answers = await asyncio.gather(*(_find(path, silent_s) for path in paths))
    found: dict[int, Found] = {}
    # A worker answers at its predecessor's socket, too; its own, named after its pid, comes first.
    for one in sorted(filter(None, answers), key=_is_at_predecessors):
        if found.setdefault(one.state.pid, one) is not one:
            os.close(one.roster)
    return list(found.values())


async def take_sockets(found: list[Found]) -> Group:
    """The port's sockets, in order, from a living worker.

    Raises ConfigurationError when the workers do not agree about them.
    """
    orders = {tuple(one.state.sockets) for one in found}
    if len(orders) != 1:
        raise ConfigurationError(
            "the workers that live here do not have the same sockets: stop them all first",
            code="two_services",
        )
    sockets: list[socket.socket] = []
    try:
        for slot in range(len(orders.pop())):
            sockets.append(await _take(found, slot))
        return Group(sockets)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


# --- helpers ----------------------------------------------------------------------------------


def _is_at_predecessors(one: Found) -> bool:
    return not one.control.stem.endswith(f"-{one.state.pid}")


async def _take(found: list[Found], slot: int) -> socket.socket:
    """From whoever gives it: any of them may die while we ask."""
    for one in found:
        with contextlib.suppress(PeerError, TimeoutError):
            _, descriptor = await ask_for_descriptor(one.control, c.PassSocket(slot), _PASS_S)
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            return sock
    raise PeerError("no worker gives its sockets away", code="unreachable")


async def _find(path: Path, silent_s: float) -> Found | None:
    try:
        state = await ask(path, c.WorkerStatus(), c.WorkerState, min(silent_s, TIMEOUT_S))
    except CommandFailedError:
        return None  # A server, and no worker.
    except PeerError as error:
        if error.code == "timeout":
            await _kill(path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return None
    if state.state in ("ready", "failed"):
        # It was not told to serve, and nobody will.
        await _kill(path)
        return None
    try:
        _, roster = await ask_for_descriptor(path, c.PassRoster(), _PASS_S)
    except (PeerError, TimeoutError):
        return None
    return Found(path, state, roster)


async def _kill(path: Path) -> None:
    """Kill the process that listens there, and see it dead."""
    with contextlib.suppress(PeerError):
        channel = await connect_channel(path)
        dead = asyncio.Event()
        watch = channel.watch(dead.set)
        with contextlib.suppress(ProcessLookupError):
            os.kill(channel.peer.pid, signal.SIGKILL)
        await dead.wait()
        watch.close()
        channel.close()
