"""`serve` over HTTP/3 to clients that we did not write, and to our own."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pycurl
import pytest
import qh3.asyncio
import uvloop
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite

from demo.curl import Outcome, download
from demo.curl import _handle as curl_handle
from quicbaton.asyncio import QuicServer, connect, serve
from quicbaton.cli.certificate import CertificateFiles
from tests.asyncio.loopback import (
    CLIENTS,
    GUARD_S,
    MB,
    FileServer,
    HttpClient,
    LoopFactory,
    body_of,
    client_configuration,
    digest,
    each_client,
    http_client,
    qh3_configuration,
    qh3_http_client,
    server_configuration,
)


async def start(
    certificate: CertificateFiles, host: str = "127.0.0.1", **options: Any
) -> QuicServer:
    configuration = options.pop("configuration", None) or server_configuration(certificate)
    return await serve(host, 0, configuration=configuration, create_protocol=FileServer, **options)


async def curl_download(url: str, certificate: CertificateFiles) -> Outcome:
    return await asyncio.to_thread(download, url, ca_file=certificate.certificate)


def curl_upload(url: str, certificate: CertificateFiles, body: bytes) -> str:
    curl = curl_handle(url, certificate.certificate)
    curl.setopt(pycurl.TIMEOUT, round(GUARD_S))
    answer = io.BytesIO()
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
    curl.setopt(pycurl.READDATA, io.BytesIO(body))
    curl.setopt(pycurl.HTTPHEADER, ["Expect:"])
    curl.setopt(pycurl.WRITEDATA, answer)
    curl.perform()
    curl.close()
    return answer.getvalue().decode()


async def test_libcurl_downloads_and_uploads_large_bodies(certificate: CertificateFiles) -> None:
    server = await start(certificate)
    outcome = await curl_download(f"https://localhost:{server.port}/{30 * MB}", certificate)
    assert outcome.ok, outcome.error
    assert outcome.sha256 == digest(body_of(30 * MB))
    body = body_of(20 * MB)
    url = f"https://localhost:{server.port}/"
    assert await asyncio.to_thread(curl_upload, url, certificate, body) == digest(body)
    server.close()


async def test_ten_libcurls_at_once(certificate: CertificateFiles) -> None:
    server = await start(certificate)
    url = f"https://localhost:{server.port}/{MB}"
    outcomes = await asyncio.gather(*(curl_download(url, certificate) for _ in range(10)))
    assert {(o.error, o.status, o.sha256) for o in outcomes} == {("", 200, digest(body_of(MB)))}
    assert server.endpoint.accepted == 10
    server.close()


async def test_qh3_downloads_uploads_and_asks_often(certificate: CertificateFiles) -> None:
    server = await start(certificate)
    async with qh3.asyncio.connect(
        "127.0.0.1",
        server.port,
        configuration=qh3_configuration(certificate),
        create_protocol=qh3_http_client(),
    ) as client:
        assert digest(await client.get(10 * MB)) == digest(body_of(10 * MB))
        body = body_of(5 * MB)
        assert await client.request("POST", "/", body) == digest(body).encode()
        for size in range(1, 301):
            assert await client.get(size) == body_of(size)
    server.close()


@each_client
async def test_downloads_uploads_and_parallel_requests(
    kind: str, certificate: CertificateFiles
) -> None:
    server = await start(certificate)
    async with http_client(certificate, server.port, kind) as client:
        assert digest(await client.get(5 * MB)) == digest(body_of(5 * MB))
        body = body_of(3 * MB)
        assert await client.request("POST", "/", body) == digest(body).encode()
        # More than the peer's window of 128 streams: the rest waits for MAX_STREAMS.
        sizes = range(1000, 1300)
        bodies = await asyncio.gather(*(client.get(size) for size in sizes))
        assert [digest(body) for body in bodies] == [digest(body_of(size)) for size in sizes]
    server.close()


@each_client
async def test_twenty_connections_at_once(kind: str, certificate: CertificateFiles) -> None:
    server = await start(certificate)

    async def fetch(size: int) -> None:
        async with http_client(certificate, server.port, kind) as client:
            assert await client.get(size) == body_of(size)

    await asyncio.gather(*(fetch(100_000 + index) for index in range(20)))
    assert server.endpoint.accepted == 20
    server.close()


@pytest.mark.parametrize(
    "cipher",
    [
        CipherSuite.AES_128_GCM_SHA256,
        CipherSuite.AES_256_GCM_SHA384,
        CipherSuite.CHACHA20_POLY1305_SHA256,
    ],
    ids=lambda cipher: cipher.name,
)
@pytest.mark.parametrize("version", [1, 2])
@each_client
async def test_every_cipher_and_version(
    kind: str, version: int, cipher: CipherSuite, certificate: CertificateFiles
) -> None:
    open_client, protocol = CLIENTS[kind]
    server = await start(certificate)
    number = QuicProtocolVersion.VERSION_2 if version == 2 else QuicProtocolVersion.VERSION_1
    configuration = client_configuration(
        certificate,
        cipher_suites=[cipher],
        original_version=number,
        supported_versions=[number],
    )
    async with open_client(
        "127.0.0.1", server.port, configuration=configuration, create_protocol=protocol
    ) as client:
        assert await client.get(300_000) == body_of(300_000)
        (session,) = server.endpoint.sessions.values()
        protection = session.connection._state.protection
        assert (protection.version, protection.cipher) == (number, cipher)
    server.close()


@pytest.mark.parametrize(
    ("bind", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.77"),
        ("::", "127.0.0.1"),
        ("::", "127.0.0.77"),
        ("::", "::1"),
    ],
)
async def test_answers_come_from_the_address_that_was_asked(
    bind: str, host: str, certificate: CertificateFiles
) -> None:
    # aioquic's client, on its dual-stack wildcard socket, follows whoever answers; ours has a
    # path per address, so that an answer from elsewhere would show.
    server = await start(certificate, bind)
    configuration = client_configuration(certificate)
    configuration.server_name = "localhost"
    async with connect(
        host, server.port, configuration=configuration, create_protocol=HttpClient
    ) as client:
        assert await client.get(300_000) == body_of(300_000)
        assert len(client._quic._state.paths) == 1
        assert client._quic.peer_address[0] == host
        if bind in ("0.0.0.0", "::"):
            (session,) = server.endpoint.sessions.values()
            local = str(session.connection._state.paths[0].local[0])
            assert local.removeprefix("::ffff:") == host
    server.close()


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop])
async def test_runs_on_uvloop(loop_factory: LoopFactory, certificate: CertificateFiles) -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    server = await start(certificate)
    url = f"https://localhost:{server.port}/{3 * MB}"
    for _ in range(10):
        outcome = await curl_download(url, certificate)
        assert outcome.ok, outcome.error
        assert outcome.sha256 == digest(body_of(3 * MB))
    async with http_client(certificate, server.port) as client:
        assert await client.get(MB) == body_of(MB)
    server.close()
