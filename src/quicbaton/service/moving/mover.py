"""Takes connections off this process's endpoint and puts them on: frozen, sealed, rebuilt, alive.

It performs decisions that are made elsewhere, and never waits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import monotonic, time
from typing import NamedTuple

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.memory import refuses_clients
from quicbaton.asyncio.endpoint.newcomers import Owner
from quicbaton.asyncio.endpoint.program import (
    export_descriptors,
    export_program,
    import_program,
)
from quicbaton.asyncio.endpoint.session import Session, send_first
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.baton.header import BatonHeader
from quicbaton.baton.precopy import Pieces, leave_out, missing
from quicbaton.baton.seal import BatonFields, identify, open_baton, seal
from quicbaton.baton.snapshot import RelayedStream, Snapshot, decode_snapshot, encode_snapshot
from quicbaton.errors import RefusedError
from quicbaton.handoff.events import Sealed
from quicbaton.http3.transfer import sessions_among, with_members
from quicbaton.keys.key_ring import KeyRing
from quicbaton.ownership import Claim
from quicbaton.reasons import Reason
from quicbaton.routing.reset import announce_reset
from quicbaton.service.moving.parcels import Parcel, copy
from quicbaton.service.moving.precopy import Copies, Copying
from quicbaton.service.moving.proxying import ProxyOutlet
from quicbaton.service.moving.stream_relay.new_owner import NewOwner
from quicbaton.service.moving.stream_relay.relays import LeftBehind, PassedOn
from quicbaton.service.moving.stream_relay.stand_in import StandIn
from quicbaton.service.peers.names import Names
from quicbaton.transport.connection import Connection
from quicbaton.transport.state import Address, ConnectionState, WritableEvent
from quicbaton.transport.train import Train


class ResetTarget(NamedTuple):
    """The client to tell, and the tokens for it, when a connection turns out to have no owner."""

    remote: Address
    local: Address
    tokens: dict[bytes, bytes]  # connection ID -> stateless reset token
    others: tuple[tuple[Address, Address], ...] = ()  # its other paths: (remote, local)


class Frozen(NamedTuple):
    """A connection between freeze and commit, with everything that a thaw needs."""

    session: Session
    cids: tuple[bytes, ...]
    client: ResetTarget | None  # None until the snapshot was taken
    snapshot: bytes
    precopies: Mapping[bytes, Pieces]  # what of the streams is not in the snapshot
    parting: list[list[Train]]  # sent already, as far as the connection knows
    left: LeftBehind | None  # what does not move: the protocol object, for some streams
    passed: PassedOn | None  # streams that are relayed to this process already
    descriptors: tuple[int, ...]  # the application's open files, which go along; the protocol's
    frozen_at_us: int  # by this host's clock; 0 until the snapshot was taken


class Given(NamedTuple):
    """The memory of a forwarder about a connection that it gave away."""

    cids: tuple[bytes, ...]
    client: ResetTarget


class RebuiltConnection(NamedTuple):
    """A rebuilt connection that is silent, since it is not ours yet."""

    header: BatonHeader
    digest: bytes
    client: ResetTarget
    connection: Connection
    protocol: QuicConnectionProtocol
    relay: NewOwner | None  # for streams whose requests still run at the source
    frozen_at_us: int | None  # by this host's clock; None: it was another's
    opened_at_s: float
    size_bytes: int  # of the sealed baton

    def missed_us(self, now: float, frozen_us: int) -> int:
        """By how much connection time must move on, now that the source has told for how long the
        connection stood still by its own clock.

        On one host that clock is ours, and nothing is missed. Otherwise the source counted from its
        freeze to its commit, and we from the baton's arrival until now. These overlap, so at least
        the longer of the two has passed. The truth may be longer, by the way of a message. Counting
        less is safe: a timer fires later than it might, and our ACK Delay is too short, which costs
        the peer's estimate of the round trip a little; no sample of ours begins before the handoff
        (`owner_first_number`). Counting more would end connections by idle timeouts that have not
        passed.
        """
        if self.frozen_at_us is not None:
            return 0
        return max(0, frozen_us - self._here_us(now))

    def waited_us(self, now: float, frozen_us: int) -> int:
        """How long no process could send to the client; across hosts, at least."""
        if self.frozen_at_us is not None:
            return max(0, round(now * 1e6) - self.frozen_at_us)
        return max(frozen_us, self._here_us(now))

    def _here_us(self, now: float) -> int:
        return round((now - self.opened_at_s) * 1e6)

    def check(self, claim: Claim) -> None:
        """FencedError unless the claim is for this very baton."""
        claim.check(
            connection_id=self.header.connection_id,
            baton_term=self.header.term,
            baton_id=self.header.baton_id,
            digest=self.digest,
        )


class Mover:
    """`host` names this boot of this host."""

    def __init__(self, endpoint: Endpoint, ring: KeyRing, names: Names, host: bytes) -> None:
        self._endpoint = endpoint
        self._ring = ring
        self._names = names
        self._host = host

        #: Bytes of streams that sources have sent ahead of their batons.
        self.copies = Copies()

    def freeze(self, connection_id: bytes, strays: Owner) -> Frozen:
        """Stop driving the connection; `strays` gets its datagrams.

        Its last trains are made, but not sent: `send_last_train` does that one by one, so that the
        client does not wait for all of the handoff at once. No other packet is protected with the
        connection's keys, and the snapshot knows of these.
        """
        session = self._endpoint.session_of(connection_id)
        if session is None:
            raise RefusedError("the connection has ended", code=Reason.CLOSED)
        parting = session.connection.parting_trains(monotonic())
        frozen = Frozen(session, session.cids, None, b"", {}, parting, None, None, (), 0)
        self._endpoint.release(session, strays)
        return frozen

    def send_last_train(self, frozen: Frozen) -> None:
        """Send the next train that `freeze` has made. It is given to the socket before the commit,
        or not at all."""
        if frozen.parting:
            for train in frozen.parting.pop(0):
                self._endpoint.udp.send(train)

    def snapshot(self, frozen: Frozen, copying: Copying | None, *, may_relay: bool) -> Frozen:
        """The connection with its snapshot, without the bytes that were copied ahead. If
        `may_relay`, streams whose requests cannot be exported stay behind, with the protocol
        object.

        Raises RefusedError, the connection unharmed, when it cannot move. Parts that may refuse are
        exported first; then the transport, which spends the connection.
        """
        session = frozen.session
        relay = _open_relay(session.protocol) if may_relay else None
        left = _streams_left(session) if may_relay else []
        passed = [] if relay is None else relay.export()
        application, http3 = export_program(session.protocol, left, passes_on=relay is not None)
        sessions = sessions_among(session.protocol._http, left)
        descriptors = tuple(export_descriptors(session.protocol))
        now = monotonic()
        state = session.connection.freeze(now)
        snapshot = Snapshot(
            connection=state,
            http3=http3,
            application=application,
            frozen_at_us=round(now * 1e6),
            host=self._host,
            precopied=None,
            relayed=[_relayed(state, one, is_session=one in sessions) for one in left],
        )
        if relay is not None:
            relay.hold()
            session.protocol.relay(None)
            frozen = frozen._replace(passed=PassedOn(relay, passed))
        if left:
            stand_in = StandIn(session.connection, state, snapshot.relayed)
            session.protocol.use_connection(stand_in)
            frozen = frozen._replace(left=LeftBehind(session.protocol, stand_in))
        snapshot.relayed += passed
        if copying is not None and copying.copied:
            copying.send(missing(state.streams, copying.pieces))
            snapshot.precopied = leave_out(state, copying.copy_id, copying.pieces)
            frozen = frozen._replace(precopies={copying.copy_id: copying.pieces})
        frozen = frozen._replace(
            client=_client(state),
            snapshot=encode_snapshot(snapshot),
            descriptors=descriptors,
            frozen_at_us=snapshot.frozen_at_us,
        )
        # Last: a full disk may fail it, and from here on a thaw needs the snapshot.
        self._endpoint.end_trace(session.connection)
        return frozen

    def seal(
        self, frozen: Frozen, connection_id: bytes, term: int, audience: str, version: int
    ) -> Sealed:
        """A baton of the snapshot. RefusedError when the format `version` cannot express it."""
        source = self._names.toward(audience)
        fields = BatonFields(
            connection_id=connection_id, term=term, source=source, audience=audience
        )
        sealed = seal(frozen.snapshot, fields, self._ring, os.urandom, time(), version)
        baton_id, digest = identify(sealed)
        return Sealed(baton_id, digest, sealed)

    def thaw(self, frozen: Frozen) -> Session:
        """Bring the connection back here, as it was when it was frozen."""
        while frozen.parting:
            self.send_last_train(frozen)
        for cid in frozen.cids:
            self._endpoint.table.remove(cid)
        if not frozen.snapshot:
            # The very same object: it may use again the room that it kept free for the next owner.
            frozen.session.connection.stay()
            return self._endpoint.adopt(frozen.session.connection, frozen.session.protocol)
        snapshot = decode_snapshot(frozen.snapshot, frozen.precopies)
        if frozen.left is not None:
            return self._endpoint.adopt(*self._bring_back(snapshot, frozen.left))
        rebuilt = self._rebuild(snapshot, copy(frozen.descriptors))
        frozen.session.protocol.connection_left()
        return self._endpoint.adopt(*rebuilt)

    def open(
        self,
        sealed: bytes,
        parcel: Parcel | None = None,
        *,
        proxied: bool = False,
        live: bool = False,
    ) -> RebuiltConnection:
        """Open, check and rebuild a baton, silently. A `live` one comes from its source right now,
        whatever the clocks of the two hosts say. The program takes the files in `parcel`.

        A connection for which another process will send gets no connection IDs of ours, since
        datagrams for these would not come here. It gets none of that process's either, which would
        have to know them first. Its client has up to two spare ones, for two changes of its
        address.
        """
        opened = open_baton(sealed, self._ring, None if live else time(), *self._names)
        snapshot = decode_snapshot(opened.payload, self.copies.kept)
        if snapshot.precopied is not None:
            self.copies.drop(snapshot.precopied.precopy_id)
        client = _client(snapshot.connection)
        self._check_ids(client)
        self._check_room(client)
        connection, protocol = self._rebuild(snapshot, parcel, proxied=proxied)
        relay = None
        if snapshot.relayed:
            relay = NewOwner(connection, snapshot.connection, snapshot.relayed, protocol._http)
            protocol.relay(relay)
        frozen_at_us = snapshot.frozen_at_us if snapshot.host == self._host else None
        return RebuiltConnection(
            opened.header,
            opened.digest,
            client,
            connection,
            protocol,
            relay,
            frozen_at_us,
            monotonic(),
            len(sealed),
        )

    def resume(
        self,
        opened: RebuiltConnection,
        strays: list[Datagram],
        sink: type[Owner],
        *,
        frozen_us: int,
        outlet: ProxyOutlet | None,
    ) -> tuple[Session, int]:
        """Drive a rebuilt connection, which is ours now. Also returns for how many microseconds its
        client has been waiting, from the freeze to the first datagram.

        If an owner of the class `sink` got its datagrams, from an earlier time here, the connection
        gets them again. `outlet`: the destination of its datagrams, if not the socket.
        """
        endpoint = self._endpoint
        connection = opened.connection
        now = monotonic()
        connection.rearm(now, missed_us=opened.missed_us(now, frozen_us))
        # Before everything for which the client does not wait.
        send_first(connection, endpoint.udp if outlet is None else outlet)
        waited_us = opened.waited_us(monotonic(), frozen_us)
        for cid in connection.connection_ids():
            if isinstance(endpoint.table.owners.get(cid), sink):
                endpoint.table.remove(cid)
        session = endpoint.adopt(connection, opened.protocol)
        if outlet is not None:
            session.send_through(outlet, outlet.wait_for_room)
        session.resume(strays)
        connection.speak_first()
        return session, waited_us

    def begin_cutover(self, connection: Connection) -> bool:
        """Have the client use IDs that lead here, if it has others. Returns whether it has.

        Not while a cutover is open: a connection that was handed on in the middle of one finishes
        that first (RFC 9000 §5.1.2).
        """
        outdated = any(self._endpoint.ids.outdated(cid) for cid in connection.issued_ids())
        if outdated:
            connection.begin_cutover()
        return outdated

    def discard(self, opened: RebuiltConnection) -> None:
        """Drop a rebuilt connection, which has sent nothing."""
        opened.protocol.connection_left()
        self._endpoint.end_trace(opened.connection)
        opened.connection.let_go()

    def reset(self, client: ResetTarget, cids: tuple[bytes, ...] = ()) -> None:
        """No process owns the connection: tell its client (RFC 9000 §10.3).

        At once, since a client that waits for us sends nothing that a reset could answer, and under
        each of our IDs, since we do not know which it uses. Its address is validated, and these few
        small datagrams go out once. `routing` answers its later datagrams.
        """
        endpoint = self._endpoint
        for cid in (*cids, *client.tokens):
            endpoint.table.remove(cid)
        for token in client.tokens.values():
            data = announce_reset(token, os.urandom)
            endpoint.udp.send_datagram(data, client.remote, client.local)

    def _check_ids(self, client: ResetTarget) -> None:
        """A short header does not say how long its ID is: all that we read have one length."""
        ours = self._endpoint.ids.configs.length
        if any(len(cid) != ours for cid in client.tokens):
            lengths = ", ".join(str(length) for length in sorted({*map(len, client.tokens)}))
            raise RefusedError(
                f"its connection IDs have {lengths} bytes, and here all have {ours}: give both"
                " processes forms of IDs of one length",
                code=Reason.ID_LENGTHS,
            )

    def _check_room(self, client: ResetTarget) -> None:
        """Check the room for its IDs, for those that it gets in the cutover, and for its bytes:
        once the connection is ours, it is too late to find that there is none."""
        if not self._endpoint.table.has_room_here(2 * len(client.tokens)):
            raise RefusedError(
                "the routing table is full here: choose another destination",
                code=Reason.ROUTING_TABLE_FULL,
            )
        if refuses_clients(self._endpoint.budget):
            raise RefusedError(
                "there is too little memory here for one more connection: choose another "
                "destination, or try again",
                code=Reason.MEMORY_FULL,
            )

    def _rebuild(
        self,
        snapshot: Snapshot,
        parcel: Parcel | None,
        *,
        proxied: bool = False,
    ) -> tuple[Connection, QuicConnectionProtocol]:
        endpoint = self._endpoint
        trace = endpoint.start_trace(snapshot.connection.original_id)
        connection = self._make_connection(snapshot, trace, proxied=proxied)
        protocol = endpoint.create_protocol(connection)
        try:
            passed = [] if parcel is None else parcel.take()
            import_program(protocol, connection, snapshot.http3, snapshot.application, passed)
        except Exception:
            protocol.connection_left()
            endpoint.end_trace(connection)
            connection.let_go()
            raise
        return connection, protocol

    def _bring_back(
        self, snapshot: Snapshot, left: LeftBehind
    ) -> tuple[Connection, QuicConnectionProtocol]:
        """Rebuild the connection for the same protocol object, with which coroutines run: it goes
        on, with their calls from meanwhile."""
        state = snapshot.connection
        state.events += [WritableEvent(stream_id) for stream_id in left.stand_in.congested_ids]
        connection = self._make_connection(snapshot, self._endpoint.start_trace(state.original_id))
        left.stand_in.restore(connection)
        left.protocol.use_connection(connection)
        return connection, left.protocol

    def _make_connection(
        self, snapshot: Snapshot, trace: QuicLoggerTrace | None, *, proxied: bool = False
    ) -> Connection:
        now = monotonic()
        # The clocks of two hosts, or of two boots of one, are never compared. From another host the
        # connection's time goes on where it stopped, until the source tells how long that was.
        is_ours = snapshot.host == self._host
        return Connection.resume(
            snapshot.connection,
            now=now,
            transit_us=max(0, round(now * 1e6) - snapshot.frozen_at_us) if is_ours else 0,
            issuer=None if proxied else self._endpoint.ids,
            entropy=os.urandom,
            other_host=proxied or not is_ours,
            budget=self._endpoint.budget,
            configuration=self._endpoint.configuration,
            trace=trace,
        )


def _streams_left(session: Session) -> list[int]:
    """Streams that cannot move with their connection, whose datagrams are stopped already."""
    protocol = session.protocol
    if not protocol.running_streams():
        return []
    # Events that have come for them are delivered here.
    protocol.process_events()
    known = session.connection.stream_ids
    left = with_members(protocol._http, list(protocol.running_streams()))
    return [stream_id for stream_id in left if stream_id in known]


def _relayed(state: ConnectionState, stream_id: int, *, is_session: bool) -> RelayedStream:
    half = state.streams[stream_id].receive
    withheld = 0 if half is None else half.taken - half.consumed
    return RelayedStream(stream_id, withheld, is_session, 0, None, None)


def _open_relay(protocol: QuicConnectionProtocol) -> NewOwner | None:
    relay = protocol.open_relay
    assert relay is None or isinstance(relay, NewOwner), "made here"
    return relay


def _client(state: ConnectionState) -> ResetTarget:
    path = state.paths[0]
    return ResetTarget(
        path.remote,
        path.local,
        {local.cid: local.token for local in state.ids.local},
        tuple((other.remote, other.local) for other in state.paths[1:]),
    )
