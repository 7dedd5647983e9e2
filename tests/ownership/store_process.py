"""A process that uses an SQLite ownership store, for tests of many processes and of deaths.

python store_process.py race FILE NAME       takes the offer of S when a line comes
python store_process.py die FILE STATEMENT   takes it, and dies at that statement (0: after all)
python store_process.py spend FILE           spends one token, when a line comes
python store_process.py hold FILE            begins a transaction and never ends it
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from quicbaton.ownership.store import Done, Holder, Take
from quicbaton.service.stores import SqliteStore

CID = b"connection"
BATON, DIGEST = b"b" * 16, b"d" * 32
TOKEN = b"token"


def take(name: str) -> Take:
    return Take(CID, 1, "S", BATON, DIGEST, Holder(name, name.encode().ljust(16, b"-")))


def ready() -> None:
    """Wait for a line: all begin at the same time."""
    print("ready", flush=True)
    sys.stdin.readline()


async def race(store: SqliteStore, name: str) -> None:
    ready()
    print(type(await store.perform(take(name))).__name__, flush=True)


async def spend(store: SqliteStore) -> None:
    ready()
    print(await store.spend(TOKEN, 1e12), flush=True)


async def die(store: SqliteStore, statement: int) -> None:
    seen = 0

    def on_statement(_sql: str) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            kill_myself()

    store._db.set_trace_callback(on_statement)
    result = await store.perform(take("D"))
    assert isinstance(result, Done), result
    kill_myself()


async def hold(store: SqliteStore) -> None:
    store._db.execute("BEGIN IMMEDIATE")
    ready()


def kill_myself() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive")


async def main() -> None:
    what, file, *rest = sys.argv[1:]
    store = SqliteStore(Path(file), timeout_s=60.0)
    if what == "race":
        await race(store, rest[0])
    elif what == "die":
        await die(store, int(rest[0]))
    elif what == "hold":
        await hold(store)
    else:
        await spend(store)
    store.close()


if __name__ == "__main__":
    asyncio.run(main())
