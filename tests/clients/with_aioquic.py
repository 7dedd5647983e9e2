"""aioquic, which can go on from another port of its own."""

import asyncio
from importlib.metadata import version
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.quic.configuration import QuicConfiguration
from conversation import converse
from events import EventClient, http_protocol


class Aioquic(EventClient):
    name = f"aioquic/{version('aioquic')}"
    can = ("open", "move")

    def connect(self) -> Any:
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=H3_ALPN, server_name=self.host
        )
        configuration.load_verify_locations(self.authority)
        protocol = http_protocol(QuicConnectionProtocol, H3Connection)
        return connect(self.host, self.port, configuration=configuration, create_protocol=protocol)

    async def move(self) -> None:
        """With a connection ID that was not used before, and a PING to tell (RFC 9000 §9.5)."""
        before = self.protocol._transport
        loop = asyncio.get_running_loop()
        host = before.get_extra_info("sockname")[0]
        await loop.create_datagram_endpoint(lambda: self.protocol, local_addr=(host, 0))
        self.protocol._quic.change_connection_id()
        self.protocol._quic.send_ping(1)
        self.protocol.transmit()
        before.close()


if __name__ == "__main__":
    converse(Aioquic)
