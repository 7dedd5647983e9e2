"""Finds the workers that an earlier supervisor has left, and gets the sockets back from them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import NamedTuple

from quicbaton.asyncio.listener import Listener, adopt_listener
from quicbaton.errors import ConfigurationError, PeerError
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import (
    CommandFailedError,
    Conversation,
)
from quicbaton.service.peers.channel import Channel, connect_channel
from quicbaton.service.supervisor.control_paths import controls_of_workers, remove_dead
from quicbaton.service.supervisor.group import Group
from quicbaton.service.timing import ANSWER_S, PASS_S


class Found(NamedTuple):
    """A living worker that was found."""

    control: Path
    state: c.WorkerState
    roster: int  # a descriptor
    pidfd: int


async def find_workers(control: Path, silent_s: float) -> list[Found]:
    """The workers of the supervisor at `control`, which need not live. Old workers in which
    requests still run are among them.

    A worker that does not answer for `silent_s` is killed: it would wake up later and read a socket
    that is another's by then. Socket paths without a listener are removed.

    Raises ConfigurationError when a process cannot even be asked who it is.
    """
    paths = controls_of_workers(control)
    answers = await asyncio.gather(*(_find(path, silent_s) for path in paths))
    found: dict[int, Found] = {}
    # A worker answers at its predecessor's socket, too. Its own, named after its pid, comes first.
    for one in sorted(filter(None, answers), key=_is_at_predecessors):
        if found.setdefault(one.state.pid, one) is not one:
            os.close(one.roster)
            os.close(one.pidfd)
    if all(one.state.state != "arriving" for one in found.values()):
        # Otherwise it is about to listen at its predecessor's path, which must not be taken from
        # it.
        await remove_dead(*paths)
    return list(found.values())


async def take_sockets(found: list[Found]) -> Group:
    """The port's sockets, in order, from a living worker.

    Raises ConfigurationError when the workers do not agree about them.
    """
    orders = sorted((tuple(one.state.sockets) for one in found), key=len)
    longest = orders[-1]
    # While workers come or go, some have more of the sockets than others.
    if any(order != longest[: len(order)] for order in orders):
        raise ConfigurationError(
            "the workers that live here do not have the same sockets: stop them all first",
            code=Reason.TWO_SERVICES,
        )
    sockets: list[socket.socket] = []
    try:
        for number in range(len(longest)):
            sockets.append(await _take(found, number))
        return Group(sockets)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


async def take_listener(found: list[Found]) -> Listener | None:
    """The TCP socket of living workers; None when they have none."""
    for one in found:
        with contextlib.suppress(PeerError, CommandFailedError):
            with await Conversation.begin(one.control, PASS_S) as asked:
                _, descriptor = await asked.ask_for_descriptor(c.PassListener(), c.SocketOf)
            return adopt_listener(descriptor)
    return None


async def take_tallies(found: list[Found]) -> int | None:
    """A descriptor of the memory with the service's figures; None when no living worker has it."""
    for one in found:
        with contextlib.suppress(PeerError, CommandFailedError):
            with await Conversation.begin(one.control, PASS_S) as asked:
                _, descriptor = await asked.ask_for_descriptor(c.PassTallies(), c.SocketOf)
            return descriptor
    return None


# --- helpers ----------------------------------------------------------------------------------


def _is_at_predecessors(one: Found) -> bool:
    return not one.control.stem.endswith(f"-{one.state.pid}")


async def _take(found: list[Found], number: int) -> socket.socket:
    """Take a socket from the first worker that gives it: any of them may die meanwhile."""
    for one in found:
        with contextlib.suppress(PeerError, CommandFailedError):
            with await Conversation.begin(one.control, PASS_S) as asked:
                _, descriptor = await asked.ask_for_descriptor(c.PassSocket(number), c.SocketOf)
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            return sock
    raise PeerError("no worker gives its sockets away", code=Reason.UNREACHABLE)


async def _find(path: Path, silent_s: float) -> Found | None:
    try:
        channel = await connect_channel(path)
    except PeerError as error:
        if error.code is Reason.UNREACHABLE:
            return None
        raise _unclear(str(error)) from error
    dead = asyncio.Event()
    watch = channel.watch(dead.set)
    try:
        return await _get_to_know(path, channel, min(silent_s, ANSWER_S))
    except (CommandFailedError, PeerError) as error:
        if error.code is Reason.UNEXPECTED_MESSAGE:
            return None  # A server, and no worker.
        if error.code in (Reason.IDLE, Reason.DEADLINE):
            watch.kill()
        try:
            # A living process may own connections, and reads the port.
            await asyncio.wait_for(dead.wait(), silent_s)
        except TimeoutError:
            raise _unclear(f"the process at {path} does not answer: {error}") from error
        return None
    finally:
        watch.close()
        channel.close()


async def _get_to_know(path: Path, channel: Channel, silent_s: float) -> Found:
    """Ask everything over one channel: later another process may listen at the path."""
    conversation = Conversation(channel, silent_s)
    state = await conversation.ask(c.WorkerStatus(), c.WorkerState)
    if state.state in ("ready", "failed"):
        raise PeerError("it was never told to serve", code=Reason.IDLE)
    try:
        # If it answers after this, the pid was its own when the pidfd was opened.
        pidfd = os.pidfd_open(state.pid)
    except OSError as error:
        raise PeerError(f"there is no process {state.pid}", code=Reason.LINK_LOST) from error
    try:
        _, roster = await conversation.ask_for_descriptor(c.PassRoster(), c.SocketOf)
    except BaseException:
        os.close(pidfd)
        raise
    return Found(path, state, roster, pidfd)


def _unclear(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text}; it may be a worker of this port: end it, then start again",
        code=Reason.SILENT_WORKER,
    )
