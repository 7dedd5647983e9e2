"""A drain and another command at the same time."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from loopback import run

from quicbaton.asyncio.node.draining import Draining
from quicbaton.asyncio.peers import commands as c
from quicbaton.asyncio.peers.channel import Channel
from quicbaton.asyncio.peers.link import Link
from quicbaton.errors import PeerError


class OneConnection:
    """It is here, and stays."""

    def names(self) -> list[bytes]:
        return [b"name"]

    def has(self, _name: bytes) -> bool:
        return True


async def nowhere(_name: str) -> Link:
    raise PeerError("nobody answers", code="unreachable")


def test_a_drain_that_is_undone_ends_at_once() -> None:
    """Whoever waits for it has an answer, and the next one may begin."""

    async def test() -> None:
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

    run(test)
