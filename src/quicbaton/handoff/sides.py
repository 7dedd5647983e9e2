"""The common parts of the machines of one side of a handoff, before the commit and after."""

from __future__ import annotations

from abc import ABC

import msgspec

from quicbaton.errors import PeerError
from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.answers import answer_stale
from quicbaton.handoff.machine import Machine, StateT
from quicbaton.handoff.strays import StrayQueue
from quicbaton.handoff.waits import Waits
from quicbaton.ownership import Ledger
from quicbaton.reasons import Reason, heard


class SourceSide(Machine[StateT], ABC):
    """Holds the datagrams that no process could take yet, and the ledger with the connection's
    record."""

    ROLE = "source"

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        ledger: Ledger,
        waits: Waits,
        *,
        state: StateT,
        strays: StrayQueue,
        link: int | None = None,
    ) -> None:
        super().__init__(connection_id, handoff_id, state, waits, link)
        self._ledger = ledger
        self._strays = strays

    def _check_address(self, event: ev.Received) -> list[fx.Effect] | None:
        """None for a message of this attempt, the effects of a message of another attempt."""
        message = event.message
        if message.connection_id != self.connection_id:
            raise PeerError(
                f"{message!r} is not about this connection", code=Reason.WRONG_CONNECTION
            )
        if message.handoff_id == self._handoff_id or type(message) is msg.ClaimRequest:
            return None
        return answer_stale(self._ledger, event.link, message)

    def _stray(self, event: ev.StrayArrived) -> msg.Stray:
        return msg.Stray(
            connection_id=self.connection_id,
            handoff_id=self._handoff_id,
            datagram=event.datagram,
            remote=event.remote,
            local=event.local,
            ecn=event.ecn,
            received_us=event.received_us,
        )

    def _send_strays(self, link: int) -> list[fx.Effect]:
        # Those kept for a saved baton have the id of the save.
        return [
            fx.Send(link, msgspec.structs.replace(stray, handoff_id=self._handoff_id))
            for stray in self._strays.drain()
        ]


class DestinationSide(Machine[StateT], ABC):
    """Takes messages of its own handoff only."""

    ROLE = "destination"

    def _check_address(self, event: ev.Received) -> list[fx.Effect] | None:
        message = event.message
        if message.connection_id != self.connection_id or message.handoff_id != self._handoff_id:
            raise PeerError(f"{message!r} is not about this handoff", code=Reason.WRONG_HANDOFF)
        return None


def reason_of(event: ev.Event) -> tuple[Reason, str]:
    """The reason for which this event ended a handoff, and a sentence, as its source says it."""
    if isinstance(event, (ev.Cancel, ev.SealFailed)):
        return event.code, event.message
    if isinstance(event, ev.Received) and isinstance(event.message, (msg.Abort, msg.Refuse)):
        return heard(event.message.code, event.message.message)
    if isinstance(event, ev.DeadlinePassed):
        return Reason.DEADLINE, "the destination did not answer in time"
    if isinstance(event, ev.PeerDead):
        return Reason.PEER_DEAD, "the destination's process exited"
    return Reason.LINK_LOST, "the link to the destination broke"
