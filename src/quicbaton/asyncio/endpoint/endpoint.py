"""A UDP socket and the connections behind it: each datagram goes where `routing` says."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.logger import QuicLoggerTrace
from aioquic.tls import SessionTicketFetcher, SessionTicketHandler

from quicbaton.asyncio.endpoint.address_tokens import AddressTokens
from quicbaton.asyncio.endpoint.asleep import Sleeper, Sleepers
from quicbaton.asyncio.endpoint.handshaking import Handshaking
from quicbaton.asyncio.endpoint.lateness import Lateness
from quicbaton.asyncio.endpoint.memory import Memory
from quicbaton.asyncio.endpoint.newcomers import Newcomers, Owner
from quicbaton.asyncio.endpoint.observer import Observers
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.turns import Turns
from quicbaton.asyncio.endpoint.udp import Datagram, UdpSocket
from quicbaton.asyncio.protocol import QuicConnectionProtocol, StreamHandler
from quicbaton.errors import RefusedError
from quicbaton.handshake import Certificates, Promotion, SessionTickets, prepare
from quicbaton.handshake.congestion_choice import OF_HANDSHAKES, choose
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.spent import ReplayGuard, SpentTokens
from quicbaton.limits import (
    DOZE_AFTER_S,
    FIRST_SHARE_DATAGRAMS,
    HANDSHAKE_S,
    MAX_GATHER_S,
    MAX_QUEUED_STRAYS,
    MEMORY_BUDGET_BYTES,
    NEWCOMERS_SHARE,
)
from quicbaton.routing import route as routes
from quicbaton.routing.long_header import LongHeader, build_version_negotiation
from quicbaton.routing.quic_lb import IdFactory
from quicbaton.routing.reset import ResetLimiter, build_reset
from quicbaton.routing.retry import TokenKind, ValidatedAddress
from quicbaton.routing.table import RoutingTable, Target, count_name
from quicbaton.transport.connection import Connection

CreateProtocol = Callable[..., QuicConnectionProtocol]

#: Seconds between looks at the routing table's expired entries.
_HOUSEKEEPING_S: Final = 1.0

#: Fates of datagrams that may belong to a connection which a predecessor has not handed over yet.
_PREDECESSORS: Final = frozenset(
    {
        routes.DropReason.RESET_WITHHELD,
        routes.DropReason.UNKNOWN_CONNECTION,
        routes.DropReason.STALE_INITIAL,
        routes.DropReason.TOO_SMALL_TO_RESET,
    }
)


class Endpoint:
    """One process's end of a UDP port, for servers.

    New clients are shown one of `certificates`, as they are then; without them, the
    configuration's. `toss(to, datagram)` passes a datagram on to the process that its ID names.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        configuration: QuicConfiguration,
        create_protocol: CreateProtocol,
        ids: IdFactory,
        table: RoutingTable[Owner],
        ring: KeyRing,
        retry: bool = False,
        tickets: SessionTickets | None = None,
        replay_guard: ReplayGuard | None = None,
        certificates: Certificates | None = None,
        session_ticket_fetcher: SessionTicketFetcher | None = None,
        session_ticket_handler: SessionTicketHandler | None = None,
        stream_handler: StreamHandler | None = None,
        congestion_control: str | None = None,
        sleep_after_s: float = 0.0,
        memory_bytes: int = MEMORY_BUDGET_BYTES,
        toss: Callable[[Target, Datagram], None] = lambda _to, _datagram: None,
    ) -> None:
        # aioquic parses short headers by the configured length; ours follow the cluster's layout.
        self._configuration = dataclasses.replace(
            configuration,
            connection_id_length=ids.layout.length,
            congestion_control_algorithm=OF_HANDSHAKES,
        )
        self._create_protocol = create_protocol
        self._ring = ring
        self.retry = retry
        self._tickets = tickets
        #: Those that new clients are shown; None: that of the configuration.
        self.certificates = certificates
        self._session_ticket_fetcher = session_ticket_fetcher
        self._session_ticket_handler = session_ticket_handler
        self._stream_handler = stream_handler
        self._congestion_control = choose(congestion_control, configuration)
        self._loop = asyncio.get_running_loop()
        self._limiter = ResetLimiter(monotonic())
        self.tokens = AddressTokens(ring, replay_guard or SpentTokens())
        self._versions = frozenset(configuration.supported_versions)
        self._waiting: set[Session] = set()
        self._extra: list[UdpSocket] = []
        self._housekeeping: asyncio.TimerHandle | None = None
        self._id_length = ids.layout.length
        self.ids = ids
        self.table = table
        self.udp = UdpSocket(sock, self._on_batch, self._on_room)
        self.lateness = Lateness()
        self.doze_after_s = DOZE_AFTER_S
        self._newcomers = Newcomers(self)
        self._turns: Turns[Owner] = Turns(self.serve, self._serve_late, _is_bulk)
        self._turns.expect(self._newcomers, NEWCOMERS_SHARE)
        self.sessions: dict[bytes, Session] = {}
        #: Idle connections that have shrunk to their state; `session_of` wakes them.
        self.asleep = Sleepers(self, sleep_after_s)
        #: Told what happens to connections.
        self.observers = Observers()
        self.handshakes: set[Handshaking] = set()
        #: False while another process accepts new connections.
        self.accepts = True
        #: True once this server stops: new clients are told so.
        self.refuses = False
        #: During a takeover: the process that answers for IDs of ours that we do not know.
        self.predecessor: str | None = None
        self._passed_back: deque[Datagram] = deque(maxlen=MAX_QUEUED_STRAYS)
        #: Whether unknown IDs of ours may be reset: no other process can own them.
        self.may_reset = True
        self._toss = toss
        #: Handshakes that were begun here.
        self.accepted = 0
        #: Datagrams of this socket by fate: sent on (`count_name`), or the reason for which it was
        #: dropped.
        self.counters: Counter[str] = Counter()
        self.memory = Memory(memory_bytes, self.sessions, self.counters)
        #: The memory budget of all connections together.
        self.budget = self.memory.budget

    # --- commands -------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the socket from now on."""
        self.udp.start()
        if self._housekeeping is None:
            self._keep_house()

    def stop(self) -> None:
        """Read no more; connections live on."""
        self.udp.stop()

    def follow(self, predecessor: str) -> None:
        """That process may own any ID of ours that we do not know: datagrams go to it, and none is
        reset."""
        self.predecessor = predecessor
        self.may_reset = False

    def follow_nobody(self, *, died: bool = False) -> None:
        """The predecessor is gone. If it `died`, the latest datagrams that were passed to it are
        decided again: a client that has acknowledged everything sends nothing else that could be
        answered with a reset, and would wait for its timeout."""
        self.predecessor = None
        passed_back = [*self._passed_back]
        self._passed_back.clear()
        if died:
            self.deliver(passed_back)

    def refuse_new(self) -> None:
        """Take no new clients, and tell them."""
        self.refuses = True

    def close(self) -> None:
        """Close all connections (their last datagram is sent), then the socket."""
        for session in list(self.sessions.values()):
            self._close(session)
        for name in list(self.asleep):
            woken = self.asleep.wake(name)
            if woken is not None:
                self._close(woken)
        self.asleep.clear()
        for handshake in list(self.handshakes):
            handshake.close()
        self._turns.clear()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        for extra in self._extra:
            extra.close()
        self.udp.close()

    def read_also(self, sock: socket.socket) -> None:
        """Read another socket of the same port, whose process is dead."""
        extra = UdpSocket(sock, self._on_batch)
        extra.start()
        self._extra.append(extra)

    def deliver(self, batch: list[Datagram], *, forwarded: bool = False) -> None:
        """Route datagrams, from the socket or forwarded by another process, to their owners."""
        groups = self._group(batch, forwarded)
        if forwarded:
            # They come one by one over a link, and must not wait for a second hop.
            for owner, group in groups.items():
                self.serve(owner, group)
        else:
            self._turns.take(groups)
            if not self._turns:
                patience_s = min(map(_patience_s, groups), default=0.0)
                if patience_s:
                    self.udp.gather(min(patience_s, MAX_GATHER_S))
        self.memory.relieve()

    def adopt(
        self, connection: Connection, protocol: QuicConnectionProtocol | None = None
    ) -> Session:
        """Drive a connection that is ours from now on: with `protocol`, or as a new one."""
        is_new = protocol is None
        if protocol is None:
            protocol = self._create_protocol(connection, stream_handler=self._stream_handler)
        session = Session(self, connection, protocol)
        self.sessions[connection.name] = session
        if is_new:
            # A connection that comes from another process, or wakes, has proved itself: else the
            # first datagram of each one that a drain brings would stand in line.
            self._turns.expect(session, FIRST_SHARE_DATAGRAMS)
        self.asleep.watch(session)
        self.observers.on_began(session, is_new=is_new)
        return session

    def session_of(self, name: bytes) -> Session | None:
        """The session of a connection, woken if need be; None when there is none here."""
        session = self.sessions.get(name)
        if session is None:
            session = self.asleep.wake(name)
            if session is not None:
                session.catch_up()
        return None if session is None or session.is_over else session

    def names(self) -> list[bytes]:
        """All connections of this process, asleep or not, by name."""
        return [*self.sessions, *self.asleep]

    def has(self, name: bytes) -> bool:
        """Whether the connection lives here, asleep or not."""
        return name in self.sessions or name in self.asleep

    @property
    def connection_count(self) -> int:
        """The number of connections here, asleep or not."""
        return len(self.sessions) + len(self.asleep)

    def create_protocol(self, connection: Connection) -> QuicConnectionProtocol:
        return self._create_protocol(connection, stream_handler=self._stream_handler)

    @property
    def early_data(self) -> str:
        """How 0-RTT is treated, in a few words for operators."""
        return "as the program's own tickets say" if self._tickets is None else str(self._tickets)

    @property
    def toss_rate(self) -> float:
        """The part of the socket's datagrams that were another worker's."""
        received = self.udp.datagrams_received
        return self.counters["tossed"] / received if received else 0.0

    @property
    def configuration(self) -> QuicConfiguration:
        return self._configuration

    def start_trace(self, original_id: bytes) -> QuicLoggerTrace | None:
        """Begin, or go on with, a connection's qlog; None when the configuration asks for none."""
        logger = self._configuration.quic_logger
        if logger is None:
            return None
        try:
            return logger.start_trace(is_client=False, odcid=original_id)
        except OSError as error:
            self._report("a qlog cannot be written", error)
            return None

    def end_trace(self, connection: Connection) -> None:
        """Close the connection's trace: this process writes no more about it."""
        trace = connection.trace
        if trace is not None and self._configuration.quic_logger is not None:
            try:
                self._configuration.quic_logger.end_trace(trace)
            except OSError as error:
                # A full disk costs the log, never the connection.
                self._report("a qlog cannot be written", error)

    def release(self, session: Session, owner: Owner) -> None:
        """The session was frozen, or fell asleep: `owner` gets its datagrams from now on."""
        session.detach()
        self._waiting.discard(session)
        self.sessions.pop(session.connection.name, None)
        for cid in session.cids:
            self.table.remove(cid)
            self.table.add(cid, owner)
        told = self.observers
        (told.on_slept if isinstance(owner, Sleeper) else told.on_frozen)(session)

    def forget(self, session: Session) -> None:
        """The connection is closed and drained."""
        self._waiting.discard(session)
        self.sessions.pop(session.connection.name, None)
        for cid in session.cids:
            self.table.remove(cid)
        self.end_trace(session.connection)
        self.observers.on_ended(session)
        session.protocol.connection_left()

    def on_retired(self, session: Session) -> None:
        """The client has retired connection IDs."""
        self.observers.on_ids_retired(session)

    def wait_for_room(self, session: Session) -> None:
        self._waiting.add(session)

    def hear_all(self, session: Session) -> bool:
        """Read what has come, and have what is the session's processed. False where that takes
        longer than a turn: what others have in line does not matter."""
        if self._turns.holds(session):
            return False
        return self.udp.read_on() and not self._turns.holds(session)

    # --- helpers, in reading order --------------------------------------------------------------

    def _close(self, session: Session) -> None:
        session.protocol.close()
        session.protocol.process_events()
        session.detach()
        self.forget(session)

    def _report(self, what: str, error: Exception) -> None:
        self._loop.call_exception_handler({"message": what, "exception": error})

    def _on_batch(self, batch: list[Datagram]) -> None:
        self.deliver(batch)

    def _group(self, batch: list[Datagram], forwarded: bool) -> dict[Owner, list[Datagram]]:
        """Datagrams by their owners."""
        owners = self.table.owners
        id_end = 1 + self._id_length
        groups: dict[Owner, list[Datagram]] = {}
        for datagram in batch:
            data = datagram.data
            owner = owners.get(data[1:id_end]) if data and data[0] < 0x80 else None
            if owner is None:
                owner = self._decide(datagram, forwarded)
                if owner is None:
                    continue
            group = groups.get(owner)
            if group is None:
                groups[owner] = [datagram]
            else:
                group.append(datagram)
        return groups

    def serve(self, owner: Owner, group: list[Datagram]) -> None:
        try:
            owner.receive(group)
        except Exception as error:
            # The boundary between connections: one's failure must not keep the others from their
            # datagrams.
            self._report(f"{owner!r} failed to process a datagram", error)

    def _serve_late(self, group: list[Datagram]) -> None:
        """Serve datagrams that have waited: their connection may have another owner by now."""
        for owner, datagrams in self._group(group, False).items():
            self.serve(owner, datagrams)
        self.memory.relieve()

    def _decide(self, datagram: Datagram, forwarded: bool) -> Owner | None:
        """Ask `routing` and carry out its decision. Returns the owner to deliver to, if there is
        one."""
        now = monotonic()
        decision = routes.route(
            datagram.data,
            self.table,
            now,
            forwarded=forwarded,
            may_reset=self.may_reset,
            versions=self._versions,
        )
        match decision:
            case routes.Local():
                return decision.owner
            case routes.New():
                return self._newcomers
            case routes.Forward():
                self.counters[count_name(decision.to, self.table.place)] += 1
                self._toss(decision.to, datagram)
            case routes.VersionNegotiation():
                self.answer(
                    build_version_negotiation(
                        decision.header.destination_id,
                        decision.header.source_id,
                        self._configuration.supported_versions,
                        os.urandom,
                    ),
                    datagram,
                )
            case routes.Reset():
                if self._limiter.allow(str(datagram.remote[0]), now):
                    self.counters["reset"] += 1
                    self.answer(
                        build_reset(
                            len(datagram.data),
                            decision.cid,
                            self._ring,
                            os.urandom,
                            self.ids.configs,
                        ),
                        datagram,
                    )
            case routes.Drop():
                if self.predecessor is not None and decision.reason in _PREDECESSORS:
                    self._passed_back.append(datagram)
                    self._toss(self.predecessor, datagram)
                else:
                    self.counters[decision.reason] += 1
        return None

    def answer(self, data: bytes, datagram: Datagram) -> None:
        self.udp.send_datagram(data, datagram.remote, datagram.local)

    def begin(self, header: LongHeader, validated: ValidatedAddress | None) -> Owner | None:
        """Begin a handshake; None where the routing table is full."""
        retried = validated is not None and validated.kind is TokenKind.RETRY
        cid, token = self.ids.issue()
        quic = QuicConnection(
            configuration=self._configuration,
            original_destination_connection_id=(
                validated.original_id
                if validated is not None and retried
                else header.destination_id
            ),
            retry_source_connection_id=header.destination_id if retried else None,
            session_ticket_fetcher=self._session_ticket_fetcher,
            session_ticket_handler=self._session_ticket_handler,
        )
        prepare(quic, cid, token, tickets=self._tickets, certificates=self.certificates)
        cids = (cid, header.destination_id)
        handshake = Handshaking(
            quic,
            self.udp,
            on_promoted=partial(self._on_promoted, cids),
            on_failed=partial(self._on_failed, cids),
            congestion_control=self._congestion_control,
            deadline_s=HANDSHAKE_S,
        )
        try:
            for route_id in cids:
                self.table.add(route_id, handshake)
        except RefusedError as error:
            # A full table: the client will try again, elsewhere or later.
            self.counters[error.code] += 1
            self._drop_handshake(handshake, cids)
            return None
        self.accepted += 1
        self.handshakes.add(handshake)
        return handshake

    def _on_promoted(
        self,
        cids: tuple[bytes, ...],
        handshake: Handshaking,
        promotion: Promotion,
        rest: list[Datagram],
    ) -> None:
        self._drop_handshake(handshake, cids)
        self.observers.on_handshake(handshake.age_us)
        connection = Connection(
            promotion.state,
            origin_s=promotion.origin_s,
            issuer=self.ids,
            entropy=os.urandom,
            budget=self.budget,
            configuration=self._configuration,
            trace=promotion.trace,
        )
        connection.start()
        if self.retry:
            connection.send_new_token(self.tokens.for_next_visit(connection.peer_address))
        session = self.adopt(connection)
        if rest:
            session.receive(rest)
        else:
            session.process()

    def _on_failed(
        self,
        cids: tuple[bytes, ...],
        handshake: Handshaking,
        _event: events.ConnectionTerminated,
    ) -> None:
        self.counters["handshake_failed"] += 1
        self._drop_handshake(handshake, cids)

    def _drop_handshake(self, handshake: Handshaking, cids: tuple[bytes, ...]) -> None:
        self.handshakes.discard(handshake)
        for cid in cids:
            self.table.remove(cid)
        self.observers.on_settled()

    def _on_room(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for session in waiting:
            session.transmit_soon()

    def _keep_house(self) -> None:
        self.table.expire(monotonic())
        self.asleep.look()
        self.memory.relieve()
        self._housekeeping = self._loop.call_later(_HOUSEKEEPING_S, self._keep_house)


def _is_bulk(owner: Owner) -> bool:
    return isinstance(owner, Session) and owner.is_bulk


def _patience_s(owner: Owner) -> float:
    return owner.patience_s if isinstance(owner, Session) else 0.0
