"""TCP connections: how they begin, end and are protected, by clients that the test plays."""

from __future__ import annotations

import asyncio
import socket
import ssl

import h2.events
import pytest
from h2.errors import ErrorCodes

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.limits import CANCELLED_REQUEST_BURST
from tests.asgi import asgi_programs
from tests.asgi.tcp_stage import Http2Client, serving

_HELLO = b"GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n"
_BODY = b"hello from startup"
_PONG = h2.events.PingAckReceived


async def _response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a chunked response."""
    head = await reader.readuntil(b"\r\n\r\n")
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return head, body


async def test_requests_that_come_together_are_answered_in_turn(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate) as stage:
        reader, writer = await stage.connect("1.1")
        writer.write(_HELLO.replace(b"/hello", b"/slow/2") + _HELLO + _HELLO)
        assert len((await _response(reader))[1]) == 2 * 6_000
        assert (await _response(reader))[1] == _BODY
        assert (await _response(reader))[1] == _BODY
        writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET https://localhost/hello HTTP/1.1\r\nhost: other\r\n\r\n", 200),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET hello HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 300 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"b" * 70_000, 431),
        (b"GET /hello HTTP/1.0\r\n\r\n", 200),
    ],
)
async def test_a_request_is_answered_by_its_form(
    certificate: CertificateFiles, request_bytes: bytes, status: int
) -> None:
    async with serving(certificate) as stage:
        reader, writer = await stage.connect("1.1")
        writer.write(request_bytes)
        assert (await reader.readline()).split()[1] == b"%d" % status
        writer.transport.abort()


async def test_clients_that_begin_and_stop_hold_up_nobody(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a TLS hello, half a request's head, half a body, no TLS at all: each goes in its time,
    and others are answered meanwhile."""
    monkeypatch.setattr("quicbaton.asgi.tcp.http1.TCP_HEAD_S", 0.2)
    monkeypatch.setattr("quicbaton.asgi.tcp.server.TCP_HANDSHAKE_S", 0.2)
    async with serving(certificate) as stage:
        hello = ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        silent = []
        for first in (hello.read()[:100], b"", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
            writer.write(first)
            silent.append((reader, writer))
        half = await stage.connect("1.1")
        half[1].write(b"GET /hello HTTP/1.1\r\nho")
        body = await stage.connect("1.1")
        body[1].write(b"POST /hash HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc")
        for _ in range(5):
            assert (await stage.ask("2", "/hello")).body == _BODY
            assert (await stage.ask("1.1", "/hello")).body == _BODY
        for reader, writer in (*silent, half):
            assert await _end(reader) is not None
            writer.close()
        body[1].write(b"defghi")
        assert (await body[0].readline()).split()[1] == b"200"
        body[1].transport.abort()


async def _end(reader: asyncio.StreamReader) -> bytes:
    """Until the server hangs up."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_a_connection_without_requests_is_closed(certificate: CertificateFiles) -> None:
    async with serving(certificate, keep_alive_s=0.1) as stage:
        reader, writer = await stage.connect("1.1")
        writer.write(_HELLO)
        await _response(reader)
        assert await reader.read() == b""
        writer.close()
        client = await Http2Client.connect(stage)
        await client.until(h2.events.StreamEnded, client.request("/hello"))
        assert (await client.until(h2.events.ConnectionTerminated)).error_code == 0
        client.close()


async def test_requests_that_are_given_up_without_end_close_the_connection(
    certificate: CertificateFiles,
) -> None:
    """CVE-2023-44487."""
    async with serving(certificate) as stage:
        client = await Http2Client.connect(stage)
        for _ in range(CANCELLED_REQUEST_BURST + 200):
            client.h2.reset_stream(client.request("/wait"), ErrorCodes.CANCEL)
        client.flush()
        told = await client.until(h2.events.ConnectionTerminated)
        assert told.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert (await stage.ask("2", "/hello")).body == _BODY
        client.close()


async def test_a_client_that_reads_no_answers_is_read_no_more(
    certificate: CertificateFiles,
) -> None:
    """PINGs, which h2 answers."""
    async with serving(certificate) as stage:
        # Inherited by those that are accepted: the kernel would keep megabytes of answers.
        stage.server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client = await Http2Client.connect(stage)
        await client.until(h2.events.RemoteSettingsChanged)
        (connection,) = stage.server._connections
        for _ in range(5_000):
            client.h2.ping(b"12345678")
        pings = client.h2.data_to_send()
        while connection not in connection._pauses:
            client.write(pings)
            await stage.ask("2", "/hello")
        assert connection.held_bytes < 2 << 20
        client.close()


async def test_much_at_once_is_looked_at_in_turns(
    certificate: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quicbaton.asgi.tcp.connection.TURN_S", 0.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with serving(certificate) as stage:
        client = await Http2Client.connect(stage)
        await client.until(h2.events.RemoteSettingsChanged)
        (connection,) = stage.server._connections
        taken: list[int] = []
        take = connection.take

        def look(data: bytes) -> None:
            taken.append(turns)
            take(data)

        connection.take = look  # type: ignore[method-assign]
        counting = asyncio.create_task(count())
        for _ in range(5_000):
            client.h2.ping(b"12345678")
        client.flush()
        while len([one for one in client.events if isinstance(one, _PONG)]) < 5_000:
            await client.read()
        counting.cancel()
        assert len(taken) == len(set(taken)) > 10
        client.close()


async def test_a_client_that_breaks_http2_is_told_and_cut_off(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate) as stage:
        reader, writer = await stage.connect("2")
        client = Http2Client(reader, writer)
        writer.write(b"\xff" * 100)
        told = await client.until(h2.events.ConnectionTerminated)
        assert told.error_code != ErrorCodes.NO_ERROR
        assert await _end(reader) == b""
        client.close()


# --- stopping ---------------------------------------------------------------------------------


async def test_a_waiting_client_of_http1_gets_one_more_answer(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate) as stage:
        reader, writer = await stage.connect("1.1")
        writer.write(_HELLO)
        head, _ = await _response(reader)
        assert b"connection: close" not in head.lower()
        stage.server.stop_accepting()
        writer.write(_HELLO)
        head, body = await _response(reader)
        assert b"connection: close" in head.lower()
        assert body == _BODY
        assert await reader.read() == b""
        writer.close()
        while stage.server.running:
            await asyncio.sleep(0.01)


async def test_a_waiting_client_of_http2_is_sent_away(certificate: CertificateFiles) -> None:
    """RFC 9113 §6.8: it knows which requests nobody has seen."""
    async with serving(certificate) as stage:
        client = await Http2Client.connect(stage)
        first = client.request("/hello")
        await client.until(h2.events.StreamEnded, first)
        late = client.request("/hello")
        stage.server.stop_accepting()
        told = await client.until(h2.events.ConnectionTerminated)
        assert told.error_code == 0
        assert told.last_stream_id == first < late
        client.close()
        while stage.server.running:
            await asyncio.sleep(0.01)


async def test_running_requests_end_and_new_ones_are_sent_away(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate) as stage:
        reader, writer = await stage.connect("1.1")
        writer.write(_HELLO.replace(b"/hello", b"/slow/5"))
        client = await Http2Client.connect(stage)
        slow = client.request("/slow/5")
        await client.until(h2.events.DataReceived, slow)
        await reader.readuntil(b"\r\n\r\n")
        stage.server.stop_accepting()
        rest = await reader.read()
        assert len(rest) > 5 * 6_000
        assert rest.endswith(b"0\r\n\r\n")
        writer.close()
        await client.until(h2.events.StreamEnded, slow)
        assert len(client.body(slow)) == 5 * 6_000
        assert (await client.until(h2.events.ConnectionTerminated)).last_stream_id == slow
        client.close()
        while stage.server.running:
            await asyncio.sleep(0.01)


async def test_a_busy_client_of_http2_is_sent_away_when_it_asks_for_more(
    certificate: CertificateFiles,
) -> None:
    async with serving(certificate) as stage:
        client = await Http2Client.connect(stage)
        slow = client.request("/wait")
        await client.until(h2.events.DataReceived, slow)
        stage.server.stop_accepting()
        client.request("/hello")
        told = await client.until(h2.events.ConnectionTerminated)
        assert told.last_stream_id == slow
        client.close()


async def test_a_client_that_has_just_connected_is_served(certificate: CertificateFiles) -> None:
    async with serving(certificate) as stage:
        reader, writer = await stage.connect("1.1")
        client = await Http2Client.connect(stage)
        await client.until(h2.events.RemoteSettingsChanged)
        stage.server.stop_accepting()
        writer.write(_HELLO)
        head, body = await _response(reader)
        assert b"connection: close" in head.lower()
        assert body == _BODY
        writer.close()
        request = client.request("/hello")
        await client.until(h2.events.StreamEnded, request)
        assert client.body(request) == _BODY
        client.close()


async def test_what_is_cut_is_named(certificate: CertificateFiles) -> None:
    async with serving(certificate) as stage:
        reader, writer = await stage.connect("1.1")
        writer.write(_HELLO.replace(b"/hello", b"/wait"))
        await reader.readuntil(b"waiting")
        stage.server.stop_accepting()
        assert stage.server.describe_running() == ["1 connection over TCP"]
        (cut,) = stage.server.cut()
        assert cut.startswith("127.0.0.1 port ")
        assert cut.endswith(": 1 request over TCP")
        with pytest.raises(ConnectionError):
            await reader.read()
        writer.close()
    assert "disconnected" in asgi_programs.STARTED
