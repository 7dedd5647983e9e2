"""Giving a connection away by a shared store: the destination commits there, or this side takes the
connection back.

Theory of operation
-------------------
                 Accept            Sealed               Done              Taken
    … OFFERED ──────────► SEALING ────────► PUBLISHING ──────► FROZEN ─────────► GIVEN
                             │                  │                │ Abort, link      ▲
                             │ thaw             │ thaw           │ or time lost     │ Conflict: the
                             ▼                  ▼                ▼                  │ destination's
                            KEPT ◄───────────────── Done ── RECLAIMING ─────────────┘

It differs from `giving_by_ledger` in this:

* The offer is in the store before the baton leaves (PUBLISHING). Until then the source may thaw
  without asking: no other process has the baton.
* From the moment at which the baton leaves, the source is silent. The destination commits, in the
  store, and says TAKEN. A READY or a ClaimRequest gives no right to any process.
* If TAKEN does not come, or the link or the destination is lost, the source takes the connection
  back by the destination's own operation (RECLAIMING). Done: it thaws, in the term of the store.
  Conflict: the entry names the owner. A destination that has said ABORT will not use its take.
* If the outcome stays unknown until the deadline, or the entry is missing, the source leaves the
  connection to the process that may have it: keys destroyed, no reset. A TAKEN that comes after all
  gets the strays.
* A conflict over the offer itself means that this process has been fenced off: silent for good.
"""

from __future__ import annotations

from typing import Final

from quicbaton.errors import PeerError
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.answers import not_by_claim
from quicbaton.handoff.forwarding import ForwardingState, StoreRequest
from quicbaton.handoff.giving import FAILURES, Giving, GivingState, GivingStep
from quicbaton.handoff.machine import Row, table
from quicbaton.handoff.sides import reason_of
from quicbaton.handoff.store_questions import STORE_ANSWERS, StoreFailed, StoreQuestion
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits
from quicbaton.ownership import Ledger
from quicbaton.ownership.store import Conflict, Done, Entry, EntryState, Holder, Publish, Take
from quicbaton.reasons import Reason


