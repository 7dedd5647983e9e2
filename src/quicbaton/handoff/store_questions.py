"""The questions of handoff machines to a shared store, and how doubt is resolved.

The rules of the store are in `quicbaton.ownership.store`. A machine has one question at a time, and
asks until the outcome is certain: after an unknown one it reads, and asks for the operation again
only if the entry still stands as before. It never concludes anything from silence.
"""

from __future__ import annotations

from quicbaton.errors import InternalError
from quicbaton.handoff.effects import Effect
from quicbaton.handoff.events import Event
from quicbaton.limits import STORE_MAX_RETRY_S, STORE_RETRY_S
from quicbaton.ownership.store import Conflict, Done, Entry, Operation, decide
from quicbaton.reasons import Reason


class AskStore(Effect, frozen=True):
    """Wait, perform the operation in the shared store, and report the event of its outcome."""

    operation: Operation
    after_s: float = 0.0


class ReadStore(Effect, frozen=True):
    """Wait, read the connection's entry; `StoreFound`, `StoreFailed` or `StoreUnknown`."""

    connection_id: bytes
    after_s: float


class StoreDone(Event, frozen=True):
    """Answer to `AskStore`: the operation has its effect."""

    entry: Entry | None


class StoreConflict(Event, frozen=True):
    """Answer to `AskStore`: the operation does not fit and never will."""

    entry: Entry | None


class StoreFound(Event, frozen=True):
    """Answer to `ReadStore`."""

    entry: Entry | None


class StoreFailed(Event, frozen=True):
    """Answer to either: nothing was done."""

    code: Reason
    message: str


class StoreUnknown(Event, frozen=True):
    """Answer to either: the outcome is unknown."""

    code: Reason
    message: str


#: Every answer that a store can give.
STORE_ANSWERS = (StoreDone, StoreConflict, StoreFound, StoreFailed, StoreUnknown)


class StoreQuestion:
    """One operation, asked for until its outcome is certain, with pauses that grow."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._pause_s = STORE_RETRY_S

    def ask(self) -> Effect:
        """The effect that makes the first attempt."""
        return AskStore(self._operation)

    def answered(self, event: Event) -> Done | Conflict | Effect:
        """The outcome, or the effect by which to find it out."""
        match event:
            case StoreDone():
                return Done(event.entry)
            case StoreConflict():
                return Conflict(event.entry)
            case StoreFound():
                result, write = decide(event.entry, self._operation)
                return AskStore(self._operation, self._next_pause_s()) if write else result
            case StoreFailed():
                return AskStore(self._operation, self._next_pause_s())
            case StoreUnknown():
                return ReadStore(self._operation.connection_id, self._next_pause_s())
            case _:
                raise InternalError(f"{type(event).__name__} answers no question to a store")

    def _next_pause_s(self) -> float:
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, STORE_MAX_RETRY_S)
        return pause_s
