"""An ASGI program over HTTP/1.1 and HTTP/2, asked by libcurl and httpx."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
from ast import literal_eval
from pathlib import Path
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import httpx
import pycurl
import pytest

from quicbaton.asgi.tcp import http1, http2, tls_identity
from quicbaton.cli.certificate import CertificateFiles
from tests.asgi import asgi_programs
from tests.asgi.tcp_stage import Http2Client, Stage, serving

VERSIONS = pytest.mark.parametrize("version", ["1.1", "2"])
#: libcurl's errors for a response that was cut off.
_CUT_CODES = {92, pycurl.E_PARTIAL_FILE, pycurl.E_RECV_ERROR, pycurl.E_GOT_NOTHING}


@VERSIONS
async def test_a_program_answers_with_the_state_of_its_startup(
    certificate: CertificateFiles, version: str
) -> None:
    async with serving(certificate) as stage:
        answer = await stage.ask(version, "/hello")
        assert (answer.status, answer.body) == (200, b"hello from startup")
        assert answer.fields["alt-svc"] == f'h3=":{stage.port}"; ma=3600'
        assert answer.fields["date"].endswith("GMT")
    assert asgi_programs.STARTED == ["lifespan.startup", "lifespan.shutdown"]


def test_of_a_chain_the_program_is_told_the_servers_own(
    certificate: CertificateFiles, tmp_path: Path
) -> None:
    own = certificate.certificate.read_text()
    chain = tmp_path / "chain.pem"
    chain.write_text(f"subject: comments may stand here\n{own}{own}")
    identity = tls_identity(chain, certificate.key)
    assert identity.certificates == {identity.context: own}


@VERSIONS
async def test_the_scope_is_as_over_quic_but_for_the_version(
    certificate: CertificateFiles, version: str
) -> None:
    async with serving(certificate) as stage:
        answer = await stage.ask(version, "/scope/%C3%A4?q=1", fields=["X-Mine: yes"])
        scope = literal_eval(answer.body.decode())
        assert scope["type"] == "http"
        assert scope["http_version"] == version
        assert scope["scheme"] == "https"
        assert (scope["method"], scope["path"]) == ("GET", "/scope/ä")
        assert (scope["raw_path"], scope["query_string"]) == (b"/scope/%C3%A4", b"q=1")
        assert scope["client"][0] == "127.0.0.1"
        assert scope["server"] == ("127.0.0.1", stage.port)
        headers = dict(scope["headers"])
        assert headers[b"x-mine"] == b"yes"
        assert headers[b"host"] == f"localhost:{stage.port}".encode()
        shown = certificate.certificate.read_text()
        assert scope["extensions"]["tls"]["server_cert"] == shown


@VERSIONS
async def test_a_program_is_mounted_where_the_user_says(
    certificate: CertificateFiles, version: str
) -> None:
    async with serving(certificate, application=asgi_programs.mounted) as stage:
        answer = await stage.ask(version, "/things")
        assert answer.body == b"/mounted /mounted/things"


@VERSIONS
async def test_bodies_arrive_whole_both_ways(certificate: CertificateFiles, version: str) -> None:
    async with serving(certificate) as stage:
        upload = bytes(range(251)) * 40_000
        answer = await stage.ask(version, "/hash", body=upload)
        assert answer.body == hashlib.sha256(upload).hexdigest().encode()
        answer = await stage.ask(version, "/large/20000000")
        assert not answer.error
        assert answer.body == asgi_programs.pattern(20_000_000)


@VERSIONS
async def test_a_head_has_no_body(certificate: CertificateFiles, version: str) -> None:
    async with serving(certificate) as stage:
        answer = await stage.ask(version, "/large/1000", head=True)
        assert (answer.error, answer.status, answer.body) == (0, 200, b"")


class _Upload:
    """One by hand that is answered, over either version."""

    def __init__(self, version: str, stage: Stage) -> None:
        self._version = version
        self._stage = stage
        self._stream = 0
        self._http2: Http2Client | None = None

    async def begin(self) -> None:
        if self._version == "2":
            self._http2 = await Http2Client.connect(self._stage)
            self._stream = self._http2.request("/hello", method="POST")
            await self._http2.until(h2.events.StreamEnded, self._stream)
            return
        self._reader, self._writer = await self._stage.connect("1.1")
        head = b"POST /hello HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n"
        self._writer.write(head)
        assert b"200 OK" in await self._reader.readuntil(b"\r\n0\r\n\r\n")

    async def send(self, size: int) -> None:
        if self._http2 is None:
            self._writer.write(bytes(size))
            await self._writer.drain()
            return
        while self._http2.h2.local_flow_control_window(self._stream) < size:
            await self._http2.read()
        self._http2.h2.send_data(self._stream, bytes(size))
        self._http2.flush()

    async def stopped(self) -> None:
        if self._http2 is None:
            assert await self._reader.read() == b""
            return
        reset = await self._http2.until(h2.events.StreamReset, self._stream)
        assert reset.error_code == h2.errors.ErrorCodes.NO_ERROR

    def close(self) -> None:
        if self._http2 is None:
            self._writer.close()
        else:
            self._http2.close()


@VERSIONS
async def test_an_upload_that_is_answered_may_go_on_for_longer_than_a_silent_one(
    certificate: CertificateFiles, version: str
) -> None:
    async with serving(certificate, keep_alive_s=1.5) as stage:
        upload = _Upload(version, stage)
        await upload.begin()
        loop = asyncio.get_running_loop()
        until = loop.time() + 3
        while loop.time() < until:
            await upload.send(100)
            await asyncio.sleep(0.01)
        await upload.stopped()
        assert loop.time() >= until + 1
        upload.close()


@VERSIONS
async def test_an_upload_that_goes_on_and_on_behind_its_answer_is_stopped(
    certificate: CertificateFiles, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (http1, http2):
        monkeypatch.setattr(module, "MAX_DRAINED_BYTES", 1_000_000)
    async with serving(certificate) as stage:
        upload = _Upload(version, stage)
        await upload.begin()
        with contextlib.suppress(ConnectionError, h2.exceptions.ProtocolError):
            for _ in range(110):
                await upload.send(10_000)
        with contextlib.suppress(ConnectionError):
            await upload.stopped()
        upload.close()


@VERSIONS
async def test_an_upload_may_be_answered_before_it_is_read(
    certificate: CertificateFiles, version: str
) -> None:
    async with serving(certificate) as stage:
        context = ssl.create_default_context(cafile=str(certificate.certificate))
        async with httpx.AsyncClient(http1=version == "1.1", http2=True, verify=context) as client:
            site = f"https://localhost:{stage.port}"
            other = asyncio.create_task(client.get(f"{site}/slow/10"))
            answer = await client.post(f"{site}/hello", content=b"u" * 5_000_000)
            assert answer.text == "hello from startup"
            assert len((await other).content) == 10 * 6_000


@VERSIONS
async def test_a_mistake_before_the_response_is_a_500(
    certificate: CertificateFiles, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "quicbaton.asgi"):
        async with serving(certificate) as stage:
            for path in ("/raise", "/nothing", "/bad-field", "/short"):
                answer = await stage.ask(version, path)
                assert answer.status == 500, path
                assert answer.body == b"Internal Server Error"


@VERSIONS
@pytest.mark.parametrize("path", ["/raise-late"])
async def test_a_response_that_broke_off_never_looks_whole(
    certificate: CertificateFiles, version: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "quicbaton.asgi"):
        async with serving(certificate) as stage:
            answer = await stage.ask(version, path)
            assert answer.error in _CUT_CODES


async def test_a_response_that_broke_off_hurts_no_other_request(
    certificate: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "quicbaton.asgi"):
        async with serving(certificate) as stage:
            client = await Http2Client.connect(stage)
            slow = client.request("/slow/5")
            broken = client.request("/raise-late")
            reset = await client.until(h2.events.StreamReset, broken)
            assert reset.error_code == 2  # INTERNAL_ERROR
            await client.until(h2.events.StreamEnded, slow)
            assert len(client.body(slow)) == 5 * 6_000
            client.close()


@VERSIONS
async def test_trailers_go_to_those_that_take_them(
    certificate: CertificateFiles, version: str
) -> None:
    async with serving(certificate) as stage:
        answer = await stage.ask(version, "/trailers", fields=["TE: trailers"])
        assert (answer.body, answer.fields.get("x-sum")) == (b"body", "7")
        answer = await stage.ask(version, "/trailers")
        assert (answer.body, answer.fields.get("x-sum")) == (b"body", None)


@VERSIONS
async def test_a_client_that_leaves_is_told_to_the_program(
    certificate: CertificateFiles, version: str
) -> None:
    async with serving(certificate) as stage:
        reader, writer = await stage.connect(version)
        if version == "2":
            client = Http2Client(reader, writer)
            await client.until(h2.events.DataReceived, client.request("/wait"))
        else:
            writer.write(b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await reader.readuntil(b"waiting")
        writer.transport.abort()
        while stage.server.running:
            await asyncio.sleep(0.01)
    assert asgi_programs.STARTED == [
        "lifespan.startup",
        "disconnected",
        "refused",
        "lifespan.shutdown",
    ]


@VERSIONS
async def test_a_program_waits_for_a_client_that_does_not_read(
    certificate: CertificateFiles, version: str
) -> None:
    """It gets no further than the buffers: ours, the kernel's, and the client's window."""
    sent = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200})
        while scope["path"] == "/endless":
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    async with serving(certificate, application=application) as stage:
        reader, writer = await stage.connect(version)
        if version == "2":
            Http2Client(reader, writer).request("/endless")
        else:
            writer.write(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(30):
            assert (await stage.ask(version, "/other")).status == 200
        assert sent < 16
        assert all(one.held_bytes < 1 << 20 for one in stage.server._connections)
        writer.transport.abort()


async def test_a_program_that_reads_nothing_holds_up_no_other_request(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate) as stage:
        client = await Http2Client.connect(stage)
        upload = client.request("/wait", method="POST")
        await client.until(h2.events.DataReceived, upload)
        while client.h2.local_flow_control_window(upload):
            room = client.h2.local_flow_control_window(upload)
            client.h2.send_data(upload, bytes(min(room, 16_384)))
        client.flush()
        other = client.request("/hello")
        await client.until(h2.events.StreamEnded, other)
        assert client.body(other) == b"hello from startup"
        client.close()


@VERSIONS
async def test_a_response_that_names_a_file_is_the_file(
    certificate: CertificateFiles, version: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    content = asgi_programs.pattern(5_000_001)
    path.write_bytes(content)
    ended: list[bool] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        assert "http.response.pathsend" in scope["extensions"]
        length = (b"content-length", b"%d" % len(content))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        if scope["path"] == "/file":
            await send({"type": "http.response.pathsend", "path": path})
        else:
            with path.open("rb") as file:
                part = {"type": "http.response.zerocopysend", "file": file}
                await send({**part, "offset": 0, "count": 1_000_000, "more_body": True})
                await send({**part, "offset": 1_000_000})
        ended.append(True)

    async with serving(certificate, application=application) as stage:
        for name in ("/file", "/parts"):
            answers = await asyncio.gather(*(stage.ask(version, name) for _ in range(3)))
            for answer in answers:
                assert not answer.error
                assert answer.body == content
        stage.server.stop_accepting()
        while stage.server.running:
            await asyncio.sleep(0.01)
    assert len(ended) == 6


@VERSIONS
async def test_a_file_that_is_cut_off_meanwhile_never_looks_whole(
    certificate: CertificateFiles, version: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(bytes(30_000_000))

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.pathsend", "path": path})
        path.write_bytes(b"")

    async with serving(certificate, application=application) as stage:
        answer = await stage.ask(version, "/")
        assert answer.error in _CUT_CODES, (answer.status, len(answer.body))
