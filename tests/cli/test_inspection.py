"""`quicbaton inspect`: batons without their secrets, and what changed between two."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from time import time
from typing import Any

import msgspec
import pytest

from quicbaton.baton.header import peek
from quicbaton.baton.seal import open_baton
from quicbaton.baton.snapshot import Snapshot, decode_snapshot
from quicbaton.cli.redaction import Change, Missing, changes
from quicbaton.cli.user_state import read_keys
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from tests.cli.command_line import Home, check_whole
from tests.cli.test_moving import begin, pair
from tests.processes.cluster_folder import make_cluster
from tests.releases.sample import read_all


def secrets(snapshot: Snapshot) -> list[bytes]:
    """Byte strings of a snapshot that nobody may see: all but connection IDs."""
    state = snapshot.connection
    ids = {state.name, state.original_id, state.ids.alias}
    ids |= {local.cid for local in state.ids.local} | {peer.cid for peer in state.ids.peer}
    return [found for found in _byte_strings(snapshot) if len(found) >= 4 and found not in ids]


def _byte_strings(value: Any) -> list[bytes]:
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, msgspec.Struct):
        value = [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [found for entry in value for found in _byte_strings(entry)]
    return []


@pytest.mark.process
def test_inspect_shows_a_saved_connection_and_none_of_its_secrets(home: Home) -> None:
    _, _, connection, (server,) = begin(home, home.serve())
    baton = home.path / "connection.baton"
    home.json("save", server.control, connection, baton)
    header = home.json("inspect", baton)["header"]
    assert header["connection_id"] == connection
    assert header["source"] == str(server.control)

    shown = home.json("inspect", baton)["content"]
    assert shown["connection"]["name"] == connection
    assert shown["connection"]["protection"]["send_hp"].startswith("<")
    opened = open_baton(baton.read_bytes(), read_keys(home.keys), time(), "")
    snapshot = decode_snapshot(opened.payload)
    hidden = secrets(snapshot)
    keys = snapshot.connection.protection
    tokens = [local.token for local in snapshot.connection.ids.local]
    assert {keys.send.secret, keys.recv.secret, *tokens} <= set(hidden)
    assert sum(map(len, hidden)) > 100_000  # what of the file waits to be sent
    for arguments in (("--json",), ()):
        output = home.run("inspect", baton, *arguments).stdout
        assert connection in output
        for secret in hidden:
            sample = secret[:64]
            assert sample.hex() not in output.lower()
            assert base64.b64encode(sample).decode().rstrip("=")[:-1] not in output
            assert sample.decode("latin-1") not in output
            assert repr(sample)[2:-1] not in output


@pytest.mark.process
def test_inspect_names_what_is_wrong_with_a_file(home: Home) -> None:
    server = home.serve()
    (home.path / "junk").write_bytes(b"not a baton")
    assert "begins with" in home.run("inspect", "junk").stderr
    _, _, connection, _ = begin(home, server)
    baton = home.path / "connection.baton"
    home.json("save", server.control, connection, baton)
    damaged = bytearray(baton.read_bytes())
    damaged[-1] ^= 1
    (home.path / "damaged").write_bytes(damaged)
    refused = home.run("inspect", "damaged")
    assert refused.returncode == 1
    assert "seal does not hold" in refused.stderr


def write_keys(file: Path, byte: int) -> Path:
    file.write_text(KeyRing(ClusterKey.generate(lambda size: bytes([byte]) * size)).encode())
    file.chmod(0o600)
    return file


@pytest.mark.process
def test_inspect_shows_the_header_of_a_baton_whose_key_it_does_not_have(home: Home) -> None:
    keys = write_keys(home.path / "other.keys", 7)
    _, _, connection, (server,) = begin(home, home.serve("--keys", keys))
    baton = home.path / "connection.baton"
    home.json("save", server.control, connection, baton)
    home.keys.parent.mkdir(parents=True, exist_ok=True)
    write_keys(home.keys, 9)
    shown = home.json("inspect", baton)
    assert (shown["header"]["key_id"], set(shown)) == ("07070707", {"header"})
    said = home.run("inspect", baton).stdout
    assert "sealed under key 07070707" in said
    assert str(home.keys) in said
    assert home.json("inspect", baton, "--keys", keys)["content"]["connection"]["alpn"] == "h3"
    refused = home.run("inspect", "--diff", baton, baton, "--json")
    assert msgspec.json.decode(refused.stderr)["error"] == "unknown_key"
    wrong = home.run("inspect", baton, "--keys", home.keys, "--json")
    assert msgspec.json.decode(wrong.stderr)["error"] == "baton_seal"


@pytest.mark.process
def test_inspect_opens_a_clusters_baton_by_the_clusters_keys(home: Home) -> None:
    cluster = make_cluster(home.path / "cluster", "a")
    _, _, connection, (server,) = begin(home, home.serve("--cluster", cluster, "--node-name", "a"))
    baton = home.path / "connection.baton"
    home.json("save", server.control, connection, baton)
    shown = home.json("inspect", baton, "--cluster", cluster)
    assert shown["content"]["connection"]["name"] == connection
    assert "content" not in home.json("inspect", baton)
    home.environment["QUICBATON_CLUSTER"] = str(cluster)
    assert home.json("inspect", baton) == shown


@pytest.mark.process
def test_inspect_says_what_a_move_has_changed(home: Home) -> None:
    content, client, connection, (owner, other) = begin(home, *pair(home))
    old, new = home.path / "old.baton", home.path / "new.baton"
    home.json("save", owner.control, connection, old)
    home.json("resume", old, "--to", other.control)
    home.json("save", other.control, connection, new)
    told = home.json("inspect", "--diff", old, new)
    assert (told["old"], told["new"]) == (str(old), str(new))
    found = {change["path"]: change for change in told["changes"]}
    assert found["header.term"] == {"path": "header.term", "old": 1, "new": 2}
    assert found["header.source"]["new"] == str(other.control)
    before, after = (home.json("inspect", baton)["content"]["connection"] for baton in (old, new))
    clock = found["content.connection.clock_us"]
    assert (clock["old"], clock["new"]) == (before["clock_us"], after["clock_us"])
    assert "content.connection.name" not in found
    said = home.run("inspect", "--diff", old, new).stdout
    assert "  header.term: 1 -> 2\n" in said
    snapshots = [decode_snapshot(opened(home, baton)) for baton in (old, new)]
    for secret in {*secrets(snapshots[0]), *secrets(snapshots[1])}:
        assert secret[:64].hex() not in said.lower()
    home.json("resume", new, "--to", owner.control)
    check_whole(client, content)


def opened(home: Home, baton: Path) -> bytes:
    sealed = baton.read_bytes()
    header = peek(sealed)
    return open_baton(sealed, read_keys(home.keys), header.issued_ms / 1000, "").payload


@pytest.mark.process
def test_a_diff_is_of_two_batons(home: Home) -> None:
    for files in (["a"], ["a", "b", "c"]):
        refused = home.run("inspect", "--diff", *files)
        assert refused.returncode == 2
        assert "--diff compares two batons" in refused.stderr


def snapshot() -> Snapshot:
    """A connection with streams, as a release sealed it."""
    (sample,) = (one for one in read_all() if (one.release, one.name) == ("0.2.0", "download"))
    ring = KeyRing.parse(sample.key)
    return decode_snapshot(open_baton(sample.server, ring, None, "testing").payload)


def test_equal_snapshots_have_no_changes() -> None:
    assert list(changes(snapshot(), snapshot())) == []


def test_a_secret_that_changed_is_named_and_not_shown() -> None:
    old, new = snapshot(), snapshot()
    new.connection.protection.send.secret = bytes(32)
    assert list(changes(old, new)) == [
        Change("connection.protection.send.secret", "<32 bytes>", "<32 bytes>")
    ]


def test_entries_of_lists_and_dicts_are_compared_by_what_names_them() -> None:
    old, new = snapshot(), snapshot()
    first, *others = old.connection.ids.local
    new.connection.ids.local = copy.deepcopy(others)
    new.connection.ids.local[0].due = not others[0].due
    stream_id = max(old.connection.streams)
    new.connection.streams[stream_id + 4] = new.connection.streams[stream_id]
    old_sent = old.connection.recovery.sent
    new.connection.recovery.sent = new.connection.recovery.sent[1:]
    found = {change.path: change for change in changes(old, new)}
    assert set(found) == {
        f"connection.ids.local[sequence={first.sequence}]",
        f"connection.ids.local[sequence={others[0].sequence}].due",
        f"connection.streams[{stream_id + 4}]",
        f"connection.recovery.sent[first={old_sent[0].first}]",
    }
    gone = found[f"connection.ids.local[sequence={first.sequence}]"]
    assert gone.new is Missing
    assert (gone.old["cid"], gone.old["token"]) == (first.cid.hex(), "<16 bytes>")
    assert found[f"connection.streams[{stream_id + 4}]"].old is Missing
