"""Taking a connection over that its source gives away by its ledger: silent until the connection is
our own beyond doubt.

Theory of operation
-------------------
           Offer         Baton           Rebuilt       Committed
    IDLE ───────► ACCEPTED ───► REBUILDING ────► READY ─────────► TAKEN
      │                                           │ │              ▲ ▲
      │                                  LinkLost │ │ PeerDead     │ │
      │                                           │ └► LAST_WORDS ─┘ │
      │ Rebuilt (a baton out of a file)           ▼         ▲        │
      └───────────────────────────────────────► ASKING ─────┴────────┘

    anything else before COMMITTED ──► DISCARDED

* `Resume` is the only effect that lets the connection send, and only COMMITTED leads to it: over
  the link of the handoff, or over a later one in answer to a ClaimRequest. COMMITTED must name the
  baton and the digest that were rebuilt, and the term after the baton's; then this process's own
  ledger adopts it, which works once.
* A machine that is READY and loses its link does not know whether the source had committed. It
  stays silent and asks over a new link (ASKING). A source that had not committed has thawed, and
  refuses.
* Messages of a source that has died are read first (LAST_WORDS): its COMMITTED may be unread in the
  link. Without one the connection is discarded, since its source may have thawed it before it died:
  a closed connection beats a forked one. Only when the supervisor knows that no owner lives at all
  does the client learn it by stateless resets; a destination alone cannot know.
* DISCARDED is final. A COMMITTED that comes too late is answered with ABORT, so that the source can
  tell the client.
* Strays that come before COMMITTED wait in a bounded queue and are handed over with `Resume`.
"""

from __future__ import annotations

from typing import Final

from quicbaton.errors import FencedError
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.machine import Row, table
from quicbaton.handoff.taking import FAILURES, Taking, TakingState, TakingStep
from quicbaton.reasons import Reason


class TakingByLedger(Taking):
    """One attempt to take one connection over, from an `Offer` or from a saved baton.

    `handoff_id`: the offer's, or 16 fresh random bytes for a saved baton.
    """

    def _ready(self, event: ev.Rebuilt, now_us: int) -> TakingStep:
        another = self._is_another(event)
        if another is not None:
            return another
        self._rebuilt = event
        assert self._link is not None
        ready = msg.Ready(self.connection_id, self._handoff_id, event.baton_id, event.digest)
        return TakingState.READY, [fx.Send(self._link, ready)]

    def _from_file(self, event: ev.Rebuilt, now_us: int) -> TakingStep:
        if event.connection_id != self.connection_id:
            return self._give_up(Reason.WRONG_BATON, "the baton is for another connection")
        self._rebuilt = event
        return TakingState.ASKING, [fx.Connect(self.connection_id)]

    # --- in doubt -------------------------------------------------------------------------

    def _reconnect(self, event: ev.LinkLost, now_us: int) -> TakingStep:
        return TakingState.ASKING, [fx.Connect(self.connection_id)]

    def _ask(self, event: ev.LinkUp, now_us: int) -> TakingStep:
        self._link = event.link
        return self.state, [fx.Send(event.link, self._claim_request())]

    def _claim_request(self) -> msg.ClaimRequest:
        rebuilt = self._rebuilt
        assert rebuilt is not None
        return msg.ClaimRequest(
            self.connection_id, self._handoff_id, rebuilt.baton_id, rebuilt.digest
        )

    def _source_died(self, event: ev.PeerDead, now_us: int) -> TakingStep:
        self._no_owner_lives = event.no_owner_lives
        if self._link is None:
            return self._orphaned(event, now_us)
        return TakingState.LAST_WORDS, []

    def _orphaned(self, event: ev.Event, now_us: int) -> TakingStep:
        state, effects = self._give_up(
            Reason.PEER_DEAD, "the source exited before it gave the connection away"
        )
        if self._no_owner_lives:
            effects.insert(0, fx.AnswerWithResets(self.connection_id))
        return state, effects

    # --- ours -----------------------------------------------------------------------------

    def _resume(self, event: ev.Received, now_us: int) -> TakingStep:
        message = event.message
        assert isinstance(message, msg.Committed)
        rebuilt = self._rebuilt
        assert rebuilt is not None
        try:
            if message.term != rebuilt.term + 1:
                raise FencedError(
                    f"term {message.term} was committed, the baton is of term {rebuilt.term}",
                    code=Reason.SUPERSEDED,
                )
            if (message.baton_id, message.digest) != (rebuilt.baton_id, rebuilt.digest):
                raise FencedError("another baton was committed", code=Reason.SUPERSEDED)
            claim = self._ledger.adopt(
                self.connection_id, message.term, message.baton_id, message.digest
            )
        except FencedError as error:
            return self._give_up(error.code, str(error))
        self._link = event.link
        return self._go_on(self._claim_request(), now_us), [
            fx.Resume(claim, self._strays.drain(), message.frozen_us),
            fx.Report(ev.Outcome.RESUMED, Reason.OK, f"resumed in term {claim.term}"),
        ]


