"""A handler that fails: the program is told, and no client waits for an answer that will not
come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic.events import (
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from quicbaton.asyncio import QuicConnectionProtocol, connect, serve
from quicbaton.cli.certificate import CertificateFiles
from tests.asyncio.loopback import (
    FileServer,
    HttpClient,
    Watcher,
    client_configuration,
    expect_problems,
    http_client,
    server_configuration,
)

_H3_INTERNAL_ERROR = 0x0102


@asynccontextmanager
async def watching_client(certificate: CertificateFiles, **server: Any) -> AsyncIterator[Any]:
    """A client of a plain QUIC server that is made of the arguments."""
    running = await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate, alpn_protocols=["test"]),
        **server,
    )
    try:
        async with connect(
            "127.0.0.1",
            running.port,
            configuration=client_configuration(certificate, alpn_protocols=["test"]),
            create_protocol=Watcher,
        ) as client:
            yield client
    finally:
        running.close()


class Failing(QuicConnectionProtocol):
    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            raise ZeroDivisionError("a mistake of the program's")


class FailingTwice(Failing):
    def handler_failed(self, event: QuicEvent, error: Exception) -> None:
        raise RuntimeError("another one")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(Failing, marks=pytest.mark.loop(expected_problems=1)),
        pytest.param(FailingTwice, marks=pytest.mark.loop(expected_problems=2)),
    ],
)
async def test_the_stream_is_reset_both_ways_and_others_go_on(
    kind: type[Failing], certificate: CertificateFiles
) -> None:
    async with watching_client(certificate, create_protocol=kind) as client:
        client._quic.send_stream_data(0, b"an upload begins")
        client.transmit()
        reset, stop = await client.seen(StreamReset), await client.seen(StopSendingReceived)
        assert (reset.stream_id, reset.error_code) == (0, 1)
        assert (stop.stream_id, stop.error_code) == (0, 1)
        await client.ping()  # the connection is unharmed


async def test_a_failure_without_a_stream_harms_no_stream(certificate: CertificateFiles) -> None:
    class Server(Watcher):
        def quic_event_received(self, event: QuicEvent) -> None:
            if not hasattr(event, "stream_id"):
                raise ZeroDivisionError("a mistake of the program's")
            super().quic_event_received(event)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(b"answer")
        writer.write_eof()

    problems = expect_problems()
    async with watching_client(
        certificate, create_protocol=Server, stream_handler=answer
    ) as client:
        client._quic.send_datagram_frame(b"anything")
        reader, writer = await client.create_stream()
        writer.write(b"request")
        writer.write_eof()
        assert await reader.read() == b"answer"
    assert {type(one) for one in problems} == {ZeroDivisionError}


async def fail_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(2)
    writer.write(b"half an ans")
    raise ZeroDivisionError("a mistake of the program's")


def start_failing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
    return asyncio.ensure_future(fail_later(reader, writer))


def fail_at_once(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    raise ZeroDivisionError("a mistake of the program's")


@pytest.mark.parametrize("handler", [fail_later, start_failing, fail_at_once])
@pytest.mark.loop(expected_problems=1)
async def test_the_stream_of_a_stream_handler_that_fails_is_reset(
    handler: Any, certificate: CertificateFiles
) -> None:
    async with watching_client(
        certificate, create_protocol=QuicConnectionProtocol, stream_handler=handler
    ) as client:
        client._quic.send_stream_data(0, b"an upload begins")
        client.transmit()
        assert (await client.seen(StreamReset)).error_code == 1
        assert (await client.seen(StopSendingReceived)).error_code == 1


@pytest.mark.loop(expected_problems=1)
async def test_an_answer_that_was_complete_is_not_taken_back(certificate: CertificateFiles) -> None:
    async def answer_and_fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"answer")
        writer.write_eof()
        raise ZeroDivisionError("a mistake of the program's")

    async with watching_client(
        certificate, create_protocol=QuicConnectionProtocol, stream_handler=answer_and_fail
    ) as client:
        reader, writer = await client.create_stream()
        writer.write(b"an upload that nobody reads to its end")
        assert await reader.read() == b"answer"
        await client.seen(StopSendingReceived)


class FailingServer(FileServer):
    def http_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived) and dict(event.headers)[b":path"] == b"/fail":
            raise ZeroDivisionError("a mistake of the program's")
        super().http_event_received(event)


class Answering(FailingServer):
    def handler_failed(self, event: QuicEvent, error: Exception) -> None:
        assert isinstance(event, StreamDataReceived)
        self._http.send_headers(event.stream_id, [(b":status", b"500")])
        self._http.send_data(event.stream_id, type(error).__name__.encode(), end_stream=True)


@pytest.mark.loop(expected_problems=1)
async def test_a_failed_request_is_reset_and_its_siblings_are_answered(
    certificate: CertificateFiles,
) -> None:
    server = await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate),
        create_protocol=FailingServer,
    )
    async with http_client(certificate, server.port) as client:
        resets = watch_resets(client)
        failing = asyncio.ensure_future(client.request("GET", "/fail"))
        assert len(await client.get(1000)) == 1000
        assert await resets.get() == (4, _H3_INTERNAL_ERROR)
        failing.cancel()
    server.close()


def watch_resets(client: HttpClient) -> asyncio.Queue[tuple[int, int]]:
    """(stream, code) of each stream that the server resets."""
    resets: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    received = client.quic_event_received

    def watch(event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            resets.put_nowait((event.stream_id, event.error_code))
        received(event)

    client.quic_event_received = watch  # type: ignore[method-assign]
    return resets


@pytest.mark.loop(expected_problems=1)
async def test_a_program_answers_a_failed_request_by_itself(certificate: CertificateFiles) -> None:
    server = await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate),
        create_protocol=Answering,
    )
    async with http_client(certificate, server.port) as client:
        assert await client.request("GET", "/fail") == b"ZeroDivisionError"
    server.close()
