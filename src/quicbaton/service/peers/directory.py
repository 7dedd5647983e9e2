"""Finds processes by name: a control socket's path, or NODE/WORKER of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from quicbaton.errors import ConfigurationError
from quicbaton.limits import REDIAL_PAUSE_S, REDIAL_S
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import Place
from quicbaton.service.peers.acceptor import ANY_TARGET, NODE_TARGET
from quicbaton.service.peers.channel import Channel, connect_channel
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.names import ProcessName
from quicbaton.service.peers.tls import connect_tls
from quicbaton.service.timing import FIRST_REDIAL_S

_LOCAL_TRIES: Final = 5


class Directory:
    """`workers` are the processes of this node, from worker number to path, and may change. `own`
    is this process's number."""

    def __init__(self, cluster: Cluster | None, workers: Mapping[int, str], own: int) -> None:
        self._cluster = cluster
        self._workers = workers
        self._own = own
        #: Control sockets of processes of this host that were replaced and live on, by name.
        #: Another process answers at the path that is their name.
        self.moved: dict[str, str] = {}

    def canonical(self, name: str) -> str:
        """The name under which a process of our own node is kept: its path."""
        process = ProcessName.parse(name)
        if process is None or self._cluster is None or process.node != self._cluster.me:
            return name
        if process.worker is None:
            # Any other worker, if there is one.
            others = (number for number in self._workers if number != self._own)
            return self._workers[next(others, self._own)]
        return self._workers.get(process.worker, name)

    def remote_name_of(self, path: str) -> str:
        """The name of a process of this node on other hosts; empty if it has none."""
        if self._cluster is None:
            return ""
        numbers = [number for number, name in self._workers.items() if name == path]
        return f"{self._cluster.me}/{numbers[0]}" if numbers else ""

    def name_of(self, place: Place) -> str | None:
        """The name of the process that issues connection IDs for this place, if it is known."""
        if self._cluster is None or place.node == self._cluster.number:
            return self._workers.get(place.worker)
        node = self._cluster.last_name_of(place.node)
        return None if node is None else f"{node}/{place.worker}"

    def place_of(self, name: str) -> Place | None:
        """The place for which a process of another node issues connection IDs."""
        process = ProcessName.parse(name)
        if self._cluster is None or process is None or process.worker is None:
            return None
        entry = self._cluster.last_nodes.get(process.node)
        return None if entry is None else Place(entry.number, process.worker)

    async def connect(self, name: str) -> Channel:
        """A channel to the process. PeerError when it does not answer, ConfigurationError when
        there can be no process with that name."""
        name = self.canonical(name)
        process = ProcessName.parse(name)
        if process is None:
            return await connect_channel(Path(self.moved.get(name, name)))
        if self._cluster is None:
            raise ConfigurationError(
                f"{name!r} names a process of a cluster, and this one is in none: give --cluster",
                code=Reason.NO_CLUSTER,
            )
        if process.node == self._cluster.me:
            raise ConfigurationError(
                f"this node has no worker {process.worker}", code=Reason.UNKNOWN_NODE
            )
        worker = ANY_TARGET if process.worker is None else str(process.worker)
        return await connect_tls(self._cluster, process.node, worker)

    def pauses_s(self, name: str) -> Iterator[float]:
        """Pauses between attempts to reach the process, in seconds, until further ones are
        pointless.

        On our own host a process that listens can be reached at once. Another host may be beyond a
        partition, and many may look for it when that ends.
        """
        process = ProcessName.parse(self.canonical(name))
        if process is not None and (
            self._cluster is None or process.node not in self._cluster.last_nodes
        ):
            yield 0.0  # one attempt tells the reason of the failure
            return
        if process is None:
            yield from [FIRST_REDIAL_S] * _LOCAL_TRIES
            return
        pause_s, waited_s = FIRST_REDIAL_S, 0.0
        while waited_s < REDIAL_S:
            yield pause_s
            waited_s += pause_s
            pause_s = min(2 * pause_s, REDIAL_PAUSE_S)


class OtherNodes:
    """The numbers of a cluster's other nodes, as its file was read last: a container."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __contains__(self, number: object) -> bool:
        return (
            isinstance(number, int)
            and number != self._cluster.number
            and self._cluster.last_name_of(number) is not None
        )


async def connect_node(cluster: Cluster, name: str) -> Channel:
    """A channel for commands to NODE/WORKER, or with NODE to the process that speaks for the
    node."""
    process = ProcessName.parse(name)
    if process is None:
        raise ConfigurationError(f"{name!r} is not NODE or NODE/WORKER", code=Reason.UNKNOWN_NODE)
    worker = NODE_TARGET if process.worker is None else str(process.worker)
    return await connect_tls(cluster, process.node, worker)
