"""An ASGI program behind HTTP/3, asked by libcurl."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pycurl
import pytest

from quicbaton.asgi import AsgiProtocol, Lifespan
from quicbaton.asgi.scope import request_scope
from quicbaton.asyncio import QuicServer, connect, serve
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import ConfigurationError
from quicbaton.files.dates import parse_date
from quicbaton.http3 import H3Connection
from quicbaton.http3.codes import ErrorCode
from tests.asgi import asgi_programs
from tests.asyncio.loopback import client_configuration, server_configuration

#: libcurl's errors for a stream that was reset: CURLE_HTTP2_STREAM, CURLE_HTTP3 and others.
_RESET_CODES = {92, 95, pycurl.E_PARTIAL_FILE, pycurl.E_RECV_ERROR}


class Answer:
    """The result of a request."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.fields: list[str] = []
        self.error = 0


class Client:
    """One libcurl, one connection."""

    server: QuicServer

    def __init__(self, port: int, certificate: CertificateFiles) -> None:
        self._site = f"https://localhost:{port}"
        self._curl = pycurl.Curl()
        self._curl.setopt(pycurl.CAINFO, str(certificate.certificate))
        self._curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
        self._curl.setopt(pycurl.RESOLVE, [f"localhost:{port}:127.0.0.1"])
        self._curl.setopt(pycurl.NOSIGNAL, 1)
        self._curl.setopt(pycurl.TIMEOUT, 30)

    async def ask(
        self, path: str, body: bytes | None = None, *fields: str, timeout_s: int = 30
    ) -> Answer:
        answer, pieces = Answer(), []
        curl = self._curl
        curl.setopt(pycurl.URL, self._site + path)
        curl.setopt(pycurl.HTTPHEADER, ["Expect:", *fields])
        curl.setopt(pycurl.TIMEOUT, timeout_s)
        curl.setopt(pycurl.WRITEFUNCTION, pieces.append)
        curl.setopt(pycurl.HEADERFUNCTION, lambda line: answer.fields.append(line.decode()))
        if body is None:
            curl.setopt(pycurl.HTTPGET, 1)
        else:
            curl.setopt(pycurl.POSTFIELDS, body)
        try:
            await asyncio.to_thread(curl.perform)
        except pycurl.error as error:
            answer.error = error.args[0]
        answer.status = curl.getinfo(pycurl.RESPONSE_CODE)
        answer.body = b"".join(pieces)
        return answer


@asynccontextmanager
async def serving(certificate: CertificateFiles, application: Any) -> AsyncIterator[Client]:
    """A client of the program. The notes of the tests' program are in `asgi_programs.STARTED`."""
    asgi_programs.STARTED.clear()
    lifespan = Lifespan(application, "test:application")
    await lifespan.startup()
    server = await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate),
        create_protocol=partial(AsgiProtocol, application=application, lifespan=lifespan),
    )
    try:
        client = Client(server.port, certificate)
        client.server = server
        yield client
    finally:
        server.close()
        await lifespan.shutdown()


async def test_a_program_answers_and_has_the_state_of_its_startup(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate, asgi_programs.application) as client:
        answer = await client.ask("/hello")
        assert (answer.status, answer.body) == (200, b"hello from startup")
    assert asgi_programs.STARTED == ["lifespan.startup", "lifespan.shutdown"]


async def test_the_scope_says_what_the_specification_says(certificate: CertificateFiles) -> None:
    async with serving(certificate, asgi_programs.application) as client:
        answer = await client.ask("/scope/caf%C3%A9%2Fx?a=1&b=%20", None, "x-mark: 1", "x-mark: 2")
        scope = eval(answer.body)
        assert scope["type"] == "http"
        assert scope["http_version"] == "3"
        assert scope["method"] == "GET"
        assert scope["scheme"] == "https"
        assert scope["path"] == "/scope/café/x"
        assert scope["raw_path"] == b"/scope/caf%C3%A9%2Fx"
        assert scope["query_string"] == b"a=1&b=%20"
        assert scope["root_path"] == ""
        host, *others = scope["headers"]
        assert host[0] == b"host"
        assert host[1].startswith(b"localhost:")
        assert [value for name, value in others if name == b"x-mark"] == [b"1", b"2"]
        assert not any(name.startswith(b":") for name, _ in others)
        assert scope["client"][0] == "127.0.0.1"


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
async def test_bodies_arrive_whole_both_ways(certificate: CertificateFiles, size: int) -> None:
    async with serving(certificate, asgi_programs.application) as client:
        body = asgi_programs.pattern(size)
        answer = await client.ask("/hash", body)
        assert answer.body.decode() == hashlib.sha256(body).hexdigest()
        answer = await client.ask(f"/large/{size}")
        assert answer.body == body


