"""A program over TCP in the test's own process, and clients for it: libcurl, and raw TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import pycurl

from quicbaton.asgi import Lifespan
from quicbaton.asgi.tcp import TcpServer, tls_identity
from quicbaton.asyncio.endpoint.memory import Memory
from quicbaton.asyncio.listener import bind_listener
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.limits import MEMORY_BUDGET_BYTES
from tests.asgi import asgi_programs

VERSIONS = {"1.1": pycurl.CURL_HTTP_VERSION_1_1, "2": pycurl.CURL_HTTP_VERSION_2TLS}
_END_S = 5.0
_ALPN = {"1.1": "http/1.1", "2": "h2"}


class Stage(NamedTuple):
    """The server and where it is."""

    server: TcpServer
    port: int
    certificate: CertificateFiles
    memory: Memory

    async def connect(self, version: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """TLS, for a client of that version that the test plays."""
        context = ssl.create_default_context(cafile=str(self.certificate.certificate))
        context.set_alpn_protocols([_ALPN[version]])
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="localhost"
        )

    async def ask(self, version: str, path: str, **options: Any) -> Answer:
        """One request by libcurl, over a connection of its own."""
        return await asyncio.to_thread(perform, self, version, path, **options)


class Answer:
    """The result of a request."""

    def __init__(self) -> None:
        self.status = 0
        self.version = 0
        self.body = b""
        self.fields: dict[str, str] = {}
        self.error = 0

    def on_line(self, line: bytes) -> None:
        name, colon, value = line.decode().partition(":")
        if colon:
            self.fields[name.lower()] = value.strip()


def perform(
    stage: Stage,
    version: str,
    path: str,
    *,
    body: bytes | None = None,
    fields: Any = (),
    head: bool = False,
) -> Answer:
    """By libcurl."""
    answer, pieces, curl = Answer(), [], pycurl.Curl()
    curl.setopt(pycurl.URL, f"https://localhost:{stage.port}{path}")
    curl.setopt(pycurl.CAINFO, str(stage.certificate.certificate))
    curl.setopt(pycurl.RESOLVE, [f"localhost:{stage.port}:127.0.0.1"])
    curl.setopt(pycurl.HTTP_VERSION, VERSIONS[version])
    curl.setopt(pycurl.HTTPHEADER, list(fields))
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.TIMEOUT, 60)
    curl.setopt(pycurl.WRITEFUNCTION, pieces.append)
    curl.setopt(pycurl.HEADERFUNCTION, answer.on_line)
    curl.setopt(pycurl.NOBODY, head)
    if body is not None:
        curl.setopt(pycurl.POSTFIELDS, body)
    try:
        curl.perform()
    except pycurl.error as error:
        answer.error = error.args[0]
    answer.status = curl.getinfo(pycurl.RESPONSE_CODE)
    answer.body = b"".join(pieces)
    curl.close()
    return answer


@asynccontextmanager
async def serving(
    certificate: CertificateFiles,
    application: Any = asgi_programs.application,
    *,
    keep_alive_s: float = 30,
    memory_bytes: int = MEMORY_BUDGET_BYTES,
) -> AsyncIterator[Stage]:
    """The program, over TCP. The notes of the tests' program are in `asgi_programs.STARTED`."""
    asgi_programs.STARTED.clear()
    lifespan = Lifespan(application, "test:application")
    await lifespan.startup()
    listener = bind_listener("127.0.0.1", 0)
    identity = tls_identity(certificate.certificate, certificate.key)
    server = TcpServer(
        listener,
        identity,
        keep_alive_s,
        application=application,
        lifespan=lifespan,
        root_path="/mounted" if application is asgi_programs.mounted else "",
    )
    memory = Memory(memory_bytes, {}, Counter())
    server.share(memory)
    server.start()
    try:
        yield Stage(server, listener.take().getsockname()[1], certificate, memory)
    finally:
        server.close()
        # What a test has left at work, because it failed, shall not hide that.
        await server.until_none_left(_END_S)
        listener.close()
        await lifespan.shutdown()


class Http2Client:
    """h2, as a client that does only what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []
        self.h2.initiate_connection()
        self.flush()

    @classmethod
    async def connect(cls, stage: Stage) -> Http2Client:
        return cls(*await stage.connect("2"))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    def request(self, path: str, *more: tuple[str, str], method: str = "GET") -> int:
        """A request without a body, or with one that is yet to come."""
        stream_id = self.h2.get_next_available_stream_id()
        head = [
            (":method", method),
            (":path", path),
            (":scheme", "https"),
            (":authority", "localhost"),
        ]
        ended = method == "GET"
        self.h2.send_headers(stream_id, [*head, *more], end_stream=ended)
        self.flush()
        return stream_id

    async def until(self, kind: type[h2.events.Event], stream_id: int | None = None) -> Any:
        """The first event of that kind, of that stream; the windows are kept open."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                ours = stream_id is None or getattr(event, "stream_id", None) == stream_id
                if isinstance(event, kind) and ours:
                    return event
            seen = len(self.events)
            if not await self.read():
                raise EOFError(f"no {kind.__name__}: {self.events}")

    async def read(self) -> bool:
        """Read the server's next bytes; false when it has hung up."""
        with contextlib.suppress(ConnectionError):
            data = await self._reader.read(65536)
            events = self.h2.receive_data(data)
            for event in events:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.events += events
            self.flush()
            return bool(data)
        return False

    def body(self, stream_id: int) -> bytes:
        """The part of a response that has come."""
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream_id
        )

    def close(self) -> None:
        self._writer.close()