class GivingByStore(Giving):
    """One attempt to hand one connection over by a shared store.

    `incarnation`: 16 random bytes that this process drew at its start.
    """

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        ledger: Ledger,
        *,
        incarnation: bytes,
        store_id: bytes,
        waits: Waits = DEFAULT_WAITS,
    ) -> None:
        super().__init__(connection_id, handoff_id, ledger, waits)
        self._store_id = store_id
        self._holder = Holder("?", incarnation)
        self._question: StoreQuestion
        #: The effects that send the baton, once the offer is in the store.
        self._baton: list[fx.Effect] = []
        #: Why the connection is wanted back.
        self._reason: tuple[Reason, str] = (Reason.IN_DOUBT, "")
        #: The destination has said that it will not use its take, if there is one; or it is dead
        #: and no other process can have the connection.
        self._let_go = False

    # --- publishing -----------------------------------------------------------------------

    def _begin(self, event: ev.Start, now_us: int) -> GivingStep:
        # The store knows this process by the name that is in batons.
        self._holder = Holder(event.source, self._holder.incarnation)
        return self._offer(event, now_us)

    def _publish(self, event: ev.Sealed, now_us: int) -> GivingStep:
        kept = self._is_too_big(event)
        if kept is not None:
            return kept
        self._ledger.bind(self.connection_id, event.baton_id, event.digest)
        self._baton = self._send_baton(event)
        record = self._ledger.record(self.connection_id)
        self._question = StoreQuestion(
            Publish(self.connection_id, record.term, self._holder, event.baton_id, event.digest)
        )
        return GivingState.PUBLISHING, [self._question.ask()]

    def _published(self, event: ev.Event, now_us: int) -> GivingStep:
        if isinstance(event, StoreFailed):
            return self._take_back(event.code, event.message)
        outcome = self._question.answered(event)
        if isinstance(outcome, fx.Effect):
            return self.state, [outcome]
        if isinstance(outcome, Done):
            effects, self._baton = self._baton, []
            return GivingState.FROZEN, effects
        code = Reason.FENCED
        text = "the store says that the connection is another's: silent from here"
        effects = [
            *self._say_abort(code, text),
            *self._let_it_go(ev.Outcome.IN_DOUBT, code, text, now_us),
            fx.StopForwarding(self.connection_id),
        ]
        return self._given(ForwardingState.DONE, now_us), effects

    # --- the baton is out -----------------------------------------------------------------

    def _taken(self, event: ev.Received, now_us: int) -> GivingStep:
        message = event.message
        assert isinstance(message, msg.Taken)
        term = self._ledger.record(self.connection_id).term + 1
        if message.term != term:
            raise PeerError(
                f"term {message.term} was taken, the baton gives term {term}",
                code=Reason.WRONG_TERM,
            )
        effects = self._let_it_go(ev.Outcome.GIVEN, Reason.OK, f"given away in term {term}", now_us)
        if self.state is GivingState.FROZEN:
            # The destination has had all strays over this very link.
            self._strays.drain()
        self._link = event.link
        effects += self._send_strays(event.link)
        state = ForwardingState.PROXYING if self._proxies else ForwardingState.FORWARDING
        return self._given(state, now_us), effects

    def _taken_and_moved(self, event: ev.Received, now_us: int) -> GivingStep:
        """The destination's TAKEN was lost with a link, and it has handed the connection on
        since."""
        assert isinstance(event.message, msg.Moved)
        effects = self._let_it_go(
            ev.Outcome.GIVEN, Reason.OK, "given away, and handed on since", now_us
        )
        effects.append(fx.Reroute(event.message.to))
        state = self._given(ForwardingState.FORWARDING, now_us, told_over=event.link)
        return state, effects

    def _refuse_claim(self, event: ev.Received, now_us: int) -> GivingStep:
        message = event.message
        assert isinstance(message, msg.ClaimRequest)
        return self.state, [fx.Send(event.link, not_by_claim(message))]

    # --- wanted back ----------------------------------------------------------------------

    def _reclaim(self, event: ev.Event, now_us: int) -> GivingStep:
        self._reason = reason_of(event)
        self._note_end(event)
        record = self._ledger.record(self.connection_id)
        self._question = StoreQuestion(
            Take(
                connection_id=self.connection_id,
                term=record.term,
                source=self._holder.name,
                baton_id=record.baton_id,
                digest=record.digest,
                taker=self._holder,
            )
        )
        return GivingState.RECLAIMING, [self._question.ask()]

    def _note_end(self, event: ev.Event) -> None:
        aborted = isinstance(event, ev.Received) and isinstance(event.message, msg.Abort)
        if aborted or (isinstance(event, ev.PeerDead) and event.no_owner_lives):
            self._let_go = True

    def _destination_ended(self, event: ev.Event, now_us: int) -> GivingStep:
        self._note_end(event)
        return self.state, []

    def _reclaimed(self, event: ev.Event, now_us: int) -> GivingStep:
        outcome = self._question.answered(event)
        if isinstance(outcome, fx.Effect):
            return self.state, [outcome]
        if isinstance(outcome, Conflict):
            return self._is_anothers(outcome.entry, now_us)
        # In the store first; the ledger's term is the same.
        return self._take_back(*self._reason)

    def _is_anothers(self, entry: Entry | None, now_us: int) -> GivingStep:
        frozen_in = self._ledger.record(self.connection_id).term
        if self._is_nobodys(entry, frozen_in):
            return self._end(now_us)
        if entry is None or entry.term <= frozen_in:
            return self._doubt("the store knows the handoff no more", now_us)
        # Its owner will open a link.
        text = f"given away in term {frozen_in + 1}"
        effects = self._let_it_go(ev.Outcome.GIVEN, Reason.OK, text, now_us)
        return self._given(ForwardingState.FORWARDING, now_us), effects

    def _is_nobodys(self, entry: Entry | None, frozen_in: int) -> bool:
        """Whether every process that could have taken it is done with it, and none can take it any
        more."""
        if entry is not None and entry.state is EntryState.CLOSED:
            return entry.term >= frozen_in
        return self._let_go and (entry is None or entry.term <= frozen_in + 1)

    def _end(self, now_us: int) -> GivingStep:
        effects = [
            *self._let_it_go(
                ev.Outcome.GIVEN, Reason.OK, "it was given away, and has ended", now_us
            ),
            fx.StopForwarding(self.connection_id),
            fx.AnswerWithResets(self.connection_id),
            fx.Report(ev.Outcome.LOST, *self._reason),
        ]
        self._ledger.close(self.connection_id, now_us)
        return self._given(ForwardingState.DONE, now_us), effects

    def _too_late(self, event: ev.DeadlinePassed, now_us: int) -> GivingStep:
        if self._let_go:
            # This side will not have it either: that is certain.
            return self._end(now_us)
        return self._doubt("the store did not say in time whose the connection is", now_us)

    def _doubt(self, text: str, now_us: int) -> GivingStep:
        effects = self._let_it_go(
            ev.Outcome.IN_DOUBT, Reason.IN_DOUBT, f"{text}: silent from here", now_us
        )
        return self._given(ForwardingState.FORWARDING, now_us), effects

    # --- parts ----------------------------------------------------------------------------

    def _let_it_go(
        self, outcome: ev.Outcome, code: Reason, text: str, now_us: int
    ) -> list[fx.Effect]:
        """Let go of a connection that is not ours, or may not be: the record first, then the
        keys."""
        record = self._ledger.record(self.connection_id)
        self._ledger.commit(
            self.connection_id, record.baton_id, record.digest, self._handoff_id, now_us
        )
        return [fx.DestroyKeys(self.connection_id), fx.Report(outcome, code, text)]

    def _given(
        self, state: ForwardingState, now_us: int, *, told_over: int | None = None
    ) -> GivingState:
        request = StoreRequest(self._holder, self._reason)
        return self._go_on(state, now_us, told_over=told_over, store_request=request)


