"""Takes connections off this process's endpoint and puts them on: frozen, sealed, rebuilt, alive.

What is decided elsewhere is performed here; nothing here waits. Whatever an application's
`export_state` or `import_state` raises becomes a RefusedError: its mistake keeps a connection from
moving, it does not end it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import monotonic, time
from typing import NamedTuple

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton.asyncio.endpoint.endpoint import Endpoint, Owner
from quicbaton.asyncio.endpoint.session import Session, send_first
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.asyncio.moving.precopy import Copies, Copying
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.baton.header import BatonHeader, peek
from quicbaton.baton.precopy import Pieces, leave_out
from quicbaton.baton.seal import BatonFields, baton_digest, open_baton, seal
from quicbaton.baton.snapshot import Snapshot, decode_snapshot, encode_snapshot
from quicbaton.errors import QuicbatonError, RefusedError
from quicbaton.handoff.events import Sealed
from quicbaton.http3 import export_state, restore
from quicbaton.keys.key_ring import KeyRing
from quicbaton.ownership import Claim
from quicbaton.routing.reset import announce_reset
from quicbaton.transport.connection import Connection
from quicbaton.transport.sender import Train
from quicbaton.transport.state import Address, ConnectionState
from quicbaton.transport.view import stream_chunks


class Client(NamedTuple):
    """Whom to tell, and how, when a connection turns out to be nobody's."""

    remote: Address
    local: Address
    tokens: dict[bytes, bytes]  # connection ID -> stateless reset token


class Frozen(NamedTuple):
    """A connection between freeze and commit: what a thaw needs."""

    session: Session
    cids: tuple[bytes, ...]
    client: Client | None  # None until the snapshot was taken
    snapshot: bytes
    precopies: Mapping[bytes, Pieces]  # what of the streams is not in the snapshot
    parting: list[list[Train]]  # sent already, as far as the connection knows


class Given(NamedTuple):
    """What a forwarder remembers of a connection that it gave away."""

    cids: tuple[bytes, ...]
    client: Client


class Opened(NamedTuple):
    """A rebuilt connection that is silent, since it is not ours yet."""

    header: BatonHeader
    digest: bytes
    client: Client
    connection: Connection
    protocol: QuicConnectionProtocol

    def check(self, claim: Claim) -> None:
        """FencedError unless the claim is for this very baton."""
        claim.check(
            connection_id=self.header.connection_id,
            baton_term=self.header.term,
            baton_id=self.header.baton_id,
            digest=self.digest,
        )


