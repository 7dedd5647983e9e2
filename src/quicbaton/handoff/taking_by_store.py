"""Taking a connection over by a shared store: it commits there, once it is ready to send.

Theory of operation
-------------------
              Offer            Baton           Rebuilt            Done
    IDLE ─────────────► ACCEPTED ───► REBUILDING ────► COMMITTING ─────► TAKEN
                            │              │                │ Conflict, Abort
                            └──────────────┴────────────────┴─ or deadline ──► DISCARDED

It differs from `taking_by_ledger` in this:

* `Resume` has one cause alone: the store says that this process's Take is Done, and its own ledger
  adopts the term, which works once. No message leads to it.
* From the baton on the source is not needed: if its link or its process is lost, the Take goes on.
  It finds a Conflict if the source took the connection back.
* While the outcome is unknown the destination reads and asks again, in silence. At the deadline it
  gives up for good. A Take that turns out to be Done after that is undone by closing the entry.
* TAKEN tells the source, and tells it again over every new link.
"""

from __future__ import annotations

from typing import Final

from quicbaton.errors import FencedError
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.machine import Row, table
from quicbaton.handoff.store_questions import (
    STORE_ANSWERS,
    AskStore,
    StoreConflict,
    StoreDone,
    StoreFailed,
    StoreFound,
    StoreQuestion,
    StoreUnknown,
)
from quicbaton.handoff.taking import FAILURES, Taking, TakingState, TakingStep
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits
from quicbaton.limits import MAX_BATON_BYTES
from quicbaton.ownership import Claim, Ledger
from quicbaton.ownership.store import Close, Conflict, EntryState, Holder, Take
from quicbaton.reasons import Reason


