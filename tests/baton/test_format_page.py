"""docs/baton-format.md says what the code does, and is enough to read what releases have sealed."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quicbaton import limits
from quicbaton.baton.header import peek
from quicbaton.baton.seal import BatonFields, identify, open_baton, seal
from quicbaton.baton.snapshot import Snapshot, decode_snapshot
from quicbaton.baton.versions import FORMAT_VERSION, readable_versions
from quicbaton.keys.key_ring import KeyRing
from quicbaton.transport.state import Event
from tests.baton import format_reader
from tests.baton.format_reader import FormatReader, RefusedBaton
from tests.baton.format_tables import PAGE, read_tables, spell, structs_of
from tests.releases.sample import Sample, read_all

TEXT = PAGE.read_text(encoding="utf-8")
TABLES = read_tables()
STRUCTS = {kind.__name__: kind for kind in structs_of(Snapshot)}
#: Events of the page, by their tags.
TAGS = {
    int(tag): name for name, tag in re.findall(r"^### (\w+)\n\nTag (\d+)\.$", TEXT, re.MULTILINE)
}
_VALUES: dict[type, object] = {int: 1, bool: True, bytes: b"x", str: "x"}
SAMPLES = [one for one in read_all() if peek(one.server).version in readable_versions()]


def reader(sample: Sample) -> FormatReader:
    return FormatReader(TABLES, TAGS, sample.key)


def plain(value: Any) -> Any:
    """What the code decodes, in the reader's form: structs as dicts, tuples as lists."""
    if isinstance(value, msgspec.Struct):
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {"event": type(value).__name__, **fields} if isinstance(value, Event) else fields
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return bytes(value) if isinstance(value, bytearray) else value


def test_each_struct_of_a_snapshot_has_its_table() -> None:
    assert set(TABLES) == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_a_table_has_the_fields_of_its_struct_in_their_order(name: str) -> None:
    fields = msgspec.structs.fields(STRUCTS[name])
    assert [(row.place, row.name, row.type) for row in TABLES[name]] == [
        (place, field.name, spell(field.type)) for place, field in enumerate(fields)
    ]


def test_events_have_their_tags() -> None:
    assert {
        kind.__struct_config__.tag: name
        for name, kind in STRUCTS.items()
        if kind.__struct_config__.tag is not None
    } == TAGS


def test_the_page_names_the_limits_and_the_version() -> None:
    assert f"It describes **format {FORMAT_VERSION}**" in TEXT
    assert f"more than {limits.MAX_BATON_BYTES:,} bytes" in TEXT
    assert f"more than {limits.BATON_CLOCK_SKEW_S} s after it expires" in TEXT
    assert f"lives for {limits.BATON_LIFETIME_S} s" in TEXT


def test_the_reader_knows_nothing_of_ours() -> None:
    source = Path(format_reader.__file__).read_text(encoding="utf-8")
    imported = {
        node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert not any(module.startswith("quicbaton") for module in imported)


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.release} {sample.name}")
def test_a_reader_by_the_page_reads_what_a_release_has_sealed(sample: Sample, side: str) -> None:
    baton: bytes = getattr(sample, side)
    opened = reader(sample).open(baton)
    ours = open_baton(baton, KeyRing.parse(sample.key), None, "testing")
    assert opened.content == plain(decode_snapshot(ours.payload))
    assert opened.digest == identify(baton).digest
    header = {name: getattr(ours.header, name) for name in opened.header}
    assert opened.header == header


def test_a_reader_by_the_page_reads_every_kind_of_event() -> None:
    sample = SAMPLES[0]
    ring = KeyRing.parse(sample.key)
    snapshot = decode_snapshot(open_baton(sample.server, ring, None, "testing").payload)
    for name in TAGS.values():
        kinds = msgspec.structs.fields(STRUCTS[name])
        values = {field.name: _VALUES[field.type] for field in kinds}
        snapshot.connection.events.append(STRUCTS[name](**values))  # type: ignore[arg-type]
    fields = BatonFields(connection_id=b"name", term=1, source="here")
    payload = msgspec.msgpack.encode(snapshot)
    sealed = seal(payload, fields, ring, lambda size: b"\x05" * size, 0.0)
    assert reader(sample).open(sealed).content == plain(snapshot)


def test_a_reader_by_the_page_refuses_what_is_not_a_baton() -> None:
    sample = SAMPLES[0]
    baton = sample.server
    for at in (0, 5, 6, 12, 60, len(baton) // 2, len(baton) - 1):
        damaged = bytearray(baton)
        damaged[at] ^= 1
        with pytest.raises(RefusedBaton):
            reader(sample).open(bytes(damaged))
    for size in (0, 40, 60, len(baton) - 1):
        with pytest.raises(RefusedBaton):
            reader(sample).open(baton[:size])


def test_a_reader_by_the_page_fills_nothing_in() -> None:
    sample = SAMPLES[0]
    ring = KeyRing.parse(sample.key)
    payload = open_baton(sample.server, ring, None, "testing").payload
    content = msgspec.msgpack.decode(payload)
    connection = content[0]
    for damaged in (
        content[:-1],
        [*content, None],
        [connection[:-1], *content[1:]],
        [[*connection[:10], "later", *connection[11:]], *content[1:]],
    ):
        fields = BatonFields(connection_id=b"name", term=1, source="here")
        sealed = seal(
            msgspec.msgpack.encode(damaged), fields, ring, lambda size: b"\x05" * size, 0.0
        )
        with pytest.raises(RefusedBaton):
            reader(sample).open(sealed)
