"""All handoffs of one process: what links and the endpoint bring goes to the machines, and what
these decide is performed.

The contract is in `quicbaton.handoff`; `machines` keeps and drives them, `departures` performs what
sources decide and `arrivals` what destinations do, and what effects do to connections is `mover`'s.
Everything here is synchronous: between a freeze and COMMITTED the only waiting is for the other
process.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, get_args

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.asyncio.failpoints import reach
from quicbaton.asyncio.moving.arrivals import Arrivals
from quicbaton.asyncio.moving.departures import Departures
from quicbaton.asyncio.moving.forwarders import Forwarders
from quicbaton.asyncio.moving.machines import Machine, Machines, Report
from quicbaton.asyncio.moving.mover import Mover
from quicbaton.asyncio.moving.seeking import Seekers
from quicbaton.asyncio.moving.shared import SharedOwners
from quicbaton.asyncio.moving.strays import deliver
from quicbaton.asyncio.moving.stream_relay.relays import StreamRelays
from quicbaton.asyncio.peers.link import Link
from quicbaton.asyncio.peers.names import Names, is_name_of, parse_slot
from quicbaton.baton.versions import readable_versions
from quicbaton.errors import PeerError, QuicbatonError, RefusedError
from quicbaton.handoff import HandoffDestination, HandoffSource, Waits, answer_stale
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import (
    Accept,
    Baton,
    Cutover,
    CutoverAck,
    Descriptors,
    HandoffMessage,
    Load,
    Message,
    Moved,
    MovedAck,
    Offer,
    Precopied,
    Precopy,
    PrecopyEnd,
    Ready,
    RelayMessage,
    Resumed,
    Stray,
    Toss,
)
from quicbaton.handoff.waits import DEFAULT_WAITS
from quicbaton.keys.key_ring import KeyRing
from quicbaton.ownership import Ledger, Ownership
from quicbaton.ownership.store import Store

#: H3_INTERNAL_ERROR (RFC 9114 §8.1), for a connection that its new owner cannot go on with.
_INTERNAL_ERROR: Final = 0x102


class Handoffs:
    """All handoffs of one process, in both directions."""

    def __init__(
        self,
        endpoint: Endpoint,
        ring: KeyRing,
        names: Names,
        host: bytes,
        connect: Callable[[str], None],
        *,
        waits: Waits = DEFAULT_WAITS,
        formats: tuple[int, ...] = readable_versions(),
        store: Store | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._mover = Mover(endpoint, ring, names, host)
        self.ledger = Ledger()
        #: Where a shared store says whose connections are.
        self.shared = None if store is None else SharedOwners(store, self._part_all, self._hold)
        self._machines = Machines(
            self.ledger,
            waits,
            formats,
            perform=self._perform,
            on_refused=self._refused,
            on_forgotten=self._forget,
            member=None if self.shared is None else self.shared.member,
        )
        #: Called with (connection id, resumed?) when a connection came or went by handoff.
        self.on_moved: Callable[[bytes, bool], None] = lambda _name, _resumed: None
        #: Told how busy the process at the other end of a link is.
        self.on_load: Callable[[Link, Load], None] = lambda _link, _load: None
        #: Streams that did not move with their connections.
        self.relays = StreamRelays()
        seekers = Seekers(self._machines, connect)
        self.forwarders = Forwarders(self._machines, self._find_link)
        #: How handoffs ended, by direction (`out`, `in`) and code.
        self.outcomes: Counter[tuple[str, str]] = Counter()
        #: Called with (connection id, microseconds) when a destination says how long a client of
        #: ours has waited.
        self.on_resumed: Callable[[bytes, int], None] = lambda _name, _blackout_us: None
        self._seekers = seekers
        self._departures = Departures(
            endpoint,
            self._mover,
            self._machines,
            names,
            relays=self.relays,
            forwarders=self.forwarders,
            seekers=seekers,
            on_resumed=self._tell_resumed,
            find_link=self._find_link,
            file_format=max(formats),
            on_moved=self._tell_moved,
        )
        self._arrivals = Arrivals(
            endpoint,
            self._mover,
            self._machines,
            names,
            relays=self.relays,
            forwarders=self.forwarders,
            seekers=seekers,
            departures=self._departures,
            find_link=self._find_link,
            on_moved=self._tell_moved,
        )
        self._performers: dict[type[fx.Effect], Callable[[Any, Any], None]] = {
            **self._departures.performers,
            **self._arrivals.performers,
            fx.Send: self._send,
            fx.Report: self._report,
            fx.AnswerWithResets: self._answer_with_resets,
        }
        if self.shared is not None:
            self.shared.machines = self._machines
            self._performers.update(self.shared.performers)
        self._links: dict[int, Link] = {}

    # --- commands -------------------------------------------------------------------------------

    def own(self, session: Session) -> bool:
        """A connection is driven here. True when it has just begun."""
        if self.ledger.record(session.connection.name).state is not Ownership.ABSENT:
            return False
        self.ledger.own(session.connection.name)
        return True

    def hand_over(
        self, session: Session, link: Link, *, relay: bool = False
    ) -> asyncio.Future[Report]:
        """Hand a connection to the process at the other end of `link`. `relay`: if that cannot send
        from the address that the client talks to, send for it. RefusedError (`relayed`) for one
        that another process sends for already: it moves no further."""
        self._check_not_relayed(session)
        if self.shared is None:
            return self._departures.hand_over(session, link, relay=relay)
        return self.shared.hand_over(
            link,
            lambda shared: self._departures.hand_over(session, link, relay=relay, shared=shared),
        )

    def relayed_through(self, connection_id: bytes) -> str | None:
        """The process that sends for this connection of ours, empty while it is out of reach; None
        for one that needs none."""
        return self._arrivals.relayed_through(connection_id)

    def save(self, session: Session, keep: Callable[[bytes], None]) -> asyncio.Future[Report]:
        """Freeze a connection into a baton; done when `keep` has got that, or has raised OSError,
        which thaws the connection."""
        self._check_not_relayed(session)
        return self._departures.save(session, keep)

    def cancel_save(self, connection_id: bytes, code: str, text: str) -> None:
        """Thaw one connection that is saved: its baton is worth nothing from here on."""
        self._departures.cancel_save(connection_id, code, text)

    def resume_file(self, sealed: bytes) -> asyncio.Future[Report]:
        """Bring a saved baton back to life here, if its source gives it to us."""
        return self._arrivals.resume_file(sealed)

    def cancel_saves(self, code: str, text: str) -> None:
        """Thaw what is saved in files: the files are worth nothing from here on."""
        self._departures.cancel_saves(code, text)

    @property
    def frozen(self) -> int:
        """Connections that are frozen here, and neither given away nor thawed yet."""
        return self._departures.frozen

    @property
    def given(self) -> int:
        """Connections that were given away."""
        return self._departures.count

    @property
    def resumed(self) -> int:
        """Connections that were resumed here."""
        return self._arrivals.count

    @property
    def forwarded(self) -> int:
        """Datagrams that arrived here for connections of other processes, and were passed on."""
        return self._departures.forwarded

    @property
    def streams_relayed(self) -> int:
        """Streams of connections that came here whose requests ran on at the other process."""
        return self.relays.relayed

    @property
    def streams_cut(self) -> int:
        """Those of them that were reset, since that process ended first."""
        return self.relays.cut

    def names_in_hand(self, dead: int) -> list[bytes]:
        """Connections that are not driven here and live, as far as this process knows: frozen or
        saved, or given to a process other than `dead`, which has exited."""
        return self._departures.names_in_hand(dead)

    def unfinished_departures(self) -> int:
        """Connections between their freeze here and the end of forwarding."""
        return self._departures.unfinished() + self.forwarders.unfinished()

    def close(self) -> None:
        """The process ends: nothing that is under way goes on."""
        self.relays.cut_left("closing", "the process ends")
        self._machines.close()
        if self.shared is not None:
            self.shared.close()

    # --- what links bring -----------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A link is open; messages may be sent, and will come once it is greeted."""
        self._links[link.number] = link

    def link_answers(self, link: Link, name: str = "") -> None:
        """A link is greeted: whoever waits for one to that process, which may have been sought by
        another `name`, has it."""
        self._seekers.answered(link, name)

    def source_unreachable(self, name: str) -> None:
        """No link to that process comes up: who waits for one gives up, if it may."""
        self._seekers.unreachable(name)

    def on_message(self, link: Link, message: Message) -> None:
        """Dispatch by the rules of `quicbaton.handoff`. PeerError: close the link."""
        if isinstance(message, RelayMessage):
            self.relays.on_message(link, message)
            self._endpoint.memory.relieve()
        elif isinstance(message, Descriptors):
            self._arrivals.on_descriptors(link, message)
        elif isinstance(message, HandoffMessage):
            self._dispatch(link, message)
        elif isinstance(message, Toss):
            datagram = Datagram(message.datagram, message.remote, message.local, message.ecn)
            self._endpoint.deliver([datagram], forwarded=True)
        elif isinstance(message, (Precopy, PrecopyEnd)):
            self._mover.copies.on_message(link, message)
        elif isinstance(message, Precopied):
            self._departures.on_copied(message)
        elif isinstance(message, Load):
            self.on_load(link, message)
        else:
            raise PeerError("a second Hello on a link", code="unexpected_message")

    def link_lost(self, link: Link) -> None:
        """A link ended; everything that it brought was handled."""
        self._links.pop(link.number, None)
        self._mover.copies.link_lost(link)
        self._departures.link_lost(link)
        self.relays.link_lost(link)
        for machine in self._machines.all():
            self._machines.feed(machine, ev.LinkLost(link.number))

    def peer_dead(
        self, pid: int, *, no_owner_lives: bool, living: frozenset[bytes] = frozenset()
    ) -> None:
        """A process has exited, as the kernel says, and all its links are lost. Connections in
        `living` have an owner somewhere, whatever is said of the others."""
        for machine in self._machines.of_process(pid):
            lost = no_owner_lives and machine.connection_id not in living
            self._machines.feed(machine, ev.PeerDead(no_owner_lives=lost))

    # --- what the endpoint brings ---------------------------------------------------------------

    def may_sleep(self, session: Session) -> bool:
        """Whether no handoff of the connection is under way, and nobody else sends for it."""
        name = session.connection.name
        machine = self._machines.sources.get(name)
        return (machine is None or machine.ended) and self.relayed_through(name) is None

    def on_retired(self, session: Session) -> None:
        """The client retired an ID: is the cutover complete?"""
        self._arrivals.on_retired(session)

    def on_session_over(self, session: Session) -> None:
        """A connection of ours is closed and drained."""
        self._close(session.connection.name)

    # --- helpers --------------------------------------------------------------------------------

    def _check_not_relayed(self, session: Session) -> None:
        if self.relayed_through(session.connection.name) is not None:
            raise RefusedError(
                "another process sends for this connection: close it, or let it end here",
                code="relayed",
            )

    def _dispatch(self, link: Link, message: HandoffMessage) -> None:
        if link.is_remote:
            _check_names(link, message)
        machine: Machine | None = self._machines.destinations.get(message.handoff_id)
        if isinstance(message, MovedAck) and (machine is None or machine.ended):
            self._arrivals.announced(link, message)
            return
        if machine is None and isinstance(message, Offer):
            machine = self._arrivals.begin(link, message)
        if machine is None and isinstance(message, Stray):
            session = self._endpoint.session_of(message.connection_id)
            if session is not None:
                deliver(session, [message])
                return
        if machine is None:
            machine = self._machines.sources.get(message.connection_id)
        if machine is None:
            for effect in answer_stale(self.ledger, link.number, message):
                self._perform(None, effect)
        else:
            if isinstance(message, Ready):
                # The last moment at which we may.
                self._departures.part(message.connection_id)
            self._machines.feed(machine, ev.Received(link.number, message))

    def _find_link(self, number: int | None) -> Link | None:
        return None if number is None else self._links.get(number)

    def _tell_resumed(self, connection_id: bytes, blackout_us: int) -> None:
        self.on_resumed(connection_id, blackout_us)

    def _hold(self, machine: HandoffDestination) -> None:
        self._arrivals.hold(machine)

    def _part_all(self, connection_id: bytes) -> None:
        self._departures.part_all(connection_id)

    def _tell_moved(self, connection_id: bytes, resumed: bool) -> None:
        if not resumed:
            self._arrivals.on_given(connection_id)
            if self.shared is not None:
                self.shared.gone(connection_id)
        self.on_moved(connection_id, resumed)

    def _forget(self, machine: Machine) -> None:
        """Nothing more comes of the machine."""
        if isinstance(machine, HandoffSource):
            self._departures.forget(machine)
        else:
            self._arrivals.forget(machine)

    def _perform(self, machine: Machine | None, effect: fx.Effect) -> None:
        try:
            self._performers[type(effect)](machine, effect)
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
        if link is not None and isinstance(effect.message, Stray) and link.is_crowded:
            self._endpoint.counters["stray_lost"] += 1
        elif link is not None:
            before, after = _SEND_POINTS[type(effect.message)]
            reach(before)
            if isinstance(effect.message, Baton):
                self._departures.send_descriptors(link, effect.message)
            if isinstance(effect.message, _UNHURRIED):
                link.send_unhurried(effect.message)
            else:
                link.send(effect.message)
            if isinstance(effect.message, Baton):
                self._departures.part(effect.message.connection_id)
            reach(after)
        elif machine is not None:
            self._machines.feed(machine, ev.LinkLost(effect.link))

    def _report(self, machine: Machine, effect: fx.Report) -> None:
        if isinstance(machine, HandoffSource):
            self._departures.release_copy(machine)
        direction = "out" if isinstance(machine, HandoffSource) else "in"
        self.outcomes[direction, effect.code] += 1
        self._machines.finish(machine, Report(effect.outcome, effect.code, effect.message))

    def _answer_with_resets(self, machine: Machine, _effect: fx.AnswerWithResets) -> None:
        if isinstance(machine, HandoffDestination):
            self._arrivals.reset(machine)
        else:
            self._departures.reset(machine)

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
        self._arrivals.on_closed(connection_id)
        if self.shared is not None:
            self.shared.over(connection_id)

    def _lose(self, machine: Machine) -> None:
        """A connection is ours and cannot be brought back to life: its client is told."""
        session = self._endpoint.sessions.get(machine.connection_id)
        if session is not None:
            # It lives, but not as it should.
            session.protocol.close(_INTERNAL_ERROR, "the connection could not be moved")
            return
        if isinstance(machine, HandoffDestination):
            self._arrivals.lose(machine)
        else:
            self._departures.lose(machine)
        self._close(machine.connection_id)

    def _log(self, what: str, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


def _check_names(link: Link, message: HandoffMessage) -> None:
    """Another host offers in its own name, and names no path of this one: we call whom it names."""
    if isinstance(message, Offer) and not is_name_of(message.source, link.peer_node):
        raise PeerError(f"{link!r} offers as {message.source!r}", code="wrong_name")
    if isinstance(message, Moved) and parse_slot(message.to) is None:
        raise PeerError(f"{link!r} names {message.to!r}", code="wrong_name")


#: Messages for which no client waits: it is still served, or again.
_UNHURRIED: Final = (Offer, Accept, Cutover, CutoverAck, Moved, MovedAck, Resumed)
#: The failpoints around a message, made once: strays are many.
_SEND_POINTS: Final[dict[type, tuple[str, str]]] = {
    kind: (f"before_{kind.__struct_config__.tag}", f"after_{kind.__struct_config__.tag}")
    for kind in get_args(Message)
    if issubclass(kind, HandoffMessage)
}
