"""`serve --store`: connections change hands by a shared ownership store."""

from contextlib import closing

import pytest

from quicbaton.ownership.store import EntryState, Found
from quicbaton.service.stores import SqliteStore
from tests.cli.command_line import Home, check_whole

pytestmark = pytest.mark.process

#: Minutes of work for the client, until it is asked for its outcome.
_SIZE = 30_000_000
_RATE = 300_000


async def test_a_download_changes_hands_by_the_store(home: Home) -> None:
    store = home.path / "owners"
    content = home.write("file.bin", _SIZE)
    first = home.serve("--store", f"sqlite:{store}")
    client = home.download(first, "file.bin", _RATE)
    client.wait_for_bytes(1)
    second = home.serve("--join", first.control, "--store", f"sqlite:{store}")
    info = home.connection(first)
    home.json("handoff", first.control, info["connection"], "--to", second.control)

    with closing(SqliteStore(store)) as owners:
        found = await owners.read(bytes.fromhex(info["connection"]))
    assert isinstance(found, Found)
    entry = found.entry
    assert entry is not None
    assert (entry.state, entry.term) == (EntryState.HELD, 2)
    assert entry.holder.name == str(second.control)
    check_whole(client, content)


def test_a_store_that_is_none_is_named(home: Home) -> None:
    done = home.run("serve", home.files, "--store", "redis:host", "--port", "0")
    assert done.returncode != 0
    assert "sqlite:PATH" in done.stderr
