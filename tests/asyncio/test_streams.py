"""asyncio streams, DATAGRAMs, pings, key updates: aioquic's protocol API on our connection.

Every test has our protocol on at least one side, as server or as client, and aioquic's or ours on
the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioquic.asyncio
import pytest
from aioquic.quic.events import (
    ConnectionTerminated,
    DatagramFrameReceived,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from quicbaton.asyncio import QuicConnectionProtocol, connect, serve
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import CallerError
from quicbaton.limits import STREAM_BUFFER_HIGH_BYTES
from tests.asyncio.loopback import (
    MB,
    Watcher,
    body_of,
    client_configuration,
    digest,
    echo,
    server_configuration,
    watcher,
)

#: (serve, connect)
ENDS = {
    "ours-ours": (serve, connect),
    "ours-aioquic": (serve, aioquic.asyncio.connect),
    "aioquic-ours": (aioquic.asyncio.serve, connect),
}
both_ends = pytest.mark.parametrize("ends", ENDS)


@asynccontextmanager
async def client_of(
    ends: str, certificate: CertificateFiles, client: dict[str, Any] | None = None, **server: Any
) -> AsyncIterator[Any]:
    """A client connected to a server, each of the wanted kind; closes both."""
    open_server, open_client = ENDS[ends]
    running = await open_server(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate, alpn_protocols=["test"]),
        **server,
    )
    port = getattr(running, "port", None)
    if port is None:
        port = running._transport.get_extra_info("sockname")[1]
    try:
        async with open_client(
            "127.0.0.1",
            port,
            configuration=client_configuration(certificate, alpn_protocols=["test"]),
            **(client or {}),
        ) as protocol:
            yield protocol
    finally:
        running.close()


@both_ends
async def test_a_stream_carries_bytes_both_ways_and_ends(
    ends: str, certificate: CertificateFiles
) -> None:
    async with client_of(ends, certificate, stream_handler=echo) as client:
        for size in (0, 1, 5000, 2 * MB):
            reader, writer = await client.create_stream()
            body = body_of(size)
            writer.write(body)
            writer.write_eof()
            assert digest(await reader.read()) == digest(body)


@both_ends
async def test_streams_side_by_side_keep_apart(ends: str, certificate: CertificateFiles) -> None:
    async with client_of(ends, certificate, stream_handler=echo) as client:

        async def exchange(index: int) -> None:
            reader, writer = await client.create_stream()
            assert writer.get_extra_info("stream_id") == 4 * index
            if isinstance(client, QuicConnectionProtocol):
                assert writer.get_extra_info("peername")[0].endswith("127.0.0.1")
            body = body_of(10_000 + index)
            writer.write(body)
            writer.write_eof()
            assert await reader.read() == body

        if ends == "ours-aioquic":
            # aioquic gives an ID out again until it was written to.
            for index in range(50):
                await exchange(index)
        else:
            await asyncio.gather(*(exchange(index) for index in range(50)))


@both_ends
async def test_unidirectional_streams_reach_the_handler(
    ends: str, certificate: CertificateFiles
) -> None:
    received: asyncio.Queue[Any] = asyncio.Queue()
    async with client_of(
        ends, certificate, stream_handler=lambda *ends: received.put_nowait(ends)
    ) as client:
        _, writer = await client.create_stream(is_unidirectional=True)
        assert writer.can_write_eof()
        writer.write(b"one way")
        writer.write_eof()
        reader, their_writer = await received.get()
        assert not their_writer.can_write_eof()
        assert await reader.read() == b"one way"
        their_writer.close()


@pytest.mark.parametrize("ends", ["ours-ours", "aioquic-ours"])
async def test_drain_waits_while_the_peer_does_not_read(
    ends: str, certificate: CertificateFiles
) -> None:
    # With aioquic's server the reader never stops the peer, so the window closes nowhere: there
    # only the other half, that everything arrives, is seen.
    received: asyncio.Queue[Any] = asyncio.Queue()
    async with client_of(
        ends, certificate, stream_handler=lambda *ends: received.put_nowait(ends)
    ) as client:
        _, writer = await client.create_stream()
        body = body_of(8 * MB)
        written = 0

        async def write() -> None:
            nonlocal written
            for at in range(0, len(body), 100_000):
                writer.write(body[at : at + 100_000])
                written = at + 100_000
                await writer.drain()
            writer.write_eof()

        writing = asyncio.ensure_future(write())
        reader, their_writer = await received.get()
        if ends == "ours-ours":
            # The reader's buffer (128 KiB), the window (1 MiB, grown while we still read) and
            # the sender's buffer bound what the writer can get rid of.
            stuck_at = -1
            while written > stuck_at or not client._quic.is_congested(0):
                stuck_at = written
                for _ in range(3):
                    await client.ping()
            assert written < len(body)
            assert client._quic.send_buffer_bytes(0) <= STREAM_BUFFER_HIGH_BYTES + 100_000
        assert digest(await reader.read()) == digest(body)
        await writing
        their_writer.close()


async def test_several_writes_to_a_full_buffer_pause_it_once(certificate: CertificateFiles) -> None:
    # Regression: the second such write tripped over asyncio's assertion.
    async with client_of("ours-ours", certificate, stream_handler=echo) as client:
        reader, writer = await client.create_stream()
        body = body_of(STREAM_BUFFER_HIGH_BYTES)
        for _ in range(3):
            writer.write(body)

        async def finish() -> None:
            await writer.drain()
            writer.write_eof()

        finishing = asyncio.ensure_future(finish())
        assert digest(await reader.read()) == digest(3 * body)
        await finishing


async def test_closing_a_writer_ends_only_its_side(certificate: CertificateFiles) -> None:
    # Regression: bytes that came after `close` were taken for those of a new stream.
    opened: list[asyncio.StreamWriter] = []
    bodies: asyncio.Queue[bytes] = asyncio.Queue()
    tasks = []

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def read() -> None:
            writer.write(b"answer")
            writer.close()
            bodies.put_nowait(await reader.read())
            await writer.wait_closed()

        opened.append(writer)
        tasks.append(asyncio.ensure_future(read()))

    async with client_of("ours-ours", certificate, stream_handler=handle) as client:
        reader, writer = await client.create_stream()
        writer.write(b"question, ")
        assert await reader.read() == b"answer"
        writer.write(b"and what the server may already have been told")
        writer.close()
        await writer.wait_closed()
        assert await bodies.get() == b"question, and what the server may already have been told"
        assert len(opened) == 1
        await asyncio.gather(*tasks)
        assert not client._streams


@both_ends
async def test_resets_and_stops_reach_the_other_side(
    ends: str, certificate: CertificateFiles
) -> None:
    open_server, _ = ENDS[ends]
    received: asyncio.Queue[Any] = asyncio.Queue()
    base: Any = (
        QuicConnectionProtocol if open_server is serve else aioquic.asyncio.QuicConnectionProtocol
    )

    class Server(base):  # type: ignore[misc]
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, StreamReset | StopSendingReceived):
                received.put_nowait(event)
            elif isinstance(event, StreamDataReceived):
                self._quic.reset_stream(event.stream_id, 9)
                self.transmit()

    async with client_of(ends, certificate, create_protocol=Server) as client:
        client._quic.send_stream_data(0, b"x")
        client._quic.stop_stream(0, 7)
        client.transmit()
        stopped = await received.get()
        assert isinstance(stopped, StopSendingReceived)
        assert (stopped.stream_id, stopped.error_code) == (0, 7)
        client._quic.reset_stream(0, 8)
        client.transmit()
        reset = await received.get()
        assert isinstance(reset, StreamReset)
        assert (reset.stream_id, reset.error_code) == (0, 8)


async def test_a_reset_raises_in_the_reader_and_a_stop_in_the_writer(
    certificate: CertificateFiles,
) -> None:
    servers = watcher()
    opened: list[Any] = []
    async with client_of(
        "ours-ours",
        certificate,
        create_protocol=servers,
        stream_handler=lambda *ends: opened.append(ends),
    ) as client:
        server = await servers.instances.get()
        reader, writer = await client.create_stream()
        writer.write(body_of(8 * MB))
        # Waits, since it is more than the buffer and the server's reader takes.
        draining = asyncio.ensure_future(writer.drain())
        await server.seen(StreamDataReceived)
        while not client._quic.is_congested(0):
            await client.ping()
        assert not draining.done()
        server._quic.reset_stream(0, 5)
        server._quic.stop_stream(0, 6)
        server.transmit()
        with pytest.raises(ConnectionResetError, match="5"):
            await reader.read()
        await asyncio.wait([draining])
        with pytest.raises(ConnectionResetError, match="6"):
            writer.write(b"more")
        writer.close()
        assert not client._streams


async def test_aborting_a_writer_resets_the_stream(certificate: CertificateFiles) -> None:
    servers = watcher()
    async with client_of("ours-ours", certificate, create_protocol=servers) as client:
        server = await servers.instances.get()
        _, writer = await client.create_stream()
        writer.write(b"never mind")
        writer.transport.abort()
        await writer.wait_closed()
        assert (await server.seen(StreamReset)).stream_id == 0


async def test_what_arrived_before_the_close_can_be_read_after_it(
    certificate: CertificateFiles,
) -> None:
    servers = watcher()
    clients = watcher()
    async with client_of(
        "ours-ours", certificate, client={"create_protocol": clients}, create_protocol=servers
    ) as client:
        server = await servers.instances.get()
        whole, first = await client.create_stream()
        first.write(b"whole")
        part, second = await client.create_stream()
        second.write(b"part")
        await server.seen(StreamDataReceived)
        await server.seen(StreamDataReceived)
        server._quic.send_stream_data(0, b"to the end", end_stream=True)
        server._quic.send_stream_data(4, b"not to the ")
        server.transmit()
        assert await part.read(100) == b"not to the "
        server.close(error_code=77, reason_phrase="tired")
        await client.seen(ConnectionTerminated)
        assert await whole.read() == b"to the end"
        with pytest.raises(ConnectionResetError, match="tired"):
            await part.read()
        with pytest.raises(ConnectionError):
            await client.create_stream()
        with pytest.raises(ConnectionError):
            await client.ping()


@both_ends
async def test_datagrams_are_echoed(ends: str, certificate: CertificateFiles) -> None:
    open_server, _ = ENDS[ends]
    base: Any = (
        QuicConnectionProtocol if open_server is serve else aioquic.asyncio.QuicConnectionProtocol
    )
    client_base: Any = (
        aioquic.asyncio.QuicConnectionProtocol if ends == "ours-aioquic" else QuicConnectionProtocol
    )
    echoed: asyncio.Queue[bytes] = asyncio.Queue()

    class Server(base):  # type: ignore[misc]
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, DatagramFrameReceived):
                self._quic.send_datagram_frame(event.data)

    class Client(client_base):  # type: ignore[misc]
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, DatagramFrameReceived):
                echoed.put_nowait(event.data)

    async with client_of(
        ends, certificate, client={"create_protocol": Client}, create_protocol=Server
    ) as client:
        for index in range(100):
            data = bytes([index]) * (10 * index + 1)
            client._quic.send_datagram_frame(data)
            client.transmit()
            assert await echoed.get() == data


@both_ends
async def test_ping_key_updates_and_new_connection_ids(
    ends: str, certificate: CertificateFiles
) -> None:
    async with client_of(ends, certificate, stream_handler=echo) as client:
        await client.ping()
        for _ in range(3):
            client.change_connection_id()
            await client.ping()
        reader, writer = await client.create_stream()
        for round_number in range(1, 4):
            # RFC 9001 §6.5 lets us refuse another update for 3 PTOs: until then, wait for
            # round trips.
            while True:
                try:
                    client.request_key_update()
                    break
                except CallerError:
                    await client.ping()
            writer.write(b"round %d" % round_number)
            assert await reader.read(100) == b"round %d" % round_number
        writer.write_eof()
        assert await reader.read() == b""


async def test_a_server_updates_keys_under_a_client_of_aioquic(
    certificate: CertificateFiles,
) -> None:
    servers = watcher()
    async with client_of("ours-aioquic", certificate, create_protocol=servers) as client:
        server = await servers.instances.get()
        for _ in range(3):
            while True:
                try:
                    server.request_key_update()
                    break
                except CallerError:
                    await server.ping()
            await server.ping()
            await client.ping()
        assert server._quic._state.protection.send_generation == 3


@pytest.mark.loop(expected_problems=1)
async def test_the_mistake_of_one_connection_s_program_stays_its_own(
    certificate: CertificateFiles,
) -> None:
    class Faulty(Watcher):
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, StreamDataReceived) and event.data == b"fail":
                raise LookupError("a program's mistake")
            super().quic_event_received(event)

    async with client_of(
        "ours-ours", certificate, create_protocol=Faulty, stream_handler=echo
    ) as client:
        _, failing = await client.create_stream()
        failing.write(b"fail")
        await client.ping()
        reader, writer = await client.create_stream()
        writer.write(b"go on")
        assert await reader.read(100) == b"go on"
        writer.close()
        failing.close()
