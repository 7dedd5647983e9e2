"""Giving a connection away by this process's own ledger, or keeping it, in a known state at every
moment.

Theory of operation
-------------------
                 Start            Accept               Sealed             Ready
    IDLE ───────────► OFFERED ───────────► SEALING ───────────► FROZEN ──────────► GIVEN
      │                  │                  ▲   │                  │ Claim-          ▲
      │ Save             │                  │   │ Sealed           │ Request         │
      └──────────────────┼──────────────────┘   └──► SAVED ────────┼─────────────────┘
                         │                             │           │
                         ▼                             ▼           ▼
                        KEPT ◄─────────── thaw ◄───────┴───────────┘

* The commit is `Ledger.commit` in the rules of READY and ClaimRequest. It comes before the effect
  `DestroyKeys`, which comes before the `Send` of COMMITTED: by the time a byte of COMMITTED exists,
  this process has no right and no means to send. Later events (a lost link, a failed write, a
  deadline) go to `forwarding`, and end the forwarding at most.
* Before the commit every failure thaws: the term is raised first, which makes the baton worthless,
  and then the connection is brought back from its snapshot. READY after that is answered ABORT.
* A destination that has lost READY or COMMITTED with its link asks again over a new link, with a
  ClaimRequest that names the same handoff id. Only that is given the claim.
* A saved baton has no destination yet. The first ClaimRequest that names it commits; a second is
  refused as `already_used`, one after a thaw as `superseded`.
* Datagrams that arrive while the connection is frozen are sent to the destination at once. They are
  also kept in a bounded queue, for a thaw or for a destination that comes back over another link
  (QUIC discards duplicates).
"""

from __future__ import annotations

from typing import Final

from quicbaton.errors import FencedError
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.answers import committed, refusal
from quicbaton.handoff.forwarding import ForwardingState
from quicbaton.handoff.giving import FAILURES, Giving, GivingState, GivingStep
from quicbaton.handoff.machine import Row, table
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits
from quicbaton.ownership import Claim, Ledger
from quicbaton.reasons import Reason


class GivingByLedger(Giving):
    """One attempt to hand one connection over, or to save it in a file."""

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        ledger: Ledger,
        *,
        waits: Waits = DEFAULT_WAITS,
    ) -> None:
        super().__init__(connection_id, handoff_id, ledger, waits)
        self._saving = False
        self._sealed_at_us = 0

    def _save(self, event: ev.Save, now_us: int) -> GivingStep:
        kept = self._why_not(event.cutover_pending)
        if kept is not None:
            return GivingState.KEPT, [kept]
        self._saving = True
        return GivingState.SEALING, self._freeze(audience_id=b"")

    def _sealed(self, event: ev.Sealed, now_us: int) -> GivingStep:
        kept = self._is_too_big(event)
        if kept is not None:
            return kept
        self._ledger.bind(self.connection_id, event.baton_id, event.digest)
        self._sealed_at_us = now_us
        if self._saving:
            return GivingState.SAVED, [fx.WriteBaton(event.sealed)]
        return GivingState.FROZEN, self._send_baton(event)

    # --- the commit -----------------------------------------------------------------------

    def _ready(self, event: ev.Received, now_us: int) -> GivingStep:
        message = event.message
        assert isinstance(message, msg.Ready)
        try:
            claim = self._ledger.commit(
                self.connection_id, message.baton_id, message.digest, message.handoff_id, now_us
            )
        except FencedError as error:
            # The destination rebuilt another state than the sealed one.
            return self._take_back(error.code, str(error))
        # The destination has had all strays over this very link.
        self._strays.drain()
        return self._give(claim, event.link, now_us)

    def _claimed(self, event: ev.Received, now_us: int) -> GivingStep:
        request = event.message
        assert isinstance(request, msg.ClaimRequest)
        try:
            claim = self._ledger.commit(
                self.connection_id, request.baton_id, request.digest, request.handoff_id, now_us
            )
        except FencedError as error:
            return self.state, [fx.Send(event.link, refusal(request, error))]
        self._handoff_id = request.handoff_id
        return self._give(claim, event.link, now_us)

    def _give(self, claim: Claim, link: int, now_us: int) -> GivingStep:
        """After the commit, in this order: no keys, then COMMITTED, then the strays.

        The destination is told how long the connection has stood still. The count begins at the
        sealed baton, a moment after the freeze: it must not be more than the truth.
        """
        self._link = link
        message = committed(claim, self._handoff_id, frozen_us=now_us - self._sealed_at_us)
        effects = [
            fx.DestroyKeys(self.connection_id),
            fx.Send(link, message),
            *self._send_strays(link),
            self._report_given(claim.term),
        ]
        state = ForwardingState.PROXYING if self._proxies else ForwardingState.FORWARDING
        return self._go_on(state, now_us), effects

    def _report_given(self, term: int) -> fx.Report:
        if self._proxies:
            text = f"given away in term {term}; this process sends for it as long as it lives"
            return fx.Report(ev.Outcome.GIVEN, Reason.PROXIED, text)
        return fx.Report(ev.Outcome.GIVEN, Reason.OK, f"given away in term {term}")


