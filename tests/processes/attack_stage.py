"""The stage of an attack: servers at work, and a client of theirs behind a tap.

After every test the download is whole, over the connection on which it began. Every packet of the
servers opens with that connection's keys (so none was a reset), and no packet number was used
twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.keys.key_ring import KeyRing
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, Conversation
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.directory import connect_node
from tests.processes.attacker import Tap
from tests.processes.cluster_folder import make_cluster
from tests.processes.harness import GUARD_S, Curl, Server, World, until

_SIZE = 6_000_000
#: Bytes that the client takes in a second, until the test is over.
RATE = 600_000
#: The nodes, and their numbers.
NODES = {"a": 1, "b": 2}


class WorkerScene:
    """Two workers of one port, and a client of one of them in the middle of its download."""

    def __init__(self, world: World, servers: list[Server], tap: Tap, curl: Curl) -> None:
        self.world = world
        self.servers = servers
        self.tap = tap
        self.curl = curl
        self.port = tap.server_port

    @property
    def ring(self) -> KeyRing:
        return KeyRing.parse(self.world.ring.read_text())

    async def owner(self) -> tuple[Server, Server, c.ConnectionInfo]:
        """The process that has the connection, one that has not, and the connection itself."""
        for number, server in enumerate(self.servers):
            for info in (await server.list()).connections:
                if info.state == "open":
                    return server, self.servers[1 - number], info
        raise AssertionError("nobody has the connection")

    async def hand_over(self) -> None:
        """Let it move once, and the client cut over."""
        source, destination, info = await self.owner()
        before = self.tap.ids()[-1]
        answer = await source.hand_over(info.connection, destination)
        assert answer.ok, answer
        await until(lambda: self.tap.ids()[-1] != before, "the cutover")

    async def counts(self) -> list[tuple[int, int, int]]:
        """Of each worker: what it accepted, gave and resumed."""
        listed = [await server.list() for server in self.servers]
        return [(one.accepted, one.given, one.resumed) for one in listed]

    async def handshakes(self) -> int:
        """Under way at all workers."""
        listed = [await server.list() for server in self.servers]
        return sum(info.state == "handshake" for one in listed for info in one.connections)


class NodeScene:
    """Nodes `a` and `b` on one UDP port, and a client in the middle of its download."""

    def __init__(self, folder: Path, servers: dict[str, Server], tap: Tap, curl: Curl) -> None:
        self.folder = folder
        self.servers = servers
        self.tap = tap
        self.curl = curl
        self.port = tap.server_port
        self.cluster = Cluster(folder, "c")

    def tcp_port(self, node: str) -> int:
        return self.cluster.nodes[node].peers.port

    async def owner(self) -> tuple[str, str, str]:
        """Where the connection lives, where it does not, and its name."""
        for node, other in (("a", "b"), ("b", "a")):
            for info in (await self.servers[node].list()).connections:
                if info.state == "open":
                    return node, other, info.connection
        raise AssertionError("nobody has the connection")

    async def hand_over(self, cluster: Cluster | None = None, *, cutover: bool = True) -> None:
        """Let it move, as soon as the client has cut over from where it was before."""
        source, destination, name = await self.owner()
        command = c.HandOff(name, f"{destination}/0")

        async def moves() -> bool:
            try:
                channel = await connect_node(cluster or self.cluster, source)
                with Conversation(channel, GUARD_S) as conversation:
                    return (await conversation.ask(command, c.Answer)).ok
            except CommandFailedError as error:
                if error.code != "cutover_pending":
                    raise
                return False

        before = self.tap.ids()[-1]
        await until(moves, "the handoff")
        if cutover:
            await until(lambda: self.tap.ids()[-1] != before, "the cutover")

    async def counts(self) -> list[tuple[int, int, int]]:
        """Of each node: what it accepted, gave and resumed."""
        listed = [await server.list() for server in self.servers.values()]
        return [(one.accepted, one.given, one.resumed) for one in listed]


@asynccontextmanager
async def two_workers(folder: Path, certificate: CertificateFiles) -> AsyncIterator[WorkerScene]:
    """A scene of two workers."""
    async with World(folder, certificate) as world:
        first = await world.start()
        servers = [first, await world.start("join", first)]
        async with _client(world, servers) as (tap, curl):
            yield WorkerScene(world, servers, tap, curl)


@asynccontextmanager
async def two_nodes(folder: Path, certificate: CertificateFiles) -> AsyncIterator[NodeScene]:
    """A scene of two nodes; a test may speak as a third, `c`."""
    cluster = make_cluster(folder / "cluster", *NODES, "c")
    async with World(folder, certificate) as world:
        servers: dict[str, Server] = {}
        port = 0
        for node in NODES:
            servers[node] = await world.start(cluster=str(cluster), node=node, port=port)
            port = await servers[node].port()
        async with _client(world, list(servers.values())) as (tap, curl):
            yield NodeScene(cluster, servers, tap, curl)


@asynccontextmanager
async def _client(world: World, servers: Sequence[Server]) -> AsyncIterator[tuple[Tap, Curl]]:
    async with (
        Tap(await servers[0].port()) as tap,
        world.curl(tap.port, _SIZE, rate=RATE) as curl,
    ):
        await curl.received(100_000)
        yield tap, curl
        await curl.finish()
        assert curl.whole, curl.outcome
    assert curl.outcome is not None
    assert curl.outcome.connections == 1
    tap.check(world.keylogs).assert_one_sender()
    for server in servers:
        server.assert_no_mistake()