_S = GivingState
_M = GivingByStore
_RECLAIMED = (_S.RECLAIMING, _S.KEPT, _S.GIVEN)

#: State, events or messages, the rule, the states that it may lead to. A missing cell is an error.
_ROWS: Final[tuple[Row[GivingState], ...]] = (
    (_S.IDLE, (ev.Start,), _M._begin, (_S.OFFERED, _S.KEPT)),
    (_S.IDLE, (msg.ClaimRequest,), _M._refuse_claim, (_S.IDLE,)),
    (_S.OFFERED, (msg.Accept,), _M._accepted, (_S.SEALING, _S.KEPT)),
    (_S.OFFERED, (msg.Refuse, *FAILURES), _M._not_begun, (_S.KEPT,)),
    (_S.OFFERED, (msg.ClaimRequest,), _M._refuse_claim, (_S.OFFERED,)),
    (_S.SEALING, (ev.Sealed,), _M._publish, (_S.PUBLISHING, _S.KEPT)),
    (_S.SEALING, (ev.SealFailed, *FAILURES), _M._thaw, (_S.KEPT,)),
    (_S.SEALING, (ev.StrayArrived,), _M._keep_stray, (_S.SEALING,)),
    (_S.SEALING, (msg.ClaimRequest,), _M._refuse_claim, (_S.SEALING,)),
    (_S.PUBLISHING, STORE_ANSWERS, _M._published, (_S.PUBLISHING, _S.FROZEN, _S.KEPT, _S.GIVEN)),
    (_S.PUBLISHING, FAILURES, _M._thaw, (_S.KEPT,)),
    (_S.PUBLISHING, (ev.StrayArrived,), _M._keep_stray, (_S.PUBLISHING,)),
    (_S.PUBLISHING, (msg.ClaimRequest,), _M._refuse_claim, (_S.PUBLISHING,)),
    (_S.FROZEN, (msg.Taken,), _M._taken, (_S.GIVEN,)),
    (_S.FROZEN, (msg.Moved,), _M._taken_and_moved, (_S.GIVEN,)),
    (_S.FROZEN, FAILURES, _M._reclaim, (_S.RECLAIMING,)),
    (_S.FROZEN, (ev.StrayArrived,), _M._keep_stray, (_S.FROZEN,)),
    (_S.FROZEN, (msg.ClaimRequest,), _M._refuse_claim, (_S.FROZEN,)),
    (_S.RECLAIMING, STORE_ANSWERS, _M._reclaimed, _RECLAIMED),
    (_S.RECLAIMING, (msg.Taken,), _M._taken, (_S.GIVEN,)),
    (_S.RECLAIMING, (msg.Moved,), _M._taken_and_moved, (_S.GIVEN,)),
    (_S.RECLAIMING, (msg.Abort, ev.PeerDead), _M._destination_ended, (_S.RECLAIMING,)),
    (_S.RECLAIMING, (ev.DeadlinePassed,), _M._too_late, (_S.GIVEN,)),
    # An operation in the store cannot be called back, and the destination may have the connection.
    (_S.RECLAIMING, (ev.LinkLost, ev.Cancel), _M._stay, (_S.RECLAIMING,)),
    (_S.RECLAIMING, (ev.StrayArrived,), _M._keep_stray, (_S.RECLAIMING,)),
    (_S.RECLAIMING, (msg.ClaimRequest,), _M._refuse_claim, (_S.RECLAIMING,)),
    (_S.KEPT, (msg.ClaimRequest,), _M._refuse_claim, (_S.KEPT,)),
    (_S.KEPT, (msg.Accept, msg.Refuse, msg.Abort, *STORE_ANSWERS), _M._stay, (_S.KEPT,)),
    (
        _S.KEPT,
        (ev.Sealed, ev.SealFailed, ev.LinkLost, ev.PeerDead, ev.Cancel),
        _M._stay,
        (_S.KEPT,),
    ),
)
_M.TABLE = table(_ROWS)
