"""Adapters of the shared ownership store. `quicbaton.ownership.store` says what each owes."""

from __future__ import annotations

from pathlib import Path

from quicbaton.errors import ConfigurationError
from quicbaton.ownership.store import Store
from quicbaton.reasons import Reason
from quicbaton.service.stores.memory import MemoryStore
from quicbaton.service.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "open_store"]


def open_store(url: str) -> Store:
    """Open the store that a URL names. It is made if it does not exist yet.

    `sqlite:PATH` is a file that processes of one host share; `memory:` lives and dies with this
    process, for tests and for several nodes in one process.

    Raises ConfigurationError when there is no such store or it cannot be used.
    """
    if url == "memory:":
        return MemoryStore()
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        return SqliteStore(Path(rest))
    raise ConfigurationError(
        f"{url!r} names no ownership store: write sqlite:PATH or memory:", code=Reason.STORE_URL
    )
