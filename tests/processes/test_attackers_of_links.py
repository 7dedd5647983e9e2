"""An attacker without keys or certificates at the ports that are not for clients: the TCP port of a
node, control sockets. A download goes on meanwhile, and is whole in the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import PeerError
from quicbaton.handoff import Hello, encode
from quicbaton.handoff.messages import (
    PROTOCOL_VERSION,
    Moved,
    MovedAck,
    Stray,
)
from quicbaton.limits import MAX_COMMAND_BYTES, MAX_UNPROVEN_PEERS
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import Conversation
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.directory import connect_node
from tests.processes.attack_stage import NODES, two_nodes
from tests.processes.attacker import (
    Attacker,
    hung_up,
    made_up_id,
    open_files,
    resident_bytes,
    short,
    tcp,
    unix,
)
from tests.processes.cluster_folder import make_cluster
from tests.processes.harness import GUARD_S, until

pytestmark = pytest.mark.process

_MB = 1 << 20
_NOBODY = 65_534


# --- UDP, at the wrong node ---------------------------------------------------------------------


async def test_an_id_replayed_to_another_node_provokes_no_reset(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_nodes(tmp_path, certificate) as scene:
        # From so many addresses that the kernel takes some to each node.
        with Attacker(scene.port, addresses=12) as attacker:
            for _ in range(2):
                for size in (1200, 60):
                    await attacker.send(*[short(cid, size) for cid in scene.tap.ids()])
                assert attacker.listen() == []
                await scene.hand_over()
            await attacker.send(*[short(cid) for cid in scene.tap.ids()])
            assert attacker.listen() == []
        for server in scene.servers.values():
            assert (await server.list()).datagrams_received


@pytest.mark.parametrize(("kind", "flood_mb", "most_mb"), [("guessed", 30, 14), ("seen", 60, 48)])
async def test_a_flood_for_another_node_neither_fills_memory_nor_cuts_the_link(
    tmp_path: Path, certificate: CertificateFiles, kind: str, flood_mb: int, most_mb: int
) -> None:
    """The other node is behind: what is to be sent on to it waits, up to a limit."""
    async with two_nodes(tmp_path, certificate) as scene:
        await scene.hand_over()
        cid = scene.tap.ids()[-1]
        if kind == "seen":
            # The client does not learn of the next handoff, so what comes for this ID is sent on.
            scene.tap.mutes_client = True
            await scene.hand_over(cutover=False)
        owner, forwarder, _ = await scene.owner()
        if kind == "guessed":
            cid = made_up_id(NODES[owner], 0)
        pid = scene.servers[forwarder].pid
        memory = resident_bytes(pid)
        os.kill(scene.servers[owner].pid, signal.SIGSTOP)
        try:
            with Attacker(scene.port, addresses=12) as attacker:
                await attacker.keep_who_answers()
                flood = [short(cid, 60_000)] * (flood_mb * _MB // 60_000)
                await attacker.send(*flood, burst=2)
                assert attacker.listen() == []
                assert resident_bytes(pid) - memory < most_mb * _MB
        finally:
            os.kill(scene.servers[owner].pid, signal.SIGCONT)
            scene.tap.mutes_client = False


# --- TCP ----------------------------------------------------------------------------------------


class Wiretap:
    """Passes a TCP connection on, and keeps what the caller said."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.heard: list[bytes] = []
        self._server: asyncio.Server

    async def __aenter__(self) -> Wiretap:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond_reader, beyond_writer = await asyncio.open_connection("127.0.0.1", self._to)
        number = len(self.heard)
        self.heard.append(b"")

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, keep: bool
        ) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65_536):
                    if keep:
                        self.heard[number] += data
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, beyond_writer, True), pump(beyond_reader, writer, False))


