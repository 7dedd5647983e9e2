"""The handoff source: gives a connection away, or keeps it, and knows which at every moment.

Theory of operation
-------------------
                 Start            Accept               Sealed             Ready
    IDLE ───────────► OFFERED ───────────► SEALING ───────────► FROZEN ───────────► FORWARDING
      │                  │                  ▲   │                  │                  │
      │ Save             │                  │   │ Sealed           │       Cutover,   │
      └──────────────────┼──────────────────┘   └──► SAVED ──────┐ │       Closed, …  ▼
                         │                             │  Claim- │ │                DONE
                         ▼                             ▼ Request └─┼──► FORWARDING
                      ABORTED ◄──── thaw ◄─────────────────────────┘

* The commit is `Ledger.commit`, called here and nowhere else. It comes before the effect
  `DestroyKeys`, which comes before the `Send` of COMMITTED: by the time a byte of COMMITTED exists,
  this process has no right and no means to send. Everything after it (a lost link, a failed write,
  a deadline) ends the forwarding at most.
* Before the commit every failure thaws: the term is raised first, which makes the baton worthless,
  and then the connection is brought back from its snapshot. READY after that is answered ABORT.
* If COMMITTED is lost with its link, the destination asks again over a new link with a
  ClaimRequest that names the same handoff id, and gets the same claim. Nobody else does.
* A saved baton has no destination yet. The first ClaimRequest that names it commits; a second is
  refused as `already_used`, one after a thaw as `superseded`.
* Datagrams that arrive while the connection is frozen are sent to the destination at once and kept
  in a bounded queue as well, for a thaw or for a destination that comes back over another link
  (QUIC discards what it sees twice).
* If the destination says ABORT after the commit, it holds the only claim and will not use it:
  nobody owns the connection, and the client learns so by stateless resets.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import ClassVar, Final

import msgspec

from quicbaton.errors import FencedError, PeerError
from quicbaton.handoff.answers import (
    abort,
    answer_claim,
    answer_stale,
    committed,
    refusal,
)
from quicbaton.handoff.effects import (
    AnswerWithResets,
    DestroyKeys,
    Effect,
    FreezeConnection,
    Report,
    SealBaton,
    Send,
    StopForwarding,
    ThawConnection,
    WriteBaton,
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
    SealFailed,
    Start,
    StrayArrived,
)
from quicbaton.handoff.machine import Machine, Row, table
from quicbaton.handoff.messages import (
    Abort,
    Accept,
    Baton,
    ClaimRequest,
    Closed,
    Committed,
    Cutover,
    CutoverAck,
    HandoffMessage,
    Offer,
    Ready,
    Refuse,
    Stray,
)
from quicbaton.handoff.strays import StrayQueue
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits
from quicbaton.limits import MAX_BATON_BYTES
from quicbaton.ownership import Claim, Ledger, Ownership


class SourceState(Enum):
    """Where a handoff stands at its source."""

    IDLE = "idle"
    OFFERED = "offered"
    SEALING = "sealing"
    FROZEN = "frozen"
    SAVED = "saved"
    FORWARDING = "forwarding"
    DONE = "done"
    ABORTED = "aborted"


_Step = tuple[SourceState, list[Effect]]


class HandoffSource(Machine[SourceState]):
    """One attempt to hand one connection over. `handoff_id`: 16 fresh random bytes."""

    ROLE = "source"
    ENDED = (SourceState.DONE, SourceState.ABORTED)
    # How long a state may last. FROZEN goes on with the deadline of SEALING: the client's silence
    # began there.
    WAITS: ClassVar[dict[SourceState, Callable[[Waits], float]]] = {
        SourceState.OFFERED: lambda waits: waits.offer_s,
        SourceState.SEALING: lambda waits: waits.frozen_s,
        SourceState.SAVED: lambda waits: waits.saved_s,
        SourceState.FORWARDING: lambda waits: waits.forward_s,
    }

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        ledger: Ledger,
        *,
        waits: Waits = DEFAULT_WAITS,
    ) -> None:
        super().__init__(connection_id, handoff_id, SourceState.IDLE, waits)
        self._ledger = ledger
        self._audience = ""
        self._saving = False
        self._strays = StrayQueue()

    def _check_address(self, event: Received) -> list[Effect] | None:
        """Effects for a message of another attempt, None for one of this attempt."""
        message = event.message
        if not isinstance(message, HandoffMessage) or message.connection_id != self.connection_id:
            raise PeerError(f"{message!r} is not about this connection", code="wrong_connection")
        if isinstance(message, ClaimRequest) or message.handoff_id == self._handoff_id:
            return None
        return answer_stale(self._ledger, event.link, message)

    # --- before the freeze ----------------------------------------------------------------

    def _offer(self, event: Start, now_us: int) -> _Step:
        reason = self._why_not(event.cutover_pending)
        if reason is not None:
            return SourceState.ABORTED, [reason]
        self._link = event.link
        self._audience = event.audience
        offer = Offer(
            connection_id=self.connection_id,
            handoff_id=self._handoff_id,
            term=self._ledger.record(self.connection_id).term,
            size_bytes=event.size_bytes,
            format_version=event.format_version,
            source=event.source,
            audience=event.audience,
            stray_ids=event.stray_ids,
        )
        return SourceState.OFFERED, [Send(event.link, offer)]

    def _save(self, event: Save, now_us: int) -> _Step:
        reason = self._why_not(event.cutover_pending)
        if reason is not None:
            return SourceState.ABORTED, [reason]
        self._saving = True
        return SourceState.SEALING, self._freeze(audience_id=b"")

    def _why_not(self, cutover_pending: bool) -> Report | None:
        if cutover_pending:
            return Report(
                Outcome.KEPT,
                "cutover_pending",
                "the client has not cut over from the previous owner yet: try again when it has",
            )
        state = self._ledger.record(self.connection_id).state
        if state is not Ownership.OWNED:
            return Report(
                Outcome.KEPT, "not_owned", f"only an owned connection moves, this is {state.value}"
            )
        return None

    def _accepted(self, event: Received, now_us: int) -> _Step:
        try:
            return SourceState.SEALING, self._freeze(audience_id=self._handoff_id)
        except FencedError as error:
            # Saved, or closed, since the offer.
            return SourceState.ABORTED, [
                *self._say_abort(error.code, str(error)),
                Report(Outcome.KEPT, error.code, str(error)),
            ]

    def _freeze(self, audience_id: bytes) -> list[Effect]:
        term = self._ledger.freeze(self.connection_id, audience_id)
        return [
            FreezeConnection(self.connection_id),
            SealBaton(self.connection_id, term, self._audience),
        ]

    def _not_begun(self, event: Event, now_us: int) -> _Step:
        code, text = _reason(event)
        # The destination's own ABORT or REFUSE needs no answer.
        answer = [] if isinstance(event, Received) else self._say_abort(code, text)
        return SourceState.ABORTED, [*answer, Report(Outcome.KEPT, code, text)]

    # --- frozen ---------------------------------------------------------------------------

    def _sealed(self, event: Sealed, now_us: int) -> _Step:
        if len(event.sealed) > MAX_BATON_BYTES:
            text = f"the baton has {len(event.sealed)} bytes, the limit is {MAX_BATON_BYTES}"
            return self._take_back("baton_too_big", text)
        self._ledger.bind(self.connection_id, event.baton_id, event.digest)
        if self._saving:
            return SourceState.SAVED, [WriteBaton(event.sealed)]
        assert self._link is not None
        baton = Baton(self.connection_id, self._handoff_id, event.sealed)
        return SourceState.FROZEN, [Send(self._link, baton)]

    def _thaw(self, event: Event, now_us: int) -> _Step:
        code, text = _reason(event)
        # The destination's own ABORT needs no answer.
        return self._take_back(code, text, say=not isinstance(event, Received))

    def _take_back(self, code: str, text: str, *, say: bool = True) -> _Step:
        # The term first: from here on the baton fits nothing.
        term = self._ledger.thaw(self.connection_id)
        return SourceState.ABORTED, [
            *(self._say_abort(code, text) if say else []),
            ThawConnection(self.connection_id, term, self._strays.drain()),
            Report(Outcome.KEPT, code, text),
        ]

    def _keep_stray(self, event: StrayArrived, now_us: int) -> _Step:
        stray = self._stray(event)
        self._strays.push(stray)
        return self._state, [] if self._link is None else [Send(self._link, stray)]

    # --- the commit -----------------------------------------------------------------------

    def _ready(self, event: Received, now_us: int) -> _Step:
        message = event.message
        assert isinstance(message, Ready)
        try:
            claim = self._ledger.commit(
                self.connection_id, message.baton_id, message.digest, message.handoff_id, now_us
            )
        except FencedError as error:
            # The destination rebuilt something else than we sealed.
            return self._take_back(error.code, str(error))
        # The destination has had all strays over this very link.
        self._strays.drain()
        return SourceState.FORWARDING, self._give(claim, event.link)

    def _claimed(self, event: Received, now_us: int) -> _Step:
        request = event.message
        assert isinstance(request, ClaimRequest)
        try:
            claim = self._ledger.commit(
                self.connection_id, request.baton_id, request.digest, request.handoff_id, now_us
            )
        except FencedError as error:
            return self._state, [Send(event.link, refusal(request, error))]
        self._handoff_id = request.handoff_id
        return SourceState.FORWARDING, self._give(claim, event.link)

    def _give(self, claim: Claim, link: int) -> list[Effect]:
        """After the commit, in this order: no keys, then COMMITTED, then what has arrived."""
        self._link = link
        return [
            DestroyKeys(self.connection_id),
            Send(link, committed(claim, self._handoff_id)),
            *self._send_strays(link),
            Report(Outcome.GIVEN, "ok", f"given away in term {claim.term}"),
        ]

    # --- given away -----------------------------------------------------------------------

    def _answer_claim(self, event: Received, now_us: int) -> _Step:
        """Answer a claim request where there is nothing to commit (any more)."""
        request = event.message
        assert isinstance(request, ClaimRequest)
        answer = answer_claim(self._ledger, request)
        effects: list[Effect] = [Send(event.link, answer)]
        if isinstance(answer, Committed) and self._state is SourceState.FORWARDING:
            self._link = event.link
            effects += self._send_strays(event.link)
            self._arm(now_us)
        return self._state, effects

    def _forward(self, event: StrayArrived, now_us: int) -> _Step:
        stray = self._stray(event)
        if self._link is None:
            self._strays.push(stray)
            return self._state, []
        self._arm(now_us)
        return self._state, [Send(self._link, stray)]

    def _stay(self, event: Event, now_us: int) -> _Step:
        return self._state, []

    def _cut_over(self, event: Received, now_us: int) -> _Step:
        effects: list[Effect] = []
        if self._state is SourceState.FORWARDING:
            effects.append(StopForwarding(self.connection_id))
        effects.append(Send(event.link, CutoverAck(self.connection_id, self._handoff_id)))
        return SourceState.DONE, effects

    def _closed(self, event: Received, now_us: int) -> _Step:
        if self._ledger.record(self.connection_id).state is Ownership.GIVEN:
            self._ledger.close(self.connection_id, now_us)
        if self._state is SourceState.DONE:
            return SourceState.DONE, []
        return SourceState.DONE, [StopForwarding(self.connection_id)]

    def _stop(self, event: Event, now_us: int) -> _Step:
        return SourceState.DONE, [StopForwarding(self.connection_id)]

    def _lost(self, event: Event, now_us: int) -> _Step:
        """The only claim was let go, or everybody who could hold it is dead."""
        if isinstance(event, PeerDead) and not event.no_owner_lives:
            return self._stop(event, now_us)
        self._ledger.close(self.connection_id, now_us)
        code, text = _reason(event)
        return SourceState.DONE, [
            StopForwarding(self.connection_id),
            AnswerWithResets(self.connection_id),
            Report(Outcome.LOST, code, text),
        ]

    def _answer_late(self, event: Received, now_us: int) -> _Step:
        return self._state, answer_stale(self._ledger, event.link, event.message)

    # --- parts ----------------------------------------------------------------------------

    def _say_abort(self, code: str, text: str) -> list[Effect]:
        if self._link is None:
            return []
        return [Send(self._link, abort(self.connection_id, self._handoff_id, code, text))]

    def _stray(self, event: StrayArrived) -> Stray:
        return Stray(
            connection_id=self.connection_id,
            handoff_id=self._handoff_id,
            datagram=event.datagram,
            remote=event.remote,
            local=event.local,
            ecn=event.ecn,
            received_us=event.received_us,
        )

    def _send_strays(self, link: int) -> list[Effect]:
        # Those kept for a saved baton bear the id of the save.
        return [
            Send(link, msgspec.structs.replace(stray, handoff_id=self._handoff_id))
            for stray in self._strays.drain()
        ]


def _reason(event: Event) -> tuple[str, str]:
    """A code and a sentence for a handoff that this event ended."""
    if isinstance(event, (Cancel, SealFailed)):
        return event.code, event.message
    if isinstance(event, Received) and isinstance(event.message, (Abort, Refuse)):
        return event.message.code, event.message.message
    if isinstance(event, DeadlinePassed):
        return "deadline", "the destination did not answer in time"
    if isinstance(event, PeerDead):
        return "peer_dead", "the destination's process exited"
    return "link_lost", "the link to the destination broke"


_S = SourceState
_M = HandoffSource
#: The ways in which a destination's part can end before the commit.
_FAILURES: Final = (Abort, LinkLost, PeerDead, DeadlinePassed, Cancel)

#: State, events or messages, the rule, the states that it may lead to. What is missing is an error.
_ROWS: Final[tuple[Row[SourceState], ...]] = (
    (_S.IDLE, (Start,), _M._offer, (_S.OFFERED, _S.ABORTED)),
    (_S.IDLE, (Save,), _M._save, (_S.SEALING, _S.ABORTED)),
    (_S.IDLE, (ClaimRequest,), _M._answer_claim, (_S.IDLE,)),
    (_S.OFFERED, (Accept,), _M._accepted, (_S.SEALING, _S.ABORTED)),
    (_S.OFFERED, (Refuse, *_FAILURES), _M._not_begun, (_S.ABORTED,)),
    (_S.OFFERED, (ClaimRequest,), _M._answer_claim, (_S.OFFERED,)),
    (_S.SEALING, (Sealed,), _M._sealed, (_S.FROZEN, _S.SAVED, _S.ABORTED)),
    (_S.SEALING, (SealFailed, *_FAILURES), _M._thaw, (_S.ABORTED,)),
    (_S.SEALING, (StrayArrived,), _M._keep_stray, (_S.SEALING,)),
    (_S.SEALING, (ClaimRequest,), _M._answer_claim, (_S.SEALING,)),
    (_S.FROZEN, (Ready,), _M._ready, (_S.FORWARDING, _S.ABORTED)),
    (_S.FROZEN, (ClaimRequest,), _M._claimed, (_S.FORWARDING, _S.FROZEN)),
    (_S.FROZEN, _FAILURES, _M._thaw, (_S.ABORTED,)),
    (_S.FROZEN, (StrayArrived,), _M._keep_stray, (_S.FROZEN,)),
    (_S.SAVED, (ClaimRequest,), _M._claimed, (_S.FORWARDING, _S.SAVED)),
    (_S.SAVED, (DeadlinePassed, Cancel), _M._thaw, (_S.ABORTED,)),
    (_S.SAVED, (StrayArrived,), _M._keep_stray, (_S.SAVED,)),
    (_S.FORWARDING, (StrayArrived,), _M._forward, (_S.FORWARDING,)),
    (_S.FORWARDING, (ClaimRequest,), _M._answer_claim, (_S.FORWARDING,)),
    # A READY that a ClaimRequest over a newer link has overtaken needs no second answer.
    (_S.FORWARDING, (Ready, LinkLost), _M._stay, (_S.FORWARDING,)),
    (_S.FORWARDING, (Cutover,), _M._cut_over, (_S.DONE,)),
    (_S.FORWARDING, (Closed,), _M._closed, (_S.DONE,)),
    (_S.FORWARDING, (Abort, PeerDead), _M._lost, (_S.DONE,)),
    (_S.FORWARDING, (DeadlinePassed, Cancel), _M._stop, (_S.DONE,)),
    (_S.DONE, (ClaimRequest,), _M._answer_claim, (_S.DONE,)),
    (_S.DONE, (Cutover,), _M._cut_over, (_S.DONE,)),
    (_S.DONE, (Closed,), _M._closed, (_S.DONE,)),
    (_S.DONE, (Ready, Abort, LinkLost, PeerDead, Cancel), _M._stay, (_S.DONE,)),
    (_S.ABORTED, (ClaimRequest, Ready), _M._answer_late, (_S.ABORTED,)),
    (_S.ABORTED, (Accept, Refuse, Abort), _M._stay, (_S.ABORTED,)),
    (_S.ABORTED, (Sealed, SealFailed, LinkLost, PeerDead, Cancel), _M._stay, (_S.ABORTED,)),
)
_M.TABLE = table(_ROWS)
