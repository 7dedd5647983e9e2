"""Tokens and tickets that one process gives a client, and another with the same ring accepts."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import aioquic.asyncio
import pytest
import qh3.asyncio
from aioquic.quic.connection import QuicConnection
from aioquic.tls import SessionTicket

from quicbaton.asyncio import QuicServer, serve
from quicbaton.asyncio.endpoint import newcomers
from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.asyncio.server import make_endpoint
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.spent import SpentTokens
from quicbaton.routing.id_text import parse_ids
from tests.asyncio.loopback import (
    AioquicHttpClient,
    FileServer,
    body_of,
    client_configuration,
    http_client,
    qh3_configuration,
    qh3_http_client,
    server_configuration,
)

OLD = ClusterKey(b"\x00old", os.urandom(32))
NEW = ClusterKey(b"\x01new", os.urandom(32))


async def start(
    certificate: CertificateFiles, ring: KeyRing | None, port: int = 0, **options: Any
) -> QuicServer:
    """A process of its own, as far as this goes."""
    return await serve(
        "127.0.0.1",
        port,
        configuration=server_configuration(certificate),
        create_protocol=FileServer,
        ring=ring,
        **options,
    )


class Client:
    """A client that remembers what servers give it."""

    def __init__(self, certificate: CertificateFiles) -> None:
        self._certificate = certificate
        self.tickets: asyncio.Queue[SessionTicket] = asyncio.Queue()
        self.tokens: asyncio.Queue[bytes] = asyncio.Queue()

    async def visit(
        self, server: QuicServer, ticket: SessionTicket | None = None, token: bytes = b""
    ) -> tuple[bool, bool]:
        """Fetch something; whether the session was resumed, and early data accepted."""
        configuration = client_configuration(self._certificate, session_ticket=ticket, token=token)
        async with aioquic.asyncio.connect(
            "127.0.0.1",
            server.port,
            configuration=configuration,
            create_protocol=AioquicHttpClient,
            session_ticket_handler=self.tickets.put_nowait,
            token_handler=self.tokens.put_nowait,
            wait_connected=ticket is None,
        ) as client:
            assert await client.get(1000) == body_of(1000)
            tls = client._quic.tls
            return tls.session_resumed, tls.early_data_accepted


@pytest.mark.parametrize("ring", [KeyRing(OLD), KeyRing(OLD).rotate(NEW)])
async def test_session_of_one_process_resumes_at_another(
    ring: KeyRing, certificate: CertificateFiles
) -> None:
    first, second = await start(certificate, KeyRing(OLD)), await start(certificate, ring)
    client = Client(certificate)
    assert await client.visit(first) == (False, False)
    assert await client.visit(second, await client.tickets.get()) == (True, False)
    assert second.endpoint.early_data.startswith("off")
    first.close()
    second.close()


async def test_qh3_resumes_from_process_to_process(certificate: CertificateFiles) -> None:
    servers = [await start(certificate, KeyRing(OLD)) for _ in range(2)]
    tickets: asyncio.Queue[Any] = asyncio.Queue()
    ticket = None
    for server in servers * 2:
        configuration = qh3_configuration(certificate)
        configuration.session_ticket = ticket
        async with qh3.asyncio.connect(
            "127.0.0.1",
            server.port,
            configuration=configuration,
            create_protocol=qh3_http_client(),
            session_ticket_handler=tickets.put_nowait,
        ) as client:
            assert await client.get(1000) == body_of(1000)
            assert client._quic.tls.session_resumed == (ticket is not None)
            ticket = await tickets.get()
    for server in servers:
        server.close()


async def test_ticket_under_a_key_that_was_dropped_leads_to_a_full_handshake(
    certificate: CertificateFiles,
) -> None:
    first = await start(certificate, KeyRing(OLD))
    second = await start(certificate, KeyRing(NEW))
    client = Client(certificate)
    await client.visit(first)
    assert await client.visit(second, await client.tickets.get()) == (False, False)
    first.close()
    second.close()


async def test_lone_process_with_a_fresh_key_accepts_early_data_once(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate, None)
    assert server.endpoint.early_data == "single use, counted by this process"
    client = Client(certificate)
    await client.visit(server)
    ticket = await client.tickets.get()
    assert await client.visit(server, ticket) == (True, True)
    assert await client.visit(server, ticket) == (True, False)
    server.close()


async def test_processes_that_share_a_guard_accept_early_data_once_between_them(
    certificate: CertificateFiles,
) -> None:
    guard = SpentTokens()
    guard.scope = "the cluster"
    servers = []
    for worker in range(2):
        endpoint = make_endpoint(
            open_udp("127.0.0.1", 0),
            ring=KeyRing(OLD),
            worker=worker,
            early_data=True,
            replay_guard=guard,
            configuration=server_configuration(certificate),
            create_protocol=FileServer,
        )
        endpoint.start()
        assert endpoint.early_data == "single use, counted by the cluster"
        servers.append(QuicServer(endpoint))
    client = Client(certificate)
    await client.visit(servers[0])
    ticket = await client.tickets.get()
    assert await client.visit(servers[1], ticket) == (True, True)
    assert await client.visit(servers[0], ticket) == (True, False)
    for server in servers:
        server.close()


@pytest.mark.parametrize("ring", [KeyRing(OLD), KeyRing(OLD).rotate(NEW)])
async def test_address_token_of_one_process_saves_the_round_trip_at_another(
    ring: KeyRing, certificate: CertificateFiles
) -> None:
    first = await start(certificate, KeyRing(OLD), retry=True)
    second = await start(certificate, ring, retry=True)
    client = Client(certificate)
    await client.visit(first)
    await client.visit(second, token=await client.tokens.get())
    assert (first.endpoint.counters["retry"], second.endpoint.counters["retry"]) == (1, 0)
    first.close()
    second.close()


@pytest.mark.parametrize("ring", [KeyRing(OLD), KeyRing(OLD).rotate(NEW)])
async def test_first_reset_after_a_rotation_is_one_that_the_client_knows(
    ring: KeyRing, certificate: CertificateFiles
) -> None:
    # The token was made under the key that was active when the ID was issued.
    server = await start(certificate, KeyRing(OLD, [NEW]))
    async with http_client(certificate, server.port) as client:
        assert await client.get(10) == body_of(10)
        for session in list(server.endpoint.sessions.values()):
            session.detach()  # as a crash would
        server.endpoint.sessions.clear()
        server.close()
        restarted = await start(certificate, ring, port=server.port)
        with pytest.raises(ConnectionError):
            await client.request("POST", "/", bytes(2000))
        await client.wait_closed()
        assert restarted.endpoint.counters["reset"] >= 1
    restarted.close()


@pytest.mark.parametrize("form", ["encrypted", "aws-nlb", "encrypted:nonce=13,node=2"])
async def test_connection_ids_of_every_form_carry_a_connection(
    form: str, certificate: CertificateFiles
) -> None:
    ring = KeyRing(NEW, [OLD])
    endpoint = make_endpoint(
        open_udp("127.0.0.1", 0),
        ring=ring,
        ids=parse_ids(form, ring),
        node=7,
        configuration=server_configuration(certificate),
        create_protocol=FileServer,
    )
    endpoint.start()
    server = QuicServer(endpoint)
    client = Client(certificate)
    assert await client.visit(server) == (False, False)
    assert await client.visit(server, await client.tickets.get()) == (True, False)
    server.close()


async def test_flood_of_initials_is_bounded_and_real_clients_get_in(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each Initial has an ID of its own and would be a handshake of 45 KB. From the first limit on
    # only those that answer a Retry get one; an attacker with a false address cannot.
    monkeypatch.setattr(newcomers, "RETRY_FROM_HANDSHAKES", 4)
    monkeypatch.setattr(newcomers, "MAX_HANDSHAKES", 8)
    server = await start(certificate, KeyRing(OLD))
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        for _ in range(200):
            configuration = client_configuration(certificate, server_name="localhost")
            quic = QuicConnection(configuration=configuration)
            quic.connect(("127.0.0.1", server.port), now=loop.time())
            for data, address in quic.datagrams_to_send(loop.time()):
                attacker.sendto(data, address)
        endpoint = server.endpoint
        while endpoint.counters["retry"] < 196:
            await asyncio.sleep(0)
        assert len(endpoint.handshakes) == 4
        assert len(endpoint.table.owners) == 8  # two IDs for each
        await Client(certificate).visit(server)
    server.close()
