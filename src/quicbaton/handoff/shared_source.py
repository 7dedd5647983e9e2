"""The handoff source with a shared store: the destination commits, or this side takes back.

Theory of operation
-------------------
                 Accept            Sealed               Done              Taken
    … OFFERED ──────────► SEALING ────────► PUBLISHING ──────► FROZEN ─────────► FORWARDING …
                             │                  │                │ Abort, link      ▲
                             │ thaw             │ thaw           │ or time lost     │ Conflict: the
                             ▼                  ▼                ▼                  │ destination's
                          ABORTED ◄───────────────── Done ── RECLAIMING ────────────┘

It goes as in `source` but for this:

* The offer stands in the store before the baton leaves (PUBLISHING). Until then the source may thaw
  without asking anybody: nobody has the baton.
* From the moment at which the baton leaves it is silent. The destination commits, in the store, and
  says TAKEN. A READY or a ClaimRequest gives nothing to anybody.
* If that does not come, or the link or the destination is lost, it takes the connection back by the
  destination's own operation (RECLAIMING). Done: it thaws, in the term of the store. Conflict: the
  entry says whose it is. A destination that has said ABORT will not use what it took.
* An outcome that stays unknown until the deadline, and an entry that is missing, leave the
  connection to whoever may have it: keys destroyed, no reset. A TAKEN that comes after all gets the
  strays.
* A conflict over the offer itself means that this process has been fenced off: silent for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from quicbaton.errors import PeerError
from quicbaton.handoff.answers import not_forwarding
from quicbaton.handoff.effects import (
    AnswerWithResets,
    DestroyKeys,
    Effect,
    Report,
    Send,
    StopForwarding,
    ThawConnection,
)
from quicbaton.handoff.events import (
    Cancel,
    DeadlinePassed,
    Event,
    LinkLost,
    Outcome,
    PeerDead,
    Received,
    Save,
    Sealed,
    Start,
    StrayArrived,
)
from quicbaton.handoff.forwarder import SourceState, reason_of
from quicbaton.handoff.machine import Row, Table, table
from quicbaton.handoff.messages import Abort, ClaimRequest, Moved, Ready, Refuse, Taken
from quicbaton.handoff.source import HandoffSource
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
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits
from quicbaton.ownership import Ledger
from quicbaton.ownership.store import (
    Close,
    Conflict,
    Done,
    Entry,
    EntryState,
    Holder,
    Publish,
    Take,
)

_Step = tuple[SourceState, list[Effect]]


class SharedSource(HandoffSource):
    """One attempt to hand one connection over by a shared store.

    `incarnation`: 16 random bytes that this process drew at its start.
    """

    WAITS: ClassVar[dict[SourceState, Callable[[Waits], float] | None]] = {
        **HandoffSource.WAITS,
        SourceState.RECLAIMING: lambda waits: waits.doubt_s,
    }

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
        super().__init__(connection_id, handoff_id, ledger, waits=waits)
        self._store_id = store_id
        self._holder = Holder("?", incarnation)
        self._question: StoreQuestion
        #: What goes out when the offer stands.
        self._baton: list[Effect] = []
        #: Why the connection is wanted back.
        self._reason = ("", "")
        #: The destination has said that it will not use what it may have taken, or is dead and
        #: nobody else can have it.
        self._let_go = False

    # --- publishing -----------------------------------------------------------------------

    def _begin(self, event: Start, now_us: int) -> _Step:
        # The store knows this process by the name that batons bear.
        self._holder = Holder(event.source, self._holder.incarnation)
        return self._offer(event, now_us)

    def _publish(self, event: Sealed, now_us: int) -> _Step:
        state, effects = self._sealed(event, now_us)
        if state is not SourceState.FROZEN:
            return state, effects
        self._baton = effects
        record = self._ledger.record(self.connection_id)
        self._question = StoreQuestion(
            Publish(self.connection_id, record.term, self._holder, event.baton_id, event.digest)
        )
        return SourceState.PUBLISHING, [self._question.ask()]

    def _published(self, event: Event, now_us: int) -> _Step:
        if isinstance(event, StoreFailed):
            return self._take_back(event.code, event.message)
        outcome = self._question.answered(event)
        if isinstance(outcome, Effect):
            return self._state, [outcome]
        if isinstance(outcome, Done):
            effects, self._baton = self._baton, []
            return SourceState.FROZEN, effects
        code, text = "fenced", "the store says that the connection is another's: silent from here"
        return SourceState.DONE, [
            *self._say_abort(code, text),
            *self._let_it_go(Outcome.IN_DOUBT, code, text, now_us),
            StopForwarding(self.connection_id),
        ]

    # --- the baton is out -----------------------------------------------------------------

    def _taken(self, event: Received, now_us: int) -> _Step:
        message = event.message
        assert isinstance(message, Taken)
        term = self._ledger.record(self.connection_id).term + 1
        if message.term != term:
            raise PeerError(
                f"term {message.term} was taken, the baton gives term {term}", code="wrong_term"
            )
        effects = self._let_it_go(Outcome.GIVEN, "ok", f"given away in term {term}", now_us)
        if self._state is SourceState.FROZEN:
            # The destination has had all strays over this very link.
            self._strays.drain()
        self._link = event.link
        return self._forwarding(), [*effects, *self._send_strays(event.link)]

    def _taken_and_moved(self, event: Received, now_us: int) -> _Step:
        """Its TAKEN was lost with a link, and it has handed the connection on since."""
        effects = self._let_it_go(Outcome.GIVEN, "ok", "given away, and handed on since", now_us)
        _, reroute = self._reroute(event, now_us)
        return SourceState.FORWARDING, [*effects, *reroute]

    def _taken_before(self, event: Received, now_us: int) -> _Step:
        """The owner, over a new link, or after all."""
        self._link = event.link
        self._arm(now_us)
        return self._forwarding(), self._send_strays(event.link)

    def _taken_late(self, event: Received, now_us: int) -> _Step:
        assert isinstance(event.message, Taken)
        return self._state, [Send(event.link, not_forwarding(event.message))]

    def _refuse_claim(self, event: Received, now_us: int) -> _Step:
        message = event.message
        assert isinstance(message, ClaimRequest)
        text = "the shared store gives this connection away, not its source"
        refusal = Refuse(message.connection_id, message.handoff_id, "shared_store", text)
        return self._state, [Send(event.link, refusal)]

    def _forwarding(self) -> SourceState:
        return SourceState.RELAYING if self.relays else SourceState.FORWARDING

    # --- wanted back ----------------------------------------------------------------------

    def _reclaim(self, event: Event, now_us: int) -> _Step:
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
        return SourceState.RECLAIMING, [self._question.ask()]

    def _note_end(self, event: Event) -> None:
        aborted = isinstance(event, Received) and isinstance(event.message, Abort)
        if aborted or (isinstance(event, PeerDead) and event.no_owner_lives):
            self._let_go = True

    def _destination_ended(self, event: Event, now_us: int) -> _Step:
        self._note_end(event)
        return self._state, []

    def _reclaimed(self, event: Event, now_us: int) -> _Step:
        outcome = self._question.answered(event)
        if isinstance(outcome, Effect):
            return self._state, [outcome]
        if isinstance(outcome, Conflict):
            return self._is_anothers(outcome.entry, now_us)
        # In the store first; the ledger's term is the same.
        term = self._ledger.thaw(self.connection_id)
        code, text = self._reason
        return SourceState.ABORTED, [
            *self._say_abort(code, text),
            ThawConnection(self.connection_id, term, self._strays.drain()),
            Report(Outcome.KEPT, code, text),
        ]

    def _is_anothers(self, entry: Entry | None, now_us: int) -> _Step:
        frozen_in = self._ledger.record(self.connection_id).term
        if self._is_nobodys(entry, frozen_in):
            return self._end(now_us)
        if entry is None or entry.term <= frozen_in:
            return self._doubt("the store knows the handoff no more", now_us)
        # Its owner will call.
        text = f"given away in term {frozen_in + 1}"
        return SourceState.FORWARDING, self._let_it_go(Outcome.GIVEN, "ok", text, now_us)

    def _is_nobodys(self, entry: Entry | None, frozen_in: int) -> bool:
        """Whoever could have taken it is done with it, and nobody can take it any more."""
        if entry is not None and entry.state is EntryState.CLOSED:
            return entry.term >= frozen_in
        return self._let_go and (entry is None or entry.term <= frozen_in + 1)

    def _end(self, now_us: int) -> _Step:
        self._ledger_gives(now_us)
        self._ledger.close(self.connection_id, now_us)
        return SourceState.DONE, [
            DestroyKeys(self.connection_id),
            Report(Outcome.GIVEN, "ok", "it was given away, and has ended"),
            StopForwarding(self.connection_id),
            AnswerWithResets(self.connection_id),
            Report(Outcome.LOST, *self._reason),
        ]

    def _too_late(self, event: DeadlinePassed, now_us: int) -> _Step:
        if self._let_go:
            # Nor will this side have it: that is certain.
            return self._end(now_us)
        return self._doubt("the store did not say in time whose the connection is", now_us)

    def _doubt(self, text: str, now_us: int) -> _Step:
        effects = self._let_it_go(Outcome.IN_DOUBT, "in_doubt", f"{text}: silent from here", now_us)
        return SourceState.FORWARDING, effects

    def _done_late(self, event: StoreDone | StoreFound, now_us: int) -> _Step:
        """It is in our name after all, and we have let it go: nobody has it, nor will."""
        entry = event.entry
        if entry is None or entry.state is not EntryState.HELD or entry.holder != self._holder:
            return self._state, []
        self._ledger.close(self.connection_id, now_us)
        return SourceState.DONE, [
            StopForwarding(self.connection_id),
            AnswerWithResets(self.connection_id),
            AskStore(Close(self.connection_id, entry.term, self._holder)),
            Report(Outcome.LOST, *self._reason),
        ]

    def _let_it_go(self, outcome: Outcome, code: str, text: str, now_us: int) -> list[Effect]:
        """It is not ours, or may not be: the record first, then the keys."""
        self._ledger_gives(now_us)
        return [DestroyKeys(self.connection_id), Report(outcome, code, text)]

    def _ledger_gives(self, now_us: int) -> None:
        record = self._ledger.record(self.connection_id)
        self._ledger.commit(
            self.connection_id, record.baton_id, record.digest, self._handoff_id, now_us
        )


_S = SourceState
_M = SharedSource
_FAILURES = (Abort, LinkLost, PeerDead, DeadlinePassed, Cancel)
_AFTER_COMMIT = (_S.FORWARDING, _S.RELAYING)
_RECLAIMED = (_S.RECLAIMING, _S.ABORTED, _S.FORWARDING, _S.DONE)
#: A connection is not saved to a file by way of a store.
_STATES = tuple(state for state in _S if state is not _S.SAVED)

#: In place of the cells of `source`, or besides them.
_ROWS: tuple[Row[SourceState], ...] = (
    (_S.IDLE, (Start,), _M._begin, (_S.OFFERED, _S.ABORTED)),
    (_S.SEALING, (Sealed,), _M._publish, (_S.PUBLISHING, _S.ABORTED)),
    (_S.PUBLISHING, STORE_ANSWERS, _M._published, (_S.FROZEN, _S.PUBLISHING, _S.ABORTED, _S.DONE)),
    (_S.PUBLISHING, _FAILURES, _M._thaw, (_S.ABORTED,)),
    (_S.PUBLISHING, (StrayArrived,), _M._keep_stray, (_S.PUBLISHING,)),
    (_S.FROZEN, (Taken,), _M._taken, _AFTER_COMMIT),
    (_S.FROZEN, _FAILURES, _M._reclaim, (_S.RECLAIMING,)),
    (_S.RECLAIMING, STORE_ANSWERS, _M._reclaimed, _RECLAIMED),
    (_S.RECLAIMING, (Taken,), _M._taken, _AFTER_COMMIT),
    (_S.RECLAIMING, (Abort, PeerDead), _M._destination_ended, (_S.RECLAIMING,)),
    (_S.RECLAIMING, (DeadlinePassed,), _M._too_late, (_S.FORWARDING, _S.DONE)),
    # What was asked of the store cannot be called back, and the destination may have it.
    (_S.RECLAIMING, (LinkLost, Cancel), _M._stay, (_S.RECLAIMING,)),
    (_S.RECLAIMING, (StrayArrived,), _M._keep_stray, (_S.RECLAIMING,)),
    (_S.FORWARDING, (Taken,), _M._taken_before, _AFTER_COMMIT),
    (_S.RELAYING, (Taken,), _M._taken_before, (_S.RELAYING,)),
    (_S.DONE, (Taken,), _M._taken_late, (_S.DONE,)),
    (_S.FROZEN, (Moved,), _M._taken_and_moved, (_S.FORWARDING,)),
    (_S.RECLAIMING, (Moved,), _M._taken_and_moved, (_S.FORWARDING,)),
    *((state, (ClaimRequest,), _M._refuse_claim, (state,)) for state in _STATES),
    # Answers that were overtaken by a message or a deadline.
    (_S.FORWARDING, (StoreDone, StoreFound), _M._done_late, (_S.FORWARDING, _S.DONE)),
    (_S.FORWARDING, (StoreConflict, StoreFailed, StoreUnknown), _M._stay, (_S.FORWARDING,)),
    (_S.RELAYING, STORE_ANSWERS, _M._stay, (_S.RELAYING,)),
    (_S.DONE, STORE_ANSWERS, _M._stay, (_S.DONE,)),
    (_S.ABORTED, STORE_ANSWERS, _M._stay, (_S.ABORTED,)),
)


def _inherited() -> Table[SourceState]:
    """The base's cells but for those by which it gives the connection away itself."""
    return {
        (state, kind): cell
        for (state, kind), cell in HandoffSource.TABLE.items()
        if kind not in (Ready, Save) and state is not _S.SAVED
    }


_M.TABLE = {**_inherited(), **table(_ROWS)}
