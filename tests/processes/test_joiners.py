"""Processes that share the port, join it or replace one, and end before they serve."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import CallerError, PeerError
from quicbaton.handoff import Hello, encode
from quicbaton.handoff.messages import PROTOCOL_VERSION
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.service.node.node import Node
from quicbaton.service.node.seat import Seat
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import connect_channel
from tests.asyncio.loopback import FileServer, server_configuration
from tests.processes.harness import until

#: Joins, takes its socket, and fails.
_JOINER = """
import socket, sys
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
control.sendall(bytes.fromhex(sys.argv[2]))
print(len(socket.recv_fds(control, 1 << 16, 1)[1]), flush=True)
"""
#: Has a link until it is killed.
_PEER = """
import socket, sys, time
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
link.sendall(bytes.fromhex(sys.argv[2]))
time.sleep(600)
"""


@asynccontextmanager
async def a_node(folder: Path, certificate: CertificateFiles) -> AsyncIterator[Node]:
    folder.chmod(0o700)
    node = Node(
        Seat(open_udp("127.0.0.1", 0, reuse_port=True)),
        folder / "node.sock",
        ring=KeyRing(ClusterKey.generate(os.urandom)),
        configuration=server_configuration(certificate),
        create_protocol=FileServer,
    )
    node.start()
    try:
        yield node
    finally:
        node.close()


async def test_the_socket_of_a_joiner_that_never_serves_is_read(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    """The kernel steers new clients to it from the join on."""
    async with a_node(tmp_path, certificate) as node:
        join = c.encode(c.Join(str(tmp_path / "joiner.sock")))
        joiner = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _JOINER, node.name, join.hex()),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await joiner.communicate()
        assert said == b"1\n"
        await until(lambda: node.endpoint._extra, "its socket to be read")
        assert list(node.workers.values()) == [node.name]


async def test_who_hangs_up_before_it_has_its_socket_has_not_joined(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with a_node(tmp_path, certificate) as node:
        gone = await connect_channel(Path(node.name))
        gone.abort()
        with pytest.raises(PeerError):
            await node._join(gone, c.Join(str(tmp_path / "joiner.sock")))
        assert list(node.workers.values()) == [node.name]
        assert not node._siblings


async def a_peer(node: Node, name: str) -> asyncio.subprocess.Process:
    """A process of that name that has a link with the node."""
    hello = Hello(version=PROTOCOL_VERSION, node=name, pid=1, formats=(1, 2, 3))
    words = c.encode(c.OpenLink()) + encode(hello)
    peer = await asyncio.create_subprocess_exec(sys.executable, "-c", _PEER, node.name, words.hex())
    await until(lambda: node._peers.find(name), "its link")
    return peer


async def end(node: Node, peer: asyncio.subprocess.Process) -> None:
    peer.kill()
    await peer.wait()
    await until(lambda: not node.knows(peer.pid), "its end to be known")


@pytest.mark.parametrize("succeeds", [True, False])
async def test_a_worker_number_goes_back_to_who_had_it_when_a_successor_fails(
    succeeds: bool, tmp_path: Path, certificate: CertificateFiles
) -> None:
    """It has told everybody of itself before it had anything."""
    async with a_node(tmp_path, certificate) as node:
        name, joined = str(tmp_path / "old.sock"), str(tmp_path / "new.sock")
        old = await a_peer(node, name)
        sibling = open_udp("127.0.0.1", int(node.endpoint.udp.address[1]), reuse_port=True)
        node._siblings.append(sibling)
        node._siblings_of[name] = [sibling]
        node.meet(1, name)
        new = await a_peer(node, joined)
        node.meet(1, joined)
        first, last = (old, new) if succeeds else (new, old)
        await end(node, first)
        assert node.workers[1] == (joined if succeeds else name)
        # The process with the number reads the socket.
        assert not node.endpoint._extra
        await end(node, last)
        assert 1 not in node.workers
        assert node.endpoint._extra


async def test_who_ends_between_its_introduction_and_its_link_is_known_to_be_dead(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with a_node(tmp_path, certificate) as node:
        name = str(tmp_path / "old.sock")
        old = await a_peer(node, name)
        node.meet(1, name)
        told = asyncio.Event()
        meet = node.meet
        node.meet = lambda *what: (meet(*what), told.set())  # type: ignore[assignment]
        words = c.encode(c.Introduce(1, str(tmp_path / "new.sock")))
        new = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PEER, node.name, words.hex()
        )
        await told.wait()
        await end(node, new)
        assert node.workers[1] == name
        await end(node, old)


async def test_a_name_joins_once_at_a_time(tmp_path: Path, certificate: CertificateFiles) -> None:
    """Its process hangs, say, and another one is started with its control socket."""
    async with a_node(tmp_path, certificate) as node:
        name = str(tmp_path / "joiner.sock")
        hanging = await a_peer(node, name)
        node.meet(1, name)
        channel = await connect_channel(Path(node.name))
        with pytest.raises(CallerError):
            await node._join(channel, c.Join(name))
        assert set(node.workers) == {0, 1}
        await end(node, hanging)
        await node._join(channel, c.Join(name))
        assert set(node.workers) == {0, 1}
        channel.abort()
