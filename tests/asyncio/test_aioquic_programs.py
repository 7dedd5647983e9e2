"""Programs written for `aioquic.asyncio` run on ours with the import changed, and nothing else."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioquic.asyncio
import pytest
from aioquic.h0.connection import H0_ALPN
from aioquic.h3.connection import H3_ALPN
from aioquic.h3.events import HeadersReceived
from aioquic.quic.connection import QuicConnection

import quicbaton.asyncio
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.transport.connection import Connection
from tests.asyncio.aioquic_program import body, program
from tests.asyncio.loopback import body_of, client_configuration, server_configuration

#: (server's runtime, client's runtime)
PAIRS = {
    "ours-ours": (quicbaton.asyncio, quicbaton.asyncio),
    "ours-aioquic": (quicbaton.asyncio, aioquic.asyncio),
    "aioquic-ours": (aioquic.asyncio, quicbaton.asyncio),
}
every_pair = pytest.mark.parametrize("pair", PAIRS)


@asynccontextmanager
async def connected(
    pair: str,
    certificate: CertificateFiles,
    alpn: list[str] = H3_ALPN,
    **client_options: Any,
) -> AsyncIterator[Any]:
    ours, theirs = (program(runtime) for runtime in PAIRS[pair])
    server = await ours.serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate, alpn_protocols=H3_ALPN + H0_ALPN),
        create_protocol=ours.Server,
    )
    port = getattr(server, "port", None) or server._transport.get_extra_info("sockname")[1]
    try:
        async with theirs.connect(
            "127.0.0.1",
            port,
            configuration=client_configuration(certificate, alpn_protocols=alpn),
            create_protocol=theirs.Client,
            **client_options,
        ) as client:
            yield client
            client.finish()
    finally:
        server.close()


@every_pair
async def test_requests_with_a_task_each(pair: str, certificate: CertificateFiles) -> None:
    async with connected(pair, certificate) as client:
        answers = await asyncio.gather(
            client.request("GET", "/"),
            client.request("GET", "/500000"),
            client.request("POST", "/echo", body_of(200_000)),
        )
        assert [body(events) for events in answers] == [b"hello", bytes(500_000), body_of(200_000)]
        client.request_key_update()
        client.change_connection_id()
        assert body(await client.request("GET", "/")) == b"hello"


@every_pair
async def test_http_0_9(pair: str, certificate: CertificateFiles) -> None:
    async with connected(pair, certificate, alpn=H0_ALPN) as client:
        assert body(await client.request("GET", "/300000")) == bytes(300_000)


@every_pair
async def test_server_push(pair: str, certificate: CertificateFiles) -> None:
    async with connected(pair, certificate) as client:
        assert body(await client.request("GET", "/push")) == b"hello"
        (pushed,) = client.pushes.values()
        while not getattr(pushed[-1], "stream_ended", False):
            await client.ping()
        headers = next(event for event in pushed if isinstance(event, HeadersReceived)).headers
        assert dict(headers)[b":status"] == b"200"
        assert body(pushed) == b"hello"


@every_pair
async def test_webtransport_streams_and_datagrams(pair: str, certificate: CertificateFiles) -> None:
    async with connected(pair, certificate) as client:
        session = await client.webtransport()
        for index in range(20):
            client._http.send_datagram(session, b"datagram %d" % index)
            client.transmit()
            event = await client.streams[session].get()
            assert event.data == b"datagram %d" % index
        for is_unidirectional in (False, True):
            stream_id = client._http.create_webtransport_stream(session, is_unidirectional)
            sent, received = body_of(100_000), b""
            client._quic.send_stream_data(stream_id, sent, end_stream=True)
            client.transmit()
            while True:
                event = await client.streams[session].get()
                received += event.data
                if event.stream_ended:
                    break
            assert received == sent
        client._http.send_data(session, b"", end_stream=True)
        client.transmit()
        assert (await client.streams[session].get()).stream_ended


@every_pair
async def test_a_client_that_does_not_wait(pair: str, certificate: CertificateFiles) -> None:
    async with connected(pair, certificate, wait_connected=False) as client:
        assert body(await client.request("GET", "/1000")) == bytes(1000)


async def test_the_log_names_the_connection(
    certificate: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "quic"):
        async with connected("ours-ours", certificate) as client:
            name = client._quic.original_destination_connection_id.hex()
            await client.request("GET", "/")
    assert f"[{name}] HTTP request GET /" in [record.getMessage() for record in caplog.records]


def public_names(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_our_connection_has_aioquic_s_public_names() -> None:
    # `connect` begins a handshake, which is over when ours exists.
    assert public_names(QuicConnection) - public_names(Connection) == {"connect"}
    for name in public_names(QuicConnection) & public_names(Connection):
        theirs, ours = getattr(QuicConnection, name), getattr(Connection, name)
        if callable(theirs):
            expected = inspect.signature(theirs).parameters
            assert list(inspect.signature(ours).parameters)[: len(expected)] == list(expected), name


def test_our_protocol_has_aioquic_s_public_names() -> None:
    ours = quicbaton.asyncio.QuicConnectionProtocol
    theirs = aioquic.asyncio.QuicConnectionProtocol
    # Of asyncio's datagram protocol, which ours is not; and what begins a handshake.
    absent = public_names(asyncio.DatagramProtocol) - {"connection_made"} | {"connect"}
    assert public_names(theirs) - public_names(ours) == absent
    for name in public_names(theirs) - absent:
        expected = inspect.signature(getattr(theirs, name)).parameters
        assert list(inspect.signature(getattr(ours, name)).parameters) == list(expected), name


@pytest.mark.parametrize("name", ["serve", "connect"])
def test_serve_and_connect_take_aioquic_s_arguments(name: str) -> None:
    theirs = inspect.signature(getattr(aioquic.asyncio, name)).parameters
    ours = inspect.signature(getattr(quicbaton.asyncio, name)).parameters
    for parameter in theirs.values():
        assert ours[parameter.name].kind == parameter.kind
        assert (ours[parameter.name].default is parameter.empty) == (
            parameter.default is parameter.empty
        )
