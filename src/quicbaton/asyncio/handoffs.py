"""Performs what the handoff machines decide: freezing, sealing, rebuilding, resuming, strays.

The machines' contract is in `quicbaton.handoff`. Everything here is synchronous: between a freeze
and COMMITTED the only waiting is for the other process.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic, time
from typing import Final, NamedTuple

from quicbaton.asyncio.endpoint import Endpoint
from quicbaton.asyncio.failpoints import reach
from quicbaton.asyncio.link import Link
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.asyncio.session import Session
from quicbaton.asyncio.udp import Datagram
from quicbaton.baton.header import BatonHeader, peek
from quicbaton.baton.seal import BatonFields, baton_digest, open_baton, seal
from quicbaton.baton.snapshot import Snapshot, decode_snapshot, encode_snapshot
from quicbaton.baton.versions import FORMAT_VERSION, readable_versions
from quicbaton.errors import PeerError, QuicbatonError, RefusedError
from quicbaton.handoff import (
    HandoffDestination,
    HandoffSource,
    Outcome,
    SourceState,
    answer_stale,
)
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import HandoffMessage, Message, Offer, Stray, Toss
from quicbaton.http3 import export_state, restore
from quicbaton.keys.key_ring import KeyRing
from quicbaton.ownership import Claim, Ledger, Ownership
from quicbaton.routing.reset import build_reset
from quicbaton.transport.connection import Connection

#: How often deadlines of handoffs are looked at.
_TICK_S: Final = 0.05
#: How long a forwarder that was told to stop protects the IDs from resets.
_TOMBSTONE_S: Final = 600.0


class Report(NamedTuple):
    """How a handoff ended, for whoever asked for it."""

    outcome: Outcome
    code: str
    message: str


class _Frozen(NamedTuple):
    """A connection between freeze and commit: what a thaw needs."""

    session: Session
    snapshot: bytes  # empty until sealed
    cids: tuple[bytes, ...]


class _Opened(NamedTuple):
    """A rebuilt connection that is not ours yet."""

    header: BatonHeader
    snapshot: Snapshot
    digest: bytes


class _Sink:
    """Takes the datagrams of a connection that is frozen or given away."""

    def __init__(self, handoffs: Handoffs, connection_id: bytes) -> None:
        self._handoffs = handoffs
        self._connection_id = connection_id

    def receive(self, batch: list[Datagram]) -> None:
        self._handoffs.on_strays(self._connection_id, batch)


class _Resetter:
    """Answers for a connection that nobody owns any more (RFC 9000 §10.3)."""

    def __init__(self, endpoint: Endpoint, ring: KeyRing) -> None:
        self._endpoint = endpoint
        self._ring = ring

    def receive(self, batch: list[Datagram]) -> None:
        for datagram in batch:
            cid = datagram.data[1 : 1 + self._endpoint.ids.layout.length]
            if len(datagram.data) > 22 and not datagram.data[0] & 0x80:
                data = build_reset(len(datagram.data), cid, self._ring, os.urandom)
                self._endpoint.udp.send_datagram(data, datagram.remote, datagram.local)


class Handoffs:
    """All handoffs of one process, in both directions."""

    def __init__(
        self,
        endpoint: Endpoint,
        ring: KeyRing,
        name: str,
        host: bytes,
        connect: Callable[[str], None],
    ) -> None:
        self._endpoint = endpoint
        self._ring = ring
        self._name = name
        self._host = host
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self.ledger = Ledger()
        self._sources: dict[bytes, HandoffSource] = {}
        self._destinations: dict[bytes, HandoffDestination] = {}
        self._frozen: dict[bytes, _Frozen] = {}
        self._given: dict[bytes, tuple[bytes, ...]] = {}
        self._opened: dict[bytes, _Opened] = {}
        self._resumed: dict[bytes, HandoffDestination] = {}
        self._waiters: dict[object, asyncio.Future[Report]] = {}
        self._files: dict[bytes, Path] = {}
        self._dialled: dict[bytes, str] = {}
        self._links: dict[int, Link] = {}
        self._tick: asyncio.TimerHandle | None = None
        self._inbox: deque[tuple[HandoffSource | HandoffDestination, ev.Event]] = deque()
        self._busy = False
        #: Called with (connection id, resumed?) when a connection came or went by handoff.
        self.on_moved: Callable[[bytes, bool], None] = lambda _name, _resumed: None
        self.given = 0
        self.resumed = 0
        #: Datagrams that arrived here for connections of other processes, and were passed on.
        self.forwarded = 0

    # --- commands -------------------------------------------------------------------------------

    def own(self, session: Session) -> None:
        """A connection began here."""
        if self.ledger.record(session.connection.name).state is Ownership.ABSENT:
            self.ledger.own(session.connection.name)

    def hand_over(self, session: Session, link: Link) -> asyncio.Future[Report]:
        """Hand a connection to the process at the other end of `link`."""
        connection = session.connection
        machine = self._new_source(connection.name)
        self._dialled[connection.name] = link.peer_name
        waiter = self._wait_for(machine)
        start = ev.Start(
            link=link.number,
            source=self._name,
            audience=link.peer_name,
            size_bytes=connection.buffered_bytes(),
            format_version=FORMAT_VERSION,
            stray_ids=tuple(sorted(session.cids))[:64],
            cutover_pending=connection.cutover_pending,
        )
        self._feed(machine, start)
        return waiter

    def save(self, session: Session, path: Path) -> asyncio.Future[Report]:
        """Freeze a connection into a baton in a file; done when the file is written."""
        machine = self._new_source(session.connection.name)
        self._files[session.connection.name] = path
        waiter = self._wait_for(machine)
        self._feed(machine, ev.Save(cutover_pending=session.connection.cutover_pending))
        if machine.state is SourceState.SAVED and not waiter.done():
            self._finish(machine, Report(Outcome.KEPT, "saved", f"frozen into {path}"))
        return waiter

    def resume_file(self, sealed: bytes) -> asyncio.Future[Report]:
        """Bring a saved baton back to life here, if its source gives it to us."""
        opened = self._open(sealed)
        header = opened.header
        machine = HandoffDestination(
            header.connection_id,
            os.urandom(16),
            self.ledger,
            name=self._name,
            formats=frozenset(readable_versions()),
        )
        self._destinations[machine.handoff_id] = machine
        self._opened[machine.handoff_id] = opened
        self._dialled[machine.handoff_id] = header.source
        waiter = self._wait_for(machine)
        self._feed(
            machine,
            ev.Rebuilt(header.connection_id, header.term, header.baton_id, opened.digest),
        )
        self._keep_ticking()
        return waiter

    def source_unreachable(self, handoff_ids: list[bytes]) -> None:
        """The source of saved batons cannot be reached: their resumes end."""
        for handoff_id in handoff_ids:
            machine = self._destinations.get(handoff_id)
            if machine is not None and not machine.ended:
                text = "the process that froze this baton cannot be reached; it is its arbiter"
                self._feed(machine, ev.Cancel("source_gone", text))

    def waiting_for(self, address: str) -> list[bytes]:
        """Handoff ids that want a link to `address`."""
        return [
            handoff_id
            for handoff_id, dialled in self._dialled.items()
            if dialled == address and handoff_id in self._destinations
        ]

    def unfinished_departures(self) -> int:
        """Connections between their freeze here and the end of forwarding."""
        return sum(
            machine.state in (SourceState.SEALING, SourceState.FROZEN, SourceState.FORWARDING)
            for machine in self._sources.values()
        )

    # --- what links bring -----------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A link is open and greeted."""
        self._links[link.number] = link

    def link_answers(self, link: Link, handoff_ids: list[bytes]) -> None:
        """A link that `connect` was asked for is up."""
        for handoff_id in handoff_ids:
            machine = self._destinations.get(handoff_id)
            if machine is not None and not machine.ended:
                self._feed(machine, ev.LinkUp(link.number))

    def on_message(self, link: Link, message: Message) -> None:
        """Dispatch by the rules of `quicbaton.handoff`. PeerError: close the link."""
        if isinstance(message, Toss):
            datagram = Datagram(message.datagram, message.remote, message.local, message.ecn)
            self._endpoint.deliver([datagram], forwarded=True)
            return
        if not isinstance(message, HandoffMessage):
            raise PeerError("a second Hello on a link", code="unexpected_message")
        received = ev.Received(link.number, message)
        machine: HandoffSource | HandoffDestination | None
        machine = self._destinations.get(message.handoff_id)
        if machine is None and isinstance(message, Offer):
            machine = HandoffDestination(
                message.connection_id,
                message.handoff_id,
                self.ledger,
                name=self._name,
                formats=frozenset(readable_versions()),
            )
            self._destinations[message.handoff_id] = machine
            self._dialled[message.handoff_id] = message.source
            self._keep_ticking()
        if machine is None and isinstance(message, Stray):
            session = self._endpoint.sessions.get(message.connection_id)
            if session is not None:
                session.receive([_datagram(message)])
                return
        if machine is None:
            machine = self._sources.get(message.connection_id)
        if machine is None:
            self._perform(None, answer_stale(self.ledger, link.number, message))
            return
        self._feed(machine, received)

    def link_lost(self, link: Link) -> None:
        """A link ended; everything that it brought was handled."""
        self._links.pop(link.number, None)
        for machine in self._machines():
            self._feed(machine, ev.LinkLost(link.number))

    def peer_dead(self, name: str, *, no_owner_lives: bool) -> None:
        """The process `name` has exited, as the kernel says."""
        for machine in self._machines():
            peer = (
                self._dialled.get(machine.handoff_id)
                if isinstance(machine, HandoffDestination)
                else self._dialled.get(machine.connection_id)
            )
            if peer == name:
                self._feed(machine, ev.PeerDead(no_owner_lives=no_owner_lives))

    # --- what the endpoint brings ---------------------------------------------------------------

    def on_strays(self, connection_id: bytes, batch: list[Datagram]) -> None:
        """Datagrams for a connection that is frozen or given away."""
        machine = self._sources.get(connection_id)
        if machine is None or machine.ended:
            return
        now_us = round(monotonic() * 1e6)
        self.forwarded += len(batch)
        for datagram in batch:
            self._feed(
                machine,
                ev.StrayArrived(
                    datagram.data, datagram.remote, datagram.local, datagram.ecn, now_us
                ),
            )

    def on_retired(self, session: Session) -> None:
        """The client retired an ID: is the cutover complete?"""
        machine = self._resumed.get(session.connection.name)
        if machine is not None and not session.connection.cutover_pending:
            del self._resumed[session.connection.name]
            if not machine.ended:
                self._feed(machine, ev.CutoverSeen())

    def on_session_over(self, session: Session) -> None:
        """A connection of ours is closed and drained."""
        name = session.connection.name
        if self.ledger.record(name).state is Ownership.OWNED:
            self.ledger.close(name, round(monotonic() * 1e6))
        machine = self._resumed.pop(name, None)
        if machine is not None and not machine.ended:
            self._feed(machine, ev.ConnectionClosed())

    # --- driving the machines -------------------------------------------------------------------

    def _new_source(self, connection_id: bytes) -> HandoffSource:
        known = self._sources.get(connection_id)
        if known is not None and not known.ended:
            raise RefusedError("a handoff of this connection is under way already", code="busy")
        machine = HandoffSource(connection_id, os.urandom(16), self.ledger)
        self._sources[connection_id] = machine
        self._keep_ticking()
        return machine

    def _machines(self) -> list[HandoffSource | HandoffDestination]:
        return [*self._sources.values(), *self._destinations.values()]

    def _feed(self, machine: HandoffSource | HandoffDestination, event: ev.Event) -> None:
        """Give a machine an event; what its effects bring about waits until they are done."""
        self._inbox.append((machine, event))
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                machine, event = self._inbox.popleft()
                self._perform(machine, machine.handle(event, round(monotonic() * 1e6)))
        finally:
            self._busy = False

    def _perform(
        self, machine: HandoffSource | HandoffDestination | None, effects: list[fx.Effect]
    ) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is fx.Send:
                self._send(effect)  # type: ignore[arg-type]
            else:
                _PERFORMERS[kind](self, machine, effect)

    def _send(self, effect: fx.Send) -> None:
        link = self._links.get(effect.link)
        if link is not None:
            reach(f"before_{type(effect.message).__name__.lower()}")
            link.send(effect.message)
            reach(f"after_{type(effect.message).__name__.lower()}")

    def _wait_for(self, machine: object) -> asyncio.Future[Report]:
        waiter: asyncio.Future[Report] = self._loop.create_future()
        self._waiters[machine] = waiter
        return waiter

    def _finish(self, machine: object, report: Report) -> None:
        waiter = self._waiters.pop(machine, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(report)

    def _keep_ticking(self) -> None:
        if self._tick is None:
            self._tick = self._loop.call_later(_TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        now_us = round(monotonic() * 1e6)
        for machine in self._machines():
            deadline_us = machine.get_timer()
            if deadline_us is not None and now_us >= deadline_us:
                self._feed(machine, ev.DeadlinePassed())
        self._forget_ended()
        self.ledger.expire(now_us)
        if self._sources or self._destinations:
            self._keep_ticking()

    def _forget_ended(self) -> None:
        for connection_id in [key for key, machine in self._sources.items() if machine.ended]:
            del self._sources[connection_id]
            self._dialled.pop(connection_id, None)
            self._files.pop(connection_id, None)
        for handoff_id in [key for key, machine in self._destinations.items() if machine.ended]:
            del self._destinations[handoff_id]
            self._dialled.pop(handoff_id, None)
            self._opened.pop(handoff_id, None)

    # --- effects of the source ------------------------------------------------------------------

    def _freeze(self, _machine: HandoffSource, effect: fx.FreezeConnection) -> None:
        reach("before_freeze")
        name = effect.connection_id
        session = self._endpoint.sessions[name]
        cids = tuple(session.cids)
        self._endpoint.release(session, _Sink(self, name))
        self._frozen[name] = _Frozen(session, b"", cids)
        reach("after_freeze")

    def _seal(self, machine: HandoffSource, effect: fx.SealBaton) -> None:
        frozen = self._frozen[effect.connection_id]
        try:
            payload = self._snapshot(frozen.session)
            fields = BatonFields(
                connection_id=effect.connection_id,
                term=effect.term,
                source=self._name,
                audience=effect.audience,
            )
            self._frozen[effect.connection_id] = frozen._replace(snapshot=payload)
            sealed = seal(payload, fields, self._ring, os.urandom, time())
        except QuicbatonError as error:
            self._feed(machine, ev.SealFailed(error.code, str(error)))
            return
        self._feed(machine, ev.Sealed(peek(sealed).baton_id, baton_digest(sealed), sealed))

    def _snapshot(self, session: Session) -> bytes:
        """Export what can refuse first; then the transport, which spends the connection."""
        protocol = session.protocol
        application = protocol.export_state()
        http3 = None if protocol._http is None else export_state(protocol._http)
        now = monotonic()
        state = session.connection.freeze(now)
        self._endpoint.end_trace(session)
        return encode_snapshot(
            Snapshot(
                connection=state,
                http3=http3,
                application=application,
                frozen_at_us=round(now * 1e6),
                host=self._host,
            )
        )

    def _write_file(self, machine: HandoffSource, effect: fx.WriteBaton) -> None:
        path = self._files[machine.connection_id]
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(effect.sealed)
        except OSError as error:
            text = f"cannot write {path}: {error.strerror or error}"
            self._feed(machine, ev.Cancel("file", text))

    def _thaw(self, _machine: HandoffSource, effect: fx.ThawConnection) -> None:
        reach("before_thaw")
        frozen = self._frozen.pop(effect.connection_id)
        for cid in frozen.cids:
            self._endpoint.table.remove(cid)
        if frozen.snapshot:
            session = self._revive(decode_snapshot(frozen.snapshot))
        else:
            session = self._endpoint.adopt(frozen.session.connection, frozen.session.protocol)
        self._deliver_strays(session, effect.strays)
        session.process()
        reach("after_thaw")

    def _destroy(self, _machine: HandoffSource, effect: fx.DestroyKeys) -> None:
        reach("before_destroy")
        frozen = self._frozen.pop(effect.connection_id)
        self._given[effect.connection_id] = frozen.cids
        self.given += 1
        self.on_moved(effect.connection_id, False)
        reach("after_destroy")

    def _stop_forwarding(self, _machine: HandoffSource, effect: fx.StopForwarding) -> None:
        for cid in self._given.pop(effect.connection_id, ()):
            owner = self._endpoint.table.owners.get(cid)
            if isinstance(owner, _Sink):
                self._endpoint.table.bury(cid, monotonic() + _TOMBSTONE_S)

    def _answer_with_resets(
        self, _machine: HandoffSource | HandoffDestination, effect: fx.AnswerWithResets
    ) -> None:
        opened = next(
            (o for o in self._opened.values() if o.header.connection_id == effect.connection_id),
            None,
        )
        cids = self._given.pop(effect.connection_id, ())
        if opened is not None:
            cids = tuple(local.cid for local in opened.snapshot.connection.ids.local)
        resetter = _Resetter(self._endpoint, self._ring)
        for cid in cids:
            self._endpoint.table.remove(cid)
            self._endpoint.table.add(cid, resetter)

    # --- effects of the destination -------------------------------------------------------------

    def _rebuild(self, machine: HandoffDestination, effect: fx.Rebuild) -> None:
        try:
            opened = self._open(effect.sealed)
            if opened.header.connection_id != machine.connection_id:
                raise PeerError("the baton is another connection's", code="wrong_connection")
        except QuicbatonError as error:
            self._feed(machine, ev.RebuildFailed(error.code, str(error)))
            return
        self._opened[machine.handoff_id] = opened
        reach("rebuilt")
        header = opened.header
        self._feed(
            machine,
            ev.Rebuilt(header.connection_id, header.term, header.baton_id, opened.digest),
        )

    def _open(self, sealed: bytes) -> _Opened:
        opened = open_baton(sealed, self._ring, time(), self._name)
        snapshot = decode_snapshot(opened.payload)
        if snapshot.host != self._host:
            raise RefusedError(
                "the baton was frozen on another host or before a reboot: its clock says nothing "
                "here, so it cannot be resumed",
                code="other_host",
            )
        return _Opened(opened.header, snapshot, opened.digest)

    def _dial(self, machine: HandoffDestination, _effect: fx.Connect) -> None:
        self._connect(self._dialled[machine.handoff_id])

    def _resume(self, machine: HandoffDestination, effect: fx.Resume) -> None:
        reach("before_resume")
        opened = self._opened.pop(machine.handoff_id)
        self._check_claim(effect.claim, opened)
        session = self._revive(opened.snapshot)
        connection = session.connection
        if any(
            self._endpoint.ids.decode(cid) not in (None, self._endpoint.ids.place)
            for cid in session.cids
        ):
            connection.begin_cutover()
        connection.speak_first()
        self.resumed += 1
        self._deliver_strays(session, effect.strays)
        session.process()
        self._resumed[connection.name] = machine
        self.on_moved(connection.name, True)
        reach("after_resume")
        self.on_retired(session)

    def _check_claim(self, claim: Claim, opened: _Opened) -> None:
        header = opened.header
        claim.check(
            connection_id=header.connection_id,
            baton_term=header.term,
            baton_id=header.baton_id,
            digest=opened.digest,
        )

    def _revive(self, snapshot: Snapshot) -> Session:
        """A connection of this process out of a snapshot that is ours beyond doubt."""
        now = monotonic()
        endpoint = self._endpoint
        connection = Connection.resume(
            snapshot.connection,
            now=now,
            transit_us=max(0, round(now * 1e6) - snapshot.frozen_at_us),
            issuer=endpoint.ids,
            entropy=os.urandom,
            configuration=endpoint.configuration,
            trace=endpoint.start_trace(snapshot.connection.original_id),
        )
        protocol: QuicConnectionProtocol = endpoint.create_protocol(connection)
        if snapshot.http3 is not None:
            protocol._http = restore(connection, snapshot.http3)
        protocol.import_state(snapshot.application)
        return endpoint.adopt(connection, protocol)

    def _deliver_strays(self, session: Session, strays: tuple[Stray, ...]) -> None:
        if strays:
            session.receive([_datagram(stray) for stray in strays])

    def _deliver(self, machine: HandoffDestination, effect: fx.Deliver) -> None:
        session = self._endpoint.sessions.get(machine.connection_id)
        if session is not None:
            session.receive([_datagram(effect.stray)])

    def _discard(self, machine: HandoffDestination, _effect: fx.Discard) -> None:
        # What it takes to answer with resets stays until the machine is forgotten.
        reach("discarded")

    def _report(self, machine: HandoffSource | HandoffDestination, effect: fx.Report) -> None:
        self._finish(machine, Report(effect.outcome, effect.code, effect.message))


_PERFORMERS: Final[dict[type, Callable[..., None]]] = {
    fx.FreezeConnection: Handoffs._freeze,
    fx.SealBaton: Handoffs._seal,
    fx.WriteBaton: Handoffs._write_file,
    fx.ThawConnection: Handoffs._thaw,
    fx.DestroyKeys: Handoffs._destroy,
    fx.StopForwarding: Handoffs._stop_forwarding,
    fx.AnswerWithResets: Handoffs._answer_with_resets,
    fx.Rebuild: Handoffs._rebuild,
    fx.Connect: Handoffs._dial,
    fx.Resume: Handoffs._resume,
    fx.Deliver: Handoffs._deliver,
    fx.Discard: Handoffs._discard,
    fx.Report: Handoffs._report,
}


def _datagram(stray: Stray) -> Datagram:
    return Datagram(stray.datagram, stray.remote, stray.local, stray.ecn)
