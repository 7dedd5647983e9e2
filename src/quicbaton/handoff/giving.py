"""Giving a connection away, by the ledger or by a store: offer, freeze, stray, thaw.

`giving_by_ledger` and `giving_by_store` have the tables. Both end at the commit, where `forwarding`
takes over, or with the connection kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from quicbaton.errors import FencedError, PeerError
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.answers import abort, answer_stale
from quicbaton.handoff.forwarding import Forwarding, ForwardingState, StoreRequest
from quicbaton.handoff.machine import MachineState
from quicbaton.handoff.sides import SourceSide, reason_of
from quicbaton.handoff.strays import StrayQueue
from quicbaton.handoff.waits import Waits
from quicbaton.limits import MAX_BATON_BYTES
from quicbaton.ownership import Ledger, Ownership
from quicbaton.reasons import Reason


class GivingState(MachineState):
    """The progress of a handoff at its source, up to the commit."""

    IDLE = "idle"
    OFFERED = "offered"
    SEALING = "sealing"
    #: With a shared store: the offer is being written there.
    PUBLISHING = "publishing"
    FROZEN = "frozen"
    #: With a shared store: the connection is being taken back there.
    RECLAIMING = "reclaiming"
    SAVED = "saved"
    #: It is another process's, and `successor` takes over.
    GIVEN = "given"
    #: It is ours.
    KEPT = "kept"


GivingStep = tuple[GivingState, list[fx.Effect]]
#: The events by which a destination can end its part before the commit.
FAILURES: Final = (msg.Abort, ev.LinkLost, ev.PeerDead, ev.DeadlinePassed, ev.Cancel)


class Giving(SourceSide[GivingState]):
    """One attempt to hand one connection over. `handoff_id`: 16 fresh random bytes."""

    #: Forwards to the new owner, once the connection is given away.
    successor: Forwarding | None = None

    ENDED = (GivingState.GIVEN, GivingState.KEPT)
    # The longest time in a state. FROZEN keeps the deadline of SEALING, where the client's silence
    # began.
    WAITS: ClassVar[dict[GivingState, Callable[[Waits], float] | None]] = {
        GivingState.OFFERED: lambda waits: waits.offer_s,
        GivingState.SEALING: lambda waits: waits.frozen_s,
        GivingState.SAVED: lambda waits: waits.saved_s,
        GivingState.RECLAIMING: lambda waits: waits.doubt_s,
    }

    def __init__(
        self, connection_id: bytes, handoff_id: bytes, ledger: Ledger, waits: Waits
    ) -> None:
        super().__init__(
            connection_id,
            handoff_id,
            ledger,
            waits,
            state=GivingState.IDLE,
            strays=StrayQueue(),
        )
        self._audience = ""
        #: The shared store that decides; empty where this process's ledger does.
        self._store_id = b""
        self._may_proxy = False
        #: Whether the destination asked us to send for it.
        self._proxies = False

    # --- before the freeze ----------------------------------------------------------------

    def _offer(self, event: ev.Start, now_us: int) -> GivingStep:
        refusal = self._why_not(event.cutover_pending)
        if refusal is not None:
            return GivingState.KEPT, [refusal]
        self._link = event.link
        self._audience = event.audience
        self._may_proxy = event.proxy
        offer = msg.Offer(
            connection_id=self.connection_id,
            handoff_id=self._handoff_id,
            term=self._ledger.record(self.connection_id).term,
            size_bytes=event.size_bytes,
            format_version=event.format_version,
            source=event.source,
            audience=event.audience,
            local=event.local,
            proxy=event.proxy,
            store_id=self._store_id,
        )
        return GivingState.OFFERED, [fx.Send(event.link, offer)]

    def _why_not(self, cutover_pending: bool) -> fx.Report | None:
        if cutover_pending:
            return fx.Report(
                ev.Outcome.KEPT,
                Reason.CUTOVER_PENDING,
                "the client has not cut over from the previous owner yet: try again when it has",
            )
        state = self._ledger.record(self.connection_id).state
        if state is not Ownership.OWNED:
            return fx.Report(
                ev.Outcome.KEPT,
                Reason.NOT_OWNED,
                f"only an owned connection moves, this is {state.value}",
            )
        return None

    def _accepted(self, event: ev.Received, now_us: int) -> GivingStep:
        accept = event.message
        assert isinstance(accept, msg.Accept)
        if accept.proxy and not self._may_proxy:
            raise PeerError(
                "no proxying was offered: close the link", code=Reason.UNEXPECTED_MESSAGE
            )
        self._proxies = accept.proxy
        try:
            return GivingState.SEALING, self._freeze(audience_id=self._handoff_id)
        except FencedError as error:
            # Saved, or closed, since the offer.
            return GivingState.KEPT, [
                *self._say_abort(error.code, str(error)),
                fx.Report(ev.Outcome.KEPT, error.code, str(error)),
            ]

    def _freeze(self, audience_id: bytes) -> list[fx.Effect]:
        term = self._ledger.freeze(self.connection_id, audience_id)
        return [
            fx.FreezeConnection(self.connection_id),
            fx.SealBaton(self.connection_id, term, self._audience),
        ]

    def _not_begun(self, event: ev.Event, now_us: int) -> GivingStep:
        code, text = reason_of(event)
        # The destination's own ABORT or REFUSE needs no answer.
        answer = [] if isinstance(event, ev.Received) else self._say_abort(code, text)
        return GivingState.KEPT, [*answer, fx.Report(ev.Outcome.KEPT, code, text)]

    # --- frozen ---------------------------------------------------------------------------

    def _is_too_big(self, event: ev.Sealed) -> GivingStep | None:
        if len(event.sealed) <= MAX_BATON_BYTES:
            return None
        text = f"the baton has {len(event.sealed)} bytes, the limit is {MAX_BATON_BYTES}"
        return self._take_back(Reason.BATON_TOO_LARGE, text)

    def _send_baton(self, event: ev.Sealed) -> list[fx.Effect]:
        assert self._link is not None
        return [fx.Send(self._link, msg.Baton(self.connection_id, self._handoff_id, event.sealed))]

    def _keep_stray(self, event: ev.StrayArrived, now_us: int) -> GivingStep:
        stray = self._stray(event)
        self._strays.push(stray)
        return self.state, [] if self._link is None else [fx.Send(self._link, stray)]

    def _thaw(self, event: ev.Event, now_us: int) -> GivingStep:
        code, text = reason_of(event)
        # The destination's own ABORT needs no answer.
        return self._take_back(code, text, say=not isinstance(event, ev.Received))

    def _take_back(self, code: Reason, text: str, *, say: bool = True) -> GivingStep:
        # The term first: from here on the baton is void.
        term = self._ledger.thaw(self.connection_id)
        return GivingState.KEPT, [
            *(self._say_abort(code, text) if say else []),
            fx.ThawConnection(self.connection_id, term, self._strays.drain()),
            fx.Report(ev.Outcome.KEPT, code, text),
        ]

    # --- parts ----------------------------------------------------------------------------

    def _go_on(
        self,
        state: ForwardingState,
        now_us: int,
        *,
        told_over: int | None = None,
        store_request: StoreRequest | None = None,
    ) -> GivingState:
        """The connection is another process's: `successor` does the rest."""
        self.successor = Forwarding(
            self.connection_id,
            self._handoff_id,
            self._ledger,
            self._waits,
            state=state,
            link=self._link,
            strays=self._strays,
            proxies=self._proxies,
            now_us=now_us,
            told_over=told_over,
            store_request=store_request,
        )
        return GivingState.GIVEN

    def _answer_late(self, event: ev.Received, now_us: int) -> GivingStep:
        """Answer a message that comes when there is nothing to commit, or no longer."""
        return self.state, answer_stale(self._ledger, event.link, event.message)

    def _stay(self, event: ev.Event, now_us: int) -> GivingStep:
        return self.state, []

    def _say_abort(self, code: Reason, text: str) -> list[fx.Effect]:
        if self._link is None:
            return []
        return [fx.Send(self._link, abort(self.connection_id, self._handoff_id, code, text))]
