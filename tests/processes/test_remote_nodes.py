"""Nodes that know each other by name and talk over TLS: commands, handoffs, saved connections.

Both run on this host and share a UDP port, so each can send from the address that the client knows;
hosts of their own are in `tests/hosts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import PeerError
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, Conversation
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.directory import connect_node
from quicbaton.service.peers.tls import connect_tls
from tests.processes.cluster_folder import make_cluster, plain
from tests.processes.harness import GUARD_S, Curl, Server, World, until

pytestmark = pytest.mark.process


class Pair:
    """Nodes `a` and `b` on one UDP port, and we as a third, `c`."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.cluster = Cluster(folder, "c")
        self.servers: dict[str, Server] = {}
        self.port = 0

    async def start(self, node: str, **more: Any) -> Server:
        server = await self.world.start(cluster=str(self.folder), node=node, port=self.port, **more)
        self.port = await server.port()
        self.servers[node] = server
        return server

    async def ask(self, node: str, command: c.Frame, answer: type = c.Answer) -> Any:
        channel = await connect_node(self.cluster, node)
        with Conversation(channel, GUARD_S) as conversation:
            return await conversation.ask(command, answer)

    async def owner(self) -> tuple[str, str, str]:
        """Where the only connection lives, where it does not, and its name."""

        async def look() -> tuple[str, str, str] | None:
            for node, other in (("a", "b"), ("b", "a")):
                listed = await self.ask(node, c.ListConnections(), c.Connections)
                for info in listed.connections:
                    if info.state == "open":
                        return node, other, info.connection
            return None

        found: tuple[str, str, str] = await until(look, "a connection")
        return found

    @asynccontextmanager
    async def download(self) -> AsyncIterator[tuple[Curl, str, str, str]]:
        """One that has begun: the client, where its connection lives, where it does not, and its
        name. All must come in the end, at full speed, and right."""
        async with self.world.curl(self.port, 6_000_000, rate=400_000) as client:
            await client.received(100_000)
            yield client, *(await self.owner())
            await client.finish()
            assert client.whole


@asynccontextmanager
async def pair_of_nodes(
    tmp_path: Path, certificate: CertificateFiles, **options: Any
) -> AsyncIterator[Pair]:
    """A pair, whose servers have the options given."""
    folder = make_cluster(tmp_path / "cluster", "a", "b", "c")
    async with World(tmp_path, certificate) as world:
        pair = Pair(world, folder)
        await pair.start("a", **options)
        await pair.start("b", **options)
        yield pair


