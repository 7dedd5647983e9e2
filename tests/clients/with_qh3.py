"""qh3, whose QUIC and TLS are Rust."""

from importlib.metadata import version
from typing import Any

from conversation import converse
from events import EventClient, http_protocol
from qh3.asyncio import QuicConnectionProtocol, connect
from qh3.h3.connection import H3_ALPN, H3Connection
from qh3.quic.configuration import QuicConfiguration


class Qh3(EventClient):
    name = f"qh3/{version('qh3')}"
    can = ("open",)

    def connect(self) -> Any:
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=H3_ALPN, server_name=self.host
        )
        configuration.load_verify_locations(self.authority)
        protocol = http_protocol(QuicConnectionProtocol, H3Connection)
        return connect(self.host, self.port, configuration=configuration, create_protocol=protocol)


if __name__ == "__main__":
    converse(Qh3)