_S = GivingState
_M = GivingByLedger

#: State, events or messages, the rule, the states that it may lead to. A missing cell is an error.
_ROWS: Final[tuple[Row[GivingState], ...]] = (
    (_S.IDLE, (ev.Start,), _M._offer, (_S.OFFERED, _S.KEPT)),
    (_S.IDLE, (ev.Save,), _M._save, (_S.SEALING, _S.KEPT)),
    (_S.IDLE, (msg.ClaimRequest,), _M._answer_late, (_S.IDLE,)),
    (_S.OFFERED, (msg.Accept,), _M._accepted, (_S.SEALING, _S.KEPT)),
    (_S.OFFERED, (msg.Refuse, *FAILURES), _M._not_begun, (_S.KEPT,)),
    (_S.OFFERED, (msg.ClaimRequest,), _M._answer_late, (_S.OFFERED,)),
    (_S.SEALING, (ev.Sealed,), _M._sealed, (_S.FROZEN, _S.SAVED, _S.KEPT)),
    (_S.SEALING, (ev.SealFailed, *FAILURES), _M._thaw, (_S.KEPT,)),
    (_S.SEALING, (ev.StrayArrived,), _M._keep_stray, (_S.SEALING,)),
    (_S.SEALING, (msg.ClaimRequest,), _M._answer_late, (_S.SEALING,)),
    (_S.FROZEN, (msg.Ready,), _M._ready, (_S.GIVEN, _S.KEPT)),
    (_S.FROZEN, (msg.ClaimRequest,), _M._claimed, (_S.GIVEN, _S.FROZEN)),
    (_S.FROZEN, FAILURES, _M._thaw, (_S.KEPT,)),
    (_S.FROZEN, (ev.StrayArrived,), _M._keep_stray, (_S.FROZEN,)),
    (_S.SAVED, (msg.ClaimRequest,), _M._claimed, (_S.GIVEN, _S.SAVED)),
    (_S.SAVED, (ev.DeadlinePassed, ev.Cancel), _M._thaw, (_S.KEPT,)),
    (_S.SAVED, (ev.StrayArrived,), _M._keep_stray, (_S.SAVED,)),
    (_S.KEPT, (msg.ClaimRequest, msg.Ready), _M._answer_late, (_S.KEPT,)),
    (_S.KEPT, (msg.Accept, msg.Refuse, msg.Abort), _M._stay, (_S.KEPT,)),
    (
        _S.KEPT,
        (ev.Sealed, ev.SealFailed, ev.LinkLost, ev.PeerDead, ev.Cancel),
        _M._stay,
        (_S.KEPT,),
    ),
)
_M.TABLE = table(_ROWS)
