"""Bytes that go ahead of a baton are left out of it, and are there again when it is opened."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from quicbaton.baton.errors import BatonPrecopyError
from quicbaton.baton.precopy import Pieces, leave_out, missing, put_back
from quicbaton.baton.snapshot import Snapshot, decode_snapshot, encode_snapshot
from quicbaton.testing import Conditions, Pair
from quicbaton.transport.connection import Connection
from quicbaton.transport.state import ConnectionState

COPY = b"c" * 16
BODY = Random(1).randbytes(300_000)


def busy_pair() -> Pair:
    """A server that has written far more than its client has acknowledged."""
    pair = Pair(Conditions(delay_s=0.02))
    pair.connect()
    connection = pair.server.connection
    for stream_id in (3, 7):
        for start in range(0, len(BODY), 100_000):
            connection.send_stream_data(stream_id, BODY[start : start + 100_000])
    return pair


def copy_of(connection: Connection) -> Pieces:
    pieces = Pieces()
    for stream_id, start, chunk in missing(connection.streams, pieces):
        pieces.add(stream_id, start, chunk)
    return pieces


def snapshot_of(state: ConnectionState, pieces: Pieces | None) -> bytes:
    snapshot = Snapshot(
        connection=state,
        http3=None,
        application=b"",
        frozen_at_us=0,
        host=b"host",
        precopied=None,
        relayed=[],
    )
    if pieces is not None:
        snapshot.precopied = leave_out(state, COPY, pieces)
    return encode_snapshot(snapshot)


def test_snapshot_leaves_out_what_went_ahead_and_is_whole_again() -> None:
    pair = busy_pair()
    pieces = copy_of(pair.server.connection)
    pair.run(seconds=0.1)  # part of it is sent and acknowledged meanwhile
    state = pair.server.connection.freeze(pair.now)
    whole = msgpack.encode(state)
    payload = snapshot_of(state, pieces)
    assert len(whole) > 400_000
    assert len(payload) < 10_000
    assert msgpack.encode(decode_snapshot(payload, {COPY: pieces}).connection) == whole


def test_what_was_written_after_the_copy_travels_in_the_baton() -> None:
    pair = busy_pair()
    pieces = copy_of(pair.server.connection)
    pair.server.connection.send_stream_data(3, BODY[:50_000])
    state = pair.server.connection.freeze(pair.now)
    whole = msgpack.encode(state)
    payload = snapshot_of(state, pieces)
    assert 50_000 < len(payload) < 60_000
    assert msgpack.encode(decode_snapshot(payload, {COPY: pieces}).connection) == whole


def test_a_snapshot_without_its_copy_is_refused() -> None:
    pair = busy_pair()
    connection = pair.server.connection
    pieces = copy_of(connection)
    payload = snapshot_of(connection.freeze(pair.now), pieces)
    with pytest.raises(BatonPrecopyError):
        decode_snapshot(payload)
    with pytest.raises(BatonPrecopyError):
        decode_snapshot(payload, {b"d" * 16: pieces})
    with pytest.raises(BatonPrecopyError):
        decode_snapshot(payload, {COPY: Pieces()})


def test_a_gap_that_was_not_left_is_refused() -> None:
    pair = busy_pair()
    connection = pair.server.connection
    pieces = copy_of(connection)
    state = connection.freeze(pair.now)
    precopied = leave_out(state, COPY, pieces)
    put_back(state, precopied, pieces)
    with pytest.raises(BatonPrecopyError):
        put_back(state, precopied, pieces)  # nothing is left out any more
    precopied.ranges = [(999, 0, 10)]
    with pytest.raises(BatonPrecopyError):
        put_back(state, precopied, pieces)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    first=st.integers(0, 50),
    start=st.integers(0, 300),
    size=st.integers(1, 60),
)
def test_a_cut_has_the_right_bytes_or_is_refused(
    sizes: list[int], first: int, start: int, size: int
) -> None:
    stream = Random(2).randbytes(500)
    kept = Pieces()
    at = first
    for length in sizes:
        kept.add(4, at, stream[at : at + length])
        at += length
    if first <= start and start + size <= at:
        run = kept.cut(4, start, start + size)
        assert (run.starts[0], run.stop) == (start, start + size)
        assert b"".join(run.pieces) == stream[start : start + size]
    else:
        with pytest.raises(BatonPrecopyError):
            kept.cut(4, start, start + size)
    with pytest.raises(BatonPrecopyError):
        kept.cut(5, start, start + size)


def test_bytes_behind_a_gap_begin_a_new_run() -> None:
    kept = Pieces()
    kept.add(4, 0, b"acknowledged")
    kept.add(4, 100, b"since")
    assert kept.size_bytes == 5
    assert kept.cut(4, 100, 105).pieces == [b"since"]


@settings(max_examples=60, deadline=None)
@given(
    writes=st.lists(st.integers(1, 30_000), min_size=1, max_size=6),
    later=st.lists(st.integers(1, 30_000), max_size=4),
    seconds=st.floats(0, 0.3),
    again=st.booleans(),
)
def test_whatever_happens_after_the_copy_the_state_is_whole_again(
    writes: list[int], later: list[int], seconds: float, again: bool
) -> None:
    pair = Pair(Conditions(delay_s=0.02))
    pair.connect()
    connection = pair.server.connection
    for size in writes:
        connection.send_stream_data(3, BODY[:size])
    pieces = copy_of(connection)
    pair.run(seconds=seconds)
    for size in later:
        connection.send_stream_data(3, BODY[:size])
    if again:
        for stream_id, start, chunk in missing(connection.streams, pieces):
            pieces.add(stream_id, start, chunk)
    state = connection.freeze(pair.now)
    whole = [
        (stream_id, stream.send.starts[:1], b"".join(stream.send.chunks))
        for stream_id, stream in state.streams.items()
        if stream.send is not None
    ]
    restored = decode_snapshot(snapshot_of(state, pieces), {COPY: pieces}).connection
    for stream_id, first, data in whole:
        half = restored.streams[stream_id].send
        assert half is not None
        assert (half.starts[:1], b"".join(half.chunks)) == (first, data)
        ends = [start + len(chunk) for start, chunk in zip(half.starts, half.chunks, strict=True)]
        assert half.starts[1:] == ends[:-1]