async def test_a_download_goes_to_another_node_and_back(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with (
        pair_of_nodes(tmp_path, certificate) as pair,
        pair.download() as (client, first, second, name),
    ):
        answer = await pair.ask(f"{first}/0", c.HandOff(name, f"{second}/0"))
        assert answer.ok
        await client.received(client.received_bytes + 100_000)
        assert (await pair.owner())[:2] == (second, first)

        async def goes_back() -> bool:
            try:
                await pair.ask(second, c.HandOff(name, first))
            except CommandFailedError as error:
                if error.code != "cutover_pending":
                    raise
                return False
            return True

        await until(goes_back, "the client to have cut over")


@pytest.mark.parametrize(
    ("point", "moves"),
    [
        ("after_offer", False),
        ("after_accept", False),
        ("after_baton", None),
        ("after_ready", None),
        ("after_destroy", True),
        ("after_committed", True),
        ("before_resume", True),
        ("after_cutover", True),
    ],
)
async def test_a_link_cut_in_a_handoff_leaves_one_owner_and_a_whole_download(
    tmp_path: Path, certificate: CertificateFiles, point: str, moves: bool | None
) -> None:
    """Whichever side is cut off calls the other again, by its name."""
    async with pair_of_nodes(tmp_path, certificate, failpoint=f"{point}:CUT") as pair:
        async with pair.download() as (_, first, second, name):
            with contextlib.suppress(CommandFailedError):
                await pair.ask(first, c.HandOff(name, f"{second}/0"))
        listed = [await server.list() for server in pair.servers.values()]
        assert sum(one.accepted for one in listed) == 1
        if moves is not None:
            assert sum(one.resumed for one in listed) == moves
        assert sum(one.given for one in listed) == sum(one.resumed for one in listed)


async def test_a_connection_saved_and_resumed_over_the_network(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with (
        pair_of_nodes(tmp_path, certificate) as pair,
        pair.download() as (_, first, second, name),
    ):
        channel = await connect_node(pair.cluster, first)
        conversation = Conversation(channel)
        frozen = await conversation.ask(c.Freeze(name), c.Frozen)
        assert (await conversation.ask(c.Kept(), c.Answer)).ok
        channel.close()
        assert (await pair.ask(second, c.Revive(frozen.sealed))).ok
        assert (await pair.owner())[0] == second
        with pytest.raises(CommandFailedError):
            await pair.ask(first, c.Revive(frozen.sealed))


async def test_a_baton_that_nobody_has_safe_is_worth_nothing(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with (
        pair_of_nodes(tmp_path, certificate) as pair,
        pair.download() as (client, first, second, name),
    ):
        channel = await connect_node(pair.cluster, first)
        frozen = await Conversation(channel).ask(c.Freeze(name), c.Frozen)
        channel.abort()
        await client.received(client.received_bytes + 200_000)
        with pytest.raises(CommandFailedError):
            await pair.ask(second, c.Revive(frozen.sealed))


async def test_what_concerns_files_and_descriptors_is_not_for_other_hosts(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with pair_of_nodes(tmp_path, certificate) as pair:
        before = sorted(tmp_path.rglob("*"))
        for command in (
            c.Save("00", str(tmp_path / "taken")),
            c.Resume(str(tmp_path / "cluster" / "cluster.key")),
            c.Join("/somewhere"),
            c.TakeOver("/somewhere", 1.0, 0.0),
            c.Introduce(0, "/somewhere"),
            c.TakePeer(),
            c.HandOff("00", str(pair.servers["b"].control)),
        ):
            with pytest.raises(CommandFailedError) as caught:
                await pair.ask("a/0", command)
            assert caught.value.code == "local_only"
        assert sorted(tmp_path.rglob("*")) == before


async def test_commands_without_a_certificate_do_nothing(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with pair_of_nodes(tmp_path, certificate) as pair:
        async with pair.download() as (_, first, second, name):
            forged = c.encode(c.HandOff(name, f"{second}/0"))
            for words in (
                forged,
                b"QBTN1 0\n" + forged,
                # Nor does it learn which workers are there.
                b"QBTN1 7\n" + forged,
                c.encode(c.OpenLink()),
            ):
                reader, writer = await plain(pair.cluster, first)
                with contextlib.suppress(ConnectionError):
                    writer.write(words)
                    assert len(await reader.read()) < 100
                writer.close()
        for server in pair.servers.values():
            listed = await server.list()
            assert (listed.given, listed.resumed) == (0, 0)


async def test_a_slot_that_nobody_is_in_cannot_be_reached(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with pair_of_nodes(tmp_path, certificate) as pair:
        with pytest.raises(PeerError, match="node a has no worker 7; it has 0:") as caught:
            await pair.ask("a/7", c.ListConnections())
        assert caught.value.code == "no_such_worker"


async def test_a_process_that_joined_is_reached_through_the_first(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with pair_of_nodes(tmp_path, certificate) as pair:
        joined = await pair.world.start(
            "join", pair.servers["a"], cluster=str(pair.folder), node="a"
        )
        listed = await pair.ask("a/1", c.ListConnections(), c.Connections)
        assert listed.pid == joined.pid
        with pytest.raises(PeerError, match="node a has no worker 2; it has 0-1:"):
            await pair.ask("a/2", c.ListConnections())


async def test_nodes_find_each_other_again_after_a_link_was_cut(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with (
        pair_of_nodes(tmp_path, certificate) as pair,
        pair.download() as (client, first, second, name),
    ):
        assert (await pair.ask(first, c.HandOff(name, f"{second}/0"))).ok
        # The old owner is gone with all its links, and another process is in its slot.
        victim = pair.servers[first]
        await client.received(client.received_bytes + 200_000)
        victim.signal(signal.SIGKILL)
        await victim.gone()
        await pair.start(first)

        async def goes_back() -> bool:
            try:
                await pair.ask(second, c.HandOff(name, f"{first}/0"))
            except (CommandFailedError, PeerError):
                return False
            return True

        await until(goes_back, "a handoff to the new process")


async def test_a_partition_is_noticed_and_healed(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    """A stopped process answers nothing, as one beyond a partition; nobody takes it for dead."""
    async with pair_of_nodes(tmp_path, certificate) as pair:
        channel = await connect_tls(pair.cluster, "b", "0")
        channel.start()
        lost = asyncio.Event()
        channel.on_lost = lost.set
        os.kill(pair.servers["b"].pid, signal.SIGSTOP)
        try:
            # More than both kernels' buffers hold, so that the window closes.
            for _ in range(32):
                channel.write(bytes(1 << 20))
            await lost.wait()
        finally:
            os.kill(pair.servers["b"].pid, signal.SIGCONT)
        assert (await pair.ask("b", c.ListConnections(), c.Connections)).connections == []


async def test_a_connection_is_not_handed_to_where_it_is(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with pair_of_nodes(tmp_path, certificate) as pair, pair.download() as (_, first, _, name):
        for to in (first, f"{first}/0"):
            with pytest.raises(CommandFailedError) as caught:
                await pair.ask(first, c.HandOff(name, to))
            assert caught.value.code == "same_process"
        for to, code in (("x/0", "unknown_node"), (f"{first}/3", "unknown_node")):
            with pytest.raises(CommandFailedError) as caught:
                await pair.ask(first, c.HandOff(name, to))
            assert caught.value.code == code
