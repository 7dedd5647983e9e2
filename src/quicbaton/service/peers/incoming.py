"""Connections from other hosts, as they come to one process: TLS first, then as on a Unix socket.

They come from its own acceptor, or its supervisor's passes them on. A caller is unknown until its
certificate is checked, and until then holds one of few places for a few seconds.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.limits import MAX_REMOTE_CHANNELS, MAX_UNPROVEN_PEERS, PEER_FIRST_FRAME_S
from quicbaton.reasons import Reason
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.acceptor import take_passed
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.tls import TlsChannel, accept_tls


class Incoming:
    """`on_channel` gets each channel, and starts to read it."""

    def __init__(self, cluster: Cluster | None, on_channel: Callable[[Channel], None]) -> None:
        self._cluster = cluster
        self._on_channel = on_channel
        self._loop = asyncio.get_running_loop()
        #: Handshakes, oldest first.
        self._unproven: dict[asyncio.Task[None], None] = {}
        self._channels: set[TlsChannel] = set()
        #: Connections that were refused, by reason code.
        self.refused: Counter[str] = Counter()

    def handlers(self) -> dict[type[c.Frame], Any]:
        """The commands that bring connections, with their handlers."""
        return {c.TakePeer: self._take_peer}

    def take(self, sock: socket.socket, present: Iterable[int] | None = None) -> None:
        """Take over a socket whose preamble was read. With `present` its only purpose is to tell a
        node that these workers are there, and not the one for which it asked."""
        if self._cluster is None:
            sock.close()
            raise PeerError("this process is in no cluster", code=Reason.NO_CLUSTER)
        if len(self._unproven) >= MAX_UNPROVEN_PEERS:
            oldest = next(iter(self._unproven))
            del self._unproven[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._prove(self._cluster, sock, present))
        self._unproven[task] = None
        task.add_done_callback(lambda done: self._unproven.pop(done, None))
        # A task that is cancelled before its first step does not close the socket.
        task.add_done_callback(lambda done: sock.close() if done.cancelled() else None)

    def close(self) -> None:
        """Close the sockets of all handshakes."""
        for task in self._unproven:
            task.cancel()
        for channel in self._channels:
            channel.close()

    # --- helpers --------------------------------------------------------------------------------

    async def _take_peer(self, channel: Channel, _frame: c.TakePeer) -> c.Frame:
        self.take(take_passed(channel.take_descriptors()))
        return c.Answer(True, Reason.OK, "taken")

    async def _prove(
        self, cluster: Cluster, sock: socket.socket, present: Iterable[int] | None
    ) -> None:
        try:
            channel = await accept_tls(cluster, sock, present)
        except QuicbatonError as error:
            self.refused[error.code] += 1
            return
        self._channels = {channel for channel in self._channels if not channel.closed}
        if len(self._channels) >= MAX_REMOTE_CHANNELS:
            self.refused[Reason.BUSY] += 1
            channel.close()
            return
        self._channels.add(channel)
        self._on_channel(channel)
        self._expect_a_frame(channel)
        channel.start()

    def _expect_a_frame(self, channel: TlsChannel) -> None:
        """Hang up on a peer that sends no frame in time. The user of the channel may replace
        `on_data` later."""
        reader = channel.on_data
        deadline = self._loop.call_later(PEER_FIRST_FRAME_S, channel.abort)

        def on_first(data: bytes) -> None:
            deadline.cancel()
            if channel.on_data is on_first:
                channel.on_data = reader
            reader(data)

        channel.on_data = on_first
