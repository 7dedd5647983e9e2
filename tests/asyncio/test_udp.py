"""The socket: batches in both directions, and the behaviour where the kernel offers less."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quicbaton.asyncio import serve
from quicbaton.asyncio.endpoint import udp as udp_module
from quicbaton.asyncio.endpoint.udp import Datagram, UdpSocket, open_first_udp, open_udp
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.transport.paths import ecn
from quicbaton.transport.train import Train
from tests.asyncio.loopback import (
    MB,
    FileServer,
    body_of,
    digest,
    http_client,
    server_configuration,
)


class Inbox:
    """Collects what a socket's `on_batch` gets."""

    def __init__(self) -> None:
        self.batches: list[list[Datagram]] = []
        self._fresh = asyncio.Event()

    def __call__(self, batch: list[Datagram]) -> None:
        self.batches.append(batch)
        self._fresh.set()

    @property
    def datagrams(self) -> list[Datagram]:
        return [datagram for batch in self.batches for datagram in batch]

    async def holds(self, count: int) -> list[Datagram]:
        while len(self.datagrams) < count:
            self._fresh.clear()
            await self._fresh.wait()
        return self.datagrams


def opened(host: str = "127.0.0.1", **options: Any) -> tuple[UdpSocket, Inbox]:
    inbox = Inbox()
    udp = UdpSocket(open_udp(host, 0), inbox, **options)
    udp.start()
    return udp, inbox


