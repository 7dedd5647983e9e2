"""`connect`: a QUIC client in one call, with the arguments of aioquic's."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import SessionTicketHandler

from quicbaton.asyncio.endpoint.endpoint import CreateProtocol
from quicbaton.asyncio.endpoint.handshaking import Handshaking
from quicbaton.asyncio.endpoint.lateness import Lateness
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram, UdpSocket
from quicbaton.asyncio.protocol import QuicConnectionProtocol, StreamHandler
from quicbaton.handshake import Promotion, prepare
from quicbaton.transport.connection import Connection
from quicbaton.transport.state import Address

TokenHandler = Callable[[bytes], None]

#: More than a server can have in use, and few of the 256 IDs of one octet.
_REMEMBERED_IDS: Final = 32


class RandomIds:
    """A client's connection IDs: random, of one length, with random reset tokens.

    `issued` are IDs that the connection has already. IDs of one octet repeat soon, and one that the
    server still knows must not (RFC 9000 §5.1.1).
    """

    def __init__(self, length: int, issued: Iterable[bytes]) -> None:
        self._length = length
        self._latest = deque(issued, maxlen=_REMEMBERED_IDS)

    def issue(self) -> tuple[bytes, bytes]:
        cid = os.urandom(self._length)
        while cid in self._latest:
            cid = os.urandom(self._length)
        self._latest.append(cid)
        return cid, os.urandom(16)


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration | None = None,
    create_protocol: CreateProtocol = QuicConnectionProtocol,
    session_ticket_handler: SessionTicketHandler | None = None,
    stream_handler: StreamHandler | None = None,
    token_handler: TokenHandler | None = None,
    wait_connected: bool = True,
    local_port: int = 0,
) -> AsyncGenerator[QuicConnectionProtocol, None]:
    """Connect to a server; arguments as `aioquic.asyncio.connect` has them.

    The protocol exists once the handshake is confirmed, so `wait_connected` False waits, too: no
    0-RTT data is sent. Raises ConnectionError when there is no connection.
    """
    loop = asyncio.get_running_loop()
    configuration = configuration or QuicConfiguration(is_client=True)
    if configuration.server_name is None:
        configuration.server_name = host
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, protocol_number, _, remote = infos[0]
    address: Address = tuple(remote)  # type: ignore[arg-type] # bytes only without IPv6
    sock = socket.socket(family, kind, protocol_number)
    sock.setblocking(False)
    try:
        sock.bind(("", local_port))
    except OSError:
        sock.close()
        raise
    client = _Client(
        sock,
        configuration,
        create_protocol,
        stream_handler,
        session_ticket_handler,
        token_handler,
    )
    try:
        protocol = await client.connect(address)
        try:
            yield protocol
        finally:
            protocol.close()
            await protocol.wait_closed()
    finally:
        client.close()


class _Client:
    """One connection on a socket of its own: both the endpoint and the routing table of its
    session."""

    def __init__(
        self,
        sock: socket.socket,
        configuration: QuicConfiguration,
        create_protocol: CreateProtocol,
        stream_handler: StreamHandler | None,
        session_ticket_handler: SessionTicketHandler | None,
        token_handler: TokenHandler | None,
    ) -> None:
        self._configuration = configuration
        self._create_protocol = create_protocol
        self._stream_handler = stream_handler
        self._session_ticket_handler = session_ticket_handler
        self._token_handler = token_handler
        self._connected: asyncio.Future[QuicConnectionProtocol] = (
            asyncio.get_running_loop().create_future()
        )
        self._owner: Any = None
        self.udp = UdpSocket(sock, self._on_batch, self._on_room)
        self.lateness = Lateness()
        self.doze_after_s = inf  # it is a server that has thousands
        self.table = self

    async def connect(self, remote: Address) -> QuicConnectionProtocol:
        # aioquic still handles the rest of the datagram that confirms the handshake.
        quic = QuicConnection(
            configuration=self._configuration,
            session_ticket_handler=self._session_ticket_handler,
            token_handler=self._token_handler,
        )
        length = self._configuration.connection_id_length
        prepare(quic, os.urandom(length), b"", first_destination=os.urandom(max(8, length)))
        handshake = Handshaking(quic, self.udp, self._on_promoted, self._on_failed)
        self._owner = handshake
        self.udp.start()
        handshake.connect(remote)
        return await self._connected

    def close(self) -> None:
        if isinstance(self._owner, Handshaking):
            self._owner.abandon()
        elif self._owner is not None:
            self._owner.detach()
        self.udp.close()

    # --- what a session asks of its endpoint ----------------------------------------------------

    def add(self, cid: bytes, owner: object) -> None:
        """Nothing to do: all datagrams of this socket are for the one connection."""

    def retire(self, cid: bytes, now: float) -> None:
        """Nothing to do, as in `add`."""

    def forget(self, session: object) -> None:
        """Nothing to do: there is no table."""

    def on_retired(self, session: object) -> None:
        """Nothing to do: no handoff waits for it."""

    def hear_all(self, session: object) -> bool:
        """Read what has come, and have it processed; False when there is more."""
        return self.udp.read_on()

    def wait_for_room(self, session: object) -> None:
        """Nothing to do: `_on_room` wakes the one connection."""

    # --- helpers --------------------------------------------------------------------------------

    def _on_batch(self, batch: list[Datagram]) -> None:
        self._owner.receive(batch)

    def _on_room(self) -> None:
        if isinstance(self._owner, Session):
            self._owner.transmit_soon()

    def _on_promoted(
        self, _handshake: Handshaking, promotion: Promotion, rest: list[Datagram]
    ) -> None:
        tls = promotion.tls

        def on_crypto(data: bytes) -> None:
            if tls is not None:
                for ticket in tls.receive(data):
                    if self._session_ticket_handler is not None:
                        self._session_ticket_handler(ticket)

        connection = Connection(
            promotion.state,
            origin_s=promotion.origin_s,
            issuer=RandomIds(
                self._configuration.connection_id_length,
                [local.cid for local in promotion.state.ids.local],
            ),
            entropy=os.urandom,
            configuration=self._configuration,
            on_crypto=on_crypto,
            on_token=self._token_handler or (lambda _token: None),
            trace=promotion.trace,
        )
        connection.start()
        protocol = self._create_protocol(connection, stream_handler=self._stream_handler)
        session = Session(self, connection, protocol)
        self._owner = session
        if rest:
            session.receive(rest)
        else:
            session.process()
        if not self._connected.done():
            self._connected.set_result(protocol)

    def _on_failed(self, _handshake: Handshaking, event: events.ConnectionTerminated) -> None:
        if not self._connected.done():
            reason = event.reason_phrase or f"error {event.error_code:#x}"
            self._connected.set_exception(ConnectionError(reason))
