"""A server whose connections share little memory, on real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived

from quicbaton.asyncio import connect, serve
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.transport.budget import Pressure
from tests.asyncio.loopback import Watcher, client_configuration, server_configuration

#: The most that one connection of these servers can be made to hold.
WINDOW = 1 << 20


class Pausing(Watcher):
    """Reads the beginning of each stream and no more, until it is told to."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self._quic.pause_reading(event.stream_id)
        super().quic_event_received(event)


async def start(
    certificate: CertificateFiles, memory_bytes: int, create_protocol: Any = Pausing
) -> Any:
    return await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate, alpn_protocols=["test"]),
        create_protocol=create_protocol,
        memory_bytes=memory_bytes,
    )


def client_of(server: Any, certificate: CertificateFiles) -> Any:
    return connect(
        "127.0.0.1",
        server.port,
        configuration=client_configuration(certificate, alpn_protocols=["test"]),
        create_protocol=Watcher,
    )


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def upload(client: Any, *stream_ids: int) -> None:
    for stream_id in stream_ids:
        client._quic.send_stream_data(stream_id, bytes(2 * WINDOW), end_stream=True)
    client.transmit()


async def test_new_clients_are_refused_while_memory_is_nearly_full(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate, memory_bytes=8 * WINDOW)
    others = server.endpoint.budget.open(b"other connections")
    async with client_of(server, certificate) as client:
        others.note(7 * WINDOW, 0)
        with pytest.raises(ConnectionError):
            async with client_of(server, certificate):
                pass
        assert server.endpoint.counters["connection_refused"] == 1
        await client.ping()  # who is here stays
        others.note(WINDOW, 0)
        async with client_of(server, certificate) as another:
            await another.ping()
    server.close()


async def test_the_connection_that_holds_most_is_closed_and_no_other(
    certificate: CertificateFiles,
) -> None:
    server = await start(certificate, memory_bytes=4 * WINDOW)
    budget = server.endpoint.budget
    for name in range(5):
        budget.open(bytes([name])).note(WINDOW * 5 // 8, 0)
    async with client_of(server, certificate) as modest:
        modest._quic.send_stream_data(0, b"a little")
        modest.transmit()
        async with client_of(server, certificate) as glutton:
            upload(glutton, 0, 4)
            ended = await glutton.seen(ConnectionTerminated)
            assert ended.error_code == 1
            assert "short of memory" in ended.reason_phrase
            await modest.ping()
            assert budget.pressure < Pressure.OVER
            assert server.endpoint.counters["closed_for_memory"] == 1
    server.close()


async def test_credit_that_was_withheld_comes_by_itself_when_there_is_memory(
    certificate: CertificateFiles,
) -> None:
    class PausingOne(Watcher):
        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, StreamDataReceived) and event.stream_id == 4:
                self._quic.pause_reading(4)

    server = await start(certificate, memory_bytes=8 * WINDOW, create_protocol=PausingOne)
    budget = server.endpoint.budget
    others = budget.open(b"other connections")
    async with client_of(server, certificate) as client:
        client._quic.send_stream_data(4, bytes(WINDOW // 4))
        client.transmit()
        await until(lambda: budget.held_bytes >= WINDOW // 8)
        others.note(6 * WINDOW, 0)
        upload(client, 0)
        await until(lambda: budget._waiting)
        (session,) = server.endpoint.sessions.values()
        connection = session.connection
        assert connection._state.flow.receive_used < 2 * WINDOW
        others.close()
        # Asked anew each time: the state of a connection that has dozed is another object.
        whole = 2 * WINDOW + WINDOW // 4
        await until(lambda: connection._seen.flow.receive_used == whole)
    server.close()