class Limited:
    """A real socket, except for what a kernel or an interface might refuse."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent: list[int] = []
        self.refuse_segments: int | None = None
        self.refuse_from: int | None = None
        self.refuse_with = errno.EAGAIN
        self.mtu_bytes = 65_535
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendmsg(self, buffers: Any, ancillary: Any, flags: int, address: Any) -> int:
        size = sum(len(buffer) for buffer in buffers)
        segments = [value for level, _, value in ancillary if level == socket.IPPROTO_UDP]
        if segments and self.refuse_segments is not None:
            raise OSError(self.refuse_segments, "no segmentation here")
        if segments and struct.unpack("=H", segments[0])[0] > self.mtu_bytes:
            raise OSError(errno.EINVAL, "segments do not fit")  # as Linux' udp_send_skb says it
        if not segments and size > self.mtu_bytes:
            raise OSError(errno.EMSGSIZE, "too long")
        self.tries += 1
        if self.refuse_from is not None and len(self.sent) >= self.refuse_from:
            raise OSError(self.refuse_with, "refused")
        self.sent.append(sum(len(buffer) for buffer in buffers))
        return self._sock.sendmsg(buffers, ancillary, flags, address)


def train_of(count: int, last: int, remote: Any, segment_bytes: int = 1200) -> Train:
    sizes = [segment_bytes] * (count - 1) + [last]
    data = b"".join(bytes([index % 256]) * size for index, size in enumerate(sizes))
    return Train(data, segment_bytes, remote, ())


def limit(udp: UdpSocket) -> Limited:
    limited = Limited(udp.sock)
    udp.sock = limited  # type: ignore[assignment]
    return limited


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_train_arrives_as_its_datagrams(host: str) -> None:
    sender, _ = opened(host)
    receiver, inbox = opened(host)
    train = train_of(40, 77, receiver.address)
    sender.send(train)
    datagrams = await inbox.holds(40)
    assert [datagram.data for datagram in datagrams] == train.datagrams()
    assert {datagram.remote for datagram in datagrams} == {sender.address}
    assert {datagram.local for datagram in datagrams} == {()}
    assert sender.datagrams_sent == receiver.datagrams_received == 40
    sender.close()
    receiver.close()


@pytest.mark.parametrize(
    "error",
    [
        errno.EIO,
        errno.EINVAL,
        errno.EMSGSIZE,
        errno.EOPNOTSUPP,
        errno.ENOPROTOOPT,
        errno.ENOSYS,
        errno.EPROTONOSUPPORT,
    ],
)
async def test_an_interface_that_cannot_segment_is_noticed_once_and_nothing_is_lost(
    error: int,
) -> None:
    sender, _ = opened()
    receiver, inbox = opened()
    limited = limit(sender)
    limited.refuse_segments = error
    for _ in range(2):
        sender.send(train_of(10, 300, receiver.address))
    datagrams = await inbox.holds(20)
    assert [datagram.data for datagram in datagrams] == 2 * train_of(10, 300, ()).datagrams()
    assert limited.sent == 2 * ([1200] * 9 + [300])
    assert not sender._gso
    sender.close()
    receiver.close()


@pytest.mark.parametrize("segmentation", [True, False])
async def test_what_a_full_buffer_refuses_waits_for_room(segmentation: bool) -> None:
    room = asyncio.Event()
    sender, _ = opened(on_room=room.set)
    sender._gso = sender._gso and segmentation
    receiver, inbox = opened()
    limited = limit(sender)
    limited.refuse_from = 0 if segmentation else 4
    train = train_of(10, 300, receiver.address)
    sender.send(train)
    assert sender.is_full
    sender.send_datagram(b"behind it", receiver.address)
    limited.refuse_from = None
    await room.wait()
    assert not sender.is_full
    datagrams = await inbox.holds(11)
    assert [datagram.data for datagram in datagrams] == [*train.datagrams(), b"behind it"]
    sender.close()
    receiver.close()


@pytest.mark.parametrize("segmentation", [True, False])
@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM])
async def test_what_a_full_queue_of_the_interface_refuses_waits_without_spinning(
    error: int, segmentation: bool
) -> None:
    room = asyncio.Event()
    sender, _ = opened(on_room=room.set)
    sender._gso = sender._gso and segmentation
    segmentation_before = sender._gso
    receiver, inbox = opened()
    limited = limit(sender)
    limited.refuse_from, limited.refuse_with = 0 if segmentation else 4, error
    train = train_of(10, 300, receiver.address)
    assert sender.send(train)
    assert sender.is_full
    tries = limited.tries
    for _ in range(100):  # the socket is writable all the while
        await asyncio.sleep(0)
    assert limited.tries - tries < 20
    limited.refuse_with = errno.EAGAIN  # then it is the buffer that is full
    while not sender._writing:
        await asyncio.sleep(0)
    limited.refuse_with = error
    while sender._writing:
        await asyncio.sleep(0)
    limited.refuse_from = None
    await room.wait()
    assert not sender.is_full
    assert [datagram.data for datagram in await inbox.holds(10)] == train.datagrams()
    assert sender._gso == segmentation_before
    sender.close()
    receiver.close()


@pytest.mark.parametrize("segmentation", [True, False])
async def test_a_size_that_the_interface_refuses_is_told_and_what_fits_is_sent(
    segmentation: bool,
) -> None:
    sender, _ = opened()
    sender._gso = sender._gso and segmentation
    before = sender._gso
    receiver, inbox = opened()
    limit(sender).mtu_bytes = 1280
    assert not sender.send(train_of(10, 300, receiver.address, 1400))
    assert sender.send(train_of(10, 300, receiver.address))
    datagrams = await inbox.holds(11)
    assert [len(datagram.data) for datagram in datagrams] == [300, *[1200] * 9, 300]
    assert sender._gso == before  # that is another matter
    sender.close()
    receiver.close()


async def test_a_download_goes_on_at_once_when_the_interface_takes_smaller_datagrams_only(
    certificate: CertificateFiles,
) -> None:
    configuration = server_configuration(certificate)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=FileServer)
    async with http_client(certificate, server.port) as client:
        assert digest(await client.get(MB)) == digest(body_of(MB))
        (session,) = server.endpoint.sessions.values()
        path = session.connection._state.paths[0]
        assert path.mtu_bytes == 1452
        limited = limit(server.endpoint.udp)
        limited.mtu_bytes = 1280
        begin = session.connection.age_s
        assert digest(await client.get(MB)) == digest(body_of(MB))
        # Neither a probe timeout nor a loss: nothing was waited for.
        assert session.connection._state.recovery.pto_count == 0
        assert session.connection.age_s - begin < 2
        assert 1280 - 16 < path.mtu_bytes <= 1280
    server.close()


async def test_the_outbox_is_bounded_and_closing_drops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_module, "_MAX_OUTBOX", 5)
    sender, _ = opened()
    limit(sender).refuse_from = 0
    for _ in range(10):
        sender.send_datagram(b"x", ("127.0.0.1", 9))
    assert len(sender._outbox) == 5
    sender.close()
    assert not sender.is_full


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.EINVAL, errno.EPERM, errno.ENETUNREACH])
@pytest.mark.parametrize("segmentation", [True, False])
async def test_what_cannot_be_sent_is_lost_and_nothing_else(error: int, segmentation: bool) -> None:
    sender, _ = opened()
    sender._gso = sender._gso and segmentation
    receiver, inbox = opened()
    limited = limit(sender)
    limited.refuse_from, limited.refuse_with = 0, error
    sender.send(train_of(3, 3, receiver.address))
    sender.send_datagram(b"lost", receiver.address)
    assert not sender.is_full
    limited.refuse_from = None
    sender.send_datagram(b"sent", receiver.address)
    assert [datagram.data for datagram in await inbox.holds(1)] == [b"sent"]
    sender.close()
    receiver.close()


async def test_a_datagram_larger_than_udp_carries_is_lost() -> None:
    sender, _ = opened()
    sender.send_datagram(bytes(65_536), ("127.0.0.1", 9))
    assert not sender.is_full
    assert sender.datagrams_sent == 0
    sender.close()


@pytest.mark.parametrize(
    ("bind", "send_from", "level", "option"),
    [
        ("127.0.0.1", "127.0.0.1", socket.IPPROTO_IP, socket.IP_TOS),
        ("0.0.0.0", "127.0.0.1", socket.IPPROTO_IP, socket.IP_TOS),
        ("::1", "::1", socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
        ("::", "::1", socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
        ("::", "127.0.0.1", socket.IPPROTO_IP, socket.IP_TOS),
    ],
)
async def test_ecn_bits_and_our_address_are_reported(
    bind: str, send_from: str, level: int, option: int
) -> None:
    receiver, inbox = opened(bind)
    family = socket.AF_INET6 if ":" in send_from else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for bits in range(4):
            sender.setsockopt(level, option, 0xB8 | bits)  # beside the bits: a DSCP
            sender.sendto(bytes([bits]), (send_from, receiver.address[1]))
    datagrams = await inbox.holds(4)
    assert [datagram.ecn for datagram in datagrams] == [0, 1, 2, 3]
    for datagram in datagrams:
        if bind in ("0.0.0.0", "::"):
            assert str(datagram.local[0]).removeprefix("::ffff:") == send_from
            assert datagram.local[1] == receiver.address[1]
        else:
            assert datagram.local == ()
    receiver.close()


@pytest.mark.parametrize(
    ("bind", "to", "sends_from"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "0.0.0.0"),
        ("::1", "::1", "::1"),
        ("::", "::1", "::"),
        ("::", "::ffff:127.0.0.1", "::"),
    ],
)
@pytest.mark.parametrize("segmentation", [True, False])
async def test_trains_and_datagrams_are_sent_with_their_ecn_bits(
    bind: str, to: str, sends_from: str, segmentation: bool
) -> None:
    receiver, inbox = opened(bind)
    sender, _ = opened(sends_from)
    sender._gso = sender._gso and segmentation
    sender.sock.setblocking(True)
    local = (to, sender.address[1], 0, 0)[: len(sender.address)]
    remote = (to, receiver.address[1], 0, 0)[: len(sender.address)]
    for bits in (2, 0, 2):
        assert sender.send(train_of(3, 300, remote)._replace(ecn=bits, local=local))
    datagrams = await inbox.holds(9)
    assert [datagram.ecn for datagram in datagrams] == [2, 2, 2, 0, 0, 0, 2, 2, 2]
    sender.close()
    receiver.close()


async def test_a_kernel_that_refuses_marks_loses_nothing() -> None:
    class Unmarking(Limited):
        def sendmsg(self, buffers: Any, ancillary: Any, flags: int, address: Any) -> int:
            if any(kind == socket.IP_TOS for _, kind, _ in ancillary):
                raise OSError(errno.EINVAL, "no marks here")
            return super().sendmsg(buffers, ancillary, flags, address)

    sender, _ = opened()
    receiver, inbox = opened()
    sender.sock = Unmarking(sender.sock)  # type: ignore[assignment]
    train = train_of(5, 300, receiver.address)
    for _ in range(2):
        assert sender.send(train._replace(ecn=2))
    datagrams = await inbox.holds(10)
    assert [datagram.data for datagram in datagrams] == 2 * train.datagrams()
    assert {datagram.ecn for datagram in datagrams} == {0}
    sender.close()
    receiver.close()


@pytest.mark.parametrize("segmentation", [True, False])
async def test_both_ends_of_a_connection_mark_what_they_send_and_report_what_they_got(
    segmentation: bool, certificate: CertificateFiles
) -> None:
    def check(udp: UdpSocket) -> None:
        udp._gso = udp._gso and segmentation

    configuration = server_configuration(certificate)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=FileServer)
    async with http_client(certificate, server.port) as client:
        assert digest(await client.get(MB)) == digest(body_of(MB))
        (session,) = server.endpoint.sessions.values()
        transmitter: Any = client._transmitter
        states = [session.connection._state, transmitter.connection._state]
        for state, peer in (states, states[::-1]):
            assert state.paths[0].ecn == ecn.CAPABLE
            assert 0 < state.numbers.ecn_acked[0] <= peer.numbers.ecn_received[0]
            assert peer.numbers.ecn_received[1:] == [0, 0]
    server.close()


async def test_a_coalesced_burst_keeps_ecn_bits_and_addresses() -> None:
    receiver, inbox = opened("::")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 1)
        segment = (socket.IPPROTO_UDP, 103, struct.pack("=H", 500))
        address = ("127.0.0.1", receiver.address[1])
        sender.sendmsg([body_of(2100)], [segment], 0, address)
    datagrams = await inbox.holds(5)
    assert b"".join(datagram.data for datagram in datagrams) == body_of(2100)
    assert [len(datagram.data) for datagram in datagrams] == [500] * 4 + [100]
    assert {datagram.ecn for datagram in datagrams} == {1}
    assert {datagram.local[0] for datagram in datagrams} == {"::ffff:127.0.0.1"}
    receiver.close()


async def test_one_turn_of_the_event_loop_reads_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, inbox = opened()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for index in range(100):
            sender.sendto(bytes([index]), receiver.address)
    datagrams = await inbox.holds(100)
    assert [datagram.data[0] for datagram in datagrams] == list(range(100))
    assert max(len(batch) for batch in inbox.batches) <= udp_module._READS_PER_TURN
    receiver.close()


async def test_reading_stops_and_starts_again_without_loss() -> None:
    receiver, inbox = opened()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver.stop()
        receiver.stop()
        sender.sendto(b"while nobody reads", receiver.address)
        await asyncio.sleep(0)
        assert not inbox.batches
        receiver.start()
        receiver.start()
        assert [datagram.data for datagram in await inbox.holds(1)] == [b"while nobody reads"]
    receiver.close()


async def test_icmp_errors_of_a_connected_socket_are_ignored() -> None:
    receiver, inbox = opened()
    gone = open_udp("127.0.0.1", 0)
    address = gone.getsockname()
    gone.close()
    # Only a connected socket is told of them.
    receiver.sock.connect(address)
    receiver.sock.send(b"to nobody")
    back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    back.bind(address)
    back.sendto(b"now here", receiver.address)
    assert [datagram.data for datagram in await inbox.holds(1)] == [b"now here"]
    back.close()
    receiver.close()


async def exchange(certificate: CertificateFiles, poorer: Callable[[UdpSocket], None]) -> None:
    """A download and an upload, with both ends' sockets made `poorer` after the handshake."""
    configuration = server_configuration(certificate)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=FileServer)
    async with http_client(certificate, server.port) as client:
        poorer(server.endpoint.udp)
        transmitter: Any = client._transmitter
        poorer(transmitter._endpoint.udp)
        assert digest(await client.get(2 * MB)) == digest(body_of(2 * MB))
        body = body_of(2 * MB)
        assert await client.request("POST", "/", body) == digest(body).encode()
    server.close()


