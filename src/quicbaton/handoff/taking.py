"""Taking a connection over, by its source's ledger or by a store: consider the offer, rebuild the
baton in silence.

`taking_by_ledger` and `taking_by_store` have the tables. Both end with the connection resumed,
where `cutting_over` takes over, or discarded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.answers import abort
from quicbaton.handoff.cutting_over import CuttingOver, CuttingOverState
from quicbaton.handoff.machine import MachineState
from quicbaton.handoff.sides import DestinationSide
from quicbaton.handoff.strays import StrayQueue
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits
from quicbaton.limits import MAX_BATON_BYTES
from quicbaton.ownership import Ledger, Ownership
from quicbaton.reasons import Reason, heard


class TakingState(MachineState):
    """The progress of a handoff at its destination, until the connection is resumed."""

    IDLE = "idle"
    ACCEPTED = "accepted"
    REBUILDING = "rebuilding"
    READY = "ready"
    #: With a shared store: the connection is being taken there.
    COMMITTING = "committing"
    LAST_WORDS = "last_words"
    ASKING = "asking"
    #: It is ours, and `successor` takes over.
    TAKEN = "taken"
    DISCARDED = "discarded"


TakingStep = tuple[TakingState, list[fx.Effect]]
#: The events by which a source can end its part before the commit.
FAILURES: Final = (msg.Abort, ev.LinkLost, ev.PeerDead, ev.DeadlinePassed, ev.Cancel)


class Taking(DestinationSide[TakingState]):
    """One attempt to take one connection over.

    `name`: the audience that an offer must have, if it has one. `formats`: baton formats that can
    be read. `room_bytes`: the size of the largest connection that is taken. `can_send`: whether
    this process can send from the address that the offer names.
    """

    #: Handles the cutover, once the connection is resumed.
    successor: CuttingOver | None = None

    ENDED = (TakingState.TAKEN, TakingState.DISCARDED)
    # The longest time in a state. LAST_WORDS keeps the deadline of the state before.
    WAITS: ClassVar[dict[TakingState, Callable[[Waits], float] | None]] = {
        TakingState.ACCEPTED: lambda waits: waits.offer_s,
        TakingState.REBUILDING: lambda waits: waits.offer_s,
        TakingState.READY: lambda waits: waits.ready_s,
        TakingState.COMMITTING: lambda waits: waits.doubt_s,
        TakingState.ASKING: lambda waits: waits.ask_s,
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
        super().__init__(connection_id, handoff_id, TakingState.IDLE, waits)
        #: Whether the source is to send for the connection, for as long as that lives.
        self.proxied = False
        self._ledger = ledger
        self._name = name
        self._formats = formats
        self._room_bytes = room_bytes
        self._can_send = can_send
        #: The shared store that decides; empty where the source does.
        self._store_id = b""
        self._offered_term = 0
        self._rebuilt: ev.Rebuilt | None = None
        self._no_owner_lives = False
        self._strays = StrayQueue()

    # --- the offer ------------------------------------------------------------------------

    def _consider(self, event: ev.Received, now_us: int) -> TakingStep:
        offer = event.message
        assert isinstance(offer, msg.Offer)
        self._link = event.link
        why_not = self._why_not(offer)
        if why_not is not None:
            code, text = why_not
            return TakingState.DISCARDED, [
                fx.Send(event.link, msg.Refuse(self.connection_id, self._handoff_id, code, text)),
                fx.Report(ev.Outcome.DISCARDED, code, text),
            ]
        self._offered_term = offer.term
        self.proxied = not self._can_send
        accept = msg.Accept(self.connection_id, self._handoff_id, proxy=self.proxied)
        return TakingState.ACCEPTED, [fx.Send(event.link, accept)]

    def _why_not(self, offer: msg.Offer) -> tuple[Reason, str] | None:
        if offer.format_version not in self._formats:
            return Reason.FORMAT_UNKNOWN, f"baton format {offer.format_version} cannot be read here"
        if offer.audience not in ("", self._name):
            return Reason.WRONG_AUDIENCE, f"this is {self._name!r}, the offer is for another"
        if offer.size_bytes > self._room_bytes:
            return (
                Reason.NO_ROOM,
                f"{offer.size_bytes} bytes are too many, {self._room_bytes} are free",
            )
        state = self._ledger.record(self.connection_id).state
        if state not in (Ownership.ABSENT, Ownership.GIVEN):
            # It could not be adopted: an earlier handoff from here is not settled, for instance.
            return Reason.IN_HAND, f"the connection is {state.value} in this process's own record"
        return self._what_we_lack(offer)

    def _what_we_lack(self, offer: msg.Offer) -> tuple[Reason, str] | None:
        if offer.store_id != self._store_id:
            return (
                Reason.NO_STORE,
                f"{self._name} does not use the shared ownership store of the offer",
            )
        if not (self._can_send or offer.proxy):
            return Reason.CANNOT_SEND_FROM, (
                f"{self._name} cannot send from {_spell(offer.local)}, which the client talks to: "
                "choose a process on that address and port, or ask for proxying"
            )
        return None

    # --- silent ---------------------------------------------------------------------------

    def _rebuild(self, event: ev.Received, now_us: int) -> TakingStep:
        assert isinstance(event.message, msg.Baton)
        return TakingState.REBUILDING, [fx.Rebuild(event.message.sealed)]

    def _is_another(self, event: ev.Rebuilt) -> TakingStep | None:
        if event.connection_id == self.connection_id and event.term == self._offered_term:
            return None
        return self._give_up(Reason.WRONG_BATON, "the baton is not the one that was offered")

    def _queue(self, event: ev.Received, now_us: int) -> TakingStep:
        assert isinstance(event.message, msg.Stray)
        self._strays.push(event.message)
        return self.state, []

    def _fail(self, event: ev.Event, now_us: int) -> TakingStep:
        code, text = _reason(event)
        # The source's own ABORT or REFUSE needs no answer.
        return self._give_up(code, text, say=not isinstance(event, ev.Received))

    def _give_up(self, code: Reason, text: str, *, say: bool = True) -> TakingStep:
        self._strays.drain()
        return TakingState.DISCARDED, [
            fx.Discard(self.connection_id),
            *(self._say_abort(code, text) if say else []),
            fx.Report(ev.Outcome.DISCARDED, code, text),
        ]

    # --- ours -----------------------------------------------------------------------------

    def _go_on(self, greeting: msg.ClaimRequest | msg.Taken, now_us: int) -> TakingState:
        """The connection is resumed: `successor` does the rest."""
        state = CuttingOverState.FORWARDED
        if self.proxied:
            state = CuttingOverState.CUT_OFF if self._link is None else CuttingOverState.PROXIED
        self.successor = CuttingOver(
            self.connection_id,
            self._handoff_id,
            self._waits,
            state=state,
            link=self._link,
            greeting=greeting,
            now_us=now_us,
        )
        return TakingState.TAKEN

    # --- too late -------------------------------------------------------------------------

    def _discard_again(self, event: ev.Rebuilt, now_us: int) -> TakingStep:
        return self.state, [fx.Discard(self.connection_id)]

    def _decline(self, event: ev.Received, now_us: int) -> TakingStep:
        self._link = event.link
        return self.state, self._say_abort(Reason.DISCARDED, "the destination has let it go before")

    def _stay(self, event: ev.Event, now_us: int) -> TakingStep:
        return self.state, []

    # --- parts ----------------------------------------------------------------------------

    def _say_abort(self, code: Reason, text: str) -> list[fx.Effect]:
        if self._link is None:
            return []
        return [fx.Send(self._link, abort(self.connection_id, self._handoff_id, code, text))]


def _spell(address: msg.Address) -> str:
    return f"{address[0]}:{address[1]}" if len(address) > 1 else "its address"


def _reason(event: ev.Event) -> tuple[Reason, str]:
    """The reason for which this event ended a handoff, and a sentence."""
    if isinstance(event, (ev.Cancel, ev.RebuildFailed)):
        return event.code, event.message
    if isinstance(event, ev.Received) and isinstance(event.message, (msg.Abort, msg.Refuse)):
        return heard(event.message.code, event.message.message)
    if isinstance(event, ev.DeadlinePassed):
        return Reason.DEADLINE, "the source did not answer in time"
    if isinstance(event, ev.PeerDead):
        return Reason.PEER_DEAD, "the source exited before it gave the connection away"
    return Reason.LINK_LOST, "the link to the source broke"
