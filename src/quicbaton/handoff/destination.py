"""The handoff destination: silent until the connection is its own beyond doubt.

Theory of operation
-------------------
           Offer         Baton           Rebuilt       Committed            CutoverSeen
    IDLE ───────► ACCEPTED ───► REBUILDING ────► READY ─────────► FORWARDING ──────► CUTTING
      │                                           │ │                ▲  ▲               │
      │                                  LinkLost │ │ PeerDead       │  │    CutoverAck ▼
      │                                           │ └──► LAST_WORDS ─┘  │              DONE
      │ Rebuilt (a baton out of a file)           ▼          ▲          │
      └───────────────────────────────────────► ASKING ──────┴──────────┘

    anything else before COMMITTED ──► DISCARDED

* `Resume` is the only effect that lets the connection send, and only COMMITTED leads to it: over
  the link of the handoff, or over a later one in answer to a ClaimRequest. COMMITTED must name the
  baton and the digest that were rebuilt, and the term after the baton's; then this process's own
  ledger adopts it, which works once.
* A machine that is READY and loses its link does not know whether the source had committed. It
  stays silent and asks over a new link (ASKING). A source that had not committed has thawed, and
  refuses.
* A source that has died is heard out first (LAST_WORDS): its COMMITTED may lie unread in the link.
  Without one the connection is discarded, since its owner may have thawed it before it died: a
  closed connection beats a forked one. Only when the supervisor knows that no owner lives at all
  does the client learn it by stateless resets; a destination alone cannot know.
* DISCARDED is final. A COMMITTED that comes too late is answered with ABORT, so that the source can
  tell the client.
* Strays that come before COMMITTED wait in a bounded queue and are handed over with `Resume`.
* After COMMITTED nothing that happens to the handoff touches the connection. A lost link is opened
  again for the strays' sake, as long as the client has not cut over.
* If the connection is handed on before that, the forwarder is told (MOVED) and asked to say that it
  has turned to the new owner; its strays are passed on until then (HANDED_ON). For the new owner
  that announcement (MOVED_ACK) makes a machine of its own, which is FORWARDING from the start: each
  of a connection's forwarders has one.
* A process that cannot send from the client's address has the source do it, if that has offered to
  relay. RELAYING then stands for FORWARDING, for as long as the connection lives: without a link it
  is silent (CUT_OFF), and closed if none comes up in time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from quicbaton.errors import FencedError, PeerError
from quicbaton.handoff.effects import (
    AnswerWithResets,
    Connect,
    Discard,
    Effect,
    Rebuild,
    Report,
    Resume,
    Send,
)
from quicbaton.handoff.events import (
    Cancel,
    ConnectionClosed,
    CutoverSeen,
    DeadlinePassed,
    Event,
    GivenOn,
    LinkLost,
    LinkUp,
    Outcome,
    PeerDead,
    RebuildFailed,
    Rebuilt,
    Received,
    Spoke,
)
from quicbaton.handoff.machine import Row, table
from quicbaton.handoff.messages import (
    Abort,
    Accept,
    Address,
    Baton,
    Committed,
    CutoverAck,
    HandoffMessage,
    MovedAck,
    Offer,
    Ready,
    Refuse,
    Stray,
)
from quicbaton.handoff.new_owner import DestinationState, NewOwner
from quicbaton.handoff.strays import StrayQueue
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits
from quicbaton.limits import MAX_BATON_BYTES
from quicbaton.ownership import Ledger, Ownership

_Step = tuple[DestinationState, list[Effect]]


class HandoffDestination(NewOwner):
    """One attempt to take one connection over, from an `Offer` or from a saved baton.

    `handoff_id`: the offer's, or 16 fresh random bytes for a saved baton. `name`: what an offer's
    audience must be, unless that is empty. `formats`: baton formats that can be read.
    `room_bytes`: how big a connection may be to be welcome. `can_send`: whether this process can
    send from the address that the offer names.
    """

    ROLE = "destination"
    ENDED = (DestinationState.DONE, DestinationState.DISCARDED)
    # How long a state may last. LAST_WORDS goes on with the deadline of the state before.
    WAITS: ClassVar[dict[DestinationState, Callable[[Waits], float] | None]] = {
        DestinationState.ACCEPTED: lambda waits: waits.offer_s,
        DestinationState.REBUILDING: lambda waits: waits.offer_s,
        DestinationState.READY: lambda waits: waits.ready_s,
        DestinationState.ASKING: lambda waits: waits.ask_s,
        DestinationState.FORWARDING: lambda waits: waits.forward_s,
        DestinationState.RELAYING: None,
        DestinationState.CUT_OFF: lambda waits: waits.relay_lost_s,
        DestinationState.HANDED_ON: lambda waits: waits.forward_s,
        DestinationState.CUTTING: lambda waits: waits.offer_s,
    }

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        ledger: Ledger,
        *,
        name: str = "",
        formats: frozenset[int] = frozenset(),
        room_bytes: int = MAX_BATON_BYTES,
        can_send: bool = True,
        waits: Waits = DEFAULT_WAITS,
    ) -> None:
        super().__init__(connection_id, handoff_id, name, waits)
        self._ledger = ledger
        self._formats = formats
        self._room_bytes = room_bytes
        self._can_send = can_send
        #: The shared store that decides; empty where the source does.
        self._store_id = b""
        self._offered_term = 0
        self._no_owner_lives = False
        self._strays = StrayQueue()

    def _check_address(self, event: Received) -> list[Effect] | None:
        message = event.message
        if (
            not isinstance(message, HandoffMessage)
            or message.connection_id != self.connection_id
            or message.handoff_id != self._handoff_id
        ):
            raise PeerError(f"{message!r} is not about this handoff", code="wrong_handoff")
        return None

    # --- up to READY ----------------------------------------------------------------------

    def _consider(self, event: Received, now_us: int) -> _Step:
        offer = event.message
        assert isinstance(offer, Offer)
        self._link = event.link
        reason = self._why_not(offer)
        if reason is not None:
            code, text = reason
            return DestinationState.DISCARDED, [
                Send(event.link, Refuse(self.connection_id, self._handoff_id, code, text)),
                Report(Outcome.DISCARDED, code, text),
            ]
        self._offered_term = offer.term
        self.relayed = not self._can_send
        accept = Accept(self.connection_id, self._handoff_id, relay=self.relayed)
        return DestinationState.ACCEPTED, [Send(event.link, accept)]

    def _why_not(self, offer: Offer) -> tuple[str, str] | None:
        if offer.format_version not in self._formats:
            return "format_unknown", f"baton format {offer.format_version} cannot be read here"
        if offer.audience not in ("", self._name):
            return "wrong_audience", f"this is {self._name!r}, the offer is for another"
        if offer.size_bytes > self._room_bytes:
            return "no_room", f"{offer.size_bytes} bytes are too many, {self._room_bytes} are free"
        state = self._ledger.record(self.connection_id).state
        if state not in (Ownership.ABSENT, Ownership.GIVEN):
            # It could not be adopted: an earlier handoff from here is not settled, for instance.
            return "in_hand", f"the connection is {state.value} in this process's own record"
        return self._what_we_lack(offer)

    def _what_we_lack(self, offer: Offer) -> tuple[str, str] | None:
        if offer.store_id != self._store_id:
            return "no_store", f"{self._name} does not use the shared ownership store of the offer"
        if not (self._can_send or offer.relay):
            return "cannot_send_from", (
                f"{self._name} cannot send from {_spell(offer.local)}, which the client talks to: "
                "choose a process on that address and port, or ask for a relay"
            )
        return None

    def _rebuild(self, event: Received, now_us: int) -> _Step:
        assert isinstance(event.message, Baton)
        return DestinationState.REBUILDING, [Rebuild(event.message.sealed)]

    def _ready(self, event: Rebuilt, now_us: int) -> _Step:
        if event.connection_id != self.connection_id or event.term != self._offered_term:
            return self._give_up("wrong_baton", "the baton is not the one that was offered")
        self._rebuilt = event
        assert self._link is not None
        ready = Ready(self.connection_id, self._handoff_id, event.baton_id, event.digest)
        return DestinationState.READY, [Send(self._link, ready)]

    def _from_file(self, event: Rebuilt, now_us: int) -> _Step:
        if event.connection_id != self.connection_id:
            return self._give_up("wrong_baton", "the baton is for another connection")
        self._rebuilt = event
        return DestinationState.ASKING, [Connect(self.connection_id)]

    # --- silent, and in doubt -------------------------------------------------------------

    def _queue(self, event: Received, now_us: int) -> _Step:
        assert isinstance(event.message, Stray)
        self._strays.push(event.message)
        return self._state, []

    def _reconnect(self, event: LinkLost, now_us: int) -> _Step:
        return DestinationState.ASKING, [Connect(self.connection_id)]

    def _source_died(self, event: PeerDead, now_us: int) -> _Step:
        self._no_owner_lives = event.no_owner_lives
        if self._link is None:
            return self._orphaned(event, now_us)
        return DestinationState.LAST_WORDS, []

    def _orphaned(self, event: Event, now_us: int) -> _Step:
        state, effects = self._give_up(
            "source_dead", "the source exited before it gave the connection away"
        )
        if self._no_owner_lives:
            effects.insert(0, AnswerWithResets(self.connection_id))
        return state, effects

    def _fail(self, event: Event, now_us: int) -> _Step:
        code, text = _reason(event)
        # The source's own ABORT or REFUSE needs no answer.
        return self._give_up(code, text, say=not isinstance(event, Received))

    def _give_up(self, code: str, text: str, *, say: bool = True) -> _Step:
        self._strays.drain()
        return DestinationState.DISCARDED, [
            Discard(self.connection_id),
            *(self._say_abort(code, text) if say else []),
            Report(Outcome.DISCARDED, code, text),
        ]

    # --- the owner ------------------------------------------------------------------------

    def _resume(self, event: Received, now_us: int) -> _Step:
        message = event.message
        assert isinstance(message, Committed)
        rebuilt = self._rebuilt
        assert rebuilt is not None
        try:
            if message.term != rebuilt.term + 1:
                raise FencedError(
                    f"term {message.term} was committed, the baton is of term {rebuilt.term}",
                    code="superseded",
                )
            if (message.baton_id, message.digest) != (rebuilt.baton_id, rebuilt.digest):
                raise FencedError("another baton was committed", code="superseded")
            claim = self._ledger.adopt(
                self.connection_id, message.term, message.baton_id, message.digest
            )
        except FencedError as error:
            return self._give_up(error.code, str(error))
        self._link = event.link
        state = DestinationState.RELAYING if self.relayed else DestinationState.FORWARDING
        return state, [
            Resume(claim, self._strays.drain(), message.frozen_us),
            Report(Outcome.RESUMED, "ok", f"resumed in term {claim.term}"),
        ]

    # --- too late -------------------------------------------------------------------------

    def _discard_again(self, event: Rebuilt, now_us: int) -> _Step:
        return self._state, [Discard(self.connection_id)]

    def _decline(self, event: Received, now_us: int) -> _Step:
        self._link = event.link
        return self._state, self._say_abort("discarded", "the destination has let it go before")


def _spell(address: Address) -> str:
    return f"{address[0]}:{address[1]}" if len(address) > 1 else "its address"


def _reason(event: Event) -> tuple[str, str]:
    """A code and a sentence for a handoff that this event ended."""
    if isinstance(event, (Cancel, RebuildFailed)):
        return event.code, event.message
    if isinstance(event, Received) and isinstance(event.message, (Abort, Refuse)):
        return event.message.code, event.message.message
    if isinstance(event, DeadlinePassed):
        return "deadline", "the source did not answer in time"
    if isinstance(event, PeerDead):
        return "source_dead", "the source exited before it gave the connection away"
    return "link_lost", "the link to the source broke"


_S = DestinationState
_M = HandoffDestination
_FAILURES: Final = (Abort, LinkLost, PeerDead, DeadlinePassed, Cancel)
_RESUMED: Final = (_S.FORWARDING, _S.RELAYING, _S.DISCARDED)

#: State, events or messages, the rule, the states that it may lead to. What is missing is an error.
_ROWS: Final[tuple[Row[DestinationState], ...]] = (
    (_S.IDLE, (Offer,), _M._consider, (_S.ACCEPTED, _S.DISCARDED)),
    (_S.IDLE, (Rebuilt,), _M._from_file, (_S.ASKING, _S.DISCARDED)),
    (_S.IDLE, (MovedAck,), _M._announced, (_S.FORWARDING,)),
    (_S.ACCEPTED, (Baton,), _M._rebuild, (_S.REBUILDING,)),
    (_S.ACCEPTED, (Stray,), _M._queue, (_S.ACCEPTED,)),
    (_S.ACCEPTED, _FAILURES, _M._fail, (_S.DISCARDED,)),
    (_S.REBUILDING, (Rebuilt,), _M._ready, (_S.READY, _S.DISCARDED)),
    (_S.REBUILDING, (Stray,), _M._queue, (_S.REBUILDING,)),
    (_S.REBUILDING, (RebuildFailed, *_FAILURES), _M._fail, (_S.DISCARDED,)),
    (_S.READY, (Committed,), _M._resume, _RESUMED),
    (_S.READY, (Stray,), _M._queue, (_S.READY,)),
    (_S.READY, (LinkLost,), _M._reconnect, (_S.ASKING,)),
    (_S.READY, (PeerDead,), _M._source_died, (_S.LAST_WORDS,)),
    (_S.READY, (Abort, DeadlinePassed, Cancel), _M._fail, (_S.DISCARDED,)),
    (_S.LAST_WORDS, (Committed,), _M._resume, _RESUMED),
    (_S.LAST_WORDS, (Stray,), _M._queue, (_S.LAST_WORDS,)),
    (_S.LAST_WORDS, (LinkLost,), _M._orphaned, (_S.DISCARDED,)),
    (_S.LAST_WORDS, (Abort, Refuse, DeadlinePassed, Cancel), _M._fail, (_S.DISCARDED,)),
    (_S.ASKING, (LinkUp,), _M._ask, (_S.ASKING,)),
    (_S.ASKING, (Committed,), _M._resume, _RESUMED),
    (_S.ASKING, (Stray,), _M._queue, (_S.ASKING,)),
    (_S.ASKING, (LinkLost,), _M._reconnect, (_S.ASKING,)),
    (_S.ASKING, (PeerDead,), _M._source_died, (_S.LAST_WORDS, _S.DISCARDED)),
    (_S.ASKING, (Refuse, Abort, DeadlinePassed, Cancel), _M._fail, (_S.DISCARDED,)),
    (_S.FORWARDING, (Stray,), _M._deliver, (_S.FORWARDING,)),
    (_S.FORWARDING, (Spoke,), _M._say_resumed, (_S.FORWARDING,)),
    (_S.FORWARDING, (LinkLost,), _M._rejoin, (_S.FORWARDING,)),
    (_S.FORWARDING, (LinkUp,), _M._rejoined, (_S.FORWARDING,)),
    (_S.FORWARDING, (MovedAck,), _M._announced, (_S.FORWARDING,)),
    (_S.FORWARDING, (GivenOn,), _M._hand_on, (_S.HANDED_ON,)),
    (_S.FORWARDING, (CutoverSeen,), _M._cut_over, (_S.CUTTING, _S.DONE)),
    (_S.FORWARDING, (ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.FORWARDING, (PeerDead,), _M._source_gone, (_S.FORWARDING, _S.DONE)),
    (_S.FORWARDING, (Refuse, DeadlinePassed), _M._finish, (_S.DONE,)),
    # COMMITTED again answers the ClaimRequest of a rejoin. It is too late to cancel.
    (_S.FORWARDING, (Committed, Cancel), _M._stay, (_S.FORWARDING,)),
    (_S.RELAYING, (Stray,), _M._deliver, (_S.RELAYING,)),
    (_S.RELAYING, (Spoke,), _M._say_resumed, (_S.RELAYING,)),
    (_S.RELAYING, (LinkLost,), _M._rejoin, (_S.CUT_OFF,)),
    (_S.RELAYING, (ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.RELAYING, (PeerDead,), _M._stay, (_S.RELAYING,)),
    (_S.RELAYING, (Committed, Cancel, CutoverSeen), _M._stay, (_S.RELAYING,)),
    (_S.RELAYING, (Refuse,), _M._unheard, (_S.DONE,)),
    (_S.CUT_OFF, (LinkUp,), _M._heard_again, (_S.RELAYING,)),
    (_S.CUT_OFF, (Cancel,), _M._rejoin, (_S.CUT_OFF,)),
    (_S.CUT_OFF, (Stray,), _M._deliver, (_S.CUT_OFF,)),
    (_S.CUT_OFF, (ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.CUT_OFF, (PeerDead, DeadlinePassed, Refuse), _M._unheard, (_S.DONE,)),
    (_S.CUT_OFF, (Committed, Spoke, CutoverSeen), _M._stay, (_S.CUT_OFF,)),
    (_S.HANDED_ON, (Stray,), _M._deliver, (_S.HANDED_ON,)),
    (_S.HANDED_ON, (LinkLost,), _M._rejoin, (_S.HANDED_ON,)),
    (_S.HANDED_ON, (LinkUp,), _M._say_moved, (_S.HANDED_ON,)),
    (_S.HANDED_ON, (MovedAck, Refuse), _M._finish, (_S.DONE,)),
    (_S.HANDED_ON, (PeerDead, DeadlinePassed, Cancel), _M._finish, (_S.DONE,)),
    (_S.HANDED_ON, (ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.HANDED_ON, (Committed, Spoke, GivenOn, CutoverSeen), _M._stay, (_S.HANDED_ON,)),
    (_S.CUTTING, (Stray,), _M._deliver, (_S.CUTTING,)),
    (_S.CUTTING, (ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.CUTTING, (CutoverAck, Refuse, LinkLost, PeerDead, DeadlinePassed), _M._finish, (_S.DONE,)),
    (_S.CUTTING, (Committed, LinkUp, Cancel), _M._stay, (_S.CUTTING,)),
    (_S.CUTTING, (MovedAck, GivenOn, Spoke), _M._stay, (_S.CUTTING,)),
    (_S.DONE, (Stray,), _M._deliver, (_S.DONE,)),
    (_S.DONE, (Committed, CutoverAck, MovedAck, Refuse), _M._stay, (_S.DONE,)),
    (_S.DONE, (LinkLost, LinkUp, PeerDead, Cancel), _M._stay, (_S.DONE,)),
    (_S.DONE, (CutoverSeen, ConnectionClosed, GivenOn, Spoke), _M._stay, (_S.DONE,)),
    (_S.DISCARDED, (Committed,), _M._decline, (_S.DISCARDED,)),
    (_S.DISCARDED, (Rebuilt,), _M._discard_again, (_S.DISCARDED,)),
    (_S.DISCARDED, (Baton, Stray, Abort, Refuse), _M._stay, (_S.DISCARDED,)),
    (_S.DISCARDED, (RebuildFailed, LinkLost, LinkUp, PeerDead, Cancel), _M._stay, (_S.DISCARDED,)),
)
_M.TABLE = table(_ROWS)
