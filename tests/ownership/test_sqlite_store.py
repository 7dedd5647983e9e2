"""The SQLite ownership store: other processes, deaths, full disks, and files that are no store."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quicbaton.errors import ConfigurationError
from quicbaton.limits import (
    STORE_ENTRY_LIFETIME_S,
    STORE_SWEEP_ROWS,
    STORE_TOMBSTONE_LIFETIME_S,
)
from quicbaton.ownership.store import (
    Conflict,
    Done,
    EntryState,
    Failed,
    Found,
    Publish,
    Store,
    Unknown,
)
from quicbaton.service.stores import MemoryStore, SqliteStore, open_store
from tests.ownership.store_checks import FAR, OFFERED, PUBLISH, SOURCE, Clock, entry_of
from tests.ownership.store_process import BATON, CID, DIGEST, TOKEN, take

# --- other processes ----------------------------------------------------------------------


def patient(path: Path, **options: Any) -> SqliteStore:
    """A store whose disk may be slow."""
    return SqliteStore(path, timeout_s=60.0, **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An SQLite store in which S has offered the connection."""
    path = tmp_path / "owners"

    with contextlib.closing(patient(path)) as store:
        asyncio.run(store.perform(PUBLISH))
    return path


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("store_process.py")
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answers(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Let them all begin at once."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    found = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate(timeout=60)
        found.append(out.strip())
    return found


@pytest.mark.process
def test_of_many_processes_one_takes_the_offer(file: Path) -> None:
    found = answers([start("race", file, f"D{number}") for number in range(6)])
    assert sorted(found) == ["Conflict"] * 5 + ["Done"]


@pytest.mark.process
def test_of_many_processes_one_spends_the_token(file: Path) -> None:
    found = answers([start("spend", file) for _ in range(6)])
    assert sorted(found) == ["False"] * 5 + ["True"]


#: BEGIN, SELECT, INSERT, COMMIT; and 0 after all of them.
@pytest.mark.process
@pytest.mark.parametrize("statement", [1, 2, 3, 4, 0])
async def test_process_killed_between_two_steps_leaves_all_or_nothing(
    file: Path, statement: int
) -> None:
    process = start("die", file, str(statement))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with contextlib.closing(patient(file)) as store:
        entry = entry_of(await store.read(CID))
        assert entry is not None
        taken = entry.state is EntryState.HELD
        assert taken == (statement == 0)
        assert taken or entry == OFFERED
        # The source learns the same.
        assert isinstance(await store.perform(take("S")), Conflict if taken else Done)


@pytest.mark.process
async def test_process_stopped_in_a_transaction_holds_nobody_up(file: Path) -> None:
    process = start("hold", file)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    with contextlib.closing(SqliteStore(file)) as store:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        counting = asyncio.create_task(count_turns())
        result = await store.perform(take("D"))
        counting.cancel()
        assert isinstance(result, (Failed, Unknown))
        assert result.code in ("store_locked", "store_slow")
        assert turns > 10, "the event loop stood still"
        # Reading is not held up.
        assert await store.read(CID) == Found(OFFERED)
        process.kill()
        process.communicate()
        assert isinstance(await store.perform(take("D")), Done)


# --- the file -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        text = f"cannot mount a small file system: {mounted.stderr.decode().strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def fill(store: Store) -> list[bytes]:
    """Publish until nothing more fits; the names that were Done."""
    done: list[bytes] = []
    for number in range(10_000):
        name = b"%d" % number
        result = await store.perform(Publish(name, 1, SOURCE, BATON, bytes(64)))
        if not isinstance(result, Done):
            assert isinstance(result, (Failed, Unknown))
            assert result.code in ("store_full", "store_io")
            return done
        done.append(name)
    raise AssertionError("the disk does not fill")


async def check_kept(store: Store, names: list[bytes]) -> None:
    for name in names:
        entry = entry_of(await store.read(name))
        assert entry is not None
        assert entry.state is EntryState.OFFERED


@pytest.mark.process
async def test_full_disk_refuses_loses_nothing_and_goes_on_with_room(small_disk: Path) -> None:
    path, ballast = small_disk / "owners", small_disk / "ballast"
    ballast.write_bytes(bytes(256 << 10))
    with contextlib.closing(patient(path)) as store:
        done = await fill(store)
        assert done
        await check_kept(store, done)
        ballast.unlink()
        assert isinstance(await store.perform(Publish(b"more", 1, SOURCE, BATON, DIGEST)), Done)
        await check_kept(store, [*done, b"more"])
    with contextlib.closing(patient(path)) as store:
        await check_kept(store, [b"0", b"more"])


async def test_file_at_its_limit_refuses_and_takes_more_after_a_sweep(tmp_path: Path) -> None:
    clock = Clock()
    with contextlib.closing(
        patient(tmp_path / "owners", clock=clock, max_bytes=128 << 10)
    ) as store:
        done = await fill(store)
        await check_kept(store, done)
        assert not await store.spend(TOKEN * 1000, FAR)
        assert await store.sweep(clock.now + STORE_ENTRY_LIFETIME_S + 1) == len(done)
        assert isinstance(await store.perform(PUBLISH), Done)


async def test_sweep_of_many_takes_many_short_transactions(tmp_path: Path) -> None:
    path, clock = tmp_path / "owners", Clock()
    with contextlib.closing(patient(path, clock=clock)) as store:
        rows = [
            (b"%d" % number, "closed", 1, "S", b"s" * 16, BATON, DIGEST, clock.now)
            for number in range(2 * STORE_SWEEP_ROWS + 5)
        ]
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        assert await store.sweep(clock.now + STORE_TOMBSTONE_LIFETIME_S + 1) == len(rows)


async def test_store_outlives_those_who_use_it(file: Path) -> None:
    ids = []
    for _ in range(2):
        with contextlib.closing(patient(file)) as store:
            ids.append(store.store_id)
            assert await store.read(CID) == Found(OFFERED)
    assert ids[0] == ids[1]
    assert file.stat().st_mode & 0o777 == 0o600


async def test_corrupt_file_refuses(file: Path) -> None:
    with contextlib.closing(patient(file)) as store:
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        data = bytearray(file.read_bytes())
        data[4096:] = b"\xa5" * (len(data) - 4096)
        file.write_bytes(data)
        result = await store.perform(take("D"))
        assert isinstance(result, (Failed, Unknown))
        assert isinstance(await store.read(CID), Failed)
        assert not await store.spend(TOKEN, FAR)


async def test_row_that_no_release_writes_is_refused(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE entries SET state = 'whatever'")
    with contextlib.closing(patient(file)) as store:
        assert isinstance(await store.perform(take("D")), Failed)
        assert isinstance(await store.read(CID), Failed)


async def test_closed_store_refuses(file: Path) -> None:
    with contextlib.closing(patient(file)) as store:
        store.close()
        result = await store.perform(take("D"))
        assert isinstance(result, Failed)
        assert result.code == "store_closed"


async def test_slow_store_s_outcome_is_unknown_and_found_out_by_reading(file: Path) -> None:
    with contextlib.closing(SqliteStore(file, timeout_s=0.05)) as store:
        with _held_up(store) as go_on:
            result = await store.perform(take("D"))
            assert isinstance(result, Unknown)
            go_on()
        # From here on it may take its time.
        store._timeout_s = 60.0
        found = await store.read(CID)
        # Taken back before it began, or done late: either way it is known now, and asking again
        # is asking once.
        assert isinstance(found, Found)
        assert isinstance(await store.perform(take("D")), Done)


@contextlib.contextmanager
def _held_up(store: SqliteStore) -> Iterator[Callable[[], None]]:
    """The store's thread waits until it is let go on."""
    let_go = threading.Event()
    waiting = store._thread.submit(let_go.wait)
    try:
        yield lambda: (let_go.set(), waiting.result())  # type: ignore[func-returns-value]
    finally:
        let_go.set()


# --- opening --------------------------------------------------------------------------------------


async def test_open_store_by_url(tmp_path: Path) -> None:
    memory, file = open_store("memory:"), open_store(f"sqlite:{tmp_path / 'owners'}")
    assert isinstance(memory, MemoryStore)
    assert isinstance(file, SqliteStore)
    file.close()
    for url in ("", "memory", "memory:x", "sqlite:", "redis://host"):
        with pytest.raises(ConfigurationError) as caught:
            open_store(url)
        assert caught.value.code == "store_url"


def _other_program(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE cats (name TEXT)")
    path.chmod(0o600)


def _later_release(path: Path) -> None:
    SqliteStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 9")


def _anybody_s(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_other_program, "store_unusable"),
        (_later_release, "store_version"),
        (_anybody_s, "not_private"),
        (lambda path: path.mkdir(), "store_unusable"),
        (lambda path: path.write_bytes(b"no database" * 1000), "store_unusable"),
    ],
    ids=["other program", "later release", "anybody's", "folder", "garbage"],
)
def test_file_that_is_no_store_is_refused(
    tmp_path: Path, spoil: Callable[[Path], Any], code: str
) -> None:
    path = tmp_path / "owners"
    old = os.umask(0o077)
    spoil(path)
    os.umask(old)
    with pytest.raises(ConfigurationError) as caught:
        SqliteStore(path)
    assert caught.value.code == code


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        SqliteStore(tmp_path / "nowhere" / "owners")