class TakingByStore(Taking):
    """One attempt to take one connection over by a shared store.

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
        name: str,
        formats: frozenset[int] = frozenset(),
        room_bytes: int = MAX_BATON_BYTES,
        can_send: bool = True,
        waits: Waits = DEFAULT_WAITS,
    ) -> None:
        super().__init__(
            connection_id,
            handoff_id,
            ledger,
            name=name,
            formats=formats,
            room_bytes=room_bytes,
            can_send=can_send,
            waits=waits,
        )
        self._store_id = store_id
        self._holder = Holder(name, incarnation)
        self._source = ""
        self._question: StoreQuestion
        self._arrived_at_us = 0

    # --- silent ---------------------------------------------------------------------------

    def _consider_store(self, event: ev.Received, now_us: int) -> TakingStep:
        assert isinstance(event.message, msg.Offer)
        self._source = event.message.source
        return self._consider(event, now_us)

    def _receive(self, event: ev.Received, now_us: int) -> TakingStep:
        self._arrived_at_us = now_us
        return self._rebuild(event, now_us)

    def _without_source(self, event: ev.LinkLost | ev.PeerDead, now_us: int) -> TakingStep:
        if isinstance(event, ev.PeerDead):
            self._no_owner_lives = event.no_owner_lives
        return self.state, []

    def _commit(self, event: ev.Rebuilt, now_us: int) -> TakingStep:
        another = self._is_another(event)
        if another is not None:
            return another
        self._rebuilt = event
        self._question = StoreQuestion(
            Take(
                connection_id=self.connection_id,
                term=event.term,
                source=self._source,
                baton_id=event.baton_id,
                digest=event.digest,
                taker=self._holder,
            )
        )
        return TakingState.COMMITTING, [self._question.ask()]

    def _answered(self, event: ev.Event, now_us: int) -> TakingStep:
        outcome = self._question.answered(event)
        if isinstance(outcome, fx.Effect):
            return self.state, [outcome]
        if isinstance(outcome, Conflict):
            entry = outcome.entry
            whose = "nobody" if entry is None else entry.holder.name
            return self._end_unclaimed(
                Reason.SUPERSEDED, f"the store gives the connection to {whose}"
            )
        rebuilt = self._rebuilt
        assert rebuilt is not None
        try:
            claim = self._ledger.adopt(
                self.connection_id, rebuilt.term + 1, rebuilt.baton_id, rebuilt.digest
            )
        except FencedError as error:
            state, effects = self._give_up(error.code, str(error))
            return state, [*effects, self._undo()]
        return self._resume(claim, now_us)

    def _too_late(self, event: ev.DeadlinePassed, now_us: int) -> TakingStep:
        return self._end_unclaimed(Reason.IN_DOUBT, "the store did not say in time whose it is")

    def _end_unclaimed(self, code: Reason, text: str) -> TakingStep:
        state, effects = self._give_up(code, text)
        if self._no_owner_lives:
            effects.insert(0, fx.AnswerWithResets(self.connection_id))
        return state, effects

    # --- ours -----------------------------------------------------------------------------

    def _resume(self, claim: Claim, now_us: int) -> TakingStep:
        # The source, which may be gone, does not tell how long the connection has stood still: at
        # least since its baton came.
        resume = fx.Resume(claim, self._strays.drain(), now_us - self._arrived_at_us)
        report = fx.Report(ev.Outcome.RESUMED, Reason.OK, f"resumed in term {claim.term}")
        taken = msg.Taken(self.connection_id, self._handoff_id, claim.term)
        tell = fx.Connect(self.connection_id) if self._link is None else fx.Send(self._link, taken)
        return self._go_on(taken, now_us), [resume, tell, report]

    # --- too late -------------------------------------------------------------------------

    def _done_late(self, event: StoreDone | StoreFound, now_us: int) -> TakingStep:
        entry = event.entry
        if entry is None or entry.state is not EntryState.HELD or entry.holder != self._holder:
            return self.state, []
        text = "the destination has let it go before"
        return self.state, [*self._say_abort(Reason.DISCARDED, text), self._undo()]

    def _undo(self) -> AskStore:
        rebuilt = self._rebuilt
        assert rebuilt is not None
        return AskStore(Close(self.connection_id, rebuilt.term + 1, self._holder))


_S = TakingState
_M = TakingByStore

#: State, events or messages, the rule, the states that it may lead to. A missing cell is an error.
_ROWS: Final[tuple[Row[TakingState], ...]] = (
    (_S.IDLE, (msg.Offer,), _M._consider_store, (_S.ACCEPTED, _S.DISCARDED)),
    (_S.ACCEPTED, (msg.Baton,), _M._receive, (_S.REBUILDING,)),
    (_S.ACCEPTED, (msg.Stray,), _M._queue, (_S.ACCEPTED,)),
    (_S.ACCEPTED, FAILURES, _M._fail, (_S.DISCARDED,)),
    (_S.REBUILDING, (ev.Rebuilt,), _M._commit, (_S.COMMITTING, _S.DISCARDED)),
    (_S.REBUILDING, (msg.Stray,), _M._queue, (_S.REBUILDING,)),
    (_S.REBUILDING, (ev.LinkLost, ev.PeerDead), _M._without_source, (_S.REBUILDING,)),
    (
        _S.REBUILDING,
        (ev.RebuildFailed, msg.Abort, ev.DeadlinePassed, ev.Cancel),
        _M._fail,
        (_S.DISCARDED,),
    ),
    (_S.COMMITTING, STORE_ANSWERS, _M._answered, (_S.COMMITTING, _S.TAKEN, _S.DISCARDED)),
    (_S.COMMITTING, (msg.Stray,), _M._queue, (_S.COMMITTING,)),
    (_S.COMMITTING, (ev.LinkLost, ev.PeerDead), _M._without_source, (_S.COMMITTING,)),
    # An operation in the store cannot be called back.
    (_S.COMMITTING, (ev.Cancel,), _M._stay, (_S.COMMITTING,)),
    # The source has taken it back.
    (_S.COMMITTING, (msg.Abort,), _M._fail, (_S.DISCARDED,)),
    (_S.COMMITTING, (ev.DeadlinePassed,), _M._too_late, (_S.DISCARDED,)),
    (_S.DISCARDED, (msg.Committed,), _M._decline, (_S.DISCARDED,)),
    (_S.DISCARDED, (ev.Rebuilt,), _M._discard_again, (_S.DISCARDED,)),
    (_S.DISCARDED, (StoreDone, StoreFound), _M._done_late, (_S.DISCARDED,)),
    (_S.DISCARDED, (StoreConflict, StoreFailed, StoreUnknown), _M._stay, (_S.DISCARDED,)),
    (_S.DISCARDED, (msg.Baton, msg.Stray, msg.Abort, msg.Refuse), _M._stay, (_S.DISCARDED,)),
    (
        _S.DISCARDED,
        (ev.RebuildFailed, ev.LinkLost, ev.LinkUp, ev.PeerDead, ev.Cancel),
        _M._stay,
        (_S.DISCARDED,),
    ),
)
_M.TABLE = table(_ROWS)
