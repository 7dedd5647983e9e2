"""What the source machines of this process decide, performed: connections leave.

`arrivals` is the other direction; `handoffs` brings both what links and the endpoint bring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.asyncio.failpoints import reach
from quicbaton.asyncio.moving.forwarders import Forwarders
from quicbaton.asyncio.moving.machines import Machine, Machines, Report
from quicbaton.asyncio.moving.mover import Frozen, Given, Mover
from quicbaton.asyncio.moving.parcels import send_ahead
from quicbaton.asyncio.moving.precopy import Copying, is_worth_it
from quicbaton.asyncio.moving.relaying import RelayedClient
from quicbaton.asyncio.moving.seeking import Seekers
from quicbaton.asyncio.moving.strays import Sink, deliver
from quicbaton.asyncio.moving.stream_relay.relays import StreamRelays
from quicbaton.asyncio.peers.link import Link
from quicbaton.asyncio.peers.names import Names
from quicbaton.baton.precopy import Pieces
from quicbaton.errors import QuicbatonError
from quicbaton.handoff import HandoffSource, Outcome, SourceState
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import Baton, Precopied
from quicbaton.limits import NO_RESET_LIFETIME_S
from quicbaton.transport.connection import Connection

_UNFINISHED: Final = (
    SourceState.SEALING,
    SourceState.PUBLISHING,
    SourceState.FROZEN,
    SourceState.RECLAIMING,
    SourceState.FORWARDING,
    SourceState.RELAYING,
)


class Departures:
    """`on_moved(connection_id, resumed)` is told of every connection that is given away,
    `on_resumed(connection_id, blackout_us)` when a destination says how long its client waited."""

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
        find_link: Callable[[int | None], Link | None],
        file_format: int,
        on_moved: Callable[[bytes, bool], None],
        on_resumed: Callable[[bytes, int], None],
    ) -> None:
        self._endpoint = endpoint
        self._mover = mover
        self._machines = machines
        self._names = names
        self._relays = relays
        self._forwarders = forwarders
        self._seekers = seekers
        self._find_link = find_link
        self._file_format = file_format
        self._on_moved = on_moved
        self._on_resumed = on_resumed
        self._frozen: dict[bytes, Frozen] = {}
        self._given: dict[bytes, Given] = {}
        #: Clients that other processes talk to through us.
        self._clients: dict[bytes, RelayedClient] = {}
        #: What takes a saved connection's baton.
        self._keepers: dict[bytes, Callable[[bytes], None]] = {}
        #: Baton formats that were agreed upon with destinations.
        self._formats: dict[bytes, int] = {}
        #: What goes to the destination ahead of the baton.
        self._copying: dict[Machine, Copying] = {}
        self.count = 0
        #: Datagrams that arrived here for connections of other processes, and were passed on.
        self.forwarded = 0
        #: Datagrams that other processes sent through us, and trains that were to strangers.
        self.relayed = 0
        self.relays_refused = 0
        #: By the effect; each takes the machine and the effect.
        self.performers: Final[Mapping[type[fx.Effect], Callable[[Any, Any], None]]] = {
            fx.FreezeConnection: self._freeze,
            fx.SealBaton: self._seal,
            fx.WriteBaton: self._write_file,
            fx.ThawConnection: self._thaw,
            fx.DestroyKeys: self._destroy,
            fx.StopForwarding: self._stop_forwarding,
            fx.Reroute: self._reroute,
            fx.SendRelayed: self._send_relayed,
            fx.NoteBlackout: self._note_blackout,
        }

    # --- commands -------------------------------------------------------------------------------

    def hand_over(
        self, session: Session, link: Link, *, relay: bool = False, shared: bool = False
    ) -> asyncio.Future[Report]:
        """Hand a connection to the process at the other end of `link`. `relay`: if that cannot send
        from the address that the client talks to, send for it. `shared`: by the shared store."""
        running = session.protocol.running_streams()
        session.protocol.check_exportable(running, passes_on=True)
        machine = self._machines.new_source(session.connection.name, link.peer_pid, shared=shared)
        waiter = self._machines.wait_for(machine)
        in_the_way = self._is_cutover_in_the_way(session, link, relay=relay)
        if in_the_way or not is_worth_it(session):
            self._offer(machine, session, link, relay=relay)
        else:
            self._copying[machine] = Copying(
                session, link, lambda: self._offer(machine, session, link, relay=relay)
            )
        return waiter

    def _is_cutover_in_the_way(self, session: Session, link: Link, *, relay: bool) -> bool:
        """Whether the client has yet to cut over to us, and that forbids this handoff."""
        connection = session.connection
        return connection.cutover_pending and (
            relay or not self._forwarders.can_tell(connection.name, link)
        )

    def _offer(self, machine: HandoffSource, session: Session, link: Link, *, relay: bool) -> None:
        connection = session.connection
        self._formats[connection.name] = max(link.peer_formats)
        start = ev.Start(
            link=link.number,
            source=link.own_name,
            audience=link.peer_name,
            size_bytes=self._size_bytes(machine, connection),
            format_version=max(link.peer_formats),
            stray_ids=tuple(sorted(session.cids))[:64],
            cutover_pending=self._is_cutover_in_the_way(session, link, relay=relay),
            local=connection.local_address or self._endpoint.udp.address,
            relay=relay,
        )
        self._machines.feed(machine, start)

    def _size_bytes(self, machine: HandoffSource, connection: Connection) -> int:
        """How big the baton will be, about: what went ahead is not in it."""
        copying = self._copying.get(machine)
        pieces = Pieces() if copying is None else copying.pieces
        ahead = sum(
            min(half.end, run.stop) - half.starts[0]
            for stream_id, stream in connection.streams.items()
            if (half := stream.send) is not None
            and half.starts
            and (run := pieces.run_of(stream_id)) is not None
        )
        return max(0, connection.buffered_bytes() - max(0, ahead))

    def save(self, session: Session, keep: Callable[[bytes], None]) -> asyncio.Future[Report]:
        """Freeze a connection into a baton; done when `keep` has got that, or has raised OSError,
        which thaws the connection."""
        pending = session.connection.cutover_pending
        machine = self._machines.new_source(session.connection.name)
        self._keepers[session.connection.name] = keep
        waiter = self._machines.wait_for(machine)
        self._machines.feed(machine, ev.Save(cutover_pending=pending))
        if machine.state is SourceState.SAVED:
            self._machines.finish(machine, Report(Outcome.KEPT, "saved", "frozen"))
        return waiter

    def cancel_save(self, connection_id: bytes, code: str, text: str) -> None:
        """Thaw one connection that is saved: its baton is worth nothing from here on."""
        machine = self._machines.sources.get(connection_id)
        if machine is not None and machine.state is SourceState.SAVED:
            self._machines.feed(machine, ev.Cancel(code, text))

    def cancel_saves(self, code: str, text: str) -> None:
        """Thaw what is saved in files: the files are worth nothing from here on."""
        for machine in list(self._machines.sources.values()):
            if machine.state is SourceState.SAVED:
                self._machines.feed(machine, ev.Cancel(code, text))

    @property
    def frozen(self) -> int:
        """Connections that are frozen here, and neither given away nor thawed yet."""
        return len(self._frozen)

    def names_in_hand(self, dead: int) -> list[bytes]:
        """Connections that are frozen here, or were given to a process other than `dead`."""
        return [
            name
            for name, machine in self._machines.sources.items()
            if name in self._frozen
            or (
                name in self._given
                and not machine.ended
                and self._machines.pids.get(machine) != dead
            )
        ]

    def unfinished(self) -> int:
        """Connections between their freeze here and the end of forwarding."""
        return sum(machine.state in _UNFINISHED for machine in self._machines.sources.values())

    # --- what links and the endpoint bring ------------------------------------------------------

    def part(self, connection_id: bytes) -> None:
        """Send the next of what the freeze has made, if it is not committed yet."""
        frozen = self._frozen.get(connection_id)
        if frozen is not None:
            self._mover.part(frozen)

    def part_all(self, connection_id: bytes) -> None:
        """Send all that the freeze has made: somebody else may send from here on."""
        frozen = self._frozen.get(connection_id)
        while frozen is not None and frozen.parting:
            self._mover.part(frozen)

    def on_copied(self, message: Precopied) -> None:
        for copying in list(self._copying.values()):
            if copying.copy_id == message.precopy_id:
                copying.on_copied(message.kept)

    def link_lost(self, link: Link) -> None:
        """What was sent ahead over it counts for nothing."""
        for copying in list(self._copying.values()):
            if copying.link is link:
                copying.fail()

    def on_strays(self, connection_id: bytes, batch: list[Datagram]) -> None:
        """Datagrams for a connection that is frozen or given away."""
        machine = self._machines.sources.get(connection_id)
        if machine is None or machine.ended:
            return
        now_us = round(monotonic() * 1e6)
        self.forwarded += len(batch)
        client = self._clients.get(connection_id)
        for datagram in batch:
            if client is not None:
                client.saw(datagram)
            self._machines.feed(
                machine,
                ev.StrayArrived(
                    datagram.data, datagram.remote, datagram.local, datagram.ecn, now_us
                ),
            )

    def given_to(self, connection_id: bytes) -> str:
        """The process that we gave the connection to and still forward to; empty: none."""
        machine = self._machines.sources.get(connection_id)
        given = self._given.get(connection_id)
        is_given = machine is not None and machine.state is SourceState.FORWARDING
        return given.to if is_given and given is not None else ""

    def taken_back(self, connection_id: bytes) -> None:
        """The connection is ours again: its datagrams are not forwarded any more."""
        machine = self._machines.sources.get(connection_id)
        if machine is not None and not machine.ended:
            self._machines.feed(machine, ev.TakenBack())

    # --- what becomes of a machine --------------------------------------------------------------

    def forget(self, machine: HandoffSource) -> None:
        """Nothing more comes of the machine."""
        self._keepers.pop(machine.connection_id, None)
        self._formats.pop(machine.connection_id, None)
        self._given.pop(machine.connection_id, None)
        self._clients.pop(machine.connection_id, None)
        self._seekers.forget(machine)

    def release_copy(self, machine: HandoffSource) -> None:
        """The handoff has ended, one way or the other."""
        copying = self._copying.pop(machine, None)
        if copying is not None:
            copying.release()

    def lose(self, machine: HandoffSource) -> None:
        """The connection is frozen, cannot be thawed, and is nobody's."""
        frozen = self._frozen.pop(machine.connection_id, None)
        if frozen is not None and frozen.client is not None:
            self._mover.reset(frozen.client, frozen.cids)
        if frozen is not None and frozen.passed is not None:
            self._relays.lose_passed(frozen.passed)
        if frozen is not None and frozen.left is not None:
            self._relays.lose(frozen.left)
        elif frozen is not None:
            frozen.session.protocol.connection_left()

    def send_descriptors(self, link: Link, baton: Baton) -> None:
        """Send the open files that go along with this baton, which is sent next."""
        frozen = self._frozen.get(baton.connection_id)
        if frozen is not None:
            send_ahead(link, baton, frozen.descriptors)

    def reset(self, machine: HandoffSource) -> None:
        """The connection was given away, and is nobody's."""
        given = self._given.get(machine.connection_id)
        if given is not None:
            self._mover.reset(given.client, given.cids)

    # --- effects --------------------------------------------------------------------------------

    def _freeze(self, _machine: HandoffSource, effect: fx.FreezeConnection) -> None:
        reach("before_freeze")
        name = effect.connection_id
        self._frozen[name] = self._mover.freeze(name, Sink(name, self.on_strays))
        reach("after_freeze")

    def _seal(self, machine: HandoffSource, effect: fx.SealBaton) -> None:
        name = effect.connection_id
        try:
            saving = name in self._keepers
            version = self._file_format if saving else self._formats[name]
            frozen = self._frozen[name] = self._mover.snapshot(
                self._frozen[name],
                self._copying.get(machine),
                may_relay=not saving,
            )
            sealed = self._mover.seal(frozen, name, effect.term, effect.audience, version)
        except QuicbatonError as error:
            self._machines.feed(machine, ev.SealFailed(error.code, str(error)))
        else:
            self._machines.feed(machine, sealed)

    def _write_file(self, machine: HandoffSource, effect: fx.WriteBaton) -> None:
        frozen = self._frozen[machine.connection_id]
        while frozen.parting:
            self._mover.part(frozen)
        try:
            self._keepers[machine.connection_id](effect.sealed)
        except OSError as error:
            text = f"cannot write {error.filename or 'the baton'}: {error.strerror or error}"
            self._machines.feed(machine, ev.Cancel("file", text))

    def _thaw(self, _machine: HandoffSource, effect: fx.ThawConnection) -> None:
        reach("before_thaw")
        name = effect.connection_id
        frozen = self._frozen[name]
        session = self._mover.thaw(frozen)
        del self._frozen[name]
        if frozen.passed is not None:
            self._relays.give_back(frozen.passed, session)
        deliver(session, effect.strays)
        session.process()
        reach("after_thaw")

    def _destroy(self, machine: HandoffSource, effect: fx.DestroyKeys) -> None:
        reach("before_destroy")
        frozen = self._frozen.pop(effect.connection_id)
        assert frozen.client is not None, "sealed before it was committed"
        link = self._find_link(machine.link)
        to = "" if link is None else link.peer_name
        self._given[effect.connection_id] = Given(frozen.cids, frozen.client, to)
        if machine.relays:
            client = RelayedClient(frozen.client.remote, frozen.client.local, frozen.client.others)
            self._clients[effect.connection_id] = client
        if frozen.passed is not None:
            self._relays.pass_on(frozen.passed, link, machine.handoff_id)
        if frozen.left is not None:
            self._relays.leave(frozen.left, link, effect.connection_id, machine.handoff_id)
            frozen.left.protocol.rest_moved()
        else:
            # Its program's open files are another's; nothing is left for the garbage collector.
            frozen.session.protocol.connection_left()
        self._forwarders.handed_on(effect.connection_id, to)
        self.count += 1
        self._on_moved(effect.connection_id, False)
        reach("after_destroy")

    def _stop_forwarding(self, _machine: HandoffSource, effect: fx.StopForwarding) -> None:
        """What still comes for its IDs is dropped, and never reset: somebody may own it."""
        for cid in self._given[effect.connection_id].cids:
            if isinstance(self._endpoint.table.owners.get(cid), Sink):
                self._endpoint.table.bury(cid, monotonic() + NO_RESET_LIFETIME_S)

    def _reroute(self, machine: HandoffSource, effect: fx.Reroute) -> None:
        # The connection may be on its way back here: then it will be `taken_back`.
        if effect.to not in self._names:
            self._seekers.seek(machine, effect.to)

    def _send_relayed(self, machine: HandoffSource, effect: fx.SendRelayed) -> None:
        client = self._clients.get(machine.connection_id)
        train = None if client is None else client.train(effect.relay)
        if train is None:
            self.relays_refused += 1
            return
        self.relayed += -(-len(train.data) // train.segment_bytes)
        self._endpoint.udp.send(train)

    def _note_blackout(self, machine: HandoffSource, effect: fx.NoteBlackout) -> None:
        self._on_resumed(machine.connection_id, effect.blackout_us)
