"""`serve`: a QUIC server in one call, with the arguments of aioquic's."""

from __future__ import annotations

import os
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import SessionTicketFetcher, SessionTicketHandler

from quicbaton.asyncio.endpoint.endpoint import CreateProtocol, Endpoint, Owner
from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.asyncio.protocol import QuicConnectionProtocol, StreamHandler
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.quic_lb import IdFactory, IdLayout, Place
from quicbaton.routing.table import RoutingTable


class QuicServer:
    """A running server; `close` ends its connections and stops listening."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def port(self) -> int:
        """The UDP port that it listens on."""
        return int(self.endpoint.udp.address[1])

    def close(self) -> None:
        self.endpoint.close()


async def serve(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration,
    create_protocol: CreateProtocol = QuicConnectionProtocol,
    session_ticket_fetcher: SessionTicketFetcher | None = None,
    session_ticket_handler: SessionTicketHandler | None = None,
    retry: bool = False,
    stream_handler: StreamHandler | None = None,
    ring: KeyRing | None = None,
    congestion_control: str = "cubic",
) -> QuicServer:
    """Serve QUIC at `host` and `port`; arguments as `aioquic.asyncio.serve` has them.

    Different from there: `configuration.connection_id_length` is set by us, the protocol is
    created when the handshake is confirmed, and `congestion_control` ("cubic" or "reno") stands
    here, since the configuration's own setting is aioquic's, whose default is Reno. `ring` holds
    the cluster keys; without it a fresh key is made, which is enough for one process that nobody
    takes over from.
    """
    ring = ring or KeyRing(ClusterKey.generate(os.urandom))
    endpoint = make_endpoint(
        open_udp(host, port),
        configuration=configuration,
        create_protocol=create_protocol,
        ring=ring,
        retry=retry,
        session_ticket_fetcher=session_ticket_fetcher,
        session_ticket_handler=session_ticket_handler,
        stream_handler=stream_handler,
        congestion_control=congestion_control,
    )
    endpoint.start()
    return QuicServer(endpoint)


def make_endpoint(
    sock: Any, *, ring: KeyRing, node: int = 0, worker: int = 0, **options: Any
) -> Endpoint:
    """An endpoint on a bound socket, with its ID factory and routing table."""
    layout = IdLayout()
    table: RoutingTable[Owner] = RoutingTable(layout, Place(node, worker))
    ids = IdFactory(layout, node, worker, os.urandom, ring, in_use=table.owners)
    return Endpoint(sock, ids=ids, table=table, ring=ring, **options)
