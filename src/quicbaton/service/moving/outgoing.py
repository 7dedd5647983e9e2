"""A connection leaves: its handoff until it is given away, and while we forward to its owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import ClassVar, Final

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.errors import QuicbatonError
from quicbaton.handoff import Forwarding, ForwardingState, Giving, GivingState, Outcome
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import Baton, Precopied, Ready, Stray
from quicbaton.handoff.store_questions import AskStore, ReadStore
from quicbaton.handoff.timeline import Phase, Seen
from quicbaton.limits import NO_RESET_LIFETIME_S
from quicbaton.ownership.store import Publish
from quicbaton.reasons import Reason
from quicbaton.service.failpoints import reach
from quicbaton.service.moving.context import HandoffContext
from quicbaton.service.moving.handoff import Handoff, HandoffResult, Performers
from quicbaton.service.moving.mover import Frozen, Given
from quicbaton.service.moving.parcels import send_ahead
from quicbaton.service.moving.precopy import Copying, is_worth_it
from quicbaton.service.moving.proxying import ProxiedClient
from quicbaton.service.moving.strays import StraySink, deliver
from quicbaton.service.peers.link import Link
from quicbaton.transport.connection import Connection

#: Between the freeze and the end of forwarding.
_UNFINISHED: Final = (
    GivingState.SEALING,
    GivingState.PUBLISHING,
    GivingState.FROZEN,
    GivingState.RECLAIMING,
    ForwardingState.FORWARDING,
    ForwardingState.PROXYING,
)
_GIVEN: Final = (ForwardingState.FORWARDING, ForwardingState.PROXYING)
_ASKING: Final = (GivingState.PUBLISHING, GivingState.RECLAIMING)


class OutgoingHandoff(Handoff):
    """One connection that is offered to another process, or saved in a file."""

    machine: Giving | Forwarding

    def __init__(self, context: HandoffContext, machine: Giving, pid: int | None) -> None:
        recorder = context.timelines.begin(machine.connection_id, Seen.BY_SOURCE)
        super().__init__(machine, pid, recorder, context.links, context.feed)
        self._context = context
        #: Stores the baton of a connection that is saved.
        self._keep: Callable[[bytes], None] | None = None
        #: The baton format that was agreed upon with the destination.
        self._format = context.file_format
        #: The copy of bytes that goes to the destination ahead of the baton.
        self._copying: Copying | None = None
        self._frozen: Frozen | None = None
        self._given: Given | None = None
        #: The client, if the new owner sends to it through us.
        self._client: ProxiedClient | None = None

    # --- commands -------------------------------------------------------------------------------

    def begin(self, session: Session, link: Link, *, proxy: bool) -> asyncio.Future[HandoffResult]:
        """Hand the connection to the process at the other end of `link`. `proxy`: if that cannot
        send from the address to which the client sends, send for it."""
        waiter = self.wait()
        self.recorder.is_between(link.own_name, link.peer_name)
        self.recorder.is_about(session.connection)
        self._format = max(link.peer_formats)
        if not is_worth_it(session) or self._is_cutover_in_the_way(session, link, proxy=proxy):
            self._offer(session, link, proxy=proxy)
        else:
            self.recorder.mark(Phase.COPY)
            self._copying = Copying(session, link, lambda: self._offer(session, link, proxy=proxy))
        return waiter

    def save(
        self, session: Session, keep: Callable[[bytes], None]
    ) -> asyncio.Future[HandoffResult]:
        """Freeze the connection into a baton. Done when `keep` has stored it, or has raised
        OSError, which thaws the connection."""
        self._keep = keep
        waiter = self.wait()
        self.recorder.is_between(self._context.names.toward(""), "")
        self.recorder.is_about(session.connection)
        self.feed(ev.Save(cutover_pending=session.connection.cutover_pending))
        if self.machine.state is GivingState.SAVED:
            self.finish(HandoffResult(Outcome.KEPT, Reason.SAVED, "frozen"))
        return waiter

    def cancel_save(self, code: Reason, text: str) -> None:
        """Thaw the connection, if it is saved: its baton is void from here on."""
        if self.machine.state is GivingState.SAVED:
            self.feed(ev.Cancel(code, text))

    # --- how it stands --------------------------------------------------------------------------

    @property
    def is_frozen(self) -> bool:
        """Whether it is neither given away nor thawed yet."""
        return self._frozen is not None

    @property
    def is_unfinished(self) -> bool:
        """Whether it is between its freeze here and the end of forwarding."""
        return self.machine.state in _UNFINISHED

    @property
    def is_given(self) -> bool:
        return self.machine.state in _GIVEN

    @property
    def is_proxied(self) -> bool:
        """Whether this process sends for the owner."""
        return self.machine.state is ForwardingState.PROXYING

    @property
    def given_to(self) -> str:
        """The process that has the connection and to which we still forward; empty: none."""
        is_given = self._given is not None and self.machine.state is ForwardingState.FORWARDING
        return self.peer if is_given else ""

    @property
    def asks_the_store(self) -> bool:
        """Whether it still asks the store about the owner."""
        return self.machine.state in _ASKING

    def lives_without(self, dead: int) -> bool:
        """Whether the connection lives as far as this process knows, though the process `dead` has
        exited: it is frozen here, or was given to another."""
        is_given = self._given is not None and not self.ended and self.pid != dead
        return self.is_frozen or is_given

    # --- what links and the endpoint bring ------------------------------------------------------

    def handle(self, event: ev.Event, now_us: int) -> None:
        if self.machine.state is GivingState.FROZEN:
            if type(event) is not ev.StrayArrived and self.is_late(now_us):
                # This process was held up: the destination is discarding, or about to. A commit now
                # would leave the connection without an owner. Strays wait for the thaw like those
                # before.
                super().handle(ev.DeadlinePassed(), now_us)
            if type(event) is ev.Received and type(event.message) is Ready:
                # The last moment at which we may.
                self._send_last_train()
        super().handle(event, now_us)

    def on_copied(self, message: Precopied) -> None:
        """The destination has the bytes that went ahead, or does not keep them."""
        if self._copying is not None and self._copying.copy_id == message.precopy_id:
            self._copying.on_copied(message.kept)

    def link_lost(self, link: Link) -> None:
        """The link is lost, and bytes that were sent ahead over it do not count."""
        if self._copying is not None and self._copying.link is link:
            self._copying.fail()
        self.feed(ev.LinkLost(link.number))

    def receive(self, batch: list[Datagram]) -> None:
        """Take datagrams for the connection, which is frozen or given away."""
        if self.ended:
            return
        now_us = round(monotonic() * 1e6)
        self._context.counts.forwarded += len(batch)
        self.recorder.forwarded(len(batch))
        for one in batch:
            if self._client is not None:
                self._client.saw(one)
            self.feed(ev.StrayArrived(one.data, one.remote, one.local, one.ecn, now_us))

    def taken_back(self) -> None:
        """The connection is ours again: its datagrams are no longer forwarded."""
        if not self.ended:
            self.feed(ev.TakenBack())

    # --- endings --------------------------------------------------------------------------------

    def lose(self) -> None:
        """The connection is frozen, cannot be thawed, and has no owner."""
        if self._context.close_living(self.connection_id):
            return
        frozen, self._frozen = self._frozen, None
        relays = self._context.relays
        if frozen is not None and frozen.client is not None:
            self._context.mover.reset(frozen.client, frozen.cids)
        if frozen is not None and frozen.passed is not None:
            relays.lose_passed(frozen.passed)
        if frozen is not None and frozen.left is not None:
            relays.lose(frozen.left)
        elif frozen is not None:
            frozen.session.protocol.connection_left()
        self._context.closed(self.connection_id)

    def forget(self) -> None:
        self._context.waiters.forget(self)

    # --- effects, in the order of a handoff -----------------------------------------------------

    def send(self, effect: fx.Send) -> None:
        link, message = self._links.get(effect.link), effect.message
        if link is not None and type(message) is Stray and link.is_crowded:
            self._context.endpoint.counters["stray_lost"] += 1
        elif link is not None and type(message) is Baton and self._frozen is not None:
            send_ahead(link, message, self._frozen.descriptors)
            super().send(effect)
            self._send_last_train()
        else:
            super().send(effect)

    def _freeze(self, _effect: fx.FreezeConnection) -> None:
        reach("before_freeze")
        self._frozen = self._context.mover.freeze(self.connection_id, StraySink(self.receive))
        self.recorder.mark(Phase.FREEZE)
        reach("after_freeze")

    def _seal(self, effect: fx.SealBaton) -> None:
        mover = self._context.mover
        assert self._frozen is not None, "frozen before it is sealed"
        try:
            self._frozen = mover.snapshot(self._frozen, self._copying, may_relay=self._keep is None)
            sealed = mover.seal(
                self._frozen, self.connection_id, effect.term, effect.audience, self._format
            )
        except QuicbatonError as error:
            self.feed(ev.SealFailed(error.code, str(error)))
        else:
            self.recorder.mark(Phase.SNAPSHOT, self._frozen.frozen_at_us)
            self.recorder.sealed(len(sealed.sealed))
            self.feed(sealed)

    def _write(self, effect: fx.WriteBaton) -> None:
        assert self._keep is not None, "only a saved connection is written"
        self._send_last_trains()
        try:
            self._keep(effect.sealed)
            self.recorder.mark(Phase.BATON)
        except OSError as error:
            text = f"cannot write {error.filename or 'the baton'}: {error.strerror or error}"
            self.feed(ev.Cancel(Reason.OS, text))

    def _ask_store(self, effect: AskStore) -> None:
        assert self._context.store is not None, "only its machines ask"
        if isinstance(effect.operation, Publish):
            # The destination may send as soon as it has the baton.
            self._send_last_trains()
        self._context.store.ask(self, effect)

    def _read_store(self, effect: ReadStore) -> None:
        assert self._context.store is not None, "only its machines ask"
        self._context.store.read(self, effect)

    def _thaw(self, effect: fx.ThawConnection) -> None:
        reach("before_thaw")
        frozen = self._frozen
        assert frozen is not None, "only a frozen connection thaws"
        session = self._context.mover.thaw(frozen)
        self.recorder.mark(Phase.THAW)
        self._frozen = None
        if frozen.passed is not None:
            self._context.relays.give_back(frozen.passed, session)
        deliver(session, effect.strays)
        session.process()
        reach("after_thaw")

    def _destroy(self, _effect: fx.DestroyKeys) -> None:
        reach("before_destroy")
        frozen, self._frozen = self._frozen, None
        assert frozen is not None, "frozen before it was committed"
        assert frozen.client is not None, "sealed before it was committed"
        context, machine, link = self._context, self.machine, self.link
        assert isinstance(machine, Forwarding), "committed before its keys are destroyed"
        self.recorder.mark(Phase.COMMIT)
        self.recorder.is_proxied = machine.proxies
        self.peer = "" if link is None else link.peer_name
        if self.peer:
            self.recorder.is_between(context.names.toward(self.peer), self.peer)
        self._given = Given(frozen.cids, frozen.client)
        if machine.proxies:
            client = frozen.client
            self._client = ProxiedClient(client.remote, client.local, client.others)
        if frozen.passed is not None:
            context.relays.pass_on(frozen.passed, link, machine.handoff_id)
        if frozen.left is not None:
            context.relays.leave(frozen.left, link, self.connection_id, machine.handoff_id)
            frozen.left.protocol.rest_moved()
        else:
            # Its program's open files are another process's; nothing is left for the garbage
            # collector.
            frozen.session.protocol.connection_left()
        context.forwarders.handed_on(self.connection_id, self.peer)
        if context.store is not None:
            context.store.given(self.connection_id)
        context.counts.given += 1
        context.endpoint.observers.on_given(self.connection_id)
        reach("after_destroy")

    def _report(self, effect: fx.Report) -> None:
        copying, self._copying = self._copying, None
        if copying is not None:
            copying.release()
        self._context.outcomes["out", effect.code] += 1
        self.recorder.report(effect.outcome, effect.code, effect.message)
        self.finish(HandoffResult(effect.outcome, effect.code, effect.message))

    def _stop_forwarding(self, _effect: fx.StopForwarding) -> None:
        """Drop further datagrams for its IDs, and never reset them: another process may own it."""
        table = self._context.endpoint.table
        for cid in self._given.cids if self._given is not None else ():
            if isinstance(table.owners.get(cid), StraySink):
                table.withhold_resets(cid, monotonic() + NO_RESET_LIFETIME_S)

    def _reroute(self, effect: fx.Reroute) -> None:
        # The connection may be on its way back here: then it will be `taken_back`.
        if effect.to not in self._context.names:
            self._context.waiters.seek(self, effect.to)

    def _send_proxied(self, effect: fx.SendProxied) -> None:
        train = None if self._client is None else self._client.train(effect.train)
        if train is not None:
            self._context.endpoint.udp.send(train)

    def _note_blackout(self, effect: fx.NoteBlackout) -> None:
        self.recorder.waited(effect.blackout_us)
        self._context.endpoint.observers.on_blackout(self.connection_id, effect.blackout_us)

    def _answer_with_resets(self, _effect: fx.AnswerWithResets) -> None:
        """The connection was given away, and no process owns it."""
        if self._given is not None:
            self._context.mover.reset(self._given.client, self._given.cids)

    # --- helpers --------------------------------------------------------------------------------

    def _is_cutover_in_the_way(self, session: Session, link: Link, *, proxy: bool) -> bool:
        """Whether the client has yet to cut over to us, and that forbids this handoff."""
        connection = session.connection
        return connection.cutover_pending and (
            proxy or not self._context.forwarders.can_tell(connection.name, link)
        )

    def _offer(self, session: Session, link: Link, *, proxy: bool) -> None:
        connection = session.connection
        self.feed(
            ev.Start(
                link=link.number,
                source=link.own_name,
                audience=link.peer_name,
                size_bytes=self._size_bytes(connection),
                format_version=self._format,
                cutover_pending=self._is_cutover_in_the_way(session, link, proxy=proxy),
                local=connection.local_address or self._context.endpoint.udp.address,
                proxy=proxy,
            )
        )

    def _size_bytes(self, connection: Connection) -> int:
        """The approximate size of the baton, without the bytes that went ahead."""
        if self._copying is None:
            return connection.buffered_bytes()
        pieces = self._copying.pieces
        ahead = sum(
            min(half.end, run.stop) - half.starts[0]
            for stream_id, stream in connection.streams.items()
            if (half := stream.send) is not None
            and half.starts
            and (run := pieces.run_of(stream_id)) is not None
        )
        return max(0, connection.buffered_bytes() - max(0, ahead))

    def _send_last_train(self) -> None:
        """Send the next train that the freeze has made, if it is not committed yet."""
        if self._frozen is not None and self._frozen.parting:
            self._context.mover.send_last_train(self._frozen)
            self.recorder.mark_again(Phase.LAST_TRAIN)

    def _send_last_trains(self) -> None:
        """Send all trains that the freeze has made: another process may send from here on."""
        while self._frozen is not None and self._frozen.parting:
            self._send_last_train()

    PERFORMERS: ClassVar[Performers] = {
        fx.Send: send,
        fx.Report: _report,
        fx.FreezeConnection: _freeze,
        fx.SealBaton: _seal,
        fx.WriteBaton: _write,
        fx.ThawConnection: _thaw,
        fx.DestroyKeys: _destroy,
        fx.StopForwarding: _stop_forwarding,
        fx.Reroute: _reroute,
        fx.SendProxied: _send_proxied,
        fx.NoteBlackout: _note_blackout,
        fx.AnswerWithResets: _answer_with_resets,
        AskStore: _ask_store,
        ReadStore: _read_store,
    }
