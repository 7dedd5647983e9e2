"""The objects that all handoffs of one process share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.handoff import events as ev
from quicbaton.http3.codes import ErrorCode
from quicbaton.reasons import Reason
from quicbaton.service.moving.handoff import Handoff
from quicbaton.service.moving.inbound_forwarders import InboundForwarders
from quicbaton.service.moving.link_waiters import LinkWaiters
from quicbaton.service.moving.mover import Mover
from quicbaton.service.moving.store_client import StoreClient
from quicbaton.service.moving.stream_relay.relays import StreamRelays
from quicbaton.service.moving.timelines import Timelines
from quicbaton.service.peers.link import Link
from quicbaton.service.peers.names import Names


@dataclass
class Counts:
    """Counters of the connections of a process."""

    given: int = 0
    resumed: int = 0
    #: Datagrams that arrived here for connections of other processes, and were passed on.
    forwarded: int = 0


@dataclass
class HandoffContext:
    endpoint: Endpoint
    mover: Mover
    names: Names
    relays: StreamRelays
    waiters: LinkWaiters
    forwarders: InboundForwarders
    timelines: Timelines
    #: None where no shared store decides who owns connections.
    store: StoreClient | None
    #: The format of batons that are saved.
    file_format: int
    feed: Callable[[Handoff, ev.Event], None]
    #: Called with a connection that was ours and is over.
    closed: Callable[[bytes], None]
    #: Open links, by number.
    links: dict[int, Link] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    #: Ends of handoffs, by direction (`out`, `in`) and code.
    outcomes: Counter[tuple[str, Reason]] = field(default_factory=Counter)

    def close_living(self, connection_id: bytes) -> bool:
        """Close a living connection whose handoff failed. Returns False when it does not live."""
        session = self.endpoint.sessions.get(connection_id)
        if session is not None:
            text = "the connection could not be moved"
            session.protocol.close(ErrorCode.H3_INTERNAL_ERROR, text)
        return session is not None
