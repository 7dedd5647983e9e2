"""One process's part in a shared ownership store: it asks what its machines want to know.

The machines are `handoff.shared_source` and `handoff.shared_destination`, what they ask for is in
`handoff.store_questions`. Answers come whenever they come; machines know what they mean by then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from time import time
from typing import Any, Final

from quicbaton.asyncio.failpoints import reach
from quicbaton.asyncio.moving.machines import Machine, Machines, Member, Report
from quicbaton.asyncio.peers.link import Link
from quicbaton.errors import QuicbatonError
from quicbaton.handoff import DestinationState, HandoffDestination, SourceState
from quicbaton.handoff import effects as fx
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

#: The states in which a machine wants to know.
_ASKING: Final = (SourceState.PUBLISHING, SourceState.RECLAIMING, DestinationState.COMMITTING)


class SharedOwners:
    """Does for the machines what they ask of `store`.

    `part(connection_id)` sends what a freeze has left to send, before anybody else may.
    `hold(machine)` keeps the datagrams of a connection that waits for the store's answer.
    """

    def __init__(
        self,
        store: Store,
        part: Callable[[bytes], None],
        hold: Callable[[HandoffDestination], None],
    ) -> None:
        self._store = store
        self._part = part
        self._hold = hold
        self.member = Member(store.store_id, os.urandom(INCARNATION_BYTES))
        self.machines: Machines
        self._tasks: set[asyncio.Task[None]] = set()
        #: Connections of ours that have an entry in the store, and how to close it.
        self._entered: dict[bytes, Close] = {}
        #: By the effect; each takes the machine and the effect.
        self.performers: Final[Mapping[type[fx.Effect], Callable[[Any, Any], None]]] = {
            AskStore: self._ask,
            ReadStore: self._read,
        }

    def hand_over(
        self,
        link: Link,
        hand_over: Callable[[bool], asyncio.Future[Report]],
    ) -> asyncio.Future[Report]:
        """Hand a connection over by the store, by `hand_over(True)`.

        Between two processes of one host the source can be the store as well (`hand_over(False)`):
        so it is with one that does not use this store, such as a successor that was configured
        anew.
        """
        first = hand_over(True)
        if not link.peer_name.startswith("/"):
            return first
        result: asyncio.Future[Report] = asyncio.get_running_loop().create_future()

        def settle(report: Report) -> None:
            if not result.done():
                result.set_result(report)

        def look(done: asyncio.Future[Report]) -> None:
            if done.cancelled() or result.done():
                return
            if done.result().code != "no_store" or not link.is_up:
                settle(done.result())
                return
            try:
                hand_over(False).add_done_callback(lambda second: settle(second.result()))
            except (QuicbatonError, KeyError):
                settle(done.result())  # over, or on its way elsewhere by now

        first.add_done_callback(look)
        return result

    def gone(self, connection_id: bytes) -> None:
        """It is another's now, who sees to its entry."""
        self._entered.pop(connection_id, None)

    def over(self, connection_id: bytes) -> None:
        """A connection of ours is closed."""
        close = self._entered.pop(connection_id, None)
        if close is not None:
            # If this fails the entry is swept, later.
            self._spawn(self._perform(None, close, 0.0))

    async def sweep_for_ever(self) -> None:
        """Forget what is old in the store, now and then."""
        while True:
            await asyncio.sleep(STORE_SWEEP_S)
            await self._store.sweep(time())

    async def forget_owner(self, name: str) -> int:
        """Close what processes of this name, which are known to be dead, held. Returns how many.

        Nobody else may live by this name but this very process: what a successor of the dead one
        holds already would be closed, too."""
        return await self._store.forget_owner(name, self.member.incarnation)

    def close(self) -> None:
        """Nothing that is under way is waited for."""
        for task in self._tasks:
            task.cancel()

    # --- effects --------------------------------------------------------------------------------

    def _ask(self, machine: Machine, effect: AskStore) -> None:
        if isinstance(effect.operation, Publish):
            # The destination may send as soon as it has the baton.
            self._part(machine.connection_id)
        elif isinstance(machine, HandoffDestination) and not machine.ended:
            self._hold(machine)
        self._spawn(self._perform(machine, effect.operation, effect.after_s))

    def _read(self, machine: Machine, effect: ReadStore) -> None:
        self._spawn(self._look_up(machine, effect))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, machine: Machine | None, operation: Operation, after_s: float) -> None:
        if after_s:
            await asyncio.sleep(after_s)
            if machine is not None and machine.state not in _ASKING:
                # It has given up: what would be done now might keep others from it.
                return
        point = _point(operation)
        reach(f"before_{point}")
        result: Result
        try:
            result = await self._store.perform(operation)
        except Exception as error:
            # An adapter's mistake: nobody knows what it has done.
            self._log(f"the ownership store failed over {type(operation).__name__}", error)
            result = Unknown("store_error", type(error).__name__)
        reach(f"after_{point}")
        if isinstance(result, Done) and not (machine is not None and machine.ended):
            self._note(operation)
        if machine is not None:
            self.machines.feed(machine, _event(result))

    async def _look_up(self, machine: Machine, effect: ReadStore) -> None:
        await asyncio.sleep(effect.after_s)
        reading: Reading
        try:
            reading = await self._store.read(effect.connection_id)
        except Exception as error:
            self._log("the ownership store failed to read", error)
            reading = Unknown("store_error", type(error).__name__)
        self.machines.feed(machine, _event(reading))

    def _note(self, operation: Operation) -> None:
        """What stands in the store in our name."""
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
    """The failpoint's name."""
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