_S = TakingState
_M = TakingByLedger

#: State, events or messages, the rule, the states that it may lead to. A missing cell is an error.
_ROWS: Final[tuple[Row[TakingState], ...]] = (
    (_S.IDLE, (msg.Offer,), _M._consider, (_S.ACCEPTED, _S.DISCARDED)),
    (_S.IDLE, (ev.Rebuilt,), _M._from_file, (_S.ASKING, _S.DISCARDED)),
    (_S.ACCEPTED, (msg.Baton,), _M._rebuild, (_S.REBUILDING,)),
    (_S.ACCEPTED, (msg.Stray,), _M._queue, (_S.ACCEPTED,)),
    (_S.ACCEPTED, FAILURES, _M._fail, (_S.DISCARDED,)),
    (_S.REBUILDING, (ev.Rebuilt,), _M._ready, (_S.READY, _S.DISCARDED)),
    (_S.REBUILDING, (msg.Stray,), _M._queue, (_S.REBUILDING,)),
    (_S.REBUILDING, (ev.RebuildFailed, *FAILURES), _M._fail, (_S.DISCARDED,)),
    (_S.READY, (msg.Committed,), _M._resume, (_S.TAKEN, _S.DISCARDED)),
    (_S.READY, (msg.Stray,), _M._queue, (_S.READY,)),
    (_S.READY, (ev.LinkLost,), _M._reconnect, (_S.ASKING,)),
    (_S.READY, (ev.PeerDead,), _M._source_died, (_S.LAST_WORDS,)),
    (_S.READY, (msg.Abort, ev.DeadlinePassed, ev.Cancel), _M._fail, (_S.DISCARDED,)),
    (_S.LAST_WORDS, (msg.Committed,), _M._resume, (_S.TAKEN, _S.DISCARDED)),
    (_S.LAST_WORDS, (msg.Stray,), _M._queue, (_S.LAST_WORDS,)),
    (_S.LAST_WORDS, (ev.LinkLost,), _M._orphaned, (_S.DISCARDED,)),
    (
        _S.LAST_WORDS,
        (msg.Abort, msg.Refuse, ev.DeadlinePassed, ev.Cancel),
        _M._fail,
        (_S.DISCARDED,),
    ),
    (_S.ASKING, (ev.LinkUp,), _M._ask, (_S.ASKING,)),
    (_S.ASKING, (msg.Committed,), _M._resume, (_S.TAKEN, _S.DISCARDED)),
    (_S.ASKING, (msg.Stray,), _M._queue, (_S.ASKING,)),
    (_S.ASKING, (ev.LinkLost,), _M._reconnect, (_S.ASKING,)),
    (_S.ASKING, (ev.PeerDead,), _M._source_died, (_S.LAST_WORDS, _S.DISCARDED)),
    (_S.ASKING, (msg.Refuse, msg.Abort, ev.DeadlinePassed, ev.Cancel), _M._fail, (_S.DISCARDED,)),
    (_S.DISCARDED, (msg.Committed,), _M._decline, (_S.DISCARDED,)),
    (_S.DISCARDED, (ev.Rebuilt,), _M._discard_again, (_S.DISCARDED,)),
    (_S.DISCARDED, (msg.Baton, msg.Stray, msg.Abort, msg.Refuse), _M._stay, (_S.DISCARDED,)),
    (
        _S.DISCARDED,
        (ev.RebuildFailed, ev.LinkLost, ev.LinkUp, ev.PeerDead, ev.Cancel),
        _M._stay,
        (_S.DISCARDED,),
    ),
)
_M.TABLE = table(_ROWS)
