"""Forwarding: the rest of a handoff at its source, after it gave the connection away.

Theory of operation
-------------------
    FORWARDING ── Cutover, Closed, TakenBack, no stray for long ──► DONE
    PROXYING   ── Closed, no link for long ───────────────────────► DONE

* It begins where `giving_by_ledger` or `giving_by_store` ends: at the commit. Nothing that happens
  here brings the connection back.
* A lost link costs nothing. The owner opens a new one and identifies itself: by a ClaimRequest,
  which gets the same claim again, or by TAKEN where a shared store has decided. Other processes get
  no answer. Strays that arrived meanwhile were kept in a bounded queue.
* The owner may hand the connection on before the client has cut over. It tells every process that
  still forwards to it (MOVED). Each then turns to the new owner: link, announcement (MOVED_ACK to
  both owners), strays. Until the old owner has that announcement it passes their strays on itself.
  A forwarder only ever turns to an owner of a higher term, and a process that owns the connection
  again forwards no more, so strays run in no circle.
* A destination that cannot send from the client's address says so when it accepts. Then PROXYING
  stands for FORWARDING. There is no cutover: this process sends the owner's trains (PROXIED_TRAIN)
  and forwards the client's datagrams, until the connection is closed or its owner is gone for good.
* If the destination says ABORT after the commit, it holds the only claim and will not use it. No
  process owns the connection, and the client learns so by stateless resets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, NamedTuple

from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.answers import answer_claim, not_by_claim, not_forwarding
from quicbaton.handoff.machine import MachineState, Row, table
from quicbaton.handoff.sides import SourceSide, reason_of
from quicbaton.handoff.store_questions import (
    STORE_ANSWERS,
    AskStore,
    StoreConflict,
    StoreDone,
    StoreFailed,
    StoreFound,
    StoreUnknown,
)
from quicbaton.handoff.strays import StrayQueue
from quicbaton.handoff.waits import Waits
from quicbaton.ownership import Ledger, Ownership
from quicbaton.ownership.store import Close, EntryState, Holder
from quicbaton.reasons import Reason


class ForwardingState(MachineState):
    """The progress of forwarding."""

    FORWARDING = "forwarding"
    #: This process also sends for the destination.
    PROXYING = "proxying"
    DONE = "done"


class StoreRequest(NamedTuple):
    """An operation of this process in a shared store that may still take effect after it let the
    connection go."""

    #: This process, as the store knows it.
    holder: Holder
    #: Why it wanted the connection, as a code and a sentence.
    reason: tuple[Reason, str]


_Step = tuple[ForwardingState, list[fx.Effect]]


class Forwarding(SourceSide[ForwardingState]):
    """One connection that was given away in one handoff.

    `proxies`: whether this process sends for the destination. `store_request`: None where this
    process's own ledger gave the connection away.
    """

    successor: None = None
    ENDED = (ForwardingState.DONE,)
    WAITS: ClassVar[dict[ForwardingState, Callable[[Waits], float] | None]] = {
        ForwardingState.FORWARDING: lambda waits: waits.forward_s,
        ForwardingState.PROXYING: None,
    }

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        ledger: Ledger,
        waits: Waits,
        *,
        state: ForwardingState,
        link: int | None,
        strays: StrayQueue,
        proxies: bool,
        now_us: int,
        told_over: int | None = None,
        store_request: StoreRequest | None = None,
    ) -> None:
        super().__init__(
            connection_id, handoff_id, ledger, waits, state=state, strays=strays, link=link
        )
        self.proxies = proxies
        #: The link over which an owner told us of the next one, until we have reached that.
        self._told_over = told_over
        self._store_request = store_request
        self._arm(now_us)

    # --- the owner, over a new link -----------------------------------------------------------

    def _answer_claim(self, event: ev.Received, now_us: int) -> _Step:
        request = event.message
        assert isinstance(request, msg.ClaimRequest)
        if self._store_request is not None:
            return self.state, [fx.Send(event.link, not_by_claim(request))]
        answer = answer_claim(self._ledger, request)
        effects: list[fx.Effect] = [fx.Send(event.link, answer)]
        if isinstance(answer, msg.Committed) and not self.ended:
            self._link = event.link
            effects += self._send_strays(event.link)
            self._arm(now_us)
        return self.state, effects

    def _taken(self, event: ev.Received, now_us: int) -> _Step:
        self._link = event.link
        self._arm(now_us)
        state = ForwardingState.PROXYING if self.proxies else ForwardingState.FORWARDING
        return state, self._send_strays(event.link)

    def _taken_late(self, event: ev.Received, now_us: int) -> _Step:
        assert isinstance(event.message, msg.Taken)
        return self.state, [fx.Send(event.link, not_forwarding(event.message))]

    def _resumed(self, event: ev.Received, now_us: int) -> _Step:
        assert isinstance(event.message, msg.Resumed)
        return self.state, [fx.NoteBlackout(event.message.blackout_us)]

    # --- the client's datagrams, and the owner's ----------------------------------------------

    def _forward(self, event: ev.StrayArrived, now_us: int) -> _Step:
        stray = self._stray(event)
        if self._link is None:
            self._strays.push(stray)
            return self.state, []
        self._arm(now_us)
        return self.state, [fx.Send(self._link, stray)]

    def _proxy(self, event: ev.Received, now_us: int) -> _Step:
        assert isinstance(event.message, msg.ProxiedTrain)
        return self.state, [fx.SendProxied(event.message)]

    def _wait_for_owner(self, event: ev.Event, now_us: int) -> _Step:
        # Only without its owner may a proxied connection be given up, after a while.
        self._deadline_us = now_us + round(self._waits.proxy_lost_s * 1e6)
        return self.state, []

    # --- the next owner -----------------------------------------------------------------------

    def _reroute(self, event: ev.Received, now_us: int) -> _Step:
        assert isinstance(event.message, msg.Moved)
        self._told_over = event.link
        return self.state, [fx.Reroute(event.message.to)]

    def _turn(self, event: ev.LinkUp, now_us: int) -> _Step:
        """Forward to the new owner from here on. The old owner passes on strays from before."""
        links = {event.link} if self._told_over is None else {self._told_over, event.link}
        self._told_over = None
        self._link = event.link
        self._arm(now_us)
        ack = msg.MovedAck(self.connection_id, self._handoff_id)
        return self.state, [
            *(fx.Send(link, ack) for link in sorted(links)),
            *self._send_strays(event.link),
        ]

    def _turned_before(self, event: ev.Received, now_us: int) -> _Step:
        return self.state, [fx.Send(event.link, msg.MovedAck(self.connection_id, self._handoff_id))]

    def _taken_back(self, event: ev.TakenBack, now_us: int) -> _Step:
        # IDs that the client retired meanwhile do not come back with the connection.
        effects: list[fx.Effect] = [fx.StopForwarding(self.connection_id)]
        if self._told_over is not None:
            ack = msg.MovedAck(self.connection_id, self._handoff_id)
            effects.append(fx.Send(self._told_over, ack))
        return ForwardingState.DONE, effects

    # --- endings ------------------------------------------------------------------------------

    def _cut_over(self, event: ev.Received, now_us: int) -> _Step:
        stop: list[fx.Effect] = [] if self.ended else [fx.StopForwarding(self.connection_id)]
        ack = msg.CutoverAck(self.connection_id, self._handoff_id)
        return ForwardingState.DONE, [*stop, fx.Send(event.link, ack)]

    def _closed(self, event: ev.Received, now_us: int) -> _Step:
        if self._ledger.record(self.connection_id).state is Ownership.GIVEN:
            self._ledger.close(self.connection_id, now_us)
        stop: list[fx.Effect] = [] if self.ended else [fx.StopForwarding(self.connection_id)]
        return ForwardingState.DONE, stop

    def _stop(self, event: ev.Event, now_us: int) -> _Step:
        return ForwardingState.DONE, [fx.StopForwarding(self.connection_id)]

    def _lost(self, event: ev.Event, now_us: int) -> _Step:
        """The only claim was dropped, or every process that could hold it is dead."""
        if isinstance(event, ev.PeerDead) and not event.no_owner_lives:
            return self._stop(event, now_us)
        self._ledger.close(self.connection_id, now_us)
        return ForwardingState.DONE, self._nobodys(reason_of(event))

    def _store_gave_it_back(self, event: StoreDone | StoreFound, now_us: int) -> _Step:
        """The store gives the connection to us after all, but we have let it go: no process has it,
        or will."""
        entry, request = event.entry, self._store_request
        if (
            request is None
            or entry is None
            or entry.state is not EntryState.HELD
            or entry.holder != request.holder
        ):
            return self.state, []
        self._ledger.close(self.connection_id, now_us)
        stop, resets, report = self._nobodys(request.reason)
        close = AskStore(Close(self.connection_id, entry.term, request.holder))
        return ForwardingState.DONE, [stop, resets, close, report]

    def _nobodys(self, reason: tuple[Reason, str]) -> list[fx.Effect]:
        return [
            fx.StopForwarding(self.connection_id),
            fx.AnswerWithResets(self.connection_id),
            fx.Report(ev.Outcome.LOST, *reason),
        ]

    def _stay(self, event: ev.Event, now_us: int) -> _Step:
        return self.state, []


_S = ForwardingState
_M = Forwarding

#: State, events or messages, the rule, the states that it may lead to. A missing cell is an error.
_ROWS: Final[tuple[Row[ForwardingState], ...]] = (
    (_S.FORWARDING, (ev.StrayArrived,), _M._forward, (_S.FORWARDING,)),
    (_S.FORWARDING, (msg.ClaimRequest,), _M._answer_claim, (_S.FORWARDING,)),
    (_S.FORWARDING, (msg.Taken,), _M._taken, (_S.FORWARDING, _S.PROXYING)),
    (_S.FORWARDING, (msg.Resumed,), _M._resumed, (_S.FORWARDING,)),
    # A READY that a ClaimRequest over a newer link has overtaken needs no second answer.
    (_S.FORWARDING, (msg.Ready, ev.LinkLost), _M._stay, (_S.FORWARDING,)),
    (_S.FORWARDING, (msg.Moved,), _M._reroute, (_S.FORWARDING,)),
    (_S.FORWARDING, (ev.LinkUp,), _M._turn, (_S.FORWARDING,)),
    (_S.FORWARDING, (ev.TakenBack,), _M._taken_back, (_S.DONE,)),
    (_S.FORWARDING, (msg.Cutover,), _M._cut_over, (_S.DONE,)),
    (_S.FORWARDING, (msg.Closed,), _M._closed, (_S.DONE,)),
    (_S.FORWARDING, (msg.Abort, ev.PeerDead), _M._lost, (_S.DONE,)),
    # A REFUSE is from a new owner that does not know the connection any more.
    (_S.FORWARDING, (ev.DeadlinePassed, ev.Cancel, msg.Refuse), _M._stop, (_S.DONE,)),
    # Answers of a store that were overtaken by a message or a deadline.
    (_S.FORWARDING, (StoreDone, StoreFound), _M._store_gave_it_back, (_S.FORWARDING, _S.DONE)),
    (_S.FORWARDING, (StoreConflict, StoreFailed, StoreUnknown), _M._stay, (_S.FORWARDING,)),
    (_S.PROXYING, (ev.StrayArrived,), _M._forward, (_S.PROXYING,)),
    (_S.PROXYING, (msg.ProxiedTrain,), _M._proxy, (_S.PROXYING,)),
    (_S.PROXYING, (msg.ClaimRequest,), _M._answer_claim, (_S.PROXYING,)),
    (_S.PROXYING, (msg.Taken,), _M._taken, (_S.PROXYING,)),
    (_S.PROXYING, (msg.Resumed,), _M._resumed, (_S.PROXYING,)),
    (_S.PROXYING, (msg.Ready, *STORE_ANSWERS), _M._stay, (_S.PROXYING,)),
    (_S.PROXYING, (ev.LinkLost,), _M._wait_for_owner, (_S.PROXYING,)),
    (_S.PROXYING, (msg.Closed,), _M._closed, (_S.DONE,)),
    (_S.PROXYING, (msg.Abort, ev.PeerDead), _M._lost, (_S.DONE,)),
    (_S.PROXYING, (ev.DeadlinePassed, ev.Cancel), _M._stop, (_S.DONE,)),
    (_S.DONE, (msg.ClaimRequest,), _M._answer_claim, (_S.DONE,)),
    (_S.DONE, (msg.Taken,), _M._taken_late, (_S.DONE,)),
    (_S.DONE, (msg.Resumed,), _M._resumed, (_S.DONE,)),
    (_S.DONE, (msg.Moved,), _M._turned_before, (_S.DONE,)),
    (_S.DONE, (msg.Cutover,), _M._cut_over, (_S.DONE,)),
    (_S.DONE, (msg.Closed,), _M._closed, (_S.DONE,)),
    (
        _S.DONE,
        (msg.Ready, msg.Abort, msg.Refuse, msg.ProxiedTrain, *STORE_ANSWERS),
        _M._stay,
        (_S.DONE,),
    ),
    (_S.DONE, (ev.LinkLost, ev.LinkUp, ev.PeerDead, ev.Cancel), _M._stay, (_S.DONE,)),
)
_M.TABLE = table(_ROWS)
