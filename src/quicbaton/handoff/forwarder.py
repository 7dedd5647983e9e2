"""What becomes of a handoff source once it has given its connection away: it forwards, or relays.

The theory of operation, and the table that leads here, are in `source`.
"""

from __future__ import annotations

import msgspec

from quicbaton.handoff.answers import answer_claim, answer_stale
from quicbaton.handoff.effects import (
    AnswerWithResets,
    Effect,
    NoteBlackout,
    Report,
    Reroute,
    Send,
    SendRelayed,
    StopForwarding,
)
from quicbaton.handoff.events import (
    Cancel,
    DeadlinePassed,
    Event,
    LinkUp,
    Outcome,
    PeerDead,
    Received,
    SealFailed,
    StrayArrived,
    TakenBack,
)
from quicbaton.handoff.machine import Machine, MachineState
from quicbaton.handoff.messages import (
    Abort,
    ClaimRequest,
    Committed,
    CutoverAck,
    Moved,
    MovedAck,
    Refuse,
    Relay,
    Resumed,
    Stray,
)
from quicbaton.handoff.strays import StrayQueue
from quicbaton.handoff.waits import Waits
from quicbaton.ownership import Ledger, Ownership


class SourceState(MachineState):
    """Where a handoff stands at its source."""

    IDLE = "idle"
    OFFERED = "offered"
    SEALING = "sealing"
    #: With a shared store: the offer is being written there.
    PUBLISHING = "publishing"
    FROZEN = "frozen"
    #: With a shared store: the connection is being taken back there.
    RECLAIMING = "reclaiming"
    SAVED = "saved"
    FORWARDING = "forwarding"
    RELAYING = "relaying"
    DONE = "done"
    ABORTED = "aborted"


_Step = tuple[SourceState, list[Effect]]


#: The states in which the connection is somebody else's, and something is left to do.
_AFTER_COMMIT = (SourceState.FORWARDING, SourceState.RELAYING)


class Forwarder(Machine[SourceState]):
    """The rules of the states FORWARDING, RELAYING and DONE."""

    def __init__(
        self, connection_id: bytes, handoff_id: bytes, ledger: Ledger, waits: Waits
    ) -> None:
        super().__init__(connection_id, handoff_id, SourceState.IDLE, waits)
        self._ledger = ledger
        #: Whether the destination speaks through us.
        self.relays = False
        #: The link over which an owner told us of the next one, until we are through to that.
        self._told_over: int | None = None
        self._strays = StrayQueue()

    def _answer_claim(self, event: Received, now_us: int) -> _Step:
        """Answer a claim request where there is nothing to commit (any more)."""
        request = event.message
        assert isinstance(request, ClaimRequest)
        answer = answer_claim(self._ledger, request)
        effects: list[Effect] = [Send(event.link, answer)]
        if isinstance(answer, Committed) and self._state in _AFTER_COMMIT:
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

    def _reroute(self, event: Received, now_us: int) -> _Step:
        assert isinstance(event.message, Moved)
        self._told_over = event.link
        return self._state, [Reroute(event.message.to)]

    def _turn(self, event: LinkUp, now_us: int) -> _Step:
        """From here on strays go to the new owner. What went to the old one before this answer it
        passes on."""
        links = {event.link} if self._told_over is None else {self._told_over, event.link}
        self._told_over = None
        self._link = event.link
        self._arm(now_us)
        ack = MovedAck(self.connection_id, self._handoff_id)
        return self._state, [
            *(Send(link, ack) for link in sorted(links)),
            *self._send_strays(event.link),
        ]

    def _turned_before(self, event: Received, now_us: int) -> _Step:
        return self._state, [Send(event.link, MovedAck(self.connection_id, self._handoff_id))]

    def _taken_back(self, event: TakenBack, now_us: int) -> _Step:
        # IDs that the client retired meanwhile do not come back with the connection.
        effects: list[Effect] = [StopForwarding(self.connection_id)]
        if self._told_over is not None:
            ack = MovedAck(self.connection_id, self._handoff_id)
            effects.append(Send(self._told_over, ack))
        return SourceState.DONE, effects

    def _resumed(self, event: Received, now_us: int) -> _Step:
        assert isinstance(event.message, Resumed)
        return self._state, [NoteBlackout(event.message.blackout_us)]

    def _relay(self, event: Received, now_us: int) -> _Step:
        assert isinstance(event.message, Relay)
        return self._state, [SendRelayed(event.message)]

    def _wait_for_owner(self, event: Event, now_us: int) -> _Step:
        # Only without its owner a relayed connection may be given up, after a while.
        self._deadline_us = now_us + round(self._waits.relay_lost_s * 1e6)
        return self._state, []

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
        code, text = reason_of(event)
        return SourceState.DONE, [
            StopForwarding(self.connection_id),
            AnswerWithResets(self.connection_id),
            Report(Outcome.LOST, code, text),
        ]

    def _answer_late(self, event: Received, now_us: int) -> _Step:
        return self._state, answer_stale(self._ledger, event.link, event.message)

    # --- parts ----------------------------------------------------------------------------

    def _report_given(self, term: int) -> Report:
        if self.relays:
            text = f"given away in term {term}; this process sends for it as long as it lives"
            return Report(Outcome.GIVEN, "relayed", text)
        return Report(Outcome.GIVEN, "ok", f"given away in term {term}")

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


def reason_of(event: Event) -> tuple[str, str]:
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
