"""Channels between hosts: which peers are let in, and the cost of one that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import shutil
import socket
import ssl
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from quicbaton.baton.versions import readable_versions
from quicbaton.cli.authority import Authority
from quicbaton.cli.certificate import write_self_signed
from quicbaton.errors import ConfigurationError, PeerError
from quicbaton.handoff import Hello, encode
from quicbaton.handoff.messages import PROTOCOL_VERSION, Cutover
from quicbaton.limits import MAX_UNPROVEN_PEERS
from quicbaton.service.node.control import Control
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.acceptor import take_passed
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.incoming import Incoming
from quicbaton.service.peers.link import Link
from quicbaton.service.peers.peers import Peers
from quicbaton.service.peers.tls import TlsChannel, connect_tls
from tests.processes.cluster_folder import Door, make_cluster, plain
from tests.processes.harness import until

CUTOVER = Cutover(b"connection", b"h" * 16)
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_cluster(tmp_path / "cluster", "a", "b")


class Ends:
    """A node `b` that listens, and what it hears."""

    def __init__(self, folder: Path) -> None:
        self.a = Cluster(folder, "a")
        self.b = Cluster(folder, "b")
        self.heard = bytearray()
        self.lost = 0
        self.door = Door(self.b, self._on_channel)

    def _on_channel(self, channel: Channel) -> None:
        channel.on_data = self.heard.extend
        channel.on_lost = self._on_lost

    def _on_lost(self) -> None:
        self.lost += 1

    async def connect(self, target: str = "0") -> TlsChannel:
        channel = await connect_tls(self.a, "b", target)
        await until(lambda: self.door.channels, "b to let it in")
        return channel

    def close(self) -> None:
        self.door.close()


async def assert_refused(both: Ends, code: str = "refused") -> None:
    """The node `b` does not let `a` in."""
    with pytest.raises(PeerError) as caught:
        await connect_tls(both.a, "b", "0")
    assert caught.value.code == code
    assert not both.door.channels


async def test_bytes_go_both_ways_whole_and_in_order(folder: Path) -> None:
    data = Random(1).randbytes(9_000_001)
    with closing(Ends(folder)) as both:
        channel = await both.connect("7")
        answered = bytearray()
        channel.on_data = answered.extend
        channel.start()
        for start in range(0, len(data), 700_000):
            channel.write(data[start : start + 700_000])
        await until(lambda: len(both.heard) == len(data), "all to arrive")
        assert both.heard == data
        both.door.channels[0].write(data)
        await until(lambda: len(answered) == len(data), "all to come back")
        assert answered == data
        assert both.door.targets == ["7"]
        assert both.door.channels[0].peer.node == "a"
        assert channel.peer.node == "b"
        assert channel.is_remote
        channel.close()


async def test_a_channel_is_lost_after_all_that_was_written(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        channel = await both.connect()
        channel.start()
        channel.write(b"x" * 3_000_000)
        channel.close()
        await until(lambda: both.lost, "the end")
        assert len(both.heard) == 3_000_000
        assert both.lost == 1
        assert channel.closed


async def test_what_came_with_the_handshake_is_heard(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        channel = await both.connect()
        both.door.channels[0].write(b"before you read")
        await asyncio.sleep(0.01)
        heard: list[bytes] = []
        channel.on_data = heard.append
        channel.start()
        await until(lambda: heard, "it")
        assert heard == [b"before you read"]
        channel.close()


# --- who is let in ------------------------------------------------------------------------------


async def test_a_certificate_of_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    stranger = make_cluster(tmp_path / "other", "a", "b")
    (stranger / "cluster.toml").write_bytes((folder / "cluster.toml").read_bytes())
    with closing(Ends(folder)) as both:
        # It does not believe us.
        with pytest.raises(PeerError) as caught:
            await connect_tls(Cluster(stranger, "a"), "b", "0")
        assert caught.value.code == "tls"
        # It would believe anybody, and is not believed.
        (stranger / "ca.pem").write_bytes((folder / "ca.pem").read_bytes())
        with pytest.raises(PeerError) as caught:
            await connect_tls(Cluster(stranger, "a"), "b", "0")
        assert caught.value.code == "refused"
        await until(lambda: both.door.incoming.refused.get("tls") == 2, "both to be counted")
        assert not both.door.channels


async def test_nobody_without_a_certificate_is_let_in(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        reader, writer = await plain(both.a, "b")
        writer.write(b"QBTN1 0\n")
        await writer.drain()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(folder / "ca.pem")
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.start_tls(context)
            writer.write(c.encode(c.ListConnections()))
            assert await reader.read() == b""
        writer.close()
        await until(lambda: both.door.incoming.refused.get("tls"), "it to be refused")
        assert not both.door.channels


@pytest.mark.parametrize("days", [-1000, 1000])
async def test_a_certificate_is_good_in_its_time_only(folder: Path, days: int) -> None:
    authority = Authority.load(folder)
    authority.issue(folder, "a", NOW + datetime.timedelta(days=days))

    with closing(Ends(folder)) as both:
        await assert_refused(both)


async def test_clocks_an_hour_apart_do_no_harm(folder: Path) -> None:
    Authority.load(folder).issue(folder, "a", NOW + datetime.timedelta(hours=1))
    with closing(Ends(folder)) as both:
        (await both.connect()).close()


async def test_a_certificate_for_another_purpose_opens_no_door(
    folder: Path, tmp_path: Path
) -> None:
    """Even where somebody told a node to trust its issuer."""
    files = write_self_signed(tmp_path, NOW)
    (folder / "nodes" / "a.pem").write_bytes(files.certificate.read_bytes())
    (folder / "nodes" / "a-key.pem").write_bytes(files.key.read_bytes())
    authorities = (folder / "ca.pem").read_bytes() + files.certificate.read_bytes()
    (folder / "ca.pem").write_bytes(authorities)

    with closing(Ends(folder)) as both:
        await assert_refused(both)


async def test_a_node_must_be_the_one_that_was_called(folder: Path) -> None:
    """An attacker that has taken over an address, or a name server, is another node at most."""
    for end in (".pem", "-key.pem"):
        own = (folder / "nodes" / f"a{end}").read_bytes()
        (folder / "nodes" / f"b{end}").write_bytes(own)
    with closing(Ends(folder)) as both:
        await assert_refused(both, "wrong_node")


async def test_a_node_that_was_taken_out_is_refused_without_a_restart(
    folder: Path, tmp_path: Path
) -> None:
    with closing(Ends(folder)) as both:
        # What its own folder says does not matter.
        both.a = Cluster(shutil.copytree(folder, tmp_path / "own"), "a")
        (await both.connect()).close()
        nodes = folder / "cluster.toml"
        nodes.write_text(nodes.read_text().replace("[nodes.a]", "[nodes.other]"))
        with pytest.raises(PeerError, match="unknown_node"):
            await connect_tls(both.a, "b", "0")
        assert both.door.incoming.refused == {"unknown_node": 1}


def test_a_private_key_that_others_may_read_is_not_used(folder: Path) -> None:
    (folder / "nodes" / "a-key.pem").chmod(0o640)
    with pytest.raises(ConfigurationError) as caught:
        Cluster(folder, "a")
    assert caught.value.code == "not_private"


async def test_a_cluster_that_makes_no_sense_lets_nobody_in(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        good = (folder / "cluster.toml").read_text()
        (folder / "cluster.toml").write_text(good.replace("number = 2", "number = 1"))
        with pytest.raises(ConfigurationError, match="same number"):
            _ = both.b.nodes
        (folder / "cluster.toml").write_text(good)
        (await both.connect()).close()


# --- who misbehaves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"QBTN1 ../../etc\n",
        b"QBTN1 -1\n",
        b"QBTN1 00000000000000000000000\n",
        b"QBTN9 0\n",
        b"QBTN1 0\nthis is no TLS, is it",
        b"\x16\x03\x01" * 100_000,
    ],
)
async def test_garbage_is_hung_up_on(folder: Path, first: bytes) -> None:
    with closing(Ends(folder)) as both:
        reader, writer = await plain(both.a, "b")
        with contextlib.suppress(ConnectionError):
            writer.write(first)
            await writer.drain()
            assert len(await reader.read()) < 100  # an alert at most
        writer.close()
        assert not both.door.channels


async def test_those_who_say_nothing_do_not_keep_a_node_out(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        idle = [await plain(both.a, "b") for _ in range(MAX_UNPROVEN_PEERS + 8)]
        begun = [await plain(both.a, "b") for _ in range(MAX_UNPROVEN_PEERS + 8)]
        for _, writer in begun:
            writer.write(b"QBTN1 0\n\x16\x03\x01")
            await writer.drain()
        (await both.connect()).close()
        # The oldest went.
        assert await idle[0][0].read() == b""
        for _, writer in (*idle, *begun):
            writer.close()


async def test_a_peer_that_does_not_read_is_cut_off(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        channel = await both.connect()
        channel.max_outbox_bytes = 6 << 20
        lost: list[bool] = []
        drained: list[bool] = []
        channel.on_lost = lambda: lost.append(True)
        both.door.channels[0]._loop.remove_reader(both.door.channels[0]._sock.fileno())
        chunk = bytes(1 << 20)
        while not channel.is_full:
            channel.write(chunk)
        channel.when_drained(lambda: drained.append(True))
        await asyncio.sleep(0)
        assert not drained
        while not channel.closed:
            channel.write(chunk)
        assert lost == [True]
        assert "does not read" in channel.reason
        await until(lambda: drained, "who waits to be told")


async def test_who_waits_for_room_is_told_of_it(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        channel = await both.connect()
        channel.start()
        sent = 0
        for _ in range(8):
            while not channel.is_full:
                channel.write(bytes(1 << 20))
                sent += 1 << 20
            room = asyncio.Event()
            channel.when_drained(room.set)
            await room.wait()
            assert not channel.is_full
        await until(lambda: len(both.heard) == sent, "all to arrive")
        channel.close()


def link_of(channel: Channel, name: str = "a/0", told: list[str] | None = None) -> Link:
    told = [] if told is None else told
    return Link(
        channel,
        1,
        name,
        formats=readable_versions(),
        on_up=lambda _link: told.append("up"),
        on_message=lambda _link, message: told.append(type(message).__name__),
        on_lost=lambda _link: told.append("lost"),
    )


@pytest.mark.parametrize("name", ["b/0", "c/0", "a", "/run/quicbaton/4433.sock", ""])
async def test_a_process_cannot_take_another_nodes_name(folder: Path, name: str) -> None:
    with closing(Ends(folder)) as both:
        channel = await both.connect()
        told: list[str] = []
        link_of(both.door.channels[0], "b/0", told)
        channel.start()
        channel.write(
            encode(Hello(PROTOCOL_VERSION, name, 1, readable_versions())) + encode(CUTOVER)
        )
        await until(lambda: told, "the end")
        assert told == ["lost"]
        channel.close()


async def test_a_message_too_long_cuts_the_link_at_its_announcement(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        channel = await both.connect()
        told: list[str] = []
        link_of(both.door.channels[0], "b/0", told)
        channel.start()
        channel.write(encode(Hello(PROTOCOL_VERSION, "a/0", 1, readable_versions())))
        await until(lambda: told == ["up"], "the greeting")
        channel.write(b"\xff\xff\xff\xff" + bytes(1 << 20))
        await until(lambda: told == ["up", "lost"], "the end")
        channel.close()


async def test_a_lost_link_is_no_proof_of_death(folder: Path) -> None:
    with closing(Ends(folder)) as both:
        dead: list[int] = []
        peers = Peers(lambda pid, _names: dead.append(pid))
        links = [await both.connect() for _ in range(2)]
        await until(lambda: len(both.door.channels) == 2, "both")
        for channel in both.door.channels:
            link = Link(
                channel,
                1,
                "b/0",
                formats=readable_versions(),
                on_up=peers.greeted,
                on_message=lambda _link, _message: None,
                on_lost=peers.lost,
            )
            assert link.is_remote
            assert link.peer_node == "a"
            peers.add(link)
        for number, channel in enumerate(links):
            channel.start()
            channel.write(encode(Hello(PROTOCOL_VERSION, f"a/{number}", 1, readable_versions())))
        await until(lambda: peers.find("a/0") and peers.find("a/1"), "greetings")
        assert peers.find("a") is not None
        for channel in links:
            channel.abort()
        await until(lambda: not peers.links, "the links' ends")
        assert peers.find("a") is None
        assert not dead
        assert len(peers) == 1


def test_only_one_tcp_connection_is_taken_over() -> None:
    with pytest.raises(PeerError):
        take_passed([])
    ends = socket.socketpair()
    with pytest.raises(PeerError):
        take_passed([ends[0].detach()])
    with pytest.raises(PeerError):
        take_passed([ends[1].detach(), os.open(os.devnull, os.O_RDONLY)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, pytest.raises(PeerError):
        take_passed([udp.detach()])


async def test_a_process_in_no_cluster_takes_no_connection() -> None:
    incoming = Incoming(None, lambda _channel: None)
    with socket.socket() as sock, pytest.raises(PeerError) as caught:
        incoming.take(sock)
    assert caught.value.code == "no_cluster"


async def test_a_message_of_garbage_within_tls_cuts_the_channel(folder: Path) -> None:
    """Even a node is trusted with memory in small amounts only."""
    with closing(Ends(folder)) as both:
        for words in (
            b"\x00\x00\x00\x05hello",
            b"\x7f\xff\xff\xff" + bytes(1 << 16),
            c.encode(c.OpenLink()) + b"\x00\x00\x00\x05hello",
        ):
            both.door.channels.clear()
            channel = await both.connect()
            control = Control({}, open_link=_link_opener, spawn=_spawn)
            control.on_channel(both.door.channels[0])
            lost = asyncio.Event()
            channel.on_lost = lost.set
            channel.start()
            channel.write(words)
            await lost.wait()


def _link_opener(channel: Channel, rest: bytes) -> None:
    link_of(channel, "b/0").feed(rest)


def _spawn(_work: object) -> None:
    raise AssertionError("no command came")
