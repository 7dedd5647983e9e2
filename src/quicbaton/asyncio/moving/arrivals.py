"""What the destination machines of this process decide, performed: connections arrive.

`departures` is the other direction; `handoffs` brings both what links and the endpoint bring.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

import msgspec

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.asyncio.failpoints import reach
from quicbaton.asyncio.moving.departures import Departures
from quicbaton.asyncio.moving.forwarders import Forwarders
from quicbaton.asyncio.moving.machines import Machines, Report
from quicbaton.asyncio.moving.mover import Mover, Opened
from quicbaton.asyncio.moving.parcels import Parcels
from quicbaton.asyncio.moving.relaying import RelayOutlet
from quicbaton.asyncio.moving.seeking import Seekers
from quicbaton.asyncio.moving.strays import Sink, datagrams, deliver
from quicbaton.asyncio.moving.stream_relay.relays import StreamRelays
from quicbaton.asyncio.peers.link import Link
from quicbaton.asyncio.peers.names import Names
from quicbaton.errors import PeerError, QuicbatonError, RefusedError
from quicbaton.handoff import DestinationState, HandoffDestination
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import Descriptors, MovedAck, Offer, Stray
from quicbaton.limits import NO_RESET_LIFETIME_S

#: H3_INTERNAL_ERROR (RFC 9114 §8.1).
_INTERNAL_ERROR: Final = 0x102
#: Rebuilt, and not known to be ours.
_WAITING: Final = (
    DestinationState.READY,
    DestinationState.COMMITTING,
    DestinationState.LAST_WORDS,
    DestinationState.ASKING,
)


class Arrivals:
    """`on_moved(connection_id, resumed)` is told of every connection that is resumed."""

    def __init__(
        self,
        endpoint: Endpoint,
        mover: Mover,
        machines: Machines,
        names: Names,
        *,
        relays: StreamRelays,
        forwarders: Forwarders,
        seekers: Seekers,
        departures: Departures,
        find_link: Callable[[int | None], Link | None],
        on_moved: Callable[[bytes, bool], None],
    ) -> None:
        self._endpoint = endpoint
        self._mover = mover
        self._machines = machines
        self._names = names
        self._relays = relays
        self._find_link = find_link
        self._forwarders = forwarders
        self._seekers = seekers
        self._departures = departures
        self._on_moved = on_moved
        self._opened: dict[bytes, Opened] = {}
        self._parcels = Parcels()
        #: What takes the datagrams of a connection that waits for its store, by handoff id.
        self._held: dict[bytes, Sink] = {}
        #: Connections for which other processes send.
        self._outlets: dict[bytes, RelayOutlet] = {}
        #: Connections that came here and whose client may still use IDs that lead elsewhere; and
        #: whether it was asked to use ours. If not, it has yet to cut over to an earlier owner.
        self._cutting: dict[bytes, bool] = {}
        #: Where a destination's source is to be found, by handoff id.
        self._source_of: dict[bytes, str] = {}
        self.count = 0
        #: By the effect; each takes the machine and the effect.
        self.performers: Final[Mapping[type[fx.Effect], Callable[[Any, Any], None]]] = {
            fx.Rebuild: self._rebuild,
            fx.Connect: self._dial,
            fx.Resume: self._resume,
            fx.Deliver: self._deliver,
            fx.Discard: self._discard,
            fx.WakeRelayed: self._wake_relayed,
            fx.CloseRelayed: self._close_relayed,
        }

    # --- beginnings -----------------------------------------------------------------------------

    def begin(self, link: Link, offer: Offer) -> HandoffDestination:
        """A machine for a connection that is offered."""
        machine = self._machines.new_destination(
            offer.connection_id,
            offer.handoff_id,
            link.peer_pid,
            link.own_name,
            shared=bool(offer.store_id),
            can_send=self._endpoint.udp.can_send_from(offer.local),
        )
        self._source_of[offer.handoff_id] = offer.source
        return machine

    def resume_file(self, sealed: bytes) -> asyncio.Future[Report]:
        """Bring a saved baton back to life here, if its source gives it to us."""
        opened = self._mover.open(sealed)
        header = opened.header
        if header.source in self._names:
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

    # --- what links and the endpoint bring ------------------------------------------------------

    def announced(self, link: Link, message: MovedAck) -> None:
        """Another process says that it forwards a connection to us from here on."""
        name = message.connection_id
        machine = self._forwarders.announced(
            link,
            message,
            is_here=self._endpoint.has(name) or self._find_waiting(name) is not None,
            given_to=self._departures.given_to(name),
        )
        if machine is not None:
            self._source_of[message.handoff_id] = link.peer_name
            session = self._endpoint.session_of(name)
            if session is not None:
                self.on_retired(session)

    def on_descriptors(self, link: Link, message: Descriptors) -> None:
        """Open files have come that go along with a baton."""
        self._parcels.arrived(link, message, self._machines.destinations.get(message.handoff_id))

    def relayed_through(self, connection_id: bytes) -> str | None:
        """The process that sends for this connection, empty while it is out of reach; None where
        none is needed."""
        outlet = self._outlets.get(connection_id)
        return None if outlet is None else outlet.through

    def on_retired(self, session: Session) -> None:
        """The client retired an ID: is the cutover complete?"""
        name = session.connection.name
        asked = self._cutting.get(name)
        if asked is None or session.connection.cutover_pending:
            return
        # The cutover to an earlier owner may be what is complete (RFC 9000 §5.1.2).
        if not asked and self._mover.begin_cutover(session.connection):
            self._cutting[name] = True
            return
        del self._cutting[name]
        self._forwarders.cut_over(name)

    def on_given(self, connection_id: bytes) -> None:
        """A connection of ours was given away."""
        self._cutting.pop(connection_id, None)

    def on_closed(self, connection_id: bytes) -> None:
        """A connection of ours is over."""
        self._cutting.pop(connection_id, None)
        self._outlets.pop(connection_id, None)
        self._forwarders.closed(connection_id)

    def _find_waiting(self, connection_id: bytes) -> HandoffDestination | None:
        """The machine that has a connection ready, if it is not ours yet."""
        for machine in self._machines.destinations.values():
            if machine.connection_id == connection_id and machine.state in _WAITING:
                return machine
        return None

    def hold(self, machine: HandoffDestination) -> None:
        """Keep what comes for a connection that waits for its store here: if its source dies, its
        datagrams come straight to us, and are nobody's as long as we do not own it."""
        opened = self._opened.get(machine.handoff_id)
        if opened is None or machine.handoff_id in self._held:
            return
        table = self._endpoint.table
        sink = Sink(machine.handoff_id, self._keep)
        self._held[machine.handoff_id] = sink
        for cid in opened.connection.connection_ids():
            if cid not in table.owners:
                with contextlib.suppress(RefusedError):  # full: QUIC repairs what is lost
                    table.add(cid, sink)

    def _keep(self, handoff_id: bytes, batch: list[Datagram]) -> None:
        machine = self._machines.destinations.get(handoff_id)
        if machine is None or machine.state is not DestinationState.COMMITTING:
            return
        now_us = round(monotonic() * 1e6)
        for one in batch:
            stray = Stray(
                connection_id=machine.connection_id,
                handoff_id=handoff_id,
                datagram=one.data,
                remote=one.remote,
                local=one.local,
                ecn=one.ecn,
                received_us=now_us,
            )
            # Over no link: it came by itself.
            self._machines.feed(machine, ev.Received(0, stray))

    def _release(self, machine: HandoffDestination, opened: Opened) -> None:
        """What was held is another's: its IDs that are of this process must not be reset."""
        sink = self._held.pop(machine.handoff_id, None)
        table = self._endpoint.table
        until = monotonic() + NO_RESET_LIFETIME_S
        for cid in opened.connection.connection_ids() if sink is not None else ():
            if table.owners.get(cid) is sink:
                table.bury(cid, until)

    # --- what becomes of a machine --------------------------------------------------------------

    def forget(self, machine: HandoffDestination) -> None:
        """Nothing more comes of the machine."""
        self._seekers.forget(machine)
        self._held.pop(machine.handoff_id, None)
        self._forwarders.forget(machine)
        self._parcels.drop(machine.handoff_id)
        self._source_of.pop(machine.handoff_id, None)

    def lose(self, machine: HandoffDestination) -> None:
        """The connection is ours, cannot be resumed, and its client is told."""
        opened = self._opened.pop(machine.handoff_id, None)
        if opened is not None:
            self._mover.reset(opened.client)
            self._mover.discard(opened)

    def reset(self, machine: HandoffDestination) -> None:
        """The connection was rebuilt here, and is nobody's."""
        self._mover.reset(self._opened[machine.handoff_id].client)

    # --- effects --------------------------------------------------------------------------------

    def _rebuild(self, machine: HandoffDestination, effect: fx.Rebuild) -> None:
        parcel = self._parcels.take(machine.handoff_id)
        try:
            opened = self._mover.open(effect.sealed, parcel, relayed=machine.relayed, live=True)
            if opened.header.connection_id != machine.connection_id:
                self._mover.discard(opened)
                raise PeerError("the baton is another connection's", code="wrong_connection")
        except QuicbatonError as error:
            self._machines.feed(machine, ev.RebuildFailed(error.code, str(error)))
            return
        finally:
            parcel.close()
        self._opened[machine.handoff_id] = opened
        reach("rebuilt")
        header = opened.header
        self._machines.feed(
            machine,
            ev.Rebuilt(header.connection_id, header.term, header.baton_id, opened.digest),
        )
        # READY goes first; the source then takes as long as this does.
        asyncio.get_running_loop().call_soon(self._prepare, machine.handoff_id)

    def _prepare(self, handoff_id: bytes) -> None:
        opened = self._opened.get(handoff_id)
        # None: it was discarded, or resumed, before its turn came.
        if opened is not None:
            opened.connection.prepare()

    def _dial(self, machine: HandoffDestination, _effect: fx.Connect) -> None:
        self._seekers.seek(machine, self._source_of[machine.handoff_id])

    def _resume(self, machine: HandoffDestination, effect: fx.Resume) -> None:
        reach("before_resume")
        opened = self._opened[machine.handoff_id]
        opened.check(effect.claim)
        # Known from here on: the connection may be over before this returns.
        self._forwarders.add(machine, self._source_of[machine.handoff_id])
        self._departures.taken_back(machine.connection_id)
        outlet = None
        if machine.relayed:
            outlet = self._outlets[machine.connection_id] = RelayOutlet(machine, self._find_link)
        else:
            self._cutting[machine.connection_id] = False
        session, waited_us = self._mover.resume(
            opened,
            datagrams(effect.strays),
            Sink,
            frozen_us=effect.frozen_us,
            outlet=outlet,
        )
        del self._opened[machine.handoff_id]
        if outlet is None and not session.connection.cutover_pending:
            self._cutting[machine.connection_id] = self._mover.begin_cutover(session.connection)
        self.count += 1
        if opened.relay is not None:
            link = self._find_link(machine.link)
            self._relays.adopt(opened.relay, session, link, machine.handoff_id)
        session.process()
        self._machines.feed(machine, ev.Spoke(waited_us))
        self._on_moved(machine.connection_id, True)
        reach("after_resume")
        self.on_retired(session)

    def _deliver(self, machine: HandoffDestination, effect: fx.Deliver) -> None:
        session = self._endpoint.session_of(machine.connection_id)
        if session is not None:
            deliver(session, [effect.stray])
            return
        waiting = self._find_waiting(machine.connection_id)
        if waiting is None:
            # It was frozen or handed on; else it is over, and nobody takes them.
            self._departures.on_strays(machine.connection_id, datagrams([effect.stray]))
        elif machine.link is not None:
            # A forwarder has turned to us before the owner's COMMITTED is here.
            stray = msgspec.structs.replace(effect.stray, handoff_id=waiting.handoff_id)
            self._machines.feed(waiting, ev.Received(machine.link, stray))

    def _wake_relayed(self, machine: HandoffDestination, _effect: fx.WakeRelayed) -> None:
        outlet = self._outlets.get(machine.connection_id)
        if outlet is not None:
            outlet.wake()

    def _close_relayed(self, machine: HandoffDestination, _effect: fx.CloseRelayed) -> None:
        outlet = self._outlets.get(machine.connection_id)
        session = self._endpoint.session_of(machine.connection_id)
        if outlet is not None and session is not None:
            outlet.close()
            session.protocol.close(_INTERNAL_ERROR, "nobody sends for this connection any more")
            session.process()

    def _discard(self, machine: HandoffDestination, _effect: fx.Discard) -> None:
        opened = self._opened.pop(machine.handoff_id, None)
        if opened is not None:
            self._release(machine, opened)
            self._mover.discard(opened)
