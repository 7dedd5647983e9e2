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
* The owner may hand the connection on before the client has cut over. It tells everybody who still
  forwards to it (MOVED), and they go on to the new owner: link, announcement (MOVED_ACK to both
  owners), strays. Until it has that answer the old owner passes their strays on itself. A forwarder
  only ever turns to an owner of a higher term, and a process that owns the connection again
  forwards no more, so strays run in no circle.
* A destination that cannot send from the client's address says so when it accepts. Then RELAYING
  stands for FORWARDING: there is no cutover, this process sends what the owner makes (RELAY) and
  forwards what the client sends, until the connection is closed or its owner is gone for good.
* If the destination says ABORT after the commit, it holds the only claim and will not use it:
  nobody owns the connection, and the client learns so by stateless resets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from quicbaton.errors import FencedError, PeerError
from quicbaton.handoff.answers import (
    abort,
    answer_stale,
    committed,
    refusal,
)
from quicbaton.handoff.effects import (
    DestroyKeys,
    Effect,
    FreezeConnection,
    Report,
    SealBaton,
    Send,
    ThawConnection,
    WriteBaton,
)
from quicbaton.handoff.events import (
    Cancel,
    DeadlinePassed,
    Event,
    LinkLost,
    LinkUp,
    Outcome,
    PeerDead,
    Received,
    Save,
    Sealed,
    SealFailed,
    Start,
    StrayArrived,
    TakenBack,
)
from quicbaton.handoff.forwarder import Forwarder, SourceState, reason_of
from quicbaton.handoff.machine import Row, table
from quicbaton.handoff.messages import (
    Abort,
    Accept,
    Baton,
    ClaimRequest,
    Closed,
    Cutover,
    HandoffMessage,
    Moved,
    Offer,
    Ready,
    Refuse,
    Relay,
    Resumed,
)
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits
from quicbaton.limits import MAX_BATON_BYTES
from quicbaton.ownership import Claim, Ledger, Ownership

_Step = tuple[SourceState, list[Effect]]


