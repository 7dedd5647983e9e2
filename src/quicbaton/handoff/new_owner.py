"""What becomes of a handoff destination once the connection is its own: strays, cutover, relay.

The theory of operation, and the table that leads here, are in `destination`.
"""

from __future__ import annotations

from quicbaton.handoff.answers import abort
from quicbaton.handoff.effects import (
    CloseRelayed,
    Connect,
    Deliver,
    Effect,
    Send,
    WakeRelayed,
)
from quicbaton.handoff.events import (
    ConnectionClosed,
    CutoverSeen,
    Event,
    GivenOn,
    LinkUp,
    PeerDead,
    Rebuilt,
    Received,
    Spoke,
)
from quicbaton.handoff.machine import Machine, MachineState
from quicbaton.handoff.messages import ClaimRequest, Closed, Cutover, Moved, Resumed, Stray
from quicbaton.handoff.waits import Waits


class DestinationState(MachineState):
    """Where a handoff stands at its destination."""

    IDLE = "idle"
    ACCEPTED = "accepted"
    REBUILDING = "rebuilding"
    READY = "ready"
    #: With a shared store: the connection is being taken there.
    COMMITTING = "committing"
    LAST_WORDS = "last_words"
    ASKING = "asking"
    FORWARDING = "forwarding"
    RELAYING = "relaying"
    CUT_OFF = "cut_off"
    HANDED_ON = "handed_on"
    CUTTING = "cutting"
    DONE = "done"
    DISCARDED = "discarded"


_Step = tuple[DestinationState, list[Effect]]


class NewOwner(Machine[DestinationState]):
    """The rules of the states FORWARDING, RELAYING, CUT_OFF, HANDED_ON, CUTTING and DONE.

    `name` is this process's.
    """

    def __init__(self, connection_id: bytes, handoff_id: bytes, name: str, waits: Waits) -> None:
        super().__init__(connection_id, handoff_id, DestinationState.IDLE, waits)
        self._name = name
        self._rebuilt: Rebuilt | None = None
        self._to = ""
        #: Whether the source sends for the connection, for as long as that lives.
        self.relayed = False

    @property
    def handoff_id(self) -> bytes:
        """What messages to this machine bear."""
        return self._handoff_id

    # --- the forwarder ------------------------------------------------------------------------

    def _announced(self, event: Received, now_us: int) -> _Step:
        """Somebody who gave the connection away earlier forwards to us from here on."""
        self._link = event.link
        return DestinationState.FORWARDING, []

    def _deliver(self, event: Received, now_us: int) -> _Step:
        assert isinstance(event.message, Stray)
        if self._state in (DestinationState.FORWARDING, DestinationState.HANDED_ON):
            self._arm(now_us)
        return self._state, [Deliver(event.message)]

    def _ask(self, event: LinkUp, now_us: int) -> _Step:
        self._link = event.link
        rebuilt = self._rebuilt
        assert rebuilt is not None
        request = ClaimRequest(
            self.connection_id, self._handoff_id, rebuilt.baton_id, rebuilt.digest
        )
        return self._state, [Send(event.link, request)]

    def _rejoin(self, event: Event, now_us: int) -> _Step:
        relayed = self._state in (DestinationState.RELAYING, DestinationState.CUT_OFF)
        state = DestinationState.CUT_OFF if relayed else self._state
        return state, [Connect(self.connection_id)]

    def _rejoined(self, event: LinkUp, now_us: int) -> _Step:
        if self._rebuilt is not None:
            return self._ask(event, now_us)
        # We have no claim to ask for: the forwarder has turned to us, and does it again.
        self._link = event.link
        moved = Moved(self.connection_id, self._handoff_id, self._name)
        return self._state, [Send(event.link, moved)]

    def _source_gone(self, event: PeerDead, now_us: int) -> _Step:
        # With a link there may be strays left in it; its end leads to a Connect that finds nobody,
        # and the deadline ends that.
        if self._link is None:
            return DestinationState.DONE, []
        return self._state, []

    def _cut_over(self, event: CutoverSeen, now_us: int) -> _Step:
        if self._link is None:
            return DestinationState.DONE, []
        cutover = Cutover(self.connection_id, self._handoff_id)
        return DestinationState.CUTTING, [Send(self._link, cutover)]

    # --- the connection -----------------------------------------------------------------------

    def _say_resumed(self, event: Spoke, now_us: int) -> _Step:
        if self._link is None:
            return self._state, []
        resumed = Resumed(self.connection_id, self._handoff_id, event.blackout_us)
        return self._state, [Send(self._link, resumed)]

    def _hand_on(self, event: GivenOn, now_us: int) -> _Step:
        self._to = event.to
        return DestinationState.HANDED_ON, [] if self._link is None else self._moved(self._link)

    def _say_moved(self, event: LinkUp, now_us: int) -> _Step:
        self._link = event.link
        return self._state, self._moved(event.link)

    def _moved(self, link: int) -> list[Effect]:
        return [Send(link, Moved(self.connection_id, self._handoff_id, self._to))]

    def _heard_again(self, event: LinkUp, now_us: int) -> _Step:
        _, effects = self._ask(event, now_us)
        return DestinationState.RELAYING, [*effects, WakeRelayed()]

    def _unheard(self, event: Event, now_us: int) -> _Step:
        return DestinationState.DONE, [CloseRelayed()]

    def _close(self, event: ConnectionClosed, now_us: int) -> _Step:
        if self._link is None:
            return DestinationState.DONE, []
        return DestinationState.DONE, [
            Send(self._link, Closed(self.connection_id, self._handoff_id))
        ]

    def _finish(self, event: Event, now_us: int) -> _Step:
        return DestinationState.DONE, []

    def _stay(self, event: Event, now_us: int) -> _Step:
        return self._state, []

    # --- parts --------------------------------------------------------------------------------

    def _say_abort(self, code: str, text: str) -> list[Effect]:
        if self._link is None:
            return []
        return [Send(self._link, abort(self.connection_id, self._handoff_id, code, text))]
