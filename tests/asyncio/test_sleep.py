"""Idle connections that shrink to their state, and wake unchanged."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived

from quicbaton.asyncio import QuicConnectionProtocol, QuicServer, connect, serve
from quicbaton.asyncio.endpoint.asleep import Sleeper, Sleepers
from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.qlog_folder import QlogFolder
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import ConfigurationError, GivenAwayError, InternalError, RefusedError
from quicbaton.limits import MAX_SLEEP_DOUBLINGS
from quicbaton.reasons import Reason
from tests.asyncio.loopback import (
    FileServer,
    Watcher,
    body_of,
    client_configuration,
    digest,
    each_client,
    echo,
    http_client,
    server_configuration,
    watcher,
)

GUARD_S = 60.0
AFTER_S = 0.01


class Endings(Observer):
    """Keeps the sessions that are over."""

    def __init__(self, over: list[Session]) -> None:
        self._over = over

    def on_ended(self, session: Session) -> None:
        self._over.append(session)


class SleepyServer(FileServer):
    """A file server that can be exported while nothing is under way."""

    def export_state(self) -> bytes:
        if any(self._left.values()) or self._hashes:
            raise RefusedError("a request is under way", code=Reason.NOT_EXPORTABLE)
        return b""

    def import_state(self, data: bytes) -> None:
        self.start_http(self._http)


async def start(
    certificate: CertificateFiles, protocol: Any = SleepyServer, **options: Any
) -> QuicServer:
    sleep_after_s = options.pop("sleep_after_s", AFTER_S)
    return await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate, **options),
        create_protocol=protocol,
        sleep_after_s=sleep_after_s,
    )


async def until(condition: Callable[[], Any], server: QuicServer) -> None:
    """Wait for it, with housekeeping all the time."""
    async with asyncio.timeout(GUARD_S):
        while not condition():
            server.endpoint.asleep.look()
            await asyncio.sleep(0.005)


async def fallen_asleep(server: QuicServer, count: int = 1) -> None:
    await until(lambda: len(server.endpoint.asleep) == count, server)
    assert not server.endpoint.sessions


@asynccontextmanager
async def served(
    kind: str, certificate: CertificateFiles, *arguments: Any, **options: Any
) -> AsyncIterator[tuple[QuicServer, Any]]:
    """A server, started as `start` is told to, and a client of it."""
    server = await start(certificate, *arguments, **options)
    async with http_client(certificate, server.port, kind) as client:
        yield server, client
    server.close()


def the_session(server: QuicServer) -> Session:
    (session,) = server.endpoint.sessions.values()
    return session


@each_client
async def test_a_request_wakes_the_connection_as_it_was(
    kind: str, certificate: CertificateFiles
) -> None:
    async with served(kind, certificate) as (server, client):
        asleep = server.endpoint.asleep
        for cycle in range(1, 4):
            assert digest(await client.get(100_000)) == digest(body_of(100_000))
            assert digest(await client.request("POST", "/", body_of(30_000))).isalnum()
            old = the_session(server)
            name = old.connection.name
            await fallen_asleep(server)
            assert (asleep.slept, asleep.woken) == (cycle, cycle - 1)
            assert list(asleep) == [name]
            assert server.endpoint.has(name)
            assert all(owner is asleep[name] for owner in server.endpoint.table.owners.values())
            with pytest.raises(GivenAwayError):
                old.connection.trains_to_send(0.0)


async def test_sleepers_are_few_bytes_and_unknown_to_the_garbage_collector(
    certificate: CertificateFiles,
) -> None:
    async with served("aioquic", certificate) as (server, client):
        await client.get(10)
        await fallen_asleep(server)
        (name,) = server.endpoint.asleep
        sleeper = server.endpoint.asleep[name]
        assert len(sleeper.payload) < 1500
        assert not gc.is_tracked(sleeper)
        assert sleeper.payload.hex() not in repr(sleeper)


@each_client
async def test_what_a_client_may_do_at_any_time_it_may_do_to_a_sleeper(
    kind: str, certificate: CertificateFiles
) -> None:
    async with served(kind, certificate) as (server, client):
        await client.get(10)
        await fallen_asleep(server)
        client.request_key_update()
        assert await client.get(5000) == body_of(5000)
        await fallen_asleep(server)
        client.change_connection_id()
        assert await client.get(5000) == body_of(5000)
        await fallen_asleep(server)
        await client.ping()
        await fallen_asleep(server)
        assert server.endpoint.asleep.woken == 3


async def test_a_client_that_moves_while_its_connection_sleeps_is_answered_where_it_is(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate)
    async with http_client(certificate, server.port, "aioquic") as client:
        await client.get(10)
        await fallen_asleep(server)
        loop = asyncio.get_running_loop()
        first = client._transport
        transport, _ = await loop.create_datagram_endpoint(lambda: client, local_addr=("::", 0))
        assert await client.get(50_000) == body_of(50_000)
        port = transport.get_extra_info("sockname")[1]
        assert the_session(server).connection.peer_address[1] == port
        first.close()
        # Not before the new path is validated, and the old one given up.
        await fallen_asleep(server)
        assert await client.get(10) == body_of(10)
    transport.close()
    server.close()


@each_client
async def test_the_idle_timeout_of_a_sleeper_ends_it_without_a_word(
    kind: str, certificate: CertificateFiles
) -> None:
    ended: list[Any] = []

    class Server(SleepyServer):
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, ConnectionTerminated):
                ended.append(event.reason_phrase)
            super().quic_event_received(event)

    server = await start(certificate, Server, idle_timeout=4.0)
    over: list[Session] = []
    server.endpoint.observers.add(Endings(over))
    async with http_client(certificate, server.port, kind) as client:
        await client.get(10)
        await fallen_asleep(server)
        sent = server.endpoint.udp.datagrams_sent
        await until(lambda: over, server)
        assert server.endpoint.udp.datagrams_sent == sent
        assert ended == ["Idle timeout"]
        assert not server.endpoint.connection_count
        assert not server.endpoint.table.owners
        await client.wait_closed()
    server.close()


async def test_a_keep_alive_of_the_server_wakes_it_in_time(certificate: CertificateFiles) -> None:
    class Caring(SleepyServer):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._quic.set_keep_alive(1.2)

    async with served("aioquic", certificate, Caring) as (server, client):
        await client.get(10)
        await fallen_asleep(server)
        await until(lambda: server.endpoint.asleep.woken == 2, server)
        assert await client.get(10) == body_of(10)


async def test_closing_the_server_tells_the_clients_of_sleepers(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate)
    over: list[Session] = []
    server.endpoint.observers.add(Endings(over))
    async with (
        http_client(certificate, server.port, "aioquic") as one,
        http_client(certificate, server.port, "aioquic") as other,
    ):
        await asyncio.gather(one.get(10), other.get(10))
        await fallen_asleep(server, 2)
        server.close()
        assert len(over) == 2
        assert not server.endpoint.connection_count
        assert not server.endpoint.table.owners
        async with asyncio.timeout(GUARD_S):
            await asyncio.gather(one.wait_closed(), other.wait_closed())


async def test_sleepers_are_woken_one_after_the_other_to_be_closed(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate)
    endpoint = server.endpoint
    async with (
        http_client(certificate, server.port, "aioquic") as one,
        http_client(certificate, server.port, "aioquic") as other,
    ):
        await asyncio.gather(one.get(10), other.get(10))
        await fallen_asleep(server, 2)
        left = []
        async for session in endpoint.asleep.wake_all():
            left.append(len(endpoint.asleep))
            session.protocol.close(7, "that is all")
        assert left == [1, 0]
        await until(lambda: not endpoint.connection_count, server)
    server.close()


async def test_who_cannot_be_exported_stays_awake_and_is_seldom_asked(
    certificate: CertificateFiles,
) -> None:
    async with served("aioquic", certificate, FileServer) as (server, client):
        asleep = server.endpoint.asleep
        await client.get(10)
        session = the_session(server)
        await until(lambda: asleep.refused["not_exportable"] >= 5, server)
        assert session.rest_doublings == 3
        assert not asleep
        assert await client.get(1000) == body_of(1000)
        assert the_session(server) is session


async def test_a_running_handler_keeps_its_connection_awake(certificate: CertificateFiles) -> None:
    server = await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate),
        stream_handler=echo,
        sleep_after_s=AFTER_S,
    )
    async with connect(
        "127.0.0.1", server.port, configuration=client_configuration(certificate)
    ) as client:
        reader, writer = await client.create_stream()
        writer.write(b"first")
        assert await reader.read(100) == b"first"
        await until(lambda: server.endpoint.asleep.refused["not_exportable"], server)
        writer.write(b"second")
        writer.write_eof()
        assert await reader.read() == b"second"
        await fallen_asleep(server)
    server.close()


async def test_whoever_needs_a_session_awake_can_say_so(certificate: CertificateFiles) -> None:
    server = await start(certificate)
    endpoint = server.endpoint

    class Needing(Observer):
        def keeps_awake(self, session: Session) -> bool:
            return True

    needing = Needing()
    endpoint.observers.add(needing)
    async with http_client(certificate, server.port, "aioquic") as client:
        await client.get(10)
        await until(lambda: endpoint.asleep.refused["needed"], server)
        assert the_session(server)
        endpoint.observers.remove(needing)
        await fallen_asleep(server)
        (name,) = endpoint.names()
        session = endpoint.session_of(name)
        assert session is not None
        assert endpoint.session_of(name) is session is the_session(server)
        assert endpoint.session_of(b"nobody") is None
        assert await client.get(10) == body_of(10)
    server.close()


async def test_nobody_sleeps_unless_asked_for(certificate: CertificateFiles) -> None:
    server = await start(certificate, sleep_after_s=0.0)
    async with http_client(certificate, server.port, "aioquic") as client:
        await client.get(10)
        server.endpoint.asleep.look()
        assert the_session(server)
        assert not server.endpoint.asleep._watched
    with pytest.raises(ConfigurationError):
        Sleepers(server.endpoint, -1.0)
    server.close()


async def test_a_state_is_woken_once(certificate: CertificateFiles) -> None:
    async with served("aioquic", certificate) as (server, client):
        asleep = server.endpoint.asleep
        await client.get(10)
        await fallen_asleep(server)
        (name,) = asleep
        sleeper = asleep[name]
        session = asleep.wake(name)
        assert session is the_session(server)
        assert asleep.wake(name) is session
        asleep._sleepers[name] = sleeper
        with pytest.raises(InternalError):
            asleep.wake(name)
        assert not asleep


@pytest.mark.loop(expected_problems=1)
async def test_a_program_that_cannot_wake_costs_its_own_connection_only(
    certificate: CertificateFiles,
) -> None:
    class Forgetful(SleepyServer):
        def import_state(self, data: bytes) -> None:
            raise ValueError("a different version")

    protocols = iter([Forgetful, SleepyServer, Forgetful, SleepyServer])

    def create(*args: Any, **options: Any) -> SleepyServer:
        return next(protocols)(*args, **options)

    server = await start(certificate, create)
    async with http_client(certificate, server.port) as unlucky:
        await unlucky.get(10)
        async with http_client(certificate, server.port) as lucky:
            await lucky.get(10)
            await fallen_asleep(server, 2)
            ended = asyncio.ensure_future(unlucky.get(10))
            with pytest.raises(ConnectionError, match="could not be woken"):
                await ended
            assert await lucky.get(10) == body_of(10)
    server.close()


async def test_a_client_that_speaks_often_lets_its_connection_stay_awake(
    certificate: CertificateFiles,
) -> None:
    async with served("aioquic", certificate, sleep_after_s=0.2) as (server, client):
        await client.get(10)
        for _ in range(MAX_SLEEP_DOUBLINGS + 1):
            await fallen_asleep(server)
            (name,) = server.endpoint.asleep
            doublings = server.endpoint.asleep[name].doublings
            await client.ping()
            longer = min(doublings + 1, MAX_SLEEP_DOUBLINGS)
            assert the_session(server).rest_doublings == longer
        assert the_session(server).rest_doublings == MAX_SLEEP_DOUBLINGS


async def test_qlog_goes_on_in_the_same_file(certificate: CertificateFiles, tmp_path: Path) -> None:
    async with served("aioquic", certificate, quic_logger=QlogFolder(tmp_path)) as (
        server,
        client,
    ):
        for _ in range(2):
            await client.get(10)
            await fallen_asleep(server)
    (path,) = tmp_path.iterdir()
    records = [json.loads(line) for line in path.read_text().split("\x1e")[1:]]
    names = [record["name"].removeprefix("quicbaton:") for record in records[1:]]
    assert [name for name in names if ":" not in name] == ["asleep", "awake", "asleep", "awake"]
    times = [record["time"] for record in records[1:]]
    assert times == sorted(times)
    first = names.index("asleep")
    assert "transport:packet_sent" in names[first:]


async def test_datagrams_to_sleepers_do_not_mix(certificate: CertificateFiles) -> None:
    server = await start(certificate)
    connections = [http_client(certificate, server.port, "aioquic") for _ in range(8)]
    clients = [await connection.__aenter__() for connection in connections]
    sizes = range(1000, 1000 + len(clients))
    for _ in range(2):
        bodies = await asyncio.gather(
            *(client.get(size) for client, size in zip(clients, sizes, strict=True))
        )
        assert bodies == [body_of(size) for size in sizes]
        await fallen_asleep(server, len(clients))
    assert len(set(server.endpoint.names())) == len(clients)
    owners = server.endpoint.table.owners.values()
    assert all(isinstance(owner, Sleeper) for owner in owners)
    for connection in connections:
        await connection.__aexit__(None, None, None)
    server.close()


async def test_a_stream_that_is_half_open_sleeps_and_goes_on(certificate: CertificateFiles) -> None:
    protocols = watcher()
    protocols.export_state = lambda _self: b""
    server = await start(certificate, protocols)
    async with connect(
        "127.0.0.1", server.port, configuration=client_configuration(certificate)
    ) as client:
        first = await protocols.instances.get()
        client._quic.send_stream_data(0, b"one half, ")
        client.transmit()
        assert (await first.seen(StreamDataReceived)).data == b"one half, "
        await fallen_asleep(server)
        client._quic.send_stream_data(0, b"and the other", end_stream=True)
        client.transmit()
        second: Watcher = await protocols.instances.get()
        assert isinstance(second, QuicConnectionProtocol)
        assert second is not first
        event = await second.seen(StreamDataReceived)
        assert (event.data, event.end_stream) == (b"and the other", True)
    server.close()
