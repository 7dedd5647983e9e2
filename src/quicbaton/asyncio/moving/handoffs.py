"""All handoffs of one process: what links and the endpoint bring goes to the machines, and what
these decide is performed.

The contract is in `quicbaton.handoff`; `machines` keeps and drives them, what effects do to
connections is `mover`'s. Everything here is synchronous: between a freeze and COMMITTED the only
waiting is for the other process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final, get_args

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.asyncio.failpoints import reach
from quicbaton.asyncio.moving.machines import Machine, Machines, Report
from quicbaton.asyncio.moving.mover import Frozen, Given, Mover, Opened
from quicbaton.asyncio.moving.precopy import Copying, is_worth_it
from quicbaton.asyncio.moving.strays import Sink, datagrams, deliver
from quicbaton.asyncio.peers.link import Link
from quicbaton.baton.versions import FORMAT_VERSION
from quicbaton.errors import PeerError, QuicbatonError, RefusedError
from quicbaton.handoff import (
    HandoffDestination,
    HandoffSource,
    Outcome,
    SourceState,
    Waits,
    answer_stale,
)
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import (
    Baton,
    HandoffMessage,
    Message,
    Offer,
    Precopied,
    Precopy,
    PrecopyEnd,
    Ready,
    Stray,
    Toss,
)
from quicbaton.handoff.waits import DEFAULT_WAITS
from quicbaton.keys.key_ring import KeyRing
from quicbaton.ownership import Ledger, Ownership

#: H3_INTERNAL_ERROR (RFC 9114 §8.1), for a connection that its new owner cannot go on with.
_INTERNAL_ERROR: Final = 0x102
#: How long a forwarder that was told to stop protects the IDs from resets.
_TOMBSTONE_S: Final = 600.0


class Handoffs:
    """All handoffs of one process, in both directions."""

    def __init__(
        self,
        endpoint: Endpoint,
        ring: KeyRing,
        name: str,
        host: bytes,
        connect: Callable[[str], None],
        *,
        waits: Waits = DEFAULT_WAITS,
    ) -> None:
        self._endpoint = endpoint
        self._mover = Mover(endpoint, ring, name, host)
        self._name = name
        self._connect = connect
        self.ledger = Ledger()
        self._machines = Machines(
            self.ledger,
            name,
            waits,
            perform=self._perform,
            on_refused=self._refused,
            on_forgotten=self._forget,
        )
        self._frozen: dict[bytes, Frozen] = {}
        self._given: dict[bytes, Given] = {}
        self._opened: dict[bytes, Opened] = {}
        self._resumed: dict[bytes, HandoffDestination] = {}
        self._files: dict[bytes, Path] = {}
        self._waits = waits
        #: What goes to the destination ahead of the baton.
        self._copying: dict[Machine, Copying] = {}
        #: Where a destination's source is to be found, by handoff id.
        self._source_of: dict[bytes, str] = {}
        #: Destinations that wait for a link to their source: handoff id -> its name.
        self._seeking: dict[bytes, str] = {}
        self._links: dict[int, Link] = {}
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
        machine = self._machines.new_source(session.connection.name, link.peer_pid)
        waiter = self._machines.wait_for(machine)
        if session.connection.cutover_pending or not is_worth_it(session):
            self._offer(machine, session, link)
        else:
            copying = Copying(
                session,
                link,
                lambda: self._offer(machine, session, link),
                self._waits.offer_s,
            )
            self._copying[machine] = copying
        return waiter

    def _offer(self, machine: HandoffSource, session: Session, link: Link) -> None:
        connection = session.connection
        start = ev.Start(
            link=link.number,
            source=self._name,
            audience=link.peer_name,
            size_bytes=connection.buffered_bytes(),
            format_version=FORMAT_VERSION,
            stray_ids=tuple(sorted(session.cids))[:64],
            cutover_pending=connection.cutover_pending,
        )
        self._machines.feed(machine, start)

    def save(self, session: Session, path: Path) -> asyncio.Future[Report]:
        """Freeze a connection into a baton in a file; done when the file is written."""
        pending = session.connection.cutover_pending
        machine = self._machines.new_source(session.connection.name)
        self._files[session.connection.name] = path
        waiter = self._machines.wait_for(machine)
        self._machines.feed(machine, ev.Save(cutover_pending=pending))
        if machine.state is SourceState.SAVED:
            self._machines.finish(machine, Report(Outcome.KEPT, "saved", f"frozen into {path}"))
        return waiter

    def resume_file(self, sealed: bytes) -> asyncio.Future[Report]:
        """Bring a saved baton back to life here, if its source gives it to us."""
        opened = self._mover.open(sealed)
        header = opened.header
        if header.source == self._name:
            self._mover.discard(opened)
            raise RefusedError(
                "this very process froze the connection: resume it in another", code="same_process"
            )
        machine = self._machines.new_destination(header.connection_id, os.urandom(16))
        self._source_of[machine.handoff_id] = header.source
        self._opened[machine.handoff_id] = opened
        waiter = self._machines.wait_for(machine)
        self._machines.feed(
            machine,
            ev.Rebuilt(header.connection_id, header.term, header.baton_id, opened.digest),
        )
        return waiter

    def cancel_saves(self, code: str, text: str) -> None:
        """Thaw what is saved in files: the files are worth nothing from here on."""
        for machine in list(self._machines.sources.values()):
            if machine.state is SourceState.SAVED:
                self._machines.feed(machine, ev.Cancel(code, text))

    @property
    def frozen(self) -> int:
        """Connections that are frozen here, and neither given away nor thawed yet."""
        return len(self._frozen)

    def unfinished_departures(self) -> int:
        """Connections between their freeze here and the end of forwarding."""
        return sum(
            machine.state in (SourceState.SEALING, SourceState.FROZEN, SourceState.FORWARDING)
            for machine in self._machines.sources.values()
        )

    def close(self) -> None:
        """The process ends: nothing that is under way goes on."""
        self._machines.close()

    # --- what links bring -----------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A link is open; messages may be sent, and will come once it is greeted."""
        self._links[link.number] = link

    def link_answers(self, link: Link) -> None:
        """A link is greeted: whoever waits for one to that process has it."""
        for machine in self._seekers(link.peer_name):
            self._machines.pids[machine] = link.peer_pid
            self._machines.feed(machine, ev.LinkUp(link.number))

    def source_unreachable(self, name: str) -> None:
        """No link to that process comes up: who waits for one gives up, if it may."""
        for machine in self._seekers(name):
            text = "the process that froze this connection cannot be reached; it is its arbiter"
            self._machines.feed(machine, ev.Cancel("source_gone", text))

    def on_message(self, link: Link, message: Message) -> None:
        """Dispatch by the rules of `quicbaton.handoff`. PeerError: close the link."""
        if isinstance(message, Toss):
            datagram = Datagram(message.datagram, message.remote, message.local, message.ecn)
            self._endpoint.deliver([datagram], forwarded=True)
            return
        if isinstance(message, (Precopy, PrecopyEnd, Precopied)):
            self._on_precopy(link, message)
            return
        if not isinstance(message, HandoffMessage):
            raise PeerError("a second Hello on a link", code="unexpected_message")
        machine: Machine | None = self._machines.destinations.get(message.handoff_id)
        if machine is None and isinstance(message, Offer):
            machine = self._machines.new_destination(
                message.connection_id, message.handoff_id, link.peer_pid
            )
            self._source_of[message.handoff_id] = message.source
        if machine is None and isinstance(message, Stray):
            session = self._endpoint.sessions.get(message.connection_id)
            if session is not None:
                deliver(session, [message])
                return
        if machine is None:
            machine = self._machines.sources.get(message.connection_id)
        if machine is None:
            for effect in answer_stale(self.ledger, link.number, message):
                self._perform(None, effect)
        else:
            frozen = self._frozen.get(message.connection_id)
            if isinstance(message, Ready) and frozen is not None:
                # The last moment at which we may.
                self._mover.part(frozen)
            self._machines.feed(machine, ev.Received(link.number, message))

    def link_lost(self, link: Link) -> None:
        """A link ended; everything that it brought was handled."""
        self._links.pop(link.number, None)
        self._mover.copies.link_lost(link)
        for copying in list(self._copying.values()):
            if copying.link is link:
                copying.fail()
        for machine in self._machines.all():
            self._machines.feed(machine, ev.LinkLost(link.number))

    def peer_dead(self, pid: int, *, no_owner_lives: bool) -> None:
        """A process has exited, as the kernel says, and all its links are lost."""
        for machine in self._machines.of_process(pid):
            self._machines.feed(machine, ev.PeerDead(no_owner_lives=no_owner_lives))

    # --- what the endpoint brings ---------------------------------------------------------------

    def on_strays(self, connection_id: bytes, batch: list[Datagram]) -> None:
        """Datagrams for a connection that is frozen or given away."""
        machine = self._machines.sources.get(connection_id)
        if machine is None or machine.ended:
            return
        now_us = round(monotonic() * 1e6)
        self.forwarded += len(batch)
        for datagram in batch:
            self._machines.feed(
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
                self._machines.feed(machine, ev.CutoverSeen())

    def on_session_over(self, session: Session) -> None:
        """A connection of ours is closed and drained."""
        self._close(session.connection.name)

    # --- helpers --------------------------------------------------------------------------------

    def _on_precopy(self, link: Link, message: Precopy | PrecopyEnd | Precopied) -> None:
        if not isinstance(message, Precopied):
            self._mover.copies.on_message(link, message)
            return
        for copying in list(self._copying.values()):
            if copying.copy_id == message.precopy_id:
                copying.on_copied(message.kept)

    def _seekers(self, name: str) -> list[HandoffDestination]:
        """Take those that wait for a link to that process off the list."""
        found = [handoff_id for handoff_id, sought in self._seeking.items() if sought == name]
        for handoff_id in found:
            del self._seeking[handoff_id]
        known = self._machines.destinations
        return [known[handoff_id] for handoff_id in found if handoff_id in known]

    def _forget(self, machine: Machine) -> None:
        """Nothing more comes of the machine."""
        if isinstance(machine, HandoffSource):
            self._files.pop(machine.connection_id, None)
            self._given.pop(machine.connection_id, None)
        else:
            self._seeking.pop(machine.handoff_id, None)
            self._source_of.pop(machine.handoff_id, None)

    def _perform(self, machine: Machine | None, effect: fx.Effect) -> None:
        try:
            if type(effect) is fx.Send:
                self._send(machine, effect)
            else:
                _PERFORMERS[type(effect)](self, machine, effect)
        except Exception as error:
            # The boundary between machines: one connection's failure is not another's.
            self._log(f"{type(effect).__name__} of {machine!r} failed", error)
            if isinstance(effect, fx.DestroyKeys):
                os.abort()  # A process that might still send after the commit must not live.
            if machine is not None and isinstance(effect, (fx.Resume, fx.ThawConnection)):
                self._lose(machine)

    def _send(self, machine: Machine | None, effect: fx.Send) -> None:
        """A link that is gone, or that does not take the message, is lost to the machine."""
        link = self._links.get(effect.link)
        if link is not None:
            before, after = _SEND_POINTS[type(effect.message)]
            reach(before)
            link.send(effect.message)
            if isinstance(effect.message, Baton):
                self._mover.part(self._frozen[effect.message.connection_id])
            reach(after)
        elif machine is not None:
            self._machines.feed(machine, ev.LinkLost(effect.link))

    def _refused(self, machine: Machine, event: ev.Event, error: QuicbatonError) -> None:
        """A peer's violation closes its link; anything else is our own mistake."""
        link = self._links.get(event.link) if isinstance(event, ev.Received) else None
        if link is not None and isinstance(error, PeerError):
            link.abort()
        else:
            self._log(f"{machine!r} refused {type(event).__name__}", error)

    def _close(self, connection_id: bytes) -> None:
        """An owned connection is over."""
        now_us = round(monotonic() * 1e6)
        if self.ledger.record(connection_id).state is Ownership.OWNED:
            self.ledger.close(connection_id, now_us)
        self.ledger.expire(now_us)
        machine = self._resumed.pop(connection_id, None)
        if machine is not None and not machine.ended:
            self._machines.feed(machine, ev.ConnectionClosed())

    def _lose(self, machine: Machine) -> None:
        """A connection is ours and cannot be brought back to life: its client is told."""
        name = machine.connection_id
        session = self._endpoint.sessions.get(name)
        if session is not None:
            # It lives, but not as it should.
            session.protocol.close(_INTERNAL_ERROR, "the connection could not be moved")
            return
        if isinstance(machine, HandoffDestination):
            self._resumed.setdefault(name, machine)
            opened = self._opened.pop(machine.handoff_id, None)
            if opened is not None:
                self._mover.reset(opened.client)
        else:
            frozen = self._frozen.pop(name, None)
            if frozen is not None and frozen.client is not None:
                self._mover.reset(frozen.client, frozen.cids)
        self._close(name)

    def _log(self, what: str, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})

    # --- effects of the source ------------------------------------------------------------------

    def _freeze(self, _machine: HandoffSource, effect: fx.FreezeConnection) -> None:
        reach("before_freeze")
        name = effect.connection_id
        self._frozen[name] = self._mover.freeze(name, Sink(name, self.on_strays))
        reach("after_freeze")

    def _seal(self, machine: HandoffSource, effect: fx.SealBaton) -> None:
        name = effect.connection_id
        try:
            frozen = self._frozen[name] = self._mover.snapshot(
                self._frozen[name], self._copying.get(machine)
            )
            sealed = self._mover.seal(frozen, name, effect.term, effect.audience)
        except QuicbatonError as error:
            self._machines.feed(machine, ev.SealFailed(error.code, str(error)))
        else:
            self._machines.feed(machine, sealed)

    def _write_file(self, machine: HandoffSource, effect: fx.WriteBaton) -> None:
        path = self._files[machine.connection_id]
        frozen = self._frozen[machine.connection_id]
        while frozen.parting:
            self._mover.part(frozen)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(effect.sealed)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            text = f"cannot write {path}: {error.strerror or error}"
            self._machines.feed(machine, ev.Cancel("file", text))

    def _thaw(self, _machine: HandoffSource, effect: fx.ThawConnection) -> None:
        reach("before_thaw")
        name = effect.connection_id
        session = self._mover.thaw(self._frozen[name])
        del self._frozen[name]
        deliver(session, effect.strays)
        session.process()
        reach("after_thaw")

    def _destroy(self, _machine: HandoffSource, effect: fx.DestroyKeys) -> None:
        reach("before_destroy")
        frozen = self._frozen.pop(effect.connection_id)
        assert frozen.client is not None, "sealed before it was committed"
        self._given[effect.connection_id] = Given(frozen.cids, frozen.client)
        self.given += 1
        self.on_moved(effect.connection_id, False)
        reach("after_destroy")

    def _stop_forwarding(self, _machine: HandoffSource, effect: fx.StopForwarding) -> None:
        for cid in self._given[effect.connection_id].cids:
            if isinstance(self._endpoint.table.owners.get(cid), Sink):
                self._endpoint.table.bury(cid, monotonic() + _TOMBSTONE_S)

    def _answer_with_resets(self, machine: Machine, effect: fx.AnswerWithResets) -> None:
        given = self._given.get(effect.connection_id)
        if isinstance(machine, HandoffDestination):
            self._mover.reset(self._opened[machine.handoff_id].client)
        elif given is not None:
            self._mover.reset(given.client, given.cids)

    # --- effects of the destination -------------------------------------------------------------

    def _rebuild(self, machine: HandoffDestination, effect: fx.Rebuild) -> None:
        try:
            opened = self._mover.open(effect.sealed)
            if opened.header.connection_id != machine.connection_id:
                self._mover.discard(opened)
                raise PeerError("the baton is another connection's", code="wrong_connection")
        except QuicbatonError as error:
            self._machines.feed(machine, ev.RebuildFailed(error.code, str(error)))
            return
        self._opened[machine.handoff_id] = opened
        reach("rebuilt")
        header = opened.header
        self._machines.feed(
            machine,
            ev.Rebuilt(header.connection_id, header.term, header.baton_id, opened.digest),
        )
        # READY goes first; the source then takes as long as this does.
        asyncio.get_running_loop().call_soon(opened.connection.prepare)

    def _dial(self, machine: HandoffDestination, _effect: fx.Connect) -> None:
        name = self._source_of[machine.handoff_id]
        self._seeking[machine.handoff_id] = name
        self._connect(name)

    def _resume(self, machine: HandoffDestination, effect: fx.Resume) -> None:
        reach("before_resume")
        opened = self._opened[machine.handoff_id]
        opened.check(effect.claim)
        # Known from here on: the connection may be over before this returns.
        self._resumed[machine.connection_id] = machine
        session = self._mover.resume(opened, datagrams(effect.strays), Sink)
        del self._opened[machine.handoff_id]
        self.resumed += 1
        session.process()
        self.on_moved(machine.connection_id, True)
        reach("after_resume")
        self.on_retired(session)

    def _deliver(self, machine: HandoffDestination, effect: fx.Deliver) -> None:
        session = self._endpoint.sessions.get(machine.connection_id)
        if session is not None:
            deliver(session, [effect.stray])

    def _discard(self, machine: HandoffDestination, _effect: fx.Discard) -> None:
        opened = self._opened.pop(machine.handoff_id, None)
        if opened is not None:
            self._mover.discard(opened)

    def _report(self, machine: Machine, effect: fx.Report) -> None:
        copying = self._copying.pop(machine, None)
        if copying is not None:
            copying.release()
        self._machines.finish(machine, Report(effect.outcome, effect.code, effect.message))


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
#: The failpoints around a message, made once: strays are many.
_SEND_POINTS: Final[dict[type, tuple[str, str]]] = {
    kind: (f"before_{kind.__struct_config__.tag}", f"after_{kind.__struct_config__.tag}")
    for kind in get_args(Message)
    if issubclass(kind, HandoffMessage)
}
