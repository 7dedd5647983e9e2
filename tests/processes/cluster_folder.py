"""Clusters for tests: a folder as `quicbaton keys init` makes it, on free ports of the loopback."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Callable
from pathlib import Path

from quicbaton.cli import keys
from quicbaton.cli.options.commands import KeysInitOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.service.peers.acceptor import Acceptor, listen
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.incoming import Incoming

#: Sockets that keep ports for the nodes of this run's clusters.
_kept: list[socket.socket] = []


def own_port() -> int:
    """A TCP port that is free, and stays so for who listens there with SO_REUSEPORT, as nodes do:
    the kernel gives it to nobody else who asks for any."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    # Not before: asked with it, the kernel may give a port that another process keeps.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _kept.append(sock)
    return int(sock.getsockname()[1])


def make_cluster(folder: Path, *names: str) -> Path:
    """A cluster's folder with these nodes."""
    nodes = tuple(f"{name}=127.0.0.1:{own_port()}" for name in names)
    options = KeysInitOptions(folder=folder, nodes=nodes)
    assert keys.init(options, Reporter(as_json=True, out=io.StringIO())) == 0
    return folder


class Door:
    """What a lone process has: an acceptor, and TLS behind it. `channels` are those let in."""

    def __init__(
        self, cluster: Cluster, on_channel: Callable[[Channel], None] = lambda _channel: None
    ) -> None:
        self.channels: list[Channel] = []
        self._on_channel = on_channel
        self.incoming = Incoming(cluster, self._take)
        self.acceptor = Acceptor(listen(cluster.own_entry().listen), self._deliver)
        self.targets: list[str] = []

    def close(self) -> None:
        self.acceptor.close()
        self.incoming.close()

    def _take(self, channel: Channel) -> None:
        self.channels.append(channel)
        self._on_channel(channel)

    async def _deliver(self, target: str, sock: socket.socket) -> None:
        self.targets.append(target)
        self.incoming.take(sock)


async def plain(cluster: Cluster, node: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection to a node's port, as anybody can make."""
    address = cluster.nodes[node].peers
    return await asyncio.open_connection(address.host, address.port)
