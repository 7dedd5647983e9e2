"""`serve`: a QUIC server in one call, with the arguments of aioquic's."""

from __future__ import annotations

import os
from time import time
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import SessionTicketFetcher, SessionTicketHandler

from quicbaton.asyncio.collector import COLLECTOR
from quicbaton.asyncio.endpoint.endpoint import CreateProtocol, Endpoint
from quicbaton.asyncio.endpoint.newcomers import Owner
from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.asyncio.protocol import QuicConnectionProtocol, StreamHandler
from quicbaton.handshake import Certificates, SessionTickets
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.spent import ReplayGuard, SpentTokens
from quicbaton.limits import EARLY_DATA_WINDOW_S, MEMORY_BUDGET_BYTES
from quicbaton.routing.id_text import usual_ids
from quicbaton.routing.quic_lb import IdConfigs, IdFactory, Place
from quicbaton.routing.table import RoutingTable


class QuicServer:
    """A running server. `close` ends its connections and stops listening."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._runs = True
        COLLECTOR.begin()

    @property
    def port(self) -> int:
        """The UDP port on which it listens."""
        return int(self.endpoint.udp.address[1])

    def close(self) -> None:
        self.endpoint.close()
        if self._runs:
            self._runs = False
            COLLECTOR.end()


async def serve(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration,
    certificates: Certificates | None = None,
    create_protocol: CreateProtocol = QuicConnectionProtocol,
    session_ticket_fetcher: SessionTicketFetcher | None = None,
    session_ticket_handler: SessionTicketHandler | None = None,
    retry: bool = False,
    stream_handler: StreamHandler | None = None,
    ring: KeyRing | None = None,
    congestion_control: str | None = None,
    sleep_after_s: float = 0.0,
    memory_bytes: int = MEMORY_BUDGET_BYTES,
) -> QuicServer:
    """Serve QUIC at `host` and `port`; arguments as `aioquic.asyncio.serve` has them.

    Different from there: we set `configuration.connection_id_length`, and the protocol is created
    when the handshake is confirmed. `congestion_control` is "cubic", "bbr" or "reno"; without it
    `configuration.congestion_control_algorithm` counts, but for aioquic's default of "reno", for
    which it is "cubic". `certificates` stand in place of the configuration's: several, by server
    name, which may be replaced while the server runs, and may ask clients for theirs
    (`Connection.peer_certificates`). `ring` holds the cluster keys. Without it a fresh key is made,
    which is enough for one process that no other takes over from. Clients may resume their
    sessions. With a fresh key their early data (0-RTT) is accepted, too: then it is certain to
    count once. A connection that is silent for `sleep_after_s` and whose program can export its
    state shrinks to a few hundred bytes, and wakes in a new protocol object; 0: never.
    `memory_bytes` is the limit for the streams of all connections together. As it fills, windows
    shrink, then new clients are refused, and at last the connection that holds most is closed.

    While a server runs, the process's garbage collector looks for young garbage after 10,000 new
    objects instead of Python's 700 (2,000 from 3.14 on), unless the program has set a higher
    threshold or none. `close` puts the program's own back.
    """
    # No earlier process had these keys, so no early data was accepted under them: no need to wait.
    guard = SpentTokens() if ring is None else None
    ring = ring or KeyRing(ClusterKey.generate(os.urandom))
    endpoint = make_endpoint(
        open_udp(host, port),
        early_data=guard is not None,
        replay_guard=guard,
        configuration=configuration,
        certificates=certificates,
        create_protocol=create_protocol,
        ring=ring,
        retry=retry,
        session_ticket_fetcher=session_ticket_fetcher,
        session_ticket_handler=session_ticket_handler,
        stream_handler=stream_handler,
        congestion_control=congestion_control,
        sleep_after_s=sleep_after_s,
        memory_bytes=memory_bytes,
    )
    endpoint.start()
    return QuicServer(endpoint)


def make_endpoint(
    sock: Any,
    *,
    ring: KeyRing,
    node: int = 0,
    worker: int = 0,
    ids: IdConfigs | None = None,
    early_data: bool = False,
    replay_guard: ReplayGuard | None = None,
    **options: Any,
) -> Endpoint:
    """An endpoint on a bound socket, with its ID factory, routing table and session tickets.

    `ids` are the forms of connection IDs, plaintext if not given (`routing.id_text.parse_ids`).
    `early_data` accepts requests in a client's first flight, each once by `replay_guard`. Leave it
    off where other processes have the keys of `ring`, too, unless the guard speaks for all of them.
    Without a guard this process's memory decides; then nothing is accepted until everything that an
    earlier process with these keys may have accepted can no longer be replayed.

    Session tickets open wherever the keys of `ring` are. A program that brings its own handlers has
    its own tickets.
    """
    configs = ids or usual_ids(ring)
    table: RoutingTable[Owner] = RoutingTable(configs, Place(node, worker))
    factory = IdFactory(configs, node, worker, os.urandom, ring, in_use=table.owners)
    tickets = None
    if not (options.get("session_ticket_fetcher") or options.get("session_ticket_handler")):
        accepts_from = 0.0
        guard = replay_guard
        if guard is None:
            guard = SpentTokens()
            accepts_from = time() + 2 * EARLY_DATA_WINDOW_S
        tickets = SessionTickets(
            ring, os.urandom, time, guard if early_data else None, early_data_from=accepts_from
        )
    return Endpoint(
        sock,
        ids=factory,
        table=table,
        ring=ring,
        tickets=tickets,
        replay_guard=replay_guard,
        **options,
    )
