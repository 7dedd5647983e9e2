"""The shared ownership store in an SQLite file, for processes of one host.

Every operation is one transaction, in a thread of its own, so that the event loop never waits for a
disk. An error before COMMIT is `Failed`, since nothing was done; an error in COMMIT is `Unknown`.
Processes that die in a transaction leave no trace of it.

The file is in WAL mode without a sync per commit: the death of a process loses nothing, and the
death of the host is that of all owners. WAL needs memory that the processes share: a file on a
network file system is not a store between hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep, time
from typing import Final, TypeVar

from quicbaton.errors import ConfigurationError
from quicbaton.limits import (
    MAX_STORE_BYTES,
    MAX_STORE_WAITING,
    STORE_BUSY_S,
    STORE_ENTRY_LIFETIME_S,
    STORE_SWEEP_ROWS,
    STORE_TIMEOUT_S,
    STORE_TOMBSTONE_LIFETIME_S,
)
from quicbaton.ownership.store import (
    STORE_ID_BYTES,
    Done,
    Entry,
    EntryState,
    Failed,
    Found,
    Holder,
    Operation,
    Reading,
    Result,
    Unknown,
    decide,
)
from quicbaton.reasons import Reason
from quicbaton.service.timing import STORE_OPEN_PAUSE_S

#: In the file's header: the application ID ("qbos"), and the version of the tables.
_APPLICATION_ID: Final = 0x7162_6F73
SCHEMA_VERSION: Final = 1
_PAGE_BYTES: Final = 4096

_SCHEMA: Final = (
    "CREATE TABLE meta (store_id BLOB NOT NULL, swept_until REAL NOT NULL)",
    "CREATE TABLE entries (connection_id BLOB PRIMARY KEY, state TEXT NOT NULL,"
    " term INTEGER NOT NULL, name TEXT NOT NULL, incarnation BLOB NOT NULL,"
    " baton_id BLOB NOT NULL, digest BLOB NOT NULL, touched REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX by_age ON entries (state, touched)",
    "CREATE INDEX by_holder ON entries (name)",
    "CREATE TABLE spent (token BLOB PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX by_end ON spent (until)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_LOAD: Final = (
    "SELECT state, term, name, incarnation, baton_id, digest FROM entries WHERE connection_id = ?"
)
_SAVE: Final = "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
#: Deletions of a sweep, table by table. Each takes the time before which a row is old.
_OLD_ENTRIES: Final = (
    "DELETE FROM entries WHERE connection_id IN"
    " (SELECT connection_id FROM entries WHERE state = ? AND touched < ? LIMIT ?)"
)
_EXPIRED_TOKENS: Final = (
    "DELETE FROM spent WHERE token IN (SELECT token FROM spent WHERE until <= ? LIMIT ?)"
)

_T = TypeVar("_T")


class SqliteStore:
    """The store in the file `path`, which is made if need be.

    `clock`: Unix time, for ages only. `timeout_s`: seconds after which an outcome counts as
    unknown.

    Raises ConfigurationError when the file is not an ownership store, is one of a later release,
    can be written by others, or cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time,
        timeout_s: float = STORE_TIMEOUT_S,
        max_bytes: int = MAX_STORE_BYTES,
    ) -> None:
        self._path = path
        self._clock = clock
        self._timeout_s = timeout_s
        self._max_pages = max_bytes // _PAGE_BYTES
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ownership-store")
        try:
            self._db, self._id = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    @property
    def store_id(self) -> bytes:
        return self._id

    async def perform(self, operation: Operation) -> Result:
        return await self._run(lambda: self._perform(operation))

    async def read(self, connection_id: bytes) -> Reading:
        return await self._run(lambda: self._read(connection_id))

    async def spend(self, token: bytes, until: float) -> bool:
        return (await self._run(lambda: self._spend(token, until))) is True

    async def sweep(self, now: float) -> int:
        tombstones = (EntryState.CLOSED.value, now - STORE_TOMBSTONE_LIFETIME_S)
        lasting = now - STORE_ENTRY_LIFETIME_S
        if (await self._run(lambda: self._raise_swept_until(now))) is not True:
            return 0
        # In this order: tokens and entries that are forgotten below are refused from here on.
        return (
            await self._delete(_OLD_ENTRIES, *tombstones)
            + await self._delete(_OLD_ENTRIES, EntryState.HELD.value, lasting)
            + await self._delete(_OLD_ENTRIES, EntryState.OFFERED.value, lasting)
            + await self._delete(_EXPIRED_TOKENS, now)
        )

    async def forget_owner(self, name: str, living: bytes = b"") -> int:
        sql = (
            "UPDATE entries SET state = ?, touched = ? WHERE name = ? AND incarnation != ?"
            " AND state = ?"
        )
        states = (EntryState.CLOSED.value, EntryState.HELD.value)
        arguments = (states[0], self._clock(), name, living, states[1])
        count = await self._run(
            lambda: self._transact(lambda: self._db.execute(sql, arguments).rowcount)
        )
        return count if isinstance(count, int) else 0

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed before
            self._thread.submit(self._close_file)
        self._thread.shutdown(wait=False)

    # --- the event loop's side ------------------------------------------------------------------

    async def _run(self, work: Callable[[], _T]) -> _T | Failed | Unknown:
        """Run `work` in the store's thread."""
        if self._waiting >= MAX_STORE_WAITING:
            return Failed(Reason.STORE_BUSY, f"{MAX_STORE_WAITING} operations wait for the store")
        self._waiting += 1
        try:
            job = asyncio.get_running_loop().run_in_executor(self._thread, work)
        except RuntimeError:
            self._waiting -= 1
            return Failed(Reason.STORE_CLOSED, "the ownership store was closed")
        job.add_done_callback(self._on_done)
        done, _ = await asyncio.wait([job], timeout=self._timeout_s)
        if done and not job.cancelled():
            return job.result()
        # A job that has not begun is taken back; one that has begun runs to its own end.
        job.cancel()
        return Unknown(
            Reason.STORE_SLOW, f"the ownership store did not answer in {self._timeout_s:g} s"
        )

    def _on_done(self, _job: asyncio.Future[_T]) -> None:
        self._waiting -= 1

    async def _delete(self, sql: str, *arguments: object) -> int:
        """Delete rows in transactions so short that other processes hardly wait."""
        values = (*arguments, STORE_SWEEP_ROWS)
        total = 0
        while True:
            count = await self._run(
                lambda: self._transact(lambda: self._db.execute(sql, values).rowcount)
            )
            total += count if isinstance(count, int) else 0
            if count != STORE_SWEEP_ROWS:
                return total

    # --- the thread's side ----------------------------------------------------------------------

    def _perform(self, operation: Operation) -> Result:
        return self._transact(lambda: self._step(operation))

    def _step(self, operation: Operation) -> Result:
        name = operation.connection_id
        result, write = decide(self._load(name), operation)
        if write and isinstance(result, Done) and result.entry is not None:
            entry = result.entry
            holder = (entry.holder.name, entry.holder.incarnation)
            row = (entry.state.value, entry.term, *holder, entry.baton_id, entry.digest)
            self._db.execute(_SAVE, (name, *row, self._clock()))
        return result

    def _read(self, connection_id: bytes) -> Reading:
        try:
            return Found(self._load(connection_id))
        except sqlite3.Error as error:
            return _failed(error)

    def _load(self, connection_id: bytes) -> Entry | None:
        row = self._db.execute(_LOAD, (connection_id,)).fetchone()
        if row is None:
            return None
        state, term, name, incarnation, baton_id, digest = row
        try:
            return Entry(EntryState(state), term, Holder(name, incarnation), baton_id, digest)
        except (ValueError, TypeError, AttributeError, ConfigurationError) as error:
            raise sqlite3.DataError(
                f"the entry of {connection_id.hex()} is not one that this release writes"
            ) from error

    def _spend(self, token: bytes, until: float) -> bool | Failed | Unknown:
        def insert() -> bool:
            (swept_until,) = self._db.execute("SELECT swept_until FROM meta").fetchone()
            if until <= swept_until:
                return False
            cursor = self._db.execute("INSERT OR IGNORE INTO spent VALUES (?, ?)", (token, until))
            return cursor.rowcount == 1

        return self._transact(insert)

    def _raise_swept_until(self, now: float) -> bool | Failed | Unknown:
        sql = "UPDATE meta SET swept_until = max(swept_until, ?)"
        return self._transact(lambda: self._db.execute(sql, (now,)).rowcount == 1)

    def _transact(self, work: Callable[[], _T]) -> _T | Failed | Unknown:
        try:
            # This is the one writer from here on: rows that are read below stay so until the
            # commit.
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            return _failed(error)
        try:
            result = work()
        except sqlite3.Error as error:
            self._roll_back()
            return _failed(error)
        except BaseException:
            self._roll_back()
            raise
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return Unknown(_code(error), f"the ownership store failed in its commit: {error}")
        return result

    def _close_file(self) -> None:
        self._db.close()

    def _roll_back(self) -> None:
        """Roll back, unless the error has done so. Where that fails, closing the file rolls
        back."""
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._db.close()
            with contextlib.suppress(ConfigurationError):
                db, store_id = self._open()
                if store_id == self._id:
                    self._db = db
                else:
                    # Another file was put in its place: that is another store.
                    db.close()

    def _open(self) -> tuple[sqlite3.Connection, bytes]:
        """The open file, and the store's id."""
        try:
            self._make_private()
            db = sqlite3.connect(
                self._path, timeout=STORE_BUSY_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(
                f"cannot open the ownership store {self._path}: {error}", code=Reason.STORE_UNUSABLE
            ) from error
        try:
            self._set_up(db)
            (store_id,) = db.execute("SELECT store_id FROM meta").fetchone()
        except sqlite3.Error as error:
            db.close()
            raise ConfigurationError(
                f"{self._path} cannot be used as an ownership store: {error}",
                code=Reason.STORE_UNUSABLE,
            ) from error
        except ConfigurationError:
            db.close()
            raise
        return db, store_id

    def _make_private(self) -> None:
        """Make the file writable for its owner alone: a writer of the file can end connections."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        mode = self._path.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigurationError(
                f"{self._path} can be written by others: chmod go-w it", code=Reason.NOT_PRIVATE
            )

    def _set_up(self, db: sqlite3.Connection) -> None:
        _patiently(lambda: db.execute("PRAGMA journal_mode = WAL"))
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA max_page_count = {self._max_pages}")
        if _pragma(db, "journal_mode") != "wal":
            raise ConfigurationError(
                f"{self._path} cannot be shared: its file system has no WAL mode",
                code=Reason.STORE_UNUSABLE,
            )
        if not _pragma(db, "user_version"):
            self._create_tables(db)
        if _pragma(db, "application_id") != _APPLICATION_ID:
            raise ConfigurationError(
                f"{self._path} is another program's database: name another file",
                code=Reason.STORE_UNUSABLE,
            )
        version = _pragma(db, "user_version")
        if version != SCHEMA_VERSION:
            raise ConfigurationError(
                f"{self._path} has the tables of version {version}, this release knows version "
                f"{SCHEMA_VERSION}: use a new file with all nodes",
                code=Reason.STORE_VERSION,
            )

    def _create_tables(self, db: sqlite3.Connection) -> None:
        """Create the tables, unless another process has, or the file is not empty."""
        db.execute("BEGIN IMMEDIATE")
        try:
            if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _SCHEMA:
                    db.execute(statement)
                # Nothing was swept yet: the beginning of Unix time expires no token.
                db.execute("INSERT INTO meta VALUES (?, 0)", (os.urandom(STORE_ID_BYTES),))
            db.execute("COMMIT")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _patiently(work: Callable[[], object]) -> None:
    """Try again while another process opens the file: SQLite's own patience does not cover the
    change to WAL mode."""
    until = monotonic() + STORE_BUSY_S
    while True:
        try:
            work()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
        else:
            return
        sleep(STORE_OPEN_PAUSE_S)


def _pragma(db: sqlite3.Connection, name: str) -> object:
    return db.execute(f"PRAGMA {name}").fetchone()[0]


_CODES: Final = {
    sqlite3.SQLITE_BUSY: Reason.STORE_LOCKED,
    sqlite3.SQLITE_LOCKED: Reason.STORE_LOCKED,
    sqlite3.SQLITE_FULL: Reason.STORE_FULL,
    sqlite3.SQLITE_READONLY: Reason.STORE_READONLY,
    sqlite3.SQLITE_CORRUPT: Reason.STORE_CORRUPT,
    sqlite3.SQLITE_NOTADB: Reason.STORE_CORRUPT,
    sqlite3.SQLITE_IOERR: Reason.STORE_IO,
}


def _code(error: sqlite3.Error) -> Reason:
    # Errors of the module itself, for instance on a closed connection, have no such code.
    return _CODES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, Reason.STORE_ERROR)


def _failed(error: sqlite3.Error) -> Failed:
    return Failed(_code(error), f"the ownership store refused: {error}")