async def test_a_mistake_of_the_program_costs_its_request(
    certificate: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        async with serving(certificate, asgi_programs.application) as client:
            answer = await client.ask("/raise")
            assert (answer.error, answer.status, answer.body) == (0, 500, b"Internal Server Error")
            answer = await client.ask("/nothing")
            assert (answer.error, answer.status) == (0, 500)
            # What is not whole must not look like it.
            answer = await client.ask("/raise-late")
            assert answer.error in _RESET_CODES
            answer = await client.ask("/hello")
            assert answer.status == 200
    assert len([one for one in caplog.records if one.name == "quicbaton.asgi"]) == 3


async def test_a_head_that_cannot_be_said_is_a_500(certificate: CertificateFiles) -> None:
    async def application(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        value = 5 if scope["path"] == "/number" else b"a\nb"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", value)]})
        await send({"type": "http.response.body", "body": b"body"})

    async with serving(certificate, application) as client:
        for path in ("/number", "/line"):
            answer = await client.ask(path)
            assert (answer.error, answer.status) == (0, 500)


@pytest.mark.parametrize(
    ("length", "pieces", "status"),
    [
        (10, [10], 200),
        (10, [4, 0, 6], 200),
        (0, [0], 200),
        (10, [11], 500),
        (10, [9], 500),
        (10, [4, 7], 0),
        (10, [4, 5], 0),
    ],
)
async def test_a_body_of_another_length_than_was_said_is_a_mistake(
    certificate: CertificateFiles, length: int, pieces: list[int], status: int
) -> None:
    """Status 0: what is out must not look like a whole response."""

    async def application(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        fields = [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        for number, size in enumerate(pieces, 1):
            more = number < len(pieces)
            await send({"type": "http.response.body", "body": bytes(size), "more_body": more})

    async with serving(certificate, application) as client:
        answer = await client.ask("/")
        assert (answer.error in _RESET_CODES) == (not status)
        if status:
            assert (answer.error, answer.status) == (0, status)


async def test_requests_that_are_given_up_leave_no_streams(certificate: CertificateFiles) -> None:
    """Also by a client that resets its half only, and asks for no end of ours."""
    async with (
        serving(certificate, asgi_programs.application) as curl,
        connect(
            "127.0.0.1", curl.server.port, configuration=client_configuration(certificate)
        ) as client,
    ):
        http = H3Connection(client._quic)
        head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"localhost")]
        asked = set()
        for _ in range(5):
            stream_id = client._quic.get_next_available_stream_id()
            http.send_headers(stream_id, [*head, (b":path", b"/wait")])
            client.transmit()
            await asyncio.sleep(0.05)
            client._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            client.transmit()
            asked.add(stream_id)
        (session,) = curl.server.endpoint.sessions.values()
        while session.connection.streams.keys() & asked:
            await asyncio.sleep(0.01)


async def test_a_program_that_works_on_after_its_response_holds_no_stream(
    certificate: CertificateFiles,
) -> None:
    done = asyncio.Event()

    async def application(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"body"})
        await done.wait()

    async with serving(certificate, application) as client:
        assert (await client.ask("/")).body == b"body"
        (session,) = client.server.endpoint.sessions.values()
        # By its next packet the client acknowledges what it has.
        asking = asyncio.ensure_future(client.ask("/"))
        while 0 in session.protocol.running_streams():
            await asyncio.sleep(0.01)
        done.set()
        assert (await asking).body == b"body"


def test_cookies_are_one_field(certificate: CertificateFiles) -> None:
    scope = request_scope(
        [(b":method", b"GET"), (b":path", b"/"), (b"cookie", b"a=1"), (b"cookie", b"b=2")],
        client=("::ffff:10.0.0.1", 5),
        server=(),
        root_path="",
        state={},
        cipher_suite=0x1301,
    )
    assert scope["headers"] == [(b"cookie", b"a=1; b=2")]
    assert (scope["client"], scope["server"]) == (("10.0.0.1", 5), None)


async def test_trailers_and_early_hints(certificate: CertificateFiles) -> None:
    async with serving(certificate, asgi_programs.application) as client:
        answer = await client.ask("/trailers", None, "te: trailers")
        assert answer.body == b"body"
        assert any(line.startswith("x-sum: 7") for line in answer.fields)
        # Who does not take them gets none.
        answer = await client.ask("/trailers")
        assert answer.body == b"body"
        assert not any(line.startswith("x-sum") for line in answer.fields)
        answer = await client.ask("/hints")
        assert answer.status == 200
        assert answer.fields[0].startswith("HTTP/3 103")


async def test_a_response_says_when_it_was_made(certificate: CertificateFiles) -> None:
    """RFC 9110 §6.6.1: an origin server with a clock must."""
    dates = []

    began_s = int(time.time())
    async with serving(certificate, asgi_programs.application) as client:
        for path in ("/hello", "/dated", "/hints", "/raise"):
            answer = await client.ask(path)
            dates.append([line for line in answer.fields if line.startswith("date:")])
    assert [len(found) for found in dates] == [1, 1, 1, 1]
    (own,) = dates.pop(1)
    assert own.strip() == "date: Sun, 06 Nov 1994 08:49:37 GMT", "the program's own stays"
    for (line,) in dates:
        said_s = parse_date(line.removeprefix("date:").strip().encode())
        assert said_s is not None
        assert began_s <= said_s <= int(time.time())


async def test_requests_are_told_that_sessions_can_be_had(certificate: CertificateFiles) -> None:
    async with serving(certificate, asgi_programs.application) as client:
        answer = await client.ask("/scope")
        assert b"'webtransport': {}" in answer.body


async def test_a_client_that_goes_is_a_disconnect(certificate: CertificateFiles) -> None:
    async with serving(certificate, asgi_programs.application) as client:
        answer = await client.ask("/wait", timeout_s=1)
        assert answer.error == pycurl.E_OPERATION_TIMEDOUT
        assert answer.body == b"waiting"
        while "refused" not in asgi_programs.STARTED:
            await asyncio.sleep(0.01)
    assert asgi_programs.STARTED == [
        "lifespan.startup",
        "disconnected",
        "refused",
        "lifespan.shutdown",
    ]


async def test_a_program_that_does_not_read_holds_the_client_back(
    certificate: CertificateFiles,
) -> None:
    """The stream's window bounds the bytes that it has not taken."""
    held: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await asyncio.sleep(0.5)
        total, more = 0, True
        while more:
            message = await receive()
            total += len(message["body"])
            more = message["more_body"]
            held.append(len(message["body"]))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"%d" % total})

    async with serving(certificate, application) as client:
        body = bytes(20_000_000)
        answer = await client.ask("/", body)
        assert answer.body == b"%d" % len(body)
    assert len(held) > 1


async def test_a_program_that_waits_for_more_after_its_shutdown_is_ended() -> None:
    async def application(_scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})

    lifespan = Lifespan(application, "main:app")
    await lifespan.startup()
    await lifespan.shutdown()


async def test_a_startup_that_does_not_end_is_only_ended() -> None:
    heard: list[str] = []

    async def application(_scope: Any, receive: Any, _send: Any) -> None:
        while True:
            heard.append((await receive())["type"])

    lifespan = Lifespan(application, "main:app")
    starting = asyncio.ensure_future(lifespan.startup())
    while not heard:
        await asyncio.sleep(0)
    await lifespan.shutdown()
    await starting
    assert heard == ["lifespan.startup"]


async def test_a_startup_that_fails_says_why() -> None:
    async def application(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(ConfigurationError, match="no database"):
        await Lifespan(application, "main:app").startup()