async def test_a_recorded_conversation_of_nodes_replayed_moves_nothing(
    certificate: CertificateFiles, tmp_path: Path
) -> None:
    async with two_nodes(tmp_path, certificate) as scene:
        first, _, _ = await scene.owner()
        port = scene.tcp_port(first)
        async with Wiretap(port) as wiretap:
            folder = shutil.copytree(scene.folder, tmp_path / "tapped")
            nodes = folder / "cluster.toml"
            nodes.write_text(nodes.read_text().replace(f":{port}", f":{wiretap.port}"))
            # The command that was overheard: the connection is to go away from here.
            await scene.hand_over(Cluster(folder, "c"))
            await scene.hand_over()
            before = await scene.counts()
            assert (await scene.owner())[0] == first
            assert wiretap.heard
            for said in wiretap.heard * 3:
                for step in (len(said), 1000):
                    sock = await tcp(port)
                    with contextlib.suppress(ConnectionError):
                        for at in range(0, len(said), step):
                            await asyncio.get_running_loop().sock_sendall(
                                sock, said[at : at + step]
                            )
                    sock.shutdown(socket.SHUT_WR)
                    await hung_up(sock)
                    sock.close()
        assert await scene.counts() == before
        assert (await scene.owner())[0] == first


async def test_forged_messages_without_tls_are_hung_up_on(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_nodes(tmp_path, certificate) as scene:
        first, second, name = await scene.owner()
        before = await scene.counts()
        connection = bytes.fromhex(name)
        cid = scene.tap.ids()[-1]
        remote, local = ("127.0.0.1", 9), ("127.0.0.1", scene.port)
        hello = encode(Hello(PROTOCOL_VERSION, f"{second}/0", 1, (3,)))
        frames = [
            c.encode(c.HandOff(name, f"{second}/0")),
            c.encode(c.Freeze(name)),
            c.encode(c.Stop(0.0, "")),
            c.encode(c.OpenLink()) + hello + encode(Moved(connection, bytes(16), f"{second}/0")),
            c.encode(c.OpenLink()) + hello + encode(MovedAck(connection, bytes(16))),
            hello + encode(Stray(connection, bytes(16), short(cid), remote, local, 0, 0)),
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(100_000),
        ]
        for target in (b"0", b"any", b"node", b"9", b"4294967296", b"x"):
            for frame in frames:
                sock = await tcp(scene.tcp_port(first))
                with contextlib.suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_sendall(
                        sock, b"QBTN1 " + target + b"\n" + frame
                    )
                # A TLS alert at most.
                assert len(await hung_up(sock)) < 100
                sock.close()
        assert await scene.counts() == before
        assert (await scene.owner())[0] == first


async def test_half_open_connections_are_few_and_keep_no_node_out(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_nodes(tmp_path, certificate) as scene:
        first = (await scene.owner())[0]
        server = scene.servers[first]
        files, memory = open_files(server.pid), resident_bytes(server.pid)
        socks = []
        for begin in (b"", b"QBTN1", b"QBTN1 0\n", b"QBTN1 0\n\x16\x03\x01\x40\x00\x01"):
            for _ in range(2 * MAX_UNPROVEN_PEERS):
                sock = await tcp(scene.tcp_port(first))
                with contextlib.suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_sendall(sock, begin)
                socks.append(sock)
            # A node gets in between them.
            channel = await connect_node(scene.cluster, first)
            with Conversation(channel, GUARD_S) as conversation:
                listed = await conversation.ask(c.ListConnections(), c.Connections)
            assert listed.pid == server.pid
            # Those that wait for their preamble, and those in their handshake.
            assert open_files(server.pid) - files <= 2 * MAX_UNPROVEN_PEERS + 16
        assert resident_bytes(server.pid) - memory < 64 * _MB
        for sock in socks:
            sock.close()
        await until(lambda: open_files(server.pid) <= files + 2, "them to be forgotten")


# --- the control socket -------------------------------------------------------------------------


async def test_commands_that_are_too_long_or_too_many_are_cut_off(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    """Even of our own user: a program gone wrong must not take the server with it."""
    async with two_nodes(tmp_path, certificate) as scene:
        server = scene.servers["a"]
        memory = resident_bytes(server.pid)
        loop = asyncio.get_running_loop()
        for announced in (MAX_COMMAND_BYTES + 1, 0xFFFFFFFF):
            sock = await unix(server.control)
            await loop.sock_sendall(sock, announced.to_bytes(4, "big"))
            assert await hung_up(sock) == b""
            sock.close()
        for words in (b"\0\0\0\5hello", c.encode(c.ListConnections()) * 5_000):
            sock = await unix(server.control)
            with pytest.raises(ConnectionError):
                await _pour(sock, words)
            sock.close()
        for words in (b"", b"\0\0", (MAX_COMMAND_BYTES).to_bytes(4, "big") + bytes(100_000)):
            socks = [await unix(server.control) for _ in range(40)]
            for sock in socks:
                await loop.sock_sendall(sock, words)
            assert (await server.list()).pid == server.pid
            assert resident_bytes(server.pid) - memory < 64 * _MB
            for sock in socks:
                sock.close()


async def _pour(sock: socket.socket, words: bytes) -> None:
    for _ in range(5000):
        await asyncio.get_running_loop().sock_sendall(sock, words)


_OTHER_USER = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
    sock.sendall(bytes.fromhex(sys.argv[2]))
    print("answer", sock.recv(65536).hex())
except OSError as error:
    print("error", error.errno)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("opened", [False, True])
async def test_another_user_of_the_host_gets_no_answer(
    tmp_path: Path, certificate: CertificateFiles, opened: bool
) -> None:
    """The folder keeps others out; where somebody has opened it the kernel says who they are."""
    async with two_nodes(tmp_path, certificate) as scene:
        first, second, name = await scene.owner()
        server = scene.servers[first]
        before = await scene.counts()
        folder = server.control.parent
        if opened:
            folder.chmod(0o711)
            server.control.chmod(0o666)
        inside = os.open(folder, os.O_PATH)
        commands = (c.ListConnections(), c.HandOff(name, f"{second}/0"), c.Freeze(name))
        for command in commands:
            process = await asyncio.create_subprocess_exec(
                *(shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable, "-c"),
                *(_OTHER_USER, f"/proc/self/fd/{inside}/{server.control.name}"),
                c.encode(command).hex(),
                stdout=subprocess.PIPE,
                pass_fds=[inside],
                user=_NOBODY,
                group=_NOBODY,
                extra_groups=[],
            )
            said, _ = await process.communicate()
            assert said.split()[0] == b"error" or said.split() == [b"answer"]
        os.close(inside)
        folder.chmod(0o700)
        server.control.chmod(0o600)
        assert await scene.counts() == before


async def test_a_stranger_on_the_path_of_a_control_socket_is_not_believed(
    certificate: CertificateFiles, tmp_path: Path
) -> None:
    """Somebody listens where a process was: a handoff to it ends, and the connection stays."""
    async with two_nodes(tmp_path, certificate) as scene:
        first, _, name = await scene.owner()
        path = tmp_path / "stranger.sock"
        stranger = socket.socket(socket.AF_UNIX)
        stranger.bind(str(path))
        stranger.listen()
        stranger.setblocking(False)

        async def talk() -> None:
            sock, _ = await asyncio.get_running_loop().sock_accept(stranger)
            await asyncio.get_running_loop().sock_sendall(sock, os.urandom(1000))
            await hung_up(sock)
            sock.close()

        talking = asyncio.create_task(talk())
        answer = await scene.servers[first].command(c.HandOff(name, str(path)))
        assert not answer.ok
        await talking
        stranger.close()
        assert (await scene.owner())[0] == first


async def test_a_node_that_is_not_in_the_cluster_gets_nothing(
    certificate: CertificateFiles, tmp_path: Path
) -> None:
    """It has a certificate, of an authority of its own, and the addresses."""
    async with two_nodes(tmp_path, certificate) as scene:
        before = await scene.counts()
        folder = make_cluster(tmp_path / "other", *NODES, "c")
        (folder / "cluster.toml").write_bytes((scene.folder / "cluster.toml").read_bytes())
        (folder / "ca.pem").write_bytes((scene.folder / "ca.pem").read_bytes())
        for node in NODES:
            with pytest.raises(PeerError) as caught:
                await connect_node(Cluster(folder, "c"), node)
            assert caught.value.code == "refused"
        assert await scene.counts() == before
