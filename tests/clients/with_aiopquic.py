"""aiopquic (picoquic); HTTP/3 above it is aioquic's, since it brings none for requests."""

from importlib.metadata import version
from typing import Any

from aiopquic.asyncio import QuicConnectionProtocol, connect
from aiopquic.quic.configuration import QuicConfiguration
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import H3Event
from aioquic.quic.events import StreamDataReceived
from conversation import converse
from events import EventClient, http_protocol


class _Http(H3Connection):
    """aioquic's HTTP/3 on events of aiopquic's."""

    def handle_event(self, event: Any) -> list[H3Event]:
        if type(event).__name__ != "StreamDataReceived":
            return []
        return super().handle_event(
            StreamDataReceived(
                data=bytes(event.data), end_stream=event.end_stream, stream_id=event.stream_id
            )
        )


class Aiopquic(EventClient):
    name = f"aiopquic/{version('aiopquic')}"
    can = ("open",)

    def connect(self) -> Any:
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=H3_ALPN, server_name=self.host
        )
        configuration.load_verify_locations(self.authority)
        protocol = http_protocol(QuicConnectionProtocol, _Http)
        return connect(self.host, self.port, configuration=configuration, create_protocol=protocol)


if __name__ == "__main__":
    converse(Aiopquic)