async def test_transfers_without_offload(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Options that do not exist, as with Linux 4.17 and older.
    monkeypatch.setattr(udp_module, "_UDP_GRO", 250)
    monkeypatch.setattr(udp_module, "_UDP_SEGMENT", 251)

    def check(udp: UdpSocket) -> None:
        assert not udp._gso

    await exchange(certificate, check)


@pytest.mark.parametrize("segmentation", [True, False])
async def test_transfers_while_the_socket_is_full_again_and_again(
    segmentation: bool, certificate: CertificateFiles
) -> None:
    class OftenFull(Limited):
        calls = 0

        def sendmsg(self, *arguments: Any) -> int:
            self.calls += 1
            if self.calls % 3 == 0:
                raise BlockingIOError(errno.EAGAIN, "full")
            return super().sendmsg(*arguments)

    def poorer(udp: UdpSocket) -> None:
        udp._gso = udp._gso and segmentation
        udp.sock = OftenFull(udp.sock)  # type: ignore[assignment]

    await exchange(certificate, poorer)


def test_a_bad_address_to_bind_leaves_no_socket_open() -> None:
    taken = open_udp("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        open_udp("127.0.0.1", taken.getsockname()[1])
    taken.close()


def test_any_port_is_nobody_else_s_though_others_may_join_it() -> None:
    # Of so many, a kernel that shares ports out among one user's sockets gives some twice.
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(open_udp("127.0.0.1", 0, reuse_port=True)) for _ in range(600)]
        ports = {sock.getsockname()[1] for sock in socks}
        assert len(ports) == len(socks)
        stack.enter_context(open_udp("127.0.0.1", ports.pop(), reuse_port=True))


def test_of_all_who_want_a_port_at_once_one_gets_it() -> None:
    with open_first_udp("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    rounds, starters = 100, 4
    barrier = threading.Barrier(starters)

    def start() -> list[socket.socket | None]:
        got: list[socket.socket | None] = []
        for _ in range(rounds):
            barrier.wait()
            try:
                got.append(open_first_udp("127.0.0.1", port))
            except OSError:
                got.append(None)
            barrier.wait()
            if got[-1] is not None:
                got[-1].close()
        return got

    with ThreadPoolExecutor(starters) as pool:
        tries = [pool.submit(start) for _ in range(starters)]
    for results in zip(*(one.result() for one in tries), strict=True):
        assert sum(sock is not None for sock in results) == 1


async def test_what_arrives_while_it_gathers_is_read_together() -> None:
    udp, inbox = opened()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, contextlib.closing(udp):

        def gather(batch: list[Datagram]) -> None:
            inbox(batch)
            udp.gather(0.02)
            if len(inbox.batches) == 1:
                for number in range(5):
                    peer.sendto(b"%d" % number, udp.address)

        udp._on_batch = gather
        peer.sendto(b"first", udp.address)
        await inbox.holds(6)
        assert [len(batch) for batch in inbox.batches] == [1, 5]


async def test_a_socket_that_found_nothing_is_watched_again() -> None:
    udp, inbox = opened()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, contextlib.closing(udp):

        def gather_once(batch: list[Datagram]) -> None:
            inbox(batch)
            if len(inbox.batches) == 1:
                udp.gather(0.001)

        udp._on_batch = gather_once
        peer.sendto(b"first", udp.address)
        await inbox.holds(1)
        while udp._gathering is not None:
            await asyncio.sleep(0)
        peer.sendto(b"second", udp.address)
        await inbox.holds(2)


async def test_a_stopped_socket_gathers_nothing_more() -> None:
    udp, inbox = opened()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, contextlib.closing(udp):
        udp._on_batch = lambda batch: (inbox(batch), udp.gather(0.001))
        peer.sendto(b"first", udp.address)
        await inbox.holds(1)
        udp.stop()
        peer.sendto(b"second", udp.address)
        udp.start()
        await inbox.holds(2)
        udp.stop()
        assert udp._gathering is None


async def test_a_socket_that_a_turn_has_just_emptied_has_nothing_more() -> None:
    udp, inbox = opened()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, contextlib.closing(udp):
        udp.stop()
        for number in range(udp_module._READS_PER_TURN):
            peer.sendto(b"%d" % number, udp.address)
        udp.start()
        await inbox.holds(udp_module._READS_PER_TURN)
        assert udp._may_have_more
        assert udp.read_on()
        assert not udp._may_have_more


async def test_a_socket_is_watched_though_a_batch_failed() -> None:
    udp, inbox = opened()
    loop = asyncio.get_running_loop()
    problems: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, contextlib.closing(udp):

        def fail_once(batch: list[Datagram]) -> None:
            inbox(batch)
            if len(inbox.batches) == 1:
                udp.gather(0.001)
                peer.sendto(b"second", udp.address)
            elif len(inbox.batches) == 2:
                raise RuntimeError("a batch that fails")

        udp._on_batch = fail_once
        peer.sendto(b"first", udp.address)
        await inbox.holds(2)
        peer.sendto(b"third", udp.address)
        await inbox.holds(3)
    assert len(problems) == 1