class Mover:
    """One process's. `name` is its control socket's path, `host` names this boot of this host."""

    def __init__(self, endpoint: Endpoint, ring: KeyRing, name: str, host: bytes) -> None:
        self._endpoint = endpoint
        self._ring = ring
        self._name = name
        self._host = host

        #: What sources have sent ahead of their batons.
        self.copies = Copies()

    def freeze(self, connection_id: bytes, strays: Owner) -> Frozen:
        """Stop driving the connection; `strays` gets its datagrams.

        Its last trains are made, but not sent: `part` does that by and by, so that the client does
        not wait for all of the handoff at once. Nothing else is protected with the connection's
        keys, and the snapshot knows of them.
        """
        session = self._endpoint.sessions[connection_id]
        parting = session.connection.parting_trains(monotonic())
        frozen = Frozen(session, tuple(session.cids), None, b"", {}, parting)
        self._endpoint.release(session, strays)
        return frozen

    def part(self, frozen: Frozen) -> None:
        """Send the next of what `freeze` has made. It comes before the commit or not at all."""
        if frozen.parting:
            for train in frozen.parting.pop(0):
                self._endpoint.udp.send(train)

    def snapshot(self, frozen: Frozen, copying: Copying | None) -> Frozen:
        """With the snapshot, less what has been copied ahead of it.

        Raises RefusedError, the connection unharmed, when it cannot move. What can refuse is
        exported first; then the transport, which spends the connection.
        """
        session = frozen.session
        protocol = session.protocol
        try:
            application = protocol.export_state()
        except QuicbatonError:
            raise
        except Exception as error:
            raise _blame(protocol, "export_state", error) from error
        if not isinstance(application, bytes):
            raise RefusedError(
                f"{type(protocol).__name__}.export_state must return bytes, not "
                f"{type(application).__name__}",
                code="export_failed",
            )
        http3 = None if protocol._http is None else export_state(protocol._http)
        now = monotonic()
        state = session.connection.freeze(now)
        snapshot = Snapshot(
            connection=state,
            http3=http3,
            application=application,
            frozen_at_us=round(now * 1e6),
            host=self._host,
            precopied=None,
        )
        if copying is not None and copying.copied:
            copying.send(stream_chunks(state))
            snapshot.precopied = leave_out(state, copying.copy_id, copying.pieces)
            frozen = frozen._replace(precopies={copying.copy_id: copying.pieces})
        frozen = frozen._replace(client=_client(state), snapshot=encode_snapshot(snapshot))
        # Last: a full disk may fail it, and from here on the snapshot is what a thaw needs.
        self._endpoint.end_trace(session.connection)
        return frozen

    def seal(self, frozen: Frozen, connection_id: bytes, term: int, audience: str) -> Sealed:
        """A baton of the snapshot."""
        fields = BatonFields(
            connection_id=connection_id, term=term, source=self._name, audience=audience
        )
        sealed = seal(frozen.snapshot, fields, self._ring, os.urandom, time())
        return Sealed(peek(sealed).baton_id, baton_digest(sealed), sealed)

    def thaw(self, frozen: Frozen) -> Session:
        """Bring it back here, as it was when it was frozen."""
        while frozen.parting:
            self.part(frozen)
        for cid in frozen.cids:
            self._endpoint.table.remove(cid)
        if not frozen.snapshot:
            return self._endpoint.adopt(frozen.session.connection, frozen.session.protocol)
        return self._endpoint.adopt(
            *self._rebuild(decode_snapshot(frozen.snapshot, frozen.precopies))
        )

    def open(self, sealed: bytes) -> Opened:
        """Open, check and rebuild a baton, silently."""
        opened = open_baton(sealed, self._ring, time(), self._name)
        snapshot = decode_snapshot(opened.payload, self.copies.kept)
        if snapshot.precopied is not None:
            self.copies.drop(snapshot.precopied.precopy_id)
        if snapshot.host != self._host:
            raise RefusedError(
                "the baton was frozen on another host or before a reboot: its clock says nothing "
                "here, so it cannot be resumed",
                code="other_host",
            )
        client = _client(snapshot.connection)
        connection, protocol = self._rebuild(snapshot)
        return Opened(opened.header, opened.digest, client, connection, protocol)

    def resume(self, opened: Opened, strays: list[Datagram], sink: type[Owner]) -> Session:
        """Drive a rebuilt connection, which is ours now. What an owner of the class `sink` got
        of its datagrams, from an earlier time here, is its own again."""
        endpoint = self._endpoint
        connection = opened.connection
        connection.rearm(monotonic())
        # Before all that the client does not wait for.
        send_first(connection, endpoint.udp)
        for cid in connection.connection_ids():
            if isinstance(endpoint.table.owners.get(cid), sink):
                endpoint.table.remove(cid)
        session = endpoint.adopt(connection, opened.protocol)
        session.resume(strays)
        if any(endpoint.ids.decode(cid) not in (None, endpoint.ids.place) for cid in session.cids):
            connection.begin_cutover()
        connection.speak_first()
        return session

    def discard(self, opened: Opened) -> None:
        """Let go of a rebuilt connection, which has sent nothing."""
        self._endpoint.end_trace(opened.connection)

    def reset(self, client: Client, cids: tuple[bytes, ...] = ()) -> None:
        """Nobody owns the connection: its client is told so (RFC 9000 §10.3).

        At once, since a client that waits for us sends nothing that a reset could answer, and
        under each of our IDs, since we do not know which it uses. Its address is validated, and
        these few small datagrams go out once. What it still sends is answered by `routing`.
        """
        endpoint = self._endpoint
        for cid in (*cids, *client.tokens):
            endpoint.table.remove(cid)
        for token in client.tokens.values():
            data = announce_reset(token, os.urandom)
            endpoint.udp.send_datagram(data, client.remote, client.local)

    def _rebuild(self, snapshot: Snapshot) -> tuple[Connection, QuicConnectionProtocol]:
        endpoint = self._endpoint
        trace = endpoint.start_trace(snapshot.connection.original_id)
        connection = self._make_connection(snapshot, trace)
        protocol = endpoint.create_protocol(connection)
        if snapshot.http3 is not None:
            protocol._http = restore(connection, snapshot.http3)
        try:
            protocol.import_state(snapshot.application)
        except Exception as error:
            endpoint.end_trace(connection)
            if isinstance(error, QuicbatonError):
                raise
            raise _blame(protocol, "import_state", error) from error
        return connection, protocol

    def _make_connection(self, snapshot: Snapshot, trace: QuicLoggerTrace | None) -> Connection:
        now = monotonic()
        return Connection.resume(
            snapshot.connection,
            now=now,
            transit_us=max(0, round(now * 1e6) - snapshot.frozen_at_us),
            issuer=self._endpoint.ids,
            entropy=os.urandom,
            configuration=self._endpoint.configuration,
            trace=trace,
        )


def _client(state: ConnectionState) -> Client:
    path = state.paths[0]
    return Client(path.remote, path.local, {local.cid: local.token for local in state.ids.local})


def _blame(protocol: QuicConnectionProtocol, method: str, error: Exception) -> RefusedError:
    # Not the error's text, which may quote what the application holds: a peer reads this.
    return RefusedError(
        f"{type(protocol).__name__}.{method} raised {type(error).__name__}: fix it there",
        code=f"{method.partition('_')[0]}_failed",
    )