class HandoffSource(Forwarder):
    """One attempt to hand one connection over. `handoff_id`: 16 fresh random bytes."""

    ROLE = "source"
    ENDED = (SourceState.DONE, SourceState.ABORTED)
    # How long a state may last. FROZEN goes on with the deadline of SEALING: the client's silence
    # began there.
    WAITS: ClassVar[dict[SourceState, Callable[[Waits], float] | None]] = {
        SourceState.OFFERED: lambda waits: waits.offer_s,
        SourceState.SEALING: lambda waits: waits.frozen_s,
        SourceState.SAVED: lambda waits: waits.saved_s,
        SourceState.FORWARDING: lambda waits: waits.forward_s,
        SourceState.RELAYING: None,
    }

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        ledger: Ledger,
        *,
        waits: Waits = DEFAULT_WAITS,
    ) -> None:
        super().__init__(connection_id, handoff_id, ledger, waits)
        self._audience = ""
        #: The shared store that decides; empty where this process's ledger does.
        self._store_id = b""
        self._saving = False
        self._sealed_at_us = 0
        self._may_relay = False

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
        self._may_relay = event.relay
        offer = Offer(
            connection_id=self.connection_id,
            handoff_id=self._handoff_id,
            term=self._ledger.record(self.connection_id).term,
            size_bytes=event.size_bytes,
            format_version=event.format_version,
            source=event.source,
            audience=event.audience,
            stray_ids=event.stray_ids,
            local=event.local,
            relay=event.relay,
            store_id=self._store_id,
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
        accept = event.message
        assert isinstance(accept, Accept)
        if accept.relay and not self._may_relay:
            raise PeerError("nobody offered to relay: close the link", code="unexpected_message")
        self.relays = accept.relay
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
        code, text = reason_of(event)
        # The destination's own ABORT or REFUSE needs no answer.
        answer = [] if isinstance(event, Received) else self._say_abort(code, text)
        return SourceState.ABORTED, [*answer, Report(Outcome.KEPT, code, text)]

    # --- frozen ---------------------------------------------------------------------------

    def _sealed(self, event: Sealed, now_us: int) -> _Step:
        if len(event.sealed) > MAX_BATON_BYTES:
            text = f"the baton has {len(event.sealed)} bytes, the limit is {MAX_BATON_BYTES}"
            return self._take_back("baton_too_big", text)
        self._ledger.bind(self.connection_id, event.baton_id, event.digest)
        self._sealed_at_us = now_us
        if self._saving:
            return SourceState.SAVED, [WriteBaton(event.sealed)]
        assert self._link is not None
        baton = Baton(self.connection_id, self._handoff_id, event.sealed)
        return SourceState.FROZEN, [Send(self._link, baton)]

    def _thaw(self, event: Event, now_us: int) -> _Step:
        code, text = reason_of(event)
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
        state = SourceState.RELAYING if self.relays else SourceState.FORWARDING
        return state, self._give(claim, event.link, now_us)

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
        state = SourceState.RELAYING if self.relays else SourceState.FORWARDING
        return state, self._give(claim, event.link, now_us)

    def _give(self, claim: Claim, link: int, now_us: int) -> list[Effect]:
        """After the commit, in this order: no keys, then COMMITTED, then what has arrived.

        The destination is told how long the connection has stood still. It is counted from the
        sealed baton, a moment after the freeze: it must not be more than the truth.
        """
        self._link = link
        message = committed(claim, self._handoff_id, frozen_us=now_us - self._sealed_at_us)
        return [
            DestroyKeys(self.connection_id),
            Send(link, message),
            *self._send_strays(link),
            self._report_given(claim.term),
        ]

    # --- parts ----------------------------------------------------------------------------

    def _say_abort(self, code: str, text: str) -> list[Effect]:
        if self._link is None:
            return []
        return [Send(self._link, abort(self.connection_id, self._handoff_id, code, text))]


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
    (_S.FROZEN, (Ready,), _M._ready, (_S.FORWARDING, _S.RELAYING, _S.ABORTED)),
    (_S.FROZEN, (ClaimRequest,), _M._claimed, (_S.FORWARDING, _S.RELAYING, _S.FROZEN)),
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
    # A REFUSE is from a new owner that does not know the connection any more.
    (_S.FORWARDING, (DeadlinePassed, Cancel, Refuse), _M._stop, (_S.DONE,)),
    (_S.FORWARDING, (Moved,), _M._reroute, (_S.FORWARDING,)),
    (_S.FORWARDING, (LinkUp,), _M._turn, (_S.FORWARDING,)),
    (_S.FORWARDING, (TakenBack,), _M._taken_back, (_S.DONE,)),
    (_S.FORWARDING, (Resumed,), _M._resumed, (_S.FORWARDING,)),
    (_S.RELAYING, (StrayArrived,), _M._forward, (_S.RELAYING,)),
    (_S.RELAYING, (Relay,), _M._relay, (_S.RELAYING,)),
    (_S.RELAYING, (Resumed,), _M._resumed, (_S.RELAYING,)),
    (_S.RELAYING, (ClaimRequest,), _M._answer_claim, (_S.RELAYING,)),
    (_S.RELAYING, (Ready,), _M._stay, (_S.RELAYING,)),
    (_S.RELAYING, (LinkLost,), _M._wait_for_owner, (_S.RELAYING,)),
    (_S.RELAYING, (Closed,), _M._closed, (_S.DONE,)),
    (_S.RELAYING, (Abort, PeerDead), _M._lost, (_S.DONE,)),
    (_S.RELAYING, (DeadlinePassed, Cancel), _M._stop, (_S.DONE,)),
    (_S.DONE, (ClaimRequest,), _M._answer_claim, (_S.DONE,)),
    (_S.DONE, (Cutover,), _M._cut_over, (_S.DONE,)),
    (_S.DONE, (Closed,), _M._closed, (_S.DONE,)),
    (_S.DONE, (Moved,), _M._turned_before, (_S.DONE,)),
    (_S.DONE, (Resumed,), _M._resumed, (_S.DONE,)),
    (_S.DONE, (Ready, Abort, Refuse, Relay), _M._stay, (_S.DONE,)),
    (_S.DONE, (LinkLost, LinkUp, PeerDead, Cancel), _M._stay, (_S.DONE,)),
    (_S.ABORTED, (ClaimRequest, Ready), _M._answer_late, (_S.ABORTED,)),
    (_S.ABORTED, (Accept, Refuse, Abort), _M._stay, (_S.ABORTED,)),
    (_S.ABORTED, (Sealed, SealFailed, LinkLost, PeerDead, Cancel), _M._stay, (_S.ABORTED,)),
)
_M.TABLE = table(_ROWS)
