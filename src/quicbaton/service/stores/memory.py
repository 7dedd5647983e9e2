"""The shared ownership store in this process's memory, for nodes that live in one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import time

from quicbaton.limits import (
    MAX_STORE_ENTRIES,
    STORE_ENTRY_LIFETIME_S,
    STORE_TOMBSTONE_LIFETIME_S,
)
from quicbaton.ownership.store import (
    STORE_ID_BYTES,
    Done,
    Entry,
    EntryState,
    Failed,
    Found,
    Operation,
    Reading,
    Result,
    closed,
    decide,
)
from quicbaton.reasons import Reason


class MemoryStore:
    """No method awaits, so every step is atomic. `clock`: Unix time, for ages only."""

    def __init__(
        self, *, clock: Callable[[], float] = time, max_entries: int = MAX_STORE_ENTRIES
    ) -> None:
        self._id = os.urandom(STORE_ID_BYTES)
        self._clock = clock
        self._max_entries = max_entries
        #: Each with the time at which it was last written.
        self._entries: dict[bytes, tuple[Entry, float]] = {}
        #: From a token to its expiry.
        self._spent: dict[bytes, float] = {}
        self._swept_until = 0.0

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._entries)} entries, {len(self._spent)} spent tokens)"

    @property
    def store_id(self) -> bytes:
        return self._id

    async def perform(self, operation: Operation) -> Result:
        name = operation.connection_id
        result, write = decide(self._entry(name), operation)
        if write and isinstance(result, Done) and result.entry is not None:
            if name not in self._entries and len(self._entries) >= self._max_entries:
                return Failed(Reason.STORE_FULL, "the ownership store is full: sweep it")
            self._entries[name] = (result.entry, self._clock())
        return result

    async def read(self, connection_id: bytes) -> Reading:
        return Found(self._entry(connection_id))

    async def spend(self, token: bytes, until: float) -> bool:
        if until <= self._swept_until or token in self._spent:
            return False
        if len(self._spent) >= self._max_entries:
            return False
        self._spent[token] = until
        return True

    async def sweep(self, now: float) -> int:
        old = [name for name, (entry, at) in self._entries.items() if at < now - lifetime_s(entry)]
        for name in old:
            del self._entries[name]
        self._swept_until = max(self._swept_until, now)
        expired = [token for token, until in self._spent.items() if until <= self._swept_until]
        for token in expired:
            del self._spent[token]
        return len(old) + len(expired)

    async def forget_owner(self, name: str, living: bytes = b"") -> int:
        dead = [
            (connection_id, entry)
            for connection_id, (entry, _) in self._entries.items()
            if entry.state is EntryState.HELD
            and entry.holder.name == name
            and entry.holder.incarnation != living
        ]
        for connection_id, entry in dead:
            self._entries[connection_id] = (closed(entry), self._clock())
        return len(dead)

    def close(self) -> None:
        """Nothing to close: other nodes may still use it."""

    def _entry(self, connection_id: bytes) -> Entry | None:
        found = self._entries.get(connection_id)
        return None if found is None else found[0]


def lifetime_s(entry: Entry) -> float:
    """Seconds after its last write until an entry is forgotten."""
    if entry.state is EntryState.CLOSED:
        return STORE_TOMBSTONE_LIFETIME_S
    return STORE_ENTRY_LIFETIME_S
