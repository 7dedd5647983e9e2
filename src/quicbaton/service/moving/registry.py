"""All handoffs of one process: finds the one that a command, a message or a deadline is for.

    link ──► registry ──► handoff ──► machine ──► effects, performed by the same handoff

The contract is in `quicbaton.handoff`. Everything here is synchronous: between a freeze and
COMMITTED this process waits only for the other one.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final, get_args

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.baton.versions import readable_versions
from quicbaton.errors import PeerError, QuicbatonError, RefusedError
from quicbaton.handoff import (
    CuttingOver,
    GivingState,
    Taking,
    Waits,
    answer_stale,
)
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import (
    Descriptors,
    HandoffMessage,
    Hello,
    Load,
    Message,
    Moved,
    MovedAck,
    Offer,
    Precopied,
    Precopy,
    PrecopyEnd,
    Refuse,
    RelayMessage,
    Stray,
    Toss,
)
from quicbaton.handoff.waits import DEFAULT_WAITS
from quicbaton.keys.key_ring import KeyRing
from quicbaton.ownership import Ledger, Ownership
from quicbaton.ownership.store import Store
from quicbaton.reasons import Reason
from quicbaton.service.moving.checks import check_name, check_not_proxied, check_path
from quicbaton.service.moving.context import HandoffContext
from quicbaton.service.moving.deadlines import Deadlines
from quicbaton.service.moving.handoff import Handoff, HandoffResult, send
from quicbaton.service.moving.inbound_forwarders import InboundForwarders
from quicbaton.service.moving.incoming import Handoffs, IncomingHandoff
from quicbaton.service.moving.link_waiters import LinkWaiters
from quicbaton.service.moving.machine_maker import MachineMaker
from quicbaton.service.moving.mover import Mover
from quicbaton.service.moving.outgoing import OutgoingHandoff
from quicbaton.service.moving.parcels import Parcel
from quicbaton.service.moving.store_client import StoreClient
from quicbaton.service.moving.strays import deliver
from quicbaton.service.moving.stream_relay.relays import StreamRelays
from quicbaton.service.moving.timelines import Timelines
from quicbaton.service.peers.link import Link
from quicbaton.service.peers.names import Names

#: How long a handoff that has ended still answers late messages.
_ANSWERS_US: Final = 50_000


class HandoffRegistry(Observer):
    """The handoffs of one process, in both directions. `host` names this boot of this host.
    `connect(name)` has a link to a process opened. `remote_name_of(path)` is the name of a process
    of this host on other hosts."""

    def __init__(
        self,
        endpoint: Endpoint,
        ring: KeyRing,
        names: Names,
        host: bytes,
        connect: Callable[[str], None],
        *,
        remote_name_of: Callable[[str], str] = lambda _path: "",
        waits: Waits = DEFAULT_WAITS,
        formats: tuple[int, ...] = readable_versions(),
        store: Store | None = None,
    ) -> None:
        mover = Mover(endpoint, ring, names, host)
        self.ledger = Ledger()
        #: Streams that did not move with their connections.
        self.relays = StreamRelays(endpoint.observers.on_settled)
        #: Asks the shared store that decides who owns connections.
        self.store = None if store is None else StoreClient(store)
        self._endpoint = endpoint
        self._machines = MachineMaker(self.ledger, waits, frozenset(formats), self.store)
        self._context = HandoffContext(
            endpoint=endpoint,
            mover=mover,
            names=names,
            relays=self.relays,
            waiters=LinkWaiters(connect),
            forwarders=InboundForwarders(mover.begin_cutover, remote_name_of),
            timelines=Timelines(endpoint),
            store=self.store,
            file_format=max(formats),
            feed=self._feed,
            closed=self._close,
        )
        self.counts = self._context.counts
        self.timelines = self._context.timelines
        #: Ends of handoffs, by direction (`out`, `in`) and code.
        self.outcomes = self._context.outcomes
        self._handoffs = Handoffs()
        self._deadlines = Deadlines(self._on_due)
        self._inbox: deque[tuple[Handoff, ev.Event]] = deque()
        self._busy = False
        self._unfinished = 0
        #: The number of connections given away and not settled, by the process that got them.
        self._given: Counter[str] = Counter()
        endpoint.observers.add(self)

    # --- commands -------------------------------------------------------------------------------

    def hand_over(
        self, session: Session, link: Link, *, proxy: bool = False
    ) -> asyncio.Future[HandoffResult]:
        """Hand a connection to the process at the other end of `link`. `proxy`: if that cannot send
        from the address to which the client sends, send for it. RefusedError (`already_proxied`)
        for one for which another process sends already: it moves no further.

        With a shared store the store changes the owner. Between two processes of one host the
        source can do so as well. It does with a process that does not use this store, such as a
        successor that was configured anew.
        """
        check_not_proxied(session)
        first = self._begin(session, link, proxy=proxy, shared=self.store is not None)
        if self.store is None or not link.peer_name.startswith("/"):
            return first
        result: asyncio.Future[HandoffResult] = asyncio.get_running_loop().create_future()

        def settle(report: HandoffResult) -> None:
            if not result.done():
                result.set_result(report)

        def look(done: asyncio.Future[HandoffResult]) -> None:
            if done.cancelled() or result.done():
                return
            if done.result().code is not Reason.NO_STORE or not link.is_up:
                settle(done.result())
                return
            try:
                second = self._begin(session, link, proxy=proxy, shared=False)
            except (QuicbatonError, KeyError):
                settle(done.result())  # over, or on its way elsewhere by now
            else:
                second.add_done_callback(lambda done: settle(done.result()))

        first.add_done_callback(look)
        return result

    def save(
        self, session: Session, keep: Callable[[bytes], None]
    ) -> asyncio.Future[HandoffResult]:
        """Freeze a connection into a baton. Done when `keep` has stored it, or has raised OSError,
        which thaws the connection."""
        check_not_proxied(session)
        return self._new_outgoing(session.connection.name, None).save(session, keep)

    def cancel_save(self, connection_id: bytes, code: Reason, text: str) -> None:
        """Thaw one connection that is saved: its baton is void from here on."""
        outgoing = self._handoffs.outgoing.get(connection_id)
        if outgoing is not None:
            outgoing.cancel_save(code, text)

    def cancel_saves(self, code: Reason, text: str) -> None:
        """Thaw all connections that are saved in files: the files are void from here on."""
        for outgoing in list(self._handoffs.outgoing.values()):
            outgoing.cancel_save(code, text)

    def resume_file(self, sealed: bytes) -> asyncio.Future[HandoffResult]:
        """Bring a saved baton back to life here, if its source gives it to us."""
        mover = self._context.mover
        rebuilt = mover.open(sealed)
        header = rebuilt.header
        if header.source in self._context.names:
            mover.discard(rebuilt)
            raise RefusedError(
                "this very process froze the connection: resume it in another",
                code=Reason.SAME_PROCESS,
            )
        machine = self._machines.taking(header.connection_id, os.urandom(16), "")
        return self._add_incoming(machine, header.source).begin_with(rebuilt)

    def close(self) -> None:
        """The process ends: stop everything that is under way."""
        self.relays.cut_left(Reason.STOPPING, "the process ends")
        self._deadlines.close()
        for handoff in self._handoffs.all():
            handoff.recorder.end()
        if self.store is not None:
            self.store.close()

    # --- how things stand -----------------------------------------------------------------------

    @property
    def frozen(self) -> int:
        """The number of connections that are frozen here, and neither given away nor thawed yet."""
        return sum(one.is_frozen for one in self._handoffs.outgoing.values())

    @property
    def unfinished(self) -> int:
        """The number of connections between their freeze here and the end of forwarding, and of
        forwarders that have yet to turn to the next owner."""
        return self._unfinished

    def given(self, *, besides: str = "") -> int:
        """The number of these that were given away, and for which this process forwards or sends;
        but for those that it gave to `besides`."""
        return self._given.total() - self._given[besides]

    def read_given(self, besides: str) -> tuple[int, int, float]:
        """The number of these whose clients have not cut over to their new owners, the number of
        proxied ones, and the seconds until the last of the former, if its client stays silent, is
        forgotten here."""
        given = self._handoffs.given(besides)
        deadlines = [one.machine.get_timer() for one in given if not one.is_proxied]
        latest_us = max((due_us for due_us in deadlines if due_us is not None), default=0)
        left_s = max(0.0, (latest_us - monotonic_ns() // 1000) / 1e6)
        return len(deadlines), len(given) - len(deadlines), left_s

    def proxied(self) -> dict[str, list[OutgoingHandoff]]:
        """Handoffs of connections for which this process sends, by the names of their owners."""
        return self._handoffs.proxied()

    def living_elsewhere(self, dead: int) -> list[bytes]:
        """Connections that are not driven here and live, as far as this process knows, though the
        process `dead` has exited."""
        outgoing = self._handoffs.outgoing
        return [name for name, one in outgoing.items() if one.lives_without(dead)]

    # --- what links bring -----------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A link is open. Messages may be sent, and will come once it is greeted."""
        self._context.links[link.number] = link

    def link_answers(self, link: Link, name: str = "") -> None:
        """A link is greeted. It goes to handoffs that wait for one to that process, for which they
        may have looked by another `name`."""
        self._context.waiters.answered(link, name)

    def source_unreachable(self, name: str) -> None:
        """No link to that process comes up: handoffs that wait for one give up, if they may."""
        self._context.waiters.unreachable(name)

    def on_message(self, link: Link, message: Message) -> None:
        """Dispatch by the rules of `quicbaton.handoff`. PeerError: close the link."""
        _TAKERS[type(message)](self, link, message)

    def link_lost(self, link: Link) -> None:
        """A link ended, and all its messages were handled."""
        self._context.links.pop(link.number, None)
        self._context.mover.copies.link_lost(link)
        self.relays.link_lost(link)
        for handoff in self._handoffs.all():
            handoff.link_lost(link)

    def peer_dead(
        self, pid: int, *, no_owner_lives: bool, living: frozenset[bytes] = frozenset()
    ) -> None:
        """A process has exited, as the kernel says, and all its links are lost. Connections in
        `living` have an owner somewhere, even if `no_owner_lives`."""
        for handoff in self._handoffs.all():
            if handoff.pid == pid and handoff.machine.state is not GivingState.IDLE:
                lost = no_owner_lives and handoff.connection_id not in living
                handoff.feed(ev.PeerDead(no_owner_lives=lost))

    # --- what the endpoint tells ----------------------------------------------------------------

    def keeps_awake(self, session: Session) -> bool:
        """True while a handoff of the connection is under way, or another process sends for it."""
        outgoing = self._handoffs.outgoing.get(session.connection.name)
        return (outgoing is not None and not outgoing.ended) or session.sent_for_by is not None

    def on_began(self, session: Session, *, is_new: bool) -> None:
        if is_new:
            self.ledger.own(session.connection.name)

    def on_ids_retired(self, session: Session) -> None:
        self._context.forwarders.look(session.connection)

    def on_ended(self, session: Session) -> None:
        self._close(session.connection.name)

    # --- helpers, in reading order --------------------------------------------------------------

    def _begin(
        self, session: Session, link: Link, *, proxy: bool, shared: bool
    ) -> asyncio.Future[HandoffResult]:
        running = session.protocol.running_streams()
        session.protocol.check_exportable(running, passes_on=True)
        outgoing = self._new_outgoing(session.connection.name, link.peer_pid, shared=shared)
        return outgoing.begin(session, link, proxy=proxy)

    def _new_outgoing(
        self, connection_id: bytes, pid: int | None, *, shared: bool = False
    ) -> OutgoingHandoff:
        """RefusedError (`busy`) while one is under way already, since only the machine of a frozen
        connection may commit it."""
        known = self._handoffs.outgoing.get(connection_id)
        if known is not None:
            if not known.ended:
                raise RefusedError(
                    "a handoff of this connection is under way already", code=Reason.BUSY
                )
            self._forget(known)
        machine = self._machines.giving(connection_id, shared=shared)
        outgoing = OutgoingHandoff(self._context, machine, pid)
        self._handoffs.outgoing[connection_id] = outgoing
        return outgoing

    def _add_incoming(
        self, machine: Taking | CuttingOver, source: str, pid: int | None = None
    ) -> IncomingHandoff:
        known = self._handoffs.incoming.get(machine.handoff_id)
        if known is not None:
            self._forget(known)
        incoming = IncomingHandoff(self._context, self._handoffs, machine, source=source, pid=pid)
        self._handoffs.incoming[machine.handoff_id] = incoming
        return incoming

    # --- one kind of message each ---------------------------------------------------------------

    def _on_offer(self, link: Link, offer: Offer) -> None:
        check_name(link, offer)
        if offer.handoff_id not in self._handoffs.incoming:
            machine = self._machines.taking(
                offer.connection_id,
                offer.handoff_id,
                link.own_name,
                shared=bool(offer.store_id),
                can_send=self._endpoint.udp.can_send_from(offer.local),
            )
            self._add_incoming(machine, offer.source, link.peer_pid)
        self._dispatch(link, offer)

    def _dispatch(self, link: Link, message: HandoffMessage) -> None:
        handoff: Handoff | None = self._handoffs.incoming.get(message.handoff_id)
        if handoff is None:
            handoff = self._handoffs.outgoing.get(message.connection_id)
        if handoff is not None:
            self._feed(handoff, ev.Received(link.number, message))
            return
        for effect in answer_stale(self.ledger, link.number, message):
            assert isinstance(effect, fx.Send), "an answer and nothing else"
            send(link, effect.message)

    def _on_stray(self, link: Link, stray: Stray) -> None:
        if stray.handoff_id not in self._handoffs.incoming:
            session = self._endpoint.session_of(stray.connection_id)
            if session is not None:
                deliver(session, [stray])
                return
        self._dispatch(link, stray)

    def _on_moved(self, link: Link, message: Moved) -> None:
        check_path(link, message)
        self._dispatch(link, message)

    def _on_moved_ack(self, link: Link, message: MovedAck) -> None:
        """Another process forwards a connection to us from here on: because it is here, or is about
        to be, or, if it has been given to a third meanwhile, until it has learned so."""
        incoming = self._handoffs.incoming.get(message.handoff_id)
        if incoming is not None and not incoming.ended:
            incoming.feed(ev.Received(link.number, message))
            return
        name = message.connection_id
        forwarders = self._context.forwarders
        outgoing = self._handoffs.outgoing.get(name)
        given_to = "" if outgoing is None else outgoing.given_to
        is_here = self._endpoint.has(name) or self._handoffs.waiting(name) is not None
        if not (is_here or given_to) or not forwarders.has_room(name):
            text = "the connection is not owned here"
            link.send(Refuse(name, message.handoff_id, Reason.NOT_OWNED, text))
            return
        machine = self._machines.cutting_over(name, message.handoff_id, link)
        incoming = self._add_incoming(machine, link.peer_name, link.peer_pid)
        forwarders.add(incoming)
        incoming.feed(ev.Received(link.number, message))
        if given_to:
            forwarders.handed_on(name, given_to)
        session = self._endpoint.session_of(name)
        if session is not None:
            forwarders.look(session.connection)

    def _on_descriptors(self, link: Link, message: Descriptors) -> None:
        incoming = self._handoffs.incoming.get(message.handoff_id)
        if incoming is None:
            Parcel(link.take_descriptors(message)).close()
        else:
            incoming.on_descriptors(link, message)

    def _on_relayed(self, link: Link, message: RelayMessage) -> None:
        self.relays.on_message(link, message)
        self._endpoint.memory.relieve()

    def _on_toss(self, _link: Link, toss: Toss) -> None:
        datagram = Datagram(toss.datagram, toss.remote, toss.local, toss.ecn)
        self._endpoint.deliver([datagram], forwarded=True)

    def _on_precopy(self, link: Link, message: Precopy | PrecopyEnd) -> None:
        self._context.mover.copies.on_message(link, message)

    def _on_precopied(self, _link: Link, message: Precopied) -> None:
        for outgoing in list(self._handoffs.outgoing.values()):
            outgoing.on_copied(message)

    def _on_load(self, link: Link, load: Load) -> None:
        self._endpoint.observers.on_peer_load(link.peer_name, load.connections, load.room)

    def _on_hello(self, _link: Link, _message: Hello) -> None:
        raise PeerError("a second Hello on a link", code=Reason.UNEXPECTED_MESSAGE)

    # --- events ---------------------------------------------------------------------------------

    def _feed(self, handoff: Handoff, event: ev.Event) -> None:
        self._inbox.append((handoff, event))
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                handoff, event = self._inbox.popleft()
                now_us = monotonic_ns() // 1000
                handoff.handle(event, now_us)
                machine = handoff.machine
                due_us = now_us + _ANSWERS_US if machine.ended else machine.get_timer()
                self._deadlines.set(handoff, due_us)
                if handoff.is_given is not bool(handoff.counted_given):
                    self._count_given(handoff)
                if handoff.is_unfinished is not handoff.counted:
                    self._count(handoff)
        finally:
            self._busy = False

    def _count_given(self, handoff: Handoff) -> None:
        if handoff.counted_given:
            self._given -= Counter([handoff.counted_given])
            handoff.counted_given = ""
        else:
            handoff.counted_given = handoff.peer or "?"
            self._given[handoff.counted_given] += 1

    def _count(self, handoff: Handoff) -> None:
        handoff.counted = not handoff.counted
        self._unfinished += 1 if handoff.counted else -1
        if not handoff.counted:
            self._endpoint.observers.on_settled()

    def _on_due(self, handoffs: list[Handoff]) -> None:
        for handoff in handoffs:
            if handoff.ended:
                self._forget(handoff)
            else:
                handoff.feed(ev.DeadlinePassed())
        self.ledger.expire(monotonic_ns() // 1000)

    def _forget(self, handoff: Handoff) -> None:
        self._handoffs.remove(handoff)
        self._deadlines.drop(handoff)
        handoff.forget()

    def _close(self, connection_id: bytes) -> None:
        now_us = monotonic_ns() // 1000
        if self.ledger.record(connection_id).state is Ownership.OWNED:
            self.ledger.close(connection_id, now_us)
        self.ledger.expire(now_us)
        self._context.forwarders.closed(connection_id)
        if self.store is not None:
            self.store.closed(connection_id)


#: The method for each kind of message; it takes the registry, the link and the message.
_TAKERS: Final[dict[type, Callable[[HandoffRegistry, Link, Any], None]]] = {
    **{
        kind: HandoffRegistry._on_relayed
        if issubclass(kind, RelayMessage)
        else HandoffRegistry._dispatch
        for kind in get_args(Message)
    },
    Hello: HandoffRegistry._on_hello,
    Toss: HandoffRegistry._on_toss,
    Load: HandoffRegistry._on_load,
    Precopy: HandoffRegistry._on_precopy,
    PrecopyEnd: HandoffRegistry._on_precopy,
    Precopied: HandoffRegistry._on_precopied,
    Descriptors: HandoffRegistry._on_descriptors,
    Offer: HandoffRegistry._on_offer,
    Stray: HandoffRegistry._on_stray,
    Moved: HandoffRegistry._on_moved,
    MovedAck: HandoffRegistry._on_moved_ack,
}
