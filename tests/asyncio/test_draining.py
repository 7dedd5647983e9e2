"""A drain and another command at the same time."""

from __future__ import annotations

import asyncio
import socket
from contextlib import nullcontext
from typing import Any

from quicbaton.errors import PeerError
from quicbaton.reasons import Reason
from quicbaton.service.node.bulk import BulkHandoff
from quicbaton.service.node.draining import Draining
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.link import Link


class OneConnection:
    """It is here, and stays."""

    kept_awake = staticmethod(nullcontext)

    def names(self) -> list[bytes]:
        return [b"name"]

    def has(self, _name: bytes) -> bool:
        return True


async def nowhere(_name: str) -> Link:
    raise PeerError("nobody answers", code=Reason.UNREACHABLE)


async def test_a_drain_that_is_undone_ends_at_once() -> None:
    """A command that waits for the drain has an answer, and the next one may begin."""
    connections: Any = OneConnection()
    draining = Draining(connections, nowhere, lambda: 0)
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    command = c.Drain(["nowhere"], False, -1, 3600.0)
    with theirs:
        for _ in range(2):
            drain = asyncio.create_task(draining._drain(channel, command))
            await asyncio.sleep(0)
            await draining._stop_draining(channel, c.StopDraining())
            drained = await asyncio.wait_for(drain, 20.0)
            assert isinstance(drained, c.Drained)
            assert drained.left == 1
    channel.abort()


async def test_why_one_did_not_move_is_known_while_it_is_tried_again() -> None:
    """A takeover that is at its end learns from it whose fault it was."""
    again = asyncio.Event()
    links = iter([nowhere])

    async def stands_still(name: str) -> Link:
        for fail in links:
            return await fail(name)
        again.set()
        return await asyncio.get_running_loop().create_future()

    connections: Any = OneConnection()
    bulk = BulkHandoff(connections, stands_still, ["nowhere"], proxy=False, on_done=lambda: None)
    bulk.begin([b"name"])
    work = asyncio.create_task(bulk.work())
    await again.wait()
    assert bulk.left == bulk.waiting == 1
    assert bulk.kept[b"name"].code == "unreachable"
    assert bulk.refused() == {"unreachable": 1}
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_what_no_waiting_changes_is_tried_once() -> None:
    tries = 0
    done = asyncio.Event()

    async def here(_name: str) -> Link:
        nonlocal tries
        tries += 1
        raise PeerError("that is this very process", code=Reason.SAME_PROCESS)

    connections: Any = OneConnection()
    bulk = BulkHandoff(connections, here, ["here"], proxy=False, on_done=done.set)
    bulk.begin([b"name"])
    work = asyncio.create_task(bulk.work())
    await done.wait()
    assert (tries, bulk.left, bulk.waiting) == (1, 1, 0)
    assert bulk.refused() == {"same_process": 1}
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
