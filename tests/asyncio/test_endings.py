"""Deadlines and ends: closes from either side, silence, and leaks."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from time import monotonic
from typing import Any

import aioquic.asyncio
import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived
from aioquic.tls import Context

from quicbaton.asyncio import QuicServer, connect, serve
from quicbaton.asyncio.endpoint.handshaking import Handshaking
from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.limits import RETIRED_ID_LIFETIME_S
from quicbaton.transport.connection import Connection
from tests.asyncio.loopback import (
    MB,
    HttpClient,
    Watcher,
    body_of,
    client_configuration,
    server_configuration,
    watcher,
)

CLIENTS = {"aioquic": aioquic.asyncio.connect, "quicbaton": connect}
each_client = pytest.mark.parametrize("kind", CLIENTS)


async def start(certificate: CertificateFiles, protocol: Any, **options: Any) -> QuicServer:
    configuration = server_configuration(certificate, **options)
    return await serve("127.0.0.1", 0, configuration=configuration, create_protocol=protocol)


def client_of(
    server: QuicServer, certificate: CertificateFiles, kind: str = "quicbaton", **options: Any
) -> Any:
    """A client, about to connect."""
    configuration = client_configuration(certificate)
    return CLIENTS[kind]("127.0.0.1", server.port, configuration=configuration, **options)


def over(server: QuicServer) -> asyncio.Event:
    """Set when a session of the server is forgotten."""
    event = asyncio.Event()

    class Ending(Observer):
        def on_ended(self, session: Any) -> None:
            event.set()

    server.endpoint.observers.add(Ending())
    return event


def assert_nothing_left(server: QuicServer) -> None:
    endpoint = server.endpoint
    assert not endpoint.sessions
    assert not endpoint.handshakes
    assert not endpoint.table.owners
    assert not endpoint._waiting


async def test_a_deadline_that_passed_while_the_program_was_busy_is_not_forgotten(
    certificate: CertificateFiles,
) -> None:
    # Regression: a PTO that was over when the timer should have been armed was waited for for ever,
    # in a loop that did nothing.
    protocols, clients = watcher(), watcher()
    server = await start(certificate, protocols)
    async with client_of(server, certificate, create_protocol=clients) as client:
        protocol = await protocols.instances.get()
        await client.ping()
        await protocol.ping()  # now neither side waits for anything
        udp = server.endpoint.udp
        real_send, lost = udp.send, []
        udp.send = lambda train: lost.append(train) or True  # type: ignore[func-returns-value,method-assign]
        protocol._quic.send_stream_data(3, b"lost", end_stream=True)
        protocol.transmit()
        assert lost
        udp.send = real_send  # type: ignore[method-assign]
        # The event loop was busy until after the deadline, and then the program sent.
        (session,) = server.endpoint.sessions.values()
        session._timer.cancel()
        session._timer = None
        session.connection._origin_s -= 1.0
        protocol.transmit()
        assert (await client.seen(StreamDataReceived)).data == b"lost"
    server.close()


@each_client
async def test_the_server_s_program_learns_why_the_client_closed(
    kind: str, certificate: CertificateFiles
) -> None:
    protocols = watcher()
    server = await start(certificate, protocols)
    forgotten = over(server)
    async with client_of(server, certificate, kind) as client:
        client.close(error_code=123, reason_phrase="had enough")
    protocol = await protocols.instances.get()
    ended = await protocol.seen(ConnectionTerminated)
    assert (ended.error_code, ended.reason_phrase) == (123, "had enough")
    assert ended.frame_type is None
    await protocol.wait_closed()
    await forgotten.wait()
    assert_nothing_left(server)
    server.close()


@each_client
async def test_the_client_learns_why_the_server_closed(
    kind: str, certificate: CertificateFiles
) -> None:
    class Closing(Watcher):
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, StreamDataReceived):
                self.close(error_code=321, reason_phrase="no such thing")

    server = await start(certificate, Closing)
    forgotten = over(server)
    ended: asyncio.Future[ConnectionTerminated] = asyncio.get_running_loop().create_future()
    ours = kind == "quicbaton"
    base: Any = Watcher if ours else aioquic.asyncio.QuicConnectionProtocol

    class Client(base):  # type: ignore[misc]
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, ConnectionTerminated):
                ended.set_result(event)

    async with client_of(server, certificate, kind, create_protocol=Client) as client:
        client._quic.send_stream_data(0, b"question")
        client.transmit()
        event = await ended
        assert (event.error_code, event.reason_phrase) == (321, "no such thing")
        await client.wait_closed()
    await forgotten.wait()
    assert_nothing_left(server)
    server.close()


@each_client
async def test_closing_the_server_tells_all_clients_at_once(
    kind: str, certificate: CertificateFiles
) -> None:
    protocols = watcher()
    server = await start(certificate, protocols)
    ready: list[asyncio.Event] = [asyncio.Event() for _ in range(5)]

    async def stay(here: asyncio.Event) -> None:
        async with client_of(server, certificate, kind) as client:
            await client.ping()
            here.set()
            await client.wait_closed()

    staying = [asyncio.ensure_future(stay(here)) for here in ready]
    for here in ready:
        await here.wait()
    server.close()
    for _ in ready:
        await (await protocols.instances.get()).wait_closed()
    await asyncio.gather(*staying)
    assert_nothing_left(server)


async def test_closing_the_server_refuses_clients_in_their_handshake(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate, Watcher)
    endpoint = server.endpoint
    real_receive = type(endpoint).deliver

    def close() -> None:
        assert len(endpoint.handshakes) == 1
        server.close()

    def close_then(batch: Any) -> None:
        real_receive(endpoint, batch)
        asyncio.get_running_loop().call_soon(close)  # newcomers have their turn before

    endpoint.deliver = close_then  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        async with client_of(server, certificate):
            pass
    assert_nothing_left(server)


async def test_a_client_that_vanished_is_forgotten_when_idle(certificate: CertificateFiles) -> None:
    protocols = watcher()
    server = await start(certificate, protocols, idle_timeout=2.0)
    forgotten = over(server)
    async with client_of(server, certificate) as client:
        await client.ping()
        protocol = await protocols.instances.get()
        ours: Any = client._transmitter
        ours._endpoint.udp.close()  # without a word, as when the power fails
        # What is sent into the void draws ICMP errors, which change nothing.
        protocol._quic.send_stream_data(1, body_of(100_000))
        protocol.transmit()
        ended = await protocol.seen(ConnectionTerminated)
        assert ended.reason_phrase == "Idle timeout"
        await forgotten.wait()
        assert_nothing_left(server)
    server.close()


@each_client
async def test_both_ends_idle_out_alike(kind: str, certificate: CertificateFiles) -> None:
    protocols = watcher()
    server = await start(certificate, protocols, idle_timeout=2.0)
    async with client_of(server, certificate, kind) as client:
        await (await protocols.instances.get()).wait_closed()
        await client.wait_closed()
    server.close()


@pytest.mark.loop(expected_problems=1)
async def test_one_connection_s_fault_does_not_reach_the_next(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate, Watcher)
    configuration = client_configuration(certificate)
    async with (
        connect("127.0.0.1", server.port, configuration=configuration) as first,
        connect("127.0.0.1", server.port, configuration=configuration) as second,
    ):
        await first.ping()
        await second.ping()
        faulty, sound = server.endpoint.sessions.values()
        received: list[list[Datagram]] = []

        def fail(_batch: list[Datagram]) -> None:
            raise LookupError("a fault of ours")

        real_receive = faulty.receive
        faulty.receive, sound.receive = fail, received.append  # type: ignore[method-assign]
        batch = [
            Datagram(
                b"\x40" + min(session.connection.issued_ids()) + bytes(30),
                ("127.0.0.1", 9),
                (),
                0,
            )
            for session in (faulty, sound)
        ]
        server.endpoint.deliver(batch)
        while not received:  # connections that are new wait for their turn
            await asyncio.sleep(0)
        assert received == [batch[1:]]
        faulty.receive = real_receive  # type: ignore[method-assign]
        del sound.receive  # type: ignore[attr-defined]
    server.close()


async def test_a_client_that_leaves_in_the_middle_of_a_download(
    certificate: CertificateFiles,
) -> None:
    class Flood(Watcher):
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, StreamDataReceived):
                self._quic.send_stream_data(event.stream_id, bytes(20 * MB), end_stream=True)

    server = await start(certificate, Flood)
    forgotten = over(server)
    clients = watcher()
    async with client_of(server, certificate, create_protocol=clients) as client:
        client._quic.send_stream_data(0, b"all of it", end_stream=True)
        client.transmit()
        await (await clients.instances.get()).seen(StreamDataReceived)
    await forgotten.wait()
    assert_nothing_left(server)
    server.close()


async def test_the_program_may_use_a_connection_that_is_over(certificate: CertificateFiles) -> None:
    protocols = watcher()
    server = await start(certificate, protocols)
    async with client_of(server, certificate, create_protocol=HttpClient) as client:
        await client.wait_connected()
    protocol = await protocols.instances.get()
    await protocol.wait_closed()
    for late in (client, protocol):
        late._quic.send_stream_data(late._quic.get_next_available_stream_id(), b"too late")
        late.transmit()
        late.change_connection_id()
        late.close()
        await late.wait_closed()
    server.close()
    protocol.close()
    protocol.transmit()


async def test_what_is_over_needs_no_garbage_collector(certificate: CertificateFiles) -> None:
    # It would stop everything for as long as it takes to look at everything.

    def handshakes_left() -> list[Any]:
        """A connected client's TLS context is none: it reads session tickets."""
        objects = gc.get_objects()
        contexts = [one for one in objects if isinstance(one, Context)]
        servers = [one for one in contexts if not vars(one).get("_is_client")]
        return servers + [one for one in objects if isinstance(one, (QuicConnection, Handshaking))]

    gc.collect()
    gc.disable()
    try:
        protocols = watcher()
        server = await start(certificate, protocols)
        forgotten = over(server)
        async with client_of(server, certificate, create_protocol=HttpClient) as client:
            await client.ping()
            protocol = await protocols.instances.get()
            assert handshakes_left() == []
            session = server.endpoint.session_of(protocol._quic.name)
            left = [weakref.ref(one) for one in (session, protocol)]
            del session, protocol
        await forgotten.wait()
        for _ in range(3):  # its last datagrams may be waiting for their turn
            await asyncio.sleep(0)
        # An ID that was retired leads there for a while.
        server.endpoint.table.expire(monotonic() + RETIRED_ID_LIFETIME_S)
        assert [one() for one in left] == [None] * 2
        # A compiled class has no weak references.
        connections = [one for one in gc.get_objects() if isinstance(one, Connection)]
        assert [one for one in connections if not one.is_client] == []
        server.close()
    finally:
        gc.enable()


async def test_a_port_is_free_again_after_close(certificate: CertificateFiles) -> None:
    server = await start(certificate, Watcher)
    port = server.port
    server.close()
    again = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    again.bind(("127.0.0.1", port))
    again.close()
    server.close()  # twice does no harm
