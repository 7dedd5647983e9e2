"""The hosts that most tests have: a client, and two servers with addresses of their own, which may
also share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.cli.main import main
from quicbaton.service.peers import commands as c
from tests.hosts.lossy_link import CLEAR, Condition, Note
from tests.hosts.network import Host, Network
from tests.processes.harness import Curl, Server, World
from tests.processes.wire import Verdict, check

CLIENT, A, B, SHARED = "10.77.0.1", "10.77.0.11", "10.77.0.12", "10.77.0.100"
ADDRESSES = (CLIENT, A, B, SHARED)
#: A mobile network on a bad day: 50 ms there and back, 1 % lost each way, and things out of order.
ROUGH = Condition(delay_ms=25, loss=0.01, reordered=0.02, duplicated=0.005)
CUT = Condition(cut=True)


PORT = 4433


@dataclass
class Site:
    """A client's host and those of the nodes `a` and `b` of a cluster."""

    network: Network
    client: Host
    worlds: dict[str, World]
    cluster: Path

    async def start(self, node: str, **more: Any) -> Server:
        """The node's server, ready."""
        cluster = str(self.cluster)
        return await self.worlds[node].start(cluster=cluster, node=node, port=PORT, **more)

    def curl(self, node: str, size: int, **more: Any) -> Curl:
        """libcurl at the client's, downloading from the address of a node."""
        return curl_from(self.client, self.worlds[node], PORT, size, **more)

    async def between_servers(self, condition: Condition) -> None:
        """Set both ways between `a` and `b`."""
        await self.network.between(*self._servers, condition)

    async def between_client_and(self, node: str, condition: Condition) -> None:
        """Set both ways between the client and a node."""
        await self.network.between(self.client, self.network.hosts[node], condition)

    async def datagrams(self) -> Datagrams:
        """The packets that client and servers have put on the wire for each other."""
        return Datagrams(await self.network.notes())

    async def verdict(self) -> Verdict:
        """The nonce checker's, of everything that either server has sent to the client."""
        keylogs = [path for world in self.worlds.values() for path in world.keylogs]
        return (await self.datagrams()).check(keylogs)

    async def assert_one_sender(self) -> None:
        """No packet number came twice from the servers, whichever of them sent it."""
        (await self.verdict()).assert_one_sender(may_reset=True)

    @property
    def _servers(self) -> tuple[Host, Host]:
        return self.network.hosts["a"], self.network.hosts["b"]


class Datagrams:
    """Datagrams between the client and servers, in the order in which they were sent."""

    def __init__(self, notes: list[Note], port: int = PORT) -> None:
        self.all = [note for note in notes if port in (note.source_port, note.destination_port)]

    def to_servers(self, since_s: float = 0.0) -> Counter[str]:
        """How many of the client's went to which host."""
        return Counter(
            note.receiver
            for note in self.all
            if note.sender == "client" and note.at_s >= since_s and not note.lost
        )

    def from_servers(self, since_s: float = 0.0) -> Counter[str]:
        """How many came to the client from which host."""
        return Counter(
            note.sender for note in self.all if note.receiver == "client" and note.at_s >= since_s
        )

    def check(self, keylogs: list[Path]) -> Verdict:
        """The nonce checker's verdict on all packets of the servers."""
        sent = [note.payload for note in self.all if note.receiver == "client"]
        first = next(note.payload for note in self.all if note.sender == "client")
        return check(sent, first[6 + first[5]], keylogs)


@asynccontextmanager
async def two_hosts(
    folder: Path,
    seed: str,
    certificate: CertificateFiles,
    condition: Condition = CLEAR,
    *,
    shared: bool,
    clock_ahead_s: int = 0,
    wall_ahead_s: int = 0,
) -> AsyncIterator[Site]:
    """Nodes `a` and `b`, behind one address if it is `shared`. The clocks are those of `b`.

    Between client and servers it is as in `condition`, between the servers all is well.
    """
    addresses = [SHARED] if shared else []
    cluster = folder / "cluster"
    nodes = ("--node", f"a={A}", "--node", f"b={B}")
    assert not main(["keys", "init", str(cluster), *nodes])
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(Network(folder, seed))
        client = await network.add("client", CLIENT)
        a = await network.add("a", A, shared=addresses)
        b = await network.add("b", B, shared=addresses, clock_ahead_s=clock_ahead_s)
        await network.connect()
        if wall_ahead_s:
            await b.set_wall_clock(wall_ahead_s)
        if shared:
            # A new client comes to `a`.
            await network.balance(SHARED, {1: a, 2: b}, fallback=a)
        worlds = {}
        for host in (a, b):
            await network.between(client, host, condition)
            address = SHARED if shared else host.address
            world = World(host.folder / "world", certificate, address=address, entry=host.entry)
            world.ring = cluster / "cluster.key"
            worlds[host.name] = await stack.enter_async_context(world)
        yield Site(network, client, worlds, cluster)


async def hand_over(source: Server, connection: str, to: str) -> c.Answer:
    """Hand a connection to the process with this name, as NODE/WORKER."""
    return await source.command(c.HandOff(connection, to))


@asynccontextmanager
async def one_host(
    folder: Path, seed: str, certificate: CertificateFiles, condition: Condition
) -> AsyncIterator[tuple[Network, World]]:
    """A client and a server, and a world of server processes on the latter."""
    async with Network(folder, seed) as network:
        client = await network.add("client", CLIENT)
        a = await network.add("a", A)
        await network.connect()
        await network.between(client, a, condition)
        async with World(a.folder, certificate, address=A, entry=a.entry) as world:
            yield network, world


def curl_from(
    host: Host, world: World, port: int, size: int, *, rate: int = 0, **more: Any
) -> Curl:
    """libcurl on a host, downloading from a world's server."""
    where = {"address": world.address, "entry": host.entry}
    return Curl(world.certificate, port, size, rate, **where, **more)
