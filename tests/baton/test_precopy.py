"""What goes ahead of a baton is left out of it, and is there again when the baton is opened."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from quicbaton.baton.errors import BatonPrecopyError
from quicbaton.baton.precopy import Pieces, leave_out, put_back
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
    for stream_id, start, chunk in connection.stream_chunks():
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
    precopied.chunks = [(999, 0, 10)]
    with pytest.raises(BatonPrecopyError):
        put_back(state, precopied, pieces)


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40)), max_size=8),
    start=st.integers(0, 90),
    size=st.integers(1, 40),
)
def test_pieces_find_the_right_bytes_or_none(
    pieces: list[tuple[int, int]], start: int, size: int
) -> None:
    stream = bytes(range(200))
    kept = Pieces()
    for first, length in pieces:
        kept.add(4, first, stream[first : first + length])
    found = kept.find(4, start, start + size)
    assert found in (None, stream[start : start + size])
    if any(first <= start and start + size <= first + length for first, length in pieces):
        # The latest of those that begin at one place is the one that is kept.
        latest = dict(pieces)
        covered = any(f <= start and start + size <= f + n for f, n in latest.items())
        assert (found is not None) == covered
    assert kept.find(5, start, start + size) is None
