"""A connection arrives: its handoff until it is ours, and while others forward to it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from time import monotonic
from typing import ClassVar, Final

import msgspec

from quicbaton.asyncio.endpoint.udp import Datagram
from quicbaton.errors import PeerError, QuicbatonError, RefusedError
from quicbaton.handoff import CuttingOver, CuttingOverState, Taking, TakingState
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import Descriptors, Stray
from quicbaton.handoff.store_questions import AskStore, ReadStore
from quicbaton.handoff.timeline import Phase, Seen
from quicbaton.http3.codes import ErrorCode
from quicbaton.limits import NO_RESET_LIFETIME_S
from quicbaton.reasons import Reason
from quicbaton.service.failpoints import reach
from quicbaton.service.moving.context import HandoffContext
from quicbaton.service.moving.handoff import Handoff, HandoffResult, Performers
from quicbaton.service.moving.mover import RebuiltConnection
from quicbaton.service.moving.outgoing import OutgoingHandoff
from quicbaton.service.moving.parcels import Parcel
from quicbaton.service.moving.proxying import ProxyOutlet
from quicbaton.service.moving.strays import StraySink, datagrams, deliver
from quicbaton.service.peers.link import Link

#: The connection is rebuilt, and not known to be ours.
_WAITING: Final = (
    TakingState.READY,
    TakingState.COMMITTING,
    TakingState.LAST_WORDS,
    TakingState.ASKING,
)


@dataclass
class Handoffs:
    """The handoffs of one process. A connection has one on its way out, and one on its way in for
    each process that gave it away."""

    #: By connection.
    outgoing: dict[bytes, OutgoingHandoff] = field(default_factory=dict)
    #: By handoff id.
    incoming: dict[bytes, IncomingHandoff] = field(default_factory=dict)

    def all(self) -> list[Handoff]:
        return [*self.outgoing.values(), *self.incoming.values()]

    def remove(self, handoff: Handoff) -> None:
        if self.outgoing.get(handoff.connection_id) is handoff:
            del self.outgoing[handoff.connection_id]
        elif self.incoming.get(handoff.machine.handoff_id) is handoff:
            del self.incoming[handoff.machine.handoff_id]

    def given(self, besides: str) -> list[OutgoingHandoff]:
        """Those of connections that were given away to processes other than `besides`, and for
        which this process forwards or sends."""
        outgoing = self.outgoing.values()
        return [one for one in outgoing if one.is_given and one.counted_given != besides]

    def proxied(self) -> dict[str, list[OutgoingHandoff]]:
        """Those of connections for which this process sends, by the names of their owners."""
        by_owner: dict[str, list[OutgoingHandoff]] = {}
        for one in self.outgoing.values():
            if one.is_proxied:
                by_owner.setdefault(one.peer, []).append(one)
        return by_owner

    def waiting(self, connection_id: bytes) -> IncomingHandoff | None:
        """The handoff that has a rebuilt connection which is not ours yet."""
        for one in self.incoming.values():
            if one.connection_id == connection_id and one.machine.state in _WAITING:
                return one
        return None


class IncomingHandoff(Handoff):
    """One connection that is offered, comes from a file, or is forwarded to us by a process that
    had it earlier. `source`: that process's name."""

    machine: Taking | CuttingOver

    def __init__(
        self,
        context: HandoffContext,
        handoffs: Handoffs,
        machine: Taking | CuttingOver,
        *,
        source: str,
        pid: int | None = None,
    ) -> None:
        # A process that turns to us, the next owner, has its timeline with the owner before.
        begin = context.timelines.begin if isinstance(machine, Taking) else context.timelines.unkept
        recorder = begin(machine.connection_id, Seen.BY_DESTINATION)
        recorder.is_between(source, context.names.toward(source))
        super().__init__(machine, pid, recorder, context.links, context.feed)
        self.peer = source
        self._context = context
        self._handoffs = handoffs
        self._rebuilt: RebuiltConnection | None = None
        #: Open files that go along with the baton.
        self._parcel = Parcel()
        #: Takes the datagrams of a connection that waits for its store.
        self._held: StraySink | None = None
        #: The outlet through which the source sends for the connection.
        self._outlet: ProxyOutlet | None = None

    # --- commands -------------------------------------------------------------------------------

    def begin_with(self, rebuilt: RebuiltConnection) -> asyncio.Future[HandoffResult]:
        """Bring a connection out of a file back to life, if its source gives it to us."""
        self._rebuilt = rebuilt
        waiter = self.wait()
        self._tell_rebuilt(rebuilt)
        return waiter

    # --- how it stands --------------------------------------------------------------------------

    @property
    def is_unfinished(self) -> bool:
        """Whether the process at the other end has yet to turn to the next owner."""
        return self.machine.state is CuttingOverState.HANDED_ON

    @property
    def asks_the_store(self) -> bool:
        """Whether it still asks the store about the owner."""
        return self.machine.state is TakingState.COMMITTING

    # --- what links bring -----------------------------------------------------------------------

    def handle(self, event: ev.Event, now_us: int) -> None:
        if type(event) is ev.Received and event.link and type(event.message) is Stray:
            self.recorder.forwarded(1)
        super().handle(event, now_us)

    def on_descriptors(self, link: Link, message: Descriptors) -> None:
        """Take open files that go along with the baton."""
        parcel = Parcel(link.take_descriptors(message))
        if self.ended:
            parcel.close()
            return
        self._parcel.close()
        self._parcel = parcel

    # --- endings --------------------------------------------------------------------------------

    def lose(self) -> None:
        """The connection is ours and cannot be resumed: tell its client."""
        if self._context.close_living(self.connection_id):
            return
        rebuilt, self._rebuilt = self._rebuilt, None
        if rebuilt is not None:
            self._context.mover.reset(rebuilt.client)
            self._context.mover.discard(rebuilt)
        self._context.closed(self.connection_id)

    def forget(self) -> None:
        self._context.waiters.forget(self)
        self._context.forwarders.forget(self)
        self._parcel.close()
        self._held = None

    # --- effects, in the order of a handoff -----------------------------------------------------

    def _rebuild(self, effect: fx.Rebuild) -> None:
        mover, machine = self._context.mover, self.machine
        parcel, self._parcel = self._parcel, Parcel()
        try:
            rebuilt = mover.open(effect.sealed, parcel, proxied=machine.proxied, live=True)
            if rebuilt.header.connection_id != self.connection_id:
                mover.discard(rebuilt)
                raise PeerError("the baton is another connection's", code=Reason.WRONG_CONNECTION)
        except QuicbatonError as error:
            self.feed(ev.RebuildFailed(error.code, str(error)))
            return
        finally:
            parcel.close()
        self._rebuilt = rebuilt
        reach("rebuilt")
        self._tell_rebuilt(rebuilt)
        # READY goes first; the source then takes as long as this does.
        asyncio.get_running_loop().call_soon(self._prepare)

    def _tell_rebuilt(self, rebuilt: RebuiltConnection) -> None:
        header = rebuilt.header
        recorder = self.recorder
        recorder.is_about(rebuilt.connection)
        recorder.sealed(rebuilt.size_bytes)
        if rebuilt.frozen_at_us is not None:
            recorder.mark(Phase.SNAPSHOT, rebuilt.frozen_at_us)
        self.feed(ev.Rebuilt(header.connection_id, header.term, header.baton_id, rebuilt.digest))

    def _prepare(self) -> None:
        # None: it was discarded, or resumed, before its turn came.
        if self._rebuilt is not None:
            self._rebuilt.connection.prepare()

    def _connect(self, _effect: fx.Connect) -> None:
        self._context.waiters.seek(self, self.peer)

    def _ask_store(self, effect: AskStore) -> None:
        assert self._context.store is not None, "only its machines ask"
        if not self.ended:
            self._hold()
        self._context.store.ask(self, effect)

    def _read_store(self, effect: ReadStore) -> None:
        assert self._context.store is not None, "only its machines ask"
        self._context.store.read(self, effect)

    def _hold(self) -> None:
        """Keep datagrams for the connection while it waits for its store. If its source dies, its
        client's datagrams come straight to us, and while we do not own it the endpoint does not
        know them."""
        if self._rebuilt is None or self._held is not None:
            return
        table = self._context.endpoint.table
        self._held = StraySink(self._keep)
        for cid in self._rebuilt.connection.connection_ids():
            if cid not in table.owners:
                with contextlib.suppress(RefusedError):  # full: QUIC repairs losses
                    table.add(cid, self._held)

    def _keep(self, batch: list[Datagram]) -> None:
        if not self.asks_the_store:
            return
        now_us = round(monotonic() * 1e6)
        for one in batch:
            stray = Stray(
                connection_id=self.connection_id,
                handoff_id=self.machine.handoff_id,
                datagram=one.data,
                remote=one.remote,
                local=one.local,
                ecn=one.ecn,
                received_us=now_us,
            )
            # Over no link: the datagram came by itself.
            self.feed(ev.Received(0, stray))

    def _resume(self, effect: fx.Resume) -> None:
        reach("before_resume")
        context, rebuilt, machine = self._context, self._rebuilt, self.machine
        assert rebuilt is not None, "rebuilt before it is ours"
        assert isinstance(machine, CuttingOver), "ours before it is resumed"
        rebuilt.check(effect.claim)
        self.recorder.mark(Phase.COMMIT)
        self.recorder.is_proxied = machine.proxied
        # Known from here on: the connection may be over before this returns.
        context.forwarders.add(self)
        outgoing = self._handoffs.outgoing.get(self.connection_id)
        if outgoing is not None:
            outgoing.taken_back()
        if machine.proxied:
            self._outlet = ProxyOutlet(machine, lambda: self.link)
        else:
            context.forwarders.expect_cutover(self.connection_id)
        session, waited_us = context.mover.resume(
            rebuilt,
            datagrams(effect.strays),
            StraySink,
            frozen_us=effect.frozen_us,
            outlet=self._outlet,
        )
        self._rebuilt = None
        self.recorder.waited(waited_us)
        self.recorder.mark(Phase.FIRST_DATAGRAM)
        context.forwarders.ask_for_cutover(session.connection)
        context.counts.resumed += 1
        if rebuilt.relay is not None:
            context.relays.adopt(rebuilt.relay, session, self.link, machine.handoff_id)
        session.process()
        self.feed(ev.Spoke(waited_us))
        context.endpoint.observers.on_resumed(self.connection_id)
        reach("after_resume")
        context.forwarders.look(session.connection)

    def _deliver(self, effect: fx.Deliver) -> None:
        session = self._context.endpoint.session_of(self.connection_id)
        if session is not None:
            deliver(session, [effect.stray])
            return
        waiting = self._handoffs.waiting(self.connection_id)
        outgoing = self._handoffs.outgoing.get(self.connection_id)
        if waiting is not None and self.machine.link is not None:
            # A forwarder has turned to us before the owner's COMMITTED is here.
            stray = msgspec.structs.replace(effect.stray, handoff_id=waiting.machine.handoff_id)
            waiting.feed(ev.Received(self.machine.link, stray))
        elif waiting is None and outgoing is not None:
            # It was frozen or handed on; otherwise it is over, and the datagrams are dropped.
            outgoing.receive(datagrams([effect.stray]))

    def _report(self, effect: fx.Report) -> None:
        self._context.outcomes["in", effect.code] += 1
        self.recorder.report(effect.outcome, effect.code, effect.message)
        self.finish(HandoffResult(effect.outcome, effect.code, effect.message))

    def _wake_proxied(self, _effect: fx.WakeProxied) -> None:
        if self._outlet is not None:
            self._outlet.wake()

    def _close_proxied(self, _effect: fx.CloseProxied) -> None:
        session = self._context.endpoint.session_of(self.connection_id)
        if self._outlet is not None and session is not None:
            self._outlet.close()
            text = "no process sends for this connection any more"
            session.protocol.close(ErrorCode.H3_INTERNAL_ERROR, text)
            session.process()

    def _discard(self, _effect: fx.Discard) -> None:
        rebuilt, self._rebuilt = self._rebuilt, None
        if rebuilt is not None:
            self._release(rebuilt)
            self._context.mover.discard(rebuilt)

    def _release(self, rebuilt: RebuiltConnection) -> None:
        """Datagrams that were held are another process's: IDs of this process among the
        connection's must not be reset."""
        held, self._held = self._held, None
        table = self._context.endpoint.table
        until = monotonic() + NO_RESET_LIFETIME_S
        for cid in rebuilt.connection.connection_ids() if held is not None else ():
            if table.owners.get(cid) is held:
                table.withhold_resets(cid, until)

    def _answer_with_resets(self, _effect: fx.AnswerWithResets) -> None:
        """The connection was rebuilt here, and no process owns it."""
        if self._rebuilt is not None:
            self._context.mover.reset(self._rebuilt.client)

    PERFORMERS: ClassVar[Performers] = {
        fx.Send: Handoff.send,
        fx.Report: _report,
        fx.Rebuild: _rebuild,
        fx.Connect: _connect,
        fx.Resume: _resume,
        fx.Deliver: _deliver,
        fx.WakeProxied: _wake_proxied,
        fx.CloseProxied: _close_proxied,
        fx.Discard: _discard,
        fx.AnswerWithResets: _answer_with_resets,
        AskStore: _ask_store,
        ReadStore: _read_store,
    }
