"""A service's TCP port for other nodes. Connections for a worker are passed on to it, others are
for the service.

A worker does the TLS of its connections, and the supervisor that of others. The supervisor may be
killed at any time, and its successor listens again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

from quicbaton.service.node.control import Control
from quicbaton.service.peers.acceptor import ANY_TARGET, NODE_TARGET, Acceptor, listen, pass_on
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.incoming import Incoming


class PeerListener:
    """`control` answers for the service; `workers` are the control sockets of workers that
    serve."""

    def __init__(
        self, cluster: Cluster, control: Control, workers: Callable[[], Mapping[int, Path]]
    ) -> None:
        self._workers = workers
        self._turn = count()
        self._incoming = Incoming(cluster, control.on_channel)
        self._acceptor = Acceptor(listen(cluster.own_entry().listen), self._deliver)

    def close(self) -> None:
        """Listen no more, and close the channels on which other nodes talk to the service."""
        self._acceptor.close()
        self._incoming.close()

    async def _deliver(self, target: str, sock: socket.socket) -> None:
        if target == NODE_TARGET:
            self._incoming.take(sock)
            return
        workers = self._workers()
        path = None
        if target != ANY_TARGET:
            path = workers.get(int(target))
        elif workers:
            path = list(workers.values())[next(self._turn) % len(workers)]
        if path is None:
            self._incoming.take(sock, present=list(workers))
        else:
            await pass_on(path, sock)
