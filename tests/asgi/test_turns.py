"""All requests in one datagram are answered in the same turn of the event loop, in one train."""

from __future__ import annotations

from functools import partial
from typing import Any

from aioquic.h3.events import DataReceived
from aioquic.quic.events import QuicEvent, StreamDataReceived

from quicbaton.asgi import AsgiProtocol, Lifespan
from quicbaton.asyncio import QuicConnectionProtocol, connect, serve
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.http3 import H3Connection
from tests.asgi import asgi_programs
from tests.asyncio.loopback import client_configuration, server_configuration

#: Several packets at once, so that an ACK is due when the request is whole (RFC 9000 §13.2.2).
_LONG_FIELDS = [(b"x-%d" % number, b"v" * 1000) for number in range(6)]


class _Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self.answered = self._loop.create_future()

    def ask(self, path: bytes) -> None:
        assert self._http is not None
        head = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path),
        ]
        stream_id = self._quic.get_next_available_stream_id()
        self._http.send_headers(stream_id, [*head, *_LONG_FIELDS], True)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        assert self._http is not None
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, DataReceived) and http_event.stream_ended:
                self.answered.set_result(http_event.data)


async def test_a_program_that_answers_at_once_is_answered_in_one_train(
    certificate: CertificateFiles,
) -> None:
    trace: list[str] = []

    class Traced(AsgiProtocol):
        def quic_event_received(self, event: QuicEvent) -> None:
            super().quic_event_received(event)
            if isinstance(event, StreamDataReceived) and event.stream_id in self._exchanges:
                trace.append("begun")

    async def program(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            trace.append("runs")
        await asgi_programs.application(scope, receive, send)

    lifespan = Lifespan(program, "test:application")
    await lifespan.startup()
    server = await serve(
        "127.0.0.1",
        0,
        configuration=server_configuration(certificate),
        create_protocol=partial(Traced, application=program, lifespan=lifespan),
    )
    udp = server.endpoint.udp
    send = udp.send
    udp.send = lambda train: trace.append("sends") or send(train)  # type: ignore[func-returns-value,method-assign]
    try:
        async with connect(
            "localhost",
            server.port,
            configuration=client_configuration(certificate),
            create_protocol=_Client,
        ) as client:
            assert isinstance(client, _Client)
            client.ask(b"/hello")
            assert await client.answered == b"hello from startup"
    finally:
        server.close()
        await lifespan.shutdown()
    at = trace.index("begun")
    assert trace[at : at + 3] == ["begun", "runs", "sends"]
