"""Ways into a connection: Retry, tokens, resumption, versions, and refusals."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

import aioquic.asyncio
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion
from aioquic.tls import SessionTicket

from quicbaton.asyncio import QuicServer, connect, serve
from quicbaton.asyncio.client import RandomIds
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from tests.asyncio.loopback import (
    CLIENTS,
    AioquicFileServer,
    AioquicHttpClient,
    FileServer,
    HttpClient,
    body_of,
    client_configuration,
    each_client,
    http_client,
    server_configuration,
    watcher,
)


class TicketStore:
    def __init__(self) -> None:
        self.tickets: dict[bytes, SessionTicket] = {}

    def add(self, ticket: SessionTicket) -> None:
        self.tickets[ticket.ticket] = ticket

    def pop(self, label: bytes) -> SessionTicket | None:
        return self.tickets.pop(label, None)


async def start(certificate: CertificateFiles, port: int = 0, **options: Any) -> QuicServer:
    options.setdefault("configuration", server_configuration(certificate))
    options.setdefault("create_protocol", FileServer)
    return await serve("127.0.0.1", port, **options)


# --- our server -----------------------------------------------------------------------------------


@each_client
async def test_retry_and_its_token_for_the_next_visit(
    kind: str, certificate: CertificateFiles
) -> None:
    open_client, protocol = CLIENTS[kind]
    server = await start(certificate, retry=True)
    tokens: asyncio.Queue[bytes] = asyncio.Queue()
    sent: list[bytes] = []
    real_send = server.endpoint.udp.send_datagram

    def watch(data: bytes, *rest: Any) -> None:
        if data[0] & 0xF0 == 0xF0:
            sent.append(data)  # a Retry of version 1
        real_send(data, *rest)

    server.endpoint.udp.send_datagram = watch  # type: ignore[method-assign]

    async def visit(token: bytes) -> None:
        configuration = client_configuration(certificate, token=token)
        async with open_client(
            "127.0.0.1",
            server.port,
            configuration=configuration,
            create_protocol=protocol,
            token_handler=tokens.put_nowait,
        ) as client:
            assert await client.get(1000) == body_of(1000)

    await visit(b"")
    assert len(sent) == 1
    token = await tokens.get()
    await visit(token)
    assert len(sent) == 1, "a good token saves the round trip"
    await visit(token)
    assert len(sent) == 2, "a token counts once (RFC 9000 §8.1.4)"
    await visit(os.urandom(60))
    assert len(sent) == 3, "another server's token is as none"
    assert server.endpoint.accepted == 4
    server.close()


async def test_a_retry_token_from_another_address_is_refused_at_once(
    certificate: CertificateFiles,
) -> None:
    # RFC 9000 §8.1.2: INVALID_TOKEN, since the client would not accept another Retry.
    server = await start(certificate, retry=True)
    loop = asyncio.get_running_loop()
    configuration = client_configuration(certificate, server_name="localhost")
    quic = QuicConnection(configuration=configuration)
    address = ("127.0.0.1", server.port)
    quic.connect(address, now=loop.time())
    first, second = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (first, second):
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
    for data, _ in quic.datagrams_to_send(loop.time()):
        first.sendto(data, address)
    retry = await loop.sock_recv(first, 2000)
    quic.receive_datagram(retry, address, loop.time())
    for data, _ in quic.datagrams_to_send(loop.time()):
        second.sendto(data, address)
    refusal = await loop.sock_recv(second, 2000)
    assert len(refusal) < 200
    quic.receive_datagram(refusal, address, loop.time())
    quic.handle_timer(loop.time() + 100)
    events = iter(quic.next_event, None)
    (ended,) = (event for event in events if isinstance(event, ConnectionTerminated))
    assert ended.error_code == QuicErrorCode.INVALID_TOKEN
    assert server.endpoint.accepted == 0
    first.close()
    second.close()
    server.close()


@each_client
@pytest.mark.parametrize("retry", [False, True])
async def test_sessions_are_resumed(kind: str, retry: bool, certificate: CertificateFiles) -> None:
    open_client, _ = CLIENTS[kind]
    store = TicketStore()
    servers = watcher()
    server = await start(
        certificate,
        retry=retry,
        create_protocol=servers,
        session_ticket_fetcher=store.pop,
        session_ticket_handler=store.add,
    )
    tickets: asyncio.Queue[SessionTicket] = asyncio.Queue()

    async def visit(ticket: SessionTicket | None) -> HandshakeCompleted:
        configuration = client_configuration(certificate, session_ticket=ticket)
        async with open_client(
            "127.0.0.1",
            server.port,
            configuration=configuration,
            session_ticket_handler=tickets.put_nowait,
        ) as client:
            seen = await servers.instances.get()
            completed: HandshakeCompleted = await seen.seen(HandshakeCompleted)
            await client.ping()
            return completed

    assert not (await visit(None)).session_resumed
    assert (await visit(await tickets.get())).session_resumed
    assert (await visit(await tickets.get())).session_resumed
    server.close()


async def test_early_data_is_served_once_the_handshake_is_confirmed(
    certificate: CertificateFiles,
) -> None:
    store = TicketStore()
    server = await start(
        certificate, session_ticket_fetcher=store.pop, session_ticket_handler=store.add
    )
    tickets: asyncio.Queue[SessionTicket] = asyncio.Queue()

    async def visit(ticket: SessionTicket | None) -> None:
        configuration = client_configuration(certificate, session_ticket=ticket)
        async with aioquic.asyncio.connect(
            "127.0.0.1",
            server.port,
            configuration=configuration,
            create_protocol=AioquicHttpClient,
            session_ticket_handler=tickets.put_nowait,
            wait_connected=ticket is None,
        ) as client:
            bodies = await asyncio.gather(*(client.get(size) for size in range(1, 6)))
            assert bodies == [body_of(size) for size in range(1, 6)]
            accepted = client._quic.tls.early_data_accepted
            assert accepted == (ticket is not None)

    await visit(None)
    await visit(await tickets.get())
    server.close()


@each_client
async def test_the_version_is_negotiated(kind: str, certificate: CertificateFiles) -> None:
    # Incompatibly, with a Version Negotiation packet: the server speaks version 1 only.
    open_client, protocol = CLIENTS[kind]
    v1, v2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2
    server = await start(
        certificate, configuration=server_configuration(certificate, supported_versions=[v1])
    )
    configuration = client_configuration(
        certificate, original_version=v2, supported_versions=[v2, v1]
    )
    async with open_client(
        "127.0.0.1", server.port, configuration=configuration, create_protocol=protocol
    ) as client:
        assert await client.get(1000) == body_of(1000)
    server.close()


@each_client
async def test_the_version_is_upgraded_within_the_handshake(
    kind: str, certificate: CertificateFiles
) -> None:
    # Compatibly (RFC 9368 §2.3): the client begins with version 1 and prefers version 2.
    open_client, protocol = CLIENTS[kind]
    v1, v2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2
    server = await start(certificate)
    configuration = client_configuration(
        certificate, original_version=v1, supported_versions=[v2, v1]
    )
    async with open_client(
        "127.0.0.1", server.port, configuration=configuration, create_protocol=protocol
    ) as client:
        (session,) = server.endpoint.sessions.values()
        assert session.connection._state.protection.version == v2
        assert await client.get(100_000) == body_of(100_000)
    server.close()


@each_client
async def test_without_a_common_alpn_there_is_no_connection(
    kind: str, certificate: CertificateFiles
) -> None:
    open_client, _ = CLIENTS[kind]
    server = await start(certificate)
    failed = asyncio.Event()
    real_on_failed = server.endpoint._on_failed

    def on_failed(*handshake: Any) -> None:
        real_on_failed(*handshake)
        failed.set()

    server.endpoint._on_failed = on_failed  # type: ignore[method-assign]
    configuration = client_configuration(certificate, alpn_protocols=["other"])
    with pytest.raises(ConnectionError):
        async with open_client("127.0.0.1", server.port, configuration=configuration):
            pass
    await failed.wait()  # a closing handshake lingers for some PTOs
    assert not server.endpoint.handshakes
    assert not server.endpoint.table.owners
    assert not server.endpoint.sessions
    assert server.endpoint.counters["handshake_failed"] == 1
    server.close()


@each_client
async def test_a_certificate_that_the_client_does_not_trust(
    kind: str, certificate: CertificateFiles
) -> None:
    open_client, _ = CLIENTS[kind]
    server = await start(certificate)
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"])
    with pytest.raises(ConnectionError):
        async with open_client("127.0.0.1", server.port, configuration=configuration):
            pass
    configuration = client_configuration(certificate, server_name="example.org")
    with pytest.raises(ConnectionError):
        async with open_client("127.0.0.1", server.port, configuration=configuration):
            pass
    configuration.verify_mode = ssl.CERT_NONE
    async with open_client("127.0.0.1", server.port, configuration=configuration):
        pass
    server.close()


async def test_junk_is_dropped_and_counted(certificate: CertificateFiles) -> None:
    server = await start(certificate)
    junk = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = ("127.0.0.1", server.port)
    initial = bytes([0xC3]) + (1).to_bytes(4, "big") + bytes([8]) + os.urandom(8) + bytes([0])
    for data in (
        b"",
        b"\x00",
        b"\xff",
        os.urandom(20),
        b"\x40" + os.urandom(1000),
        b"\xc0" + os.urandom(1300),
        b"\x80" + bytes(1300),
        initial,
        initial + b"\x00\x20" + os.urandom(32),
        initial + os.urandom(1200),
        initial + b"\x00\x44\xb0" + os.urandom(1200),
    ):
        junk.sendto(data, address)
    async with connect(
        *address, configuration=client_configuration(certificate), create_protocol=HttpClient
    ) as client:
        # Junk at an existing connection: under its ID, and from its own address.
        (session,) = server.endpoint.sessions.values()
        for cid in session.cids:
            junk.sendto(b"\x41" + cid + os.urandom(40), address)
            junk.sendto(b"\x41" + cid, address)
            junk.sendto(b"\xe1\x00\x00\x00\x01\x0c" + cid + os.urandom(40), address)
        ours: Any = client._transmitter
        ours._endpoint.udp.send_datagram(os.urandom(500), address)
        assert await client.get(1000) == body_of(1000)
    junk.close()
    assert server.endpoint.counters["empty"] == 1
    assert server.endpoint.counters["truncated"] >= 1
    assert server.endpoint.counters["small_initial"] == 1
    server.close()


async def test_a_restarted_server_resets_what_it_does_not_know(
    certificate: CertificateFiles,
) -> None:
    # Our client only: aioquic's does not look for stateless resets.
    ring = KeyRing(ClusterKey.generate(os.urandom))
    server = await start(certificate, ring=ring)
    async with http_client(certificate, server.port) as client:
        assert await client.get(10) == body_of(10)
        for session in list(server.endpoint.sessions.values()):
            session.detach()  # as a crash would
        server.endpoint.sessions.clear()
        server.close()
        restarted = await start(certificate, port=server.port, ring=ring)
        with pytest.raises(ConnectionError):
            await client.request("POST", "/", bytes(2000))
        await client.wait_closed()
        assert restarted.endpoint.counters["reset"] >= 1
    restarted.close()


# --- our client to aioquic's server ---------------------------------------------------------------


def aioquic_port(server: Any) -> int:
    return int(server._transport.get_extra_info("sockname")[1])


@pytest.mark.parametrize("retry", [False, True])
async def test_our_client_at_a_server_of_aioquic(
    retry: bool, certificate: CertificateFiles
) -> None:
    store = TicketStore()
    server = await aioquic.asyncio.serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate),
        create_protocol=AioquicFileServer,
        retry=retry,
        session_ticket_fetcher=store.pop,
        session_ticket_handler=store.add,
    )
    tickets: asyncio.Queue[SessionTicket] = asyncio.Queue()
    ticket = None
    for _ in range(3):
        async with connect(
            "127.0.0.1",
            aioquic_port(server),
            configuration=client_configuration(certificate, session_ticket=ticket),
            create_protocol=HttpClient,
            session_ticket_handler=tickets.put_nowait,
        ) as client:
            assert client._quic._state.session_resumed == (ticket is not None)
            assert await client.get(300_000) == body_of(300_000)
            body = body_of(200_000)
            assert len(await client.request("POST", "/", body)) == 64
            ticket = await tickets.get()
    server.close()


@pytest.mark.parametrize("length", [0, 1, 8, 20])
async def test_our_client_with_connection_ids_of_any_length(
    length: int, certificate: CertificateFiles
) -> None:
    server = await start(certificate)
    async with http_client(certificate, server.port, connection_id_length=length) as client:
        assert await client.get(100_000) == body_of(100_000)
        client.change_connection_id()
        assert await client.get(100_000) == body_of(100_000)
    server.close()


async def test_a_server_that_is_not_there_is_an_error_once_the_handshake_idles_out(
    certificate: CertificateFiles,
) -> None:
    free = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(ConnectionError):
        async with connect(
            "127.0.0.1",
            port,
            configuration=client_configuration(certificate, idle_timeout=0.2),
        ):
            pass


async def test_connecting_can_be_cancelled(certificate: CertificateFiles) -> None:
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.setblocking(False)
    silent.bind(("127.0.0.1", 0))

    async def attempt() -> None:
        async with connect(*silent.getsockname(), configuration=client_configuration(certificate)):
            pass

    attempting = asyncio.ensure_future(attempt())
    await asyncio.get_running_loop().sock_recv(silent, 2000)
    attempting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempting
    silent.close()


# --- nobody's handshakes --------------------------------------------------------------------------


async def test_an_initial_that_is_no_packet_holds_no_place(certificate: CertificateFiles) -> None:
    """Its Length goes beyond the datagram: aioquic drops it, and has then nobody to answer."""
    server = await start(certificate)
    endpoint = server.endpoint
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(8):
            header = b"\xc0\x00\x00\x00\x01\x08" + number.to_bytes(8, "big") + b"\x00\x00"
            sock.sendto((header + b"\x7f\xff").ljust(1200, b"x"), ("127.0.0.1", server.port))
        while endpoint.accepted < 8:
            await asyncio.sleep(0)
    assert not endpoint.handshakes
    assert not endpoint.table.owners
    server.close()


async def test_a_handshake_that_breaks_our_code_ends(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a timer it would hold its place for ever."""
    server = await start(certificate)
    endpoint = server.endpoint
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: reported.append(what))
    with monkeypatch.context() as patched:
        patched.setattr(QuicConnection, "receive_datagram", _stumble)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            header = b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x00\x00"
            sock.sendto((header + b"\x44\x00").ljust(1200, b"x"), ("127.0.0.1", server.port))
            while not reported:
                await asyncio.sleep(0)
    assert isinstance(reported[0]["exception"], IndexError)
    assert not endpoint.handshakes
    assert not endpoint.table.owners
    server.close()


async def test_a_handshake_that_does_not_go_on_gives_its_place_back(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before aioquic's idle timeout, which is as long as that of a connection."""
    monkeypatch.setattr("quicbaton.asyncio.endpoint.endpoint.HANDSHAKE_S", 0.05)
    server = await start(certificate)
    endpoint = server.endpoint
    client = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["hq"]))
    client.connect(("127.0.0.1", server.port), now=0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for data, _ in client.datagrams_to_send(now=0.0):
            sock.sendto(data, ("127.0.0.1", server.port))
        while not endpoint.accepted:
            await asyncio.sleep(0)
        assert endpoint.handshakes
        while endpoint.handshakes:
            await asyncio.sleep(0.01)
    assert not endpoint.table.owners
    assert endpoint.counters["handshake_failed"] == 1
    server.close()


def _stumble(*_: object) -> None:
    raise IndexError("nobody thought of this")


def test_a_clients_short_ids_do_not_repeat_while_the_server_may_know_them() -> None:
    first = b"\x07"
    ids = RandomIds(1, [first])
    issued = [first, *(ids.issue()[0] for _ in range(1000))]
    for end in range(len(issued)):
        latest = issued[max(0, end - 8) : end + 1]
        assert len({*latest}) == len(latest)
