"""Taking a connection over by a shared store: it commits there, once it is ready to send.

Theory of operation
-------------------
              Offer            Baton           Rebuilt            Done
    IDLE ─────────────► ACCEPTED ───► REBUILDING ────► COMMITTING ─────► TAKEN
                            │              │                │ Conflict, Abort
                            └──────────────┴────────────────┴─ or deadline ──► DISCARDED

It goes as in `taking_by_ledger` but for this:

* `Resume` is the effect of one thing alone: the store says that this process's Take is Done, and
  its own ledger adopts the term, which works once. No message leads to it.
* From the baton on the source is not needed: if its link or its process is lost, the Take goes on.
  It finds a Conflict if the source took the connection back.
* While the outcome is unknown it reads and asks again, in silence. At the deadline it gives up for
  good. A Take that turns out to be Done after that is undone by closing the entry.
* TAKEN tells the source, and tells it again over every new link.
"""

from __future__ import annotations

from typing import Final

from quicbaton.errors import FencedError
from quicbaton.handoff.effects import AnswerWithResets, Connect, Effect, Report, Resume, Send
from quicbaton.handoff.events import (
    Cancel,
    DeadlinePassed,
    Event,
    LinkLost,
    LinkUp,
    Outcome,
    PeerDead,
    RebuildFailed,
    Rebuilt,
    Received,
)
from quicbaton.handoff.machine import Row, table
from quicbaton.handoff.messages import Abort, Baton, Committed, Offer, Refuse, Stray, Taken
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

    def _consider_store(self, event: Received, now_us: int) -> TakingStep:
        assert isinstance(event.message, Offer)
        self._source = event.message.source
        return self._consider(event, now_us)

    def _receive(self, event: Received, now_us: int) -> TakingStep:
        self._arrived_at_us = now_us
        return self._rebuild(event, now_us)

    def _without_source(self, event: LinkLost | PeerDead, now_us: int) -> TakingStep:
        if isinstance(event, PeerDead):
            self._no_owner_lives = event.no_owner_lives
        return self._state, []

    def _commit(self, event: Rebuilt, now_us: int) -> TakingStep:
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

    def _answered(self, event: Event, now_us: int) -> TakingStep:
        outcome = self._question.answered(event)
        if isinstance(outcome, Effect):
            return self._state, [outcome]
        if isinstance(outcome, Conflict):
            entry = outcome.entry
            whose = "nobody" if entry is None else entry.holder.name
            return self._end_unclaimed("superseded", f"the store gives the connection to {whose}")
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

    def _too_late(self, event: DeadlinePassed, now_us: int) -> TakingStep:
        return self._end_unclaimed("in_doubt", "the store did not say in time whose it is")

    def _end_unclaimed(self, code: str, text: str) -> TakingStep:
        state, effects = self._give_up(code, text)
        if self._no_owner_lives:
            effects.insert(0, AnswerWithResets(self.connection_id))
        return state, effects

    # --- ours -----------------------------------------------------------------------------

    def _resume(self, claim: Claim, now_us: int) -> TakingStep:
        # The source, which may be gone, does not say how long the connection has stood still: since
        # its baton came, at least.
        resume = Resume(claim, self._strays.drain(), now_us - self._arrived_at_us)
        report = Report(Outcome.RESUMED, "ok", f"resumed in term {claim.term}")
        taken = Taken(self.connection_id, self._handoff_id, claim.term)
        tell = Connect(self.connection_id) if self._link is None else Send(self._link, taken)
        return self._go_on(taken, now_us), [resume, tell, report]

    # --- too late -------------------------------------------------------------------------

    def _done_late(self, event: StoreDone | StoreFound, now_us: int) -> TakingStep:
        entry = event.entry
        if entry is None or entry.state is not EntryState.HELD or entry.holder != self._holder:
            return self._state, []
        text = "the destination has let it go before"
        return self._state, [*self._say_abort("discarded", text), self._undo()]

    def _undo(self) -> AskStore:
        rebuilt = self._rebuilt
        assert rebuilt is not None
        return AskStore(Close(self.connection_id, rebuilt.term + 1, self._holder))


_S = TakingState
_M = TakingByStore

#: State, events or messages, the rule, the states that it may lead to. What is missing is an error.
_ROWS: Final[tuple[Row[TakingState], ...]] = (
    (_S.IDLE, (Offer,), _M._consider_store, (_S.ACCEPTED, _S.DISCARDED)),
    (_S.ACCEPTED, (Baton,), _M._receive, (_S.REBUILDING,)),
    (_S.ACCEPTED, (Stray,), _M._queue, (_S.ACCEPTED,)),
    (_S.ACCEPTED, FAILURES, _M._fail, (_S.DISCARDED,)),
    (_S.REBUILDING, (Rebuilt,), _M._commit, (_S.COMMITTING, _S.DISCARDED)),
    (_S.REBUILDING, (Stray,), _M._queue, (_S.REBUILDING,)),
    (_S.REBUILDING, (LinkLost, PeerDead), _M._without_source, (_S.REBUILDING,)),
    (_S.REBUILDING, (RebuildFailed, Abort, DeadlinePassed, Cancel), _M._fail, (_S.DISCARDED,)),
    (_S.COMMITTING, STORE_ANSWERS, _M._answered, (_S.COMMITTING, _S.TAKEN, _S.DISCARDED)),
    (_S.COMMITTING, (Stray,), _M._queue, (_S.COMMITTING,)),
    (_S.COMMITTING, (LinkLost, PeerDead), _M._without_source, (_S.COMMITTING,)),
    # What was asked of the store cannot be called back.
    (_S.COMMITTING, (Cancel,), _M._stay, (_S.COMMITTING,)),
    # The source has taken it back.
    (_S.COMMITTING, (Abort,), _M._fail, (_S.DISCARDED,)),
    (_S.COMMITTING, (DeadlinePassed,), _M._too_late, (_S.DISCARDED,)),
    (_S.DISCARDED, (Committed,), _M._decline, (_S.DISCARDED,)),
    (_S.DISCARDED, (Rebuilt,), _M._discard_again, (_S.DISCARDED,)),
    (_S.DISCARDED, (StoreDone, StoreFound), _M._done_late, (_S.DISCARDED,)),
    (_S.DISCARDED, (StoreConflict, StoreFailed, StoreUnknown), _M._stay, (_S.DISCARDED,)),
    (_S.DISCARDED, (Baton, Stray, Abort, Refuse), _M._stay, (_S.DISCARDED,)),
    (_S.DISCARDED, (RebuildFailed, LinkLost, LinkUp, PeerDead, Cancel), _M._stay, (_S.DISCARDED,)),
)
_M.TABLE = table(_ROWS)
