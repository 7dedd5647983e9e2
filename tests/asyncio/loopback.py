"""Programs, clients and a guarded event loop for tests on real sockets of the loopback."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import aioquic.asyncio
import pytest
from aioquic.h3.connection import H3_ALPN
from aioquic.h3.connection import H3Connection as AioquicH3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent

from quicbaton.asyncio import QuicConnectionProtocol, StreamWritable, connect
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.http3 import H3Connection

MB = 1_000_000
#: Hang guards: nothing waits so long unless it is broken.
GUARD_S = 60.0

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def run(
    main: Callable[[], Awaitable[None]],
    *,
    loop_factory: LoopFactory | None = None,
    expected_problems: int = 0,
    guard_s: float = GUARD_S,
) -> None:
    """Run `main` on a fresh loop; fail on a hang, on what its callbacks raised, and (by way of
    pytest's filters) on sockets and tasks that were left behind. Tests that are coroutine
    functions are run by it (tests/conftest.py)."""
    problems: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: problems.append(context)
        )
        async with asyncio.timeout(guard_s):
            await main()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(guarded())
    gc.collect()
    assert len(problems) == expected_problems, problems


def expect_problems() -> list[Any]:
    """From now on the exceptions of the running loop's callbacks fill the list that this returns;
    they fail the test no more."""
    exceptions: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: exceptions.append(context.get("exception"))
    )
    return exceptions


def server_configuration(certificate: CertificateFiles, **options: Any) -> QuicConfiguration:
    options.setdefault("alpn_protocols", H3_ALPN)
    configuration = QuicConfiguration(is_client=False, max_datagram_frame_size=65_536, **options)
    configuration.load_cert_chain(str(certificate.certificate), str(certificate.key))
    return configuration


def client_configuration(certificate: CertificateFiles, **options: Any) -> QuicConfiguration:
    options.setdefault("alpn_protocols", H3_ALPN)
    configuration = QuicConfiguration(is_client=True, max_datagram_frame_size=65_536, **options)
    configuration.load_verify_locations(str(certificate.certificate))
    return configuration


def qh3_configuration(certificate: CertificateFiles) -> Any:
    """qh3 takes no certificate that is its own issuer; it can be told which one to expect."""
    from qh3.quic.configuration import QuicConfiguration as Qh3Configuration  # noqa: PLC0415

    configuration = Qh3Configuration(is_client=True, alpn_protocols=["h3"], server_name="localhost")
    der = ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text())
    configuration.verify_mode = ssl.CERT_NONE
    configuration.assert_fingerprint = hashlib.sha256(der).hexdigest()
    return configuration


def body_of(size: int) -> bytes:
    """A body that differs everywhere, so that a piece in the wrong place is noticed."""
    words = (size + 7) // 8
    return b"".join(index.to_bytes(8, "big") for index in range(words))[:size]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Http3Application:
    """GET /N answers with `body_of(N)`; a POST is answered with the SHA-256 of its body.

    Written once for aioquic's protocol and ours; a large body waits for room if it can.
    """

    _quic: Any
    _http: Any = None

    def start_http(self, http: Any) -> None:
        self._http = http
        self._hashes: dict[int, Any] = {}
        self._left: dict[int, memoryview] = {}

    def http_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            headers = dict(event.headers)
            if headers[b":method"] == b"GET":
                size = int(headers[b":path"][1:])
                self._http.send_headers(
                    event.stream_id,
                    [(b":status", b"200"), (b"content-length", str(size).encode())],
                    end_stream=size == 0,
                )
                if size:
                    self._left[event.stream_id] = memoryview(body_of(size))
                    self.pump(event.stream_id)
            else:
                self._hashes[event.stream_id] = hashlib.sha256()
        elif isinstance(event, DataReceived):
            self._hashes[event.stream_id].update(event.data)
            if event.stream_ended:
                text = self._hashes.pop(event.stream_id).hexdigest().encode()
                self._http.send_headers(event.stream_id, [(b":status", b"200")])
                self._http.send_data(event.stream_id, text, end_stream=True)

    def pump(self, stream_id: int) -> None:
        left = self._left.get(stream_id)
        is_congested = getattr(self._quic, "is_congested", lambda _stream_id: False)
        while left and not is_congested(stream_id):
            piece, left = left[:65_536], left[65_536:]
            self._http.send_data(stream_id, bytes(piece), end_stream=not left)
        if left is not None:
            self._left[stream_id] = left


class FileServer(_Http3Application, QuicConnectionProtocol):
    """On quicbaton, with quicbaton's HTTP/3."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.start_http(H3Connection(self._quic))
        elif isinstance(event, StreamWritable):
            self.pump(event.stream_id)
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self.http_event_received(http_event)


class AioquicFileServer(_Http3Application, aioquic.asyncio.QuicConnectionProtocol):
    """The same on aioquic."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.start_http(AioquicH3Connection(self._quic))
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self.http_event_received(http_event)


class _Http3Client:
    """Requests over HTTP/3, for whatever aioquic-like protocol it is mixed into."""

    _quic: Any
    _http: Any
    _loop: asyncio.AbstractEventLoop
    transmit: Callable[[], None]

    def start_http(self, http: Any) -> None:
        self._http = http
        self._bodies: dict[int, bytearray] = {}
        self._answers: dict[int, asyncio.Future[bytes]] = {}

    async def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        stream_id = self._quic.get_next_available_stream_id()
        self._bodies[stream_id] = bytearray()
        answer = self._answers[stream_id] = self._loop.create_future()
        self._http.send_headers(
            stream_id,
            [
                (b":method", method.encode()),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", path.encode()),
            ],
            end_stream=not body,
        )
        if body:
            self._http.send_data(stream_id, body, end_stream=True)
        self.transmit()
        return await answer

    async def get(self, size: int) -> bytes:
        return await self.request("GET", f"/{size}")

    def quic_event_received(self, event: Any) -> None:
        if type(event).__name__ == ConnectionTerminated.__name__:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionError(event.reason_phrase))
        for http_event in self._http.handle_event(event):
            stream_id = getattr(http_event, "stream_id", None)
            if type(http_event).__name__ == DataReceived.__name__:
                self._bodies[stream_id] += http_event.data
            if getattr(http_event, "stream_ended", False) and stream_id in self._answers:
                self._answers.pop(stream_id).set_result(bytes(self._bodies.pop(stream_id)))


class HttpClient(_Http3Client, QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_http(H3Connection(self._quic))


class AioquicHttpClient(_Http3Client, aioquic.asyncio.QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_http(AioquicH3Connection(self._quic))


#: How to connect, and the protocol to do it with.
CLIENTS = {
    "aioquic": (aioquic.asyncio.connect, AioquicHttpClient),
    "quicbaton": (connect, HttpClient),
}
each_client = pytest.mark.parametrize("kind", CLIENTS)


def http_client(
    certificate: CertificateFiles, port: int, kind: str = "quicbaton", **options: Any
) -> Any:
    """A client, about to connect; the options are those of its configuration."""
    connect_to, protocol = CLIENTS[kind]
    configuration = client_configuration(certificate, **options)
    return connect_to("127.0.0.1", port, configuration=configuration, create_protocol=protocol)


def qh3_http_client() -> type:
    """qh3's protocol with the same requests; qh3 is imported only where it is used."""
    import qh3.asyncio  # noqa: PLC0415
    from qh3.h3.connection import H3Connection as Qh3H3Connection  # noqa: PLC0415

    class Qh3HttpClient(_Http3Client, qh3.asyncio.QuicConnectionProtocol):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.start_http(Qh3H3Connection(self._quic))

    return Qh3HttpClient


class Watcher(QuicConnectionProtocol):
    """Keeps all events; `seen(kind)` waits for the next of a kind."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[QuicEvent] = []
        self._fresh = asyncio.Event()
        watchers = getattr(type(self), "instances", None)
        if watchers is not None:
            watchers.put_nowait(self)

    def quic_event_received(self, event: QuicEvent) -> None:
        self.events.append(event)
        self._fresh.set()
        super().quic_event_received(event)

    async def seen(self, kind: type[QuicEvent]) -> Any:
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    self.events.remove(event)
                    return event
            self._fresh.clear()
            await self._fresh.wait()


def watcher() -> Any:
    """A subclass of Watcher whose instances can be awaited: `await kind.instances.get()`."""
    return type("Watcher", (Watcher,), {"instances": asyncio.Queue()})


def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A stream handler: sends back what comes, with backpressure, then ends the stream."""

    async def serve() -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    task = asyncio.ensure_future(serve())
    _running.add(task)
    task.add_done_callback(_running.discard)


_running: set[asyncio.Future[None]] = set()
