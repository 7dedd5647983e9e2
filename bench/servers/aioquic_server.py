"""aioquic's own asyncio server and HTTP/3, with the benchmark's application.

aioquic has no backpressure: it buffers every write. There are two ways to live with that, and the
benchmark takes the one that favours aioquic:

* `whole`, the default, gives it the body in one write (cheapest by a little, or equal);
* `chunks` looks at the private send buffer before every transmission and writes the next chunk
  when less than `LOW_WATER_BYTES` of it is unacknowledged.
"""

from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from bench.servers.application import MAX_DATA, MAX_STREAM_DATA, Application, Content, Options, run

LOW_WATER_BYTES = 1024 * 1024


class _Protocol(QuicConnectionProtocol):
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
            for http_event in self._http.handle_event(event):
                self._application.handle(http_event)

    def transmit(self) -> None:
        if self._application:
            self._application.pump()
        super().transmit()

    def _has_room(self, stream_id: int) -> bool:
        sender = self._quic._streams[stream_id].sender
        return sender._buffer_stop - sender._buffer_start < LOW_WATER_BYTES


async def start(options: Options, content: Content) -> int:
    """Serve on a free port of the loopback and return it."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=H3_ALPN,
        max_data=MAX_DATA,
        max_stream_data=MAX_STREAM_DATA,
    )
    if options.datagram_bytes:
        configuration.max_datagram_size = options.datagram_bytes
    configuration.load_cert_chain(options.certificate, options.key)
    _Protocol.content = content
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=_Protocol)
    assert server._transport is not None
    port: int = server._transport.get_extra_info("sockname")[1]
    return port


if __name__ == "__main__":
    run(start, ["whole", "chunks"])
