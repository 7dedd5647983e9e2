"""quicbaton's server and HTTP/3, with the benchmark's application.

The program is the one for aioquic with the imports changed, except for backpressure: it
writes until a stream's send buffer is full, and again when `StreamWritable` says that it drained.
Its variants are congestion controls.
"""

from typing import Any

from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from bench.servers.application import MAX_DATA, MAX_STREAM_DATA, Application, Content, Options, run
from quicbaton.asyncio import QuicConnectionProtocol, StreamWritable, serve
from quicbaton.http3 import H3Connection
from quicbaton.limits import STREAM_BUFFER_HIGH_BYTES


class Protocol(QuicConnectionProtocol):
    content: Content

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http: H3Connection | None = None
        self._application: Application | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
            self._application = Application(self._http, self.content, self._has_room)
        if self._http and self._application:
            if isinstance(event, StreamWritable):
                self._application.pump()
                return
            for http_event in self._http.handle_event(event):
                self._application.handle(http_event)

    def _has_room(self, stream_id: int) -> bool:
        return self._quic.send_buffer_bytes(stream_id) < STREAM_BUFFER_HIGH_BYTES


async def start(options: Options, content: Content) -> int:
    """Serve on a free port of the loopback and return it."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=H3_ALPN,
        max_data=MAX_DATA,
        max_stream_data=MAX_STREAM_DATA,
    )
    configuration.load_cert_chain(options.certificate, options.key)
    Protocol.content = content
    server = await serve(
        "127.0.0.1",
        0,
        configuration=configuration,
        create_protocol=Protocol,
        congestion_control=options.variant,
    )
    return server.port


if __name__ == "__main__":
    run(start, ["cubic", "bbr", "reno"])
