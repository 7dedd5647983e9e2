"""One process's part in a shared ownership store: it asks the store for its handoffs.

The machines are `handoff.giving_by_store` and `handoff.taking_by_store`, and their questions are in
`handoff.store_questions`. An answer may come at any time; the machine knows what it means then.
"""

from __future__ import annotations

import asyncio
import os
from time import time
from typing import Any, Protocol

from quicbaton.handoff import events as ev
from quicbaton.handoff.store_questions import (
    AskStore,
    ReadStore,
    StoreConflict,
    StoreDone,
    StoreFailed,
    StoreFound,
    StoreUnknown,
)
from quicbaton.limits import STORE_SWEEP_S
from quicbaton.ownership.store import (
    INCARNATION_BYTES,
    Close,
    Conflict,
    Done,
    Failed,
    Found,
    Operation,
    Publish,
    Reading,
    Result,
    Store,
    Take,
    Unknown,
)
from quicbaton.reasons import Reason
from quicbaton.service.failpoints import reach


class Asker(Protocol):
    """A handoff that asks the store."""

    def feed(self, event: ev.Event) -> None:
        """Handle the store's answer, or its failure."""

    @property
    def asks_the_store(self) -> bool:
        """Whether it still waits for the answer."""

    @property
    def ended(self) -> bool:
        """Whether no event changes it any more."""


class StoreClient:
    """Asks `store` the questions of handoffs, and keeps the entries of this process in it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.store_id = store.store_id
        #: Drawn at the start of this process.
        self.incarnation = os.urandom(INCARNATION_BYTES)
        self._tasks: set[asyncio.Task[None]] = set()
        #: Connections of ours that have an entry in the store, with the operation that closes it.
        self._entered: dict[bytes, Close] = {}

    def ask(self, asker: Asker, effect: AskStore) -> None:
        """Perform an operation, and feed its outcome to the asker."""
        self._spawn(self._perform(asker, effect.operation, effect.after_s))

    def read(self, asker: Asker, effect: ReadStore) -> None:
        """Read a connection's entry, and feed it to the asker."""
        self._spawn(self._look_up(asker, effect))

    def given(self, connection_id: bytes) -> None:
        """A connection is another process's now, which takes care of its entry."""
        self._entered.pop(connection_id, None)

    def closed(self, connection_id: bytes) -> None:
        close = self._entered.pop(connection_id, None)
        if close is not None:
            # If this fails the entry is swept later.
            self._spawn(self._perform(None, close, 0.0))

    async def sweep_for_ever(self) -> None:
        """Sweep old entries and tokens out of the store, now and then."""
        while True:
            await asyncio.sleep(STORE_SWEEP_S)
            await self._store.sweep(time())

    async def forget_owner(self, name: str) -> int:
        """Close the entries of processes of this name, which are known to be dead. Returns how
        many.

        No other process but this one may live by that name: connections that a successor of the
        dead one holds already would be closed, too.
        """
        return await self._store.forget_owner(name, self.incarnation)

    def close(self) -> None:
        """Stop. Operations under way are not waited for."""
        for task in self._tasks:
            task.cancel()

    # --- helpers --------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, asker: Asker | None, operation: Operation, after_s: float) -> None:
        if after_s:
            await asyncio.sleep(after_s)
            if asker is not None and not asker.asks_the_store:
                # It has given up: an operation now might keep others from the connection.
                return
        point = _point(operation)
        reach(f"before_{point}")
        result: Result
        try:
            result = await self._store.perform(operation)
        except Exception as error:
            # An adapter's mistake: the outcome is unknown.
            self._log(f"the ownership store failed over {type(operation).__name__}", error)
            result = Unknown(Reason.STORE_ERROR, type(error).__name__)
        reach(f"after_{point}")
        if isinstance(result, Done) and (asker is None or not asker.ended):
            self._note(operation)
        if asker is not None:
            asker.feed(_event(result))

    async def _look_up(self, asker: Asker, effect: ReadStore) -> None:
        await asyncio.sleep(effect.after_s)
        reading: Reading
        try:
            reading = await self._store.read(effect.connection_id)
        except Exception as error:
            self._log("the ownership store failed to read", error)
            reading = Unknown(Reason.STORE_ERROR, type(error).__name__)
        asker.feed(_event(reading))

    def _note(self, operation: Operation) -> None:
        """Record the entry that stands in our name."""
        name = operation.connection_id
        if isinstance(operation, Publish):
            self._entered[name] = Close(name, operation.term, operation.source)
        elif isinstance(operation, Take):
            self._entered[name] = Close(name, operation.term + 1, operation.taker)
        else:
            self._entered.pop(name, None)

    def _log(self, what: str, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


def _point(operation: Operation) -> str:
    """The name of the operation's failpoint."""
    match operation:
        case Publish():
            return "publish"
        case Take(taker=taker, source=source):
            return "take_back" if taker.name == source else "take"
        case Close():
            return "close_entry"


def _event(answer: Result | Reading) -> ev.Event:
    match answer:
        case Done():
            return StoreDone(answer.entry)
        case Conflict():
            return StoreConflict(answer.entry)
        case Found():
            return StoreFound(answer.entry)
        case Failed():
            return StoreFailed(answer.code, answer.message)
        case Unknown():
            return StoreUnknown(answer.code, answer.message)
