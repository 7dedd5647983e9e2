"""Batons, snapshots and naps: the bytes that a file, a link or a sleeper's memory may hold.

The first byte gives the kind of the rest: a baton, a snapshot that is sealed as it is, or a nap.
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from quicbaton.baton.errors import BatonError
from quicbaton.baton.precopy import Precopied
from quicbaton.baton.seal import BatonFields, identify, open_baton, seal
from quicbaton.baton.sleep import Nap, decode_nap
from quicbaton.baton.snapshot import RelayedStream, Snapshot, decode_snapshot, encode_snapshot
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.transport.state import ConnectionState
from tests.fuzz.fuzzing import Reader, at_most, only
from tests.fuzz.target_frames import scenes

_RING: Final = KeyRing(ClusterKey.generate(lambda size: b"\x07" * size))
_FIELDS: Final = BatonFields(connection_id=b"connection", term=3, source="/a", audience="/b")
_NOW: Final = 1_000_000.0
_CALLS: Final = 2_000
#: msgspec's errors for bytes that it cannot decode; a nap never left its process.
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def target(data: bytes) -> None:
    reader = Reader(data)
    kind = reader.byte() % 3
    rest = reader.rest()
    with at_most(_CALLS + len(rest)):
        if kind == 0:
            _open(rest)
        elif kind == 1:
            with only(BatonError):
                snapshot = decode_snapshot(rest)
                assert decode_snapshot(encode_snapshot(snapshot)) == snapshot
        else:
            with only(*_UNDECODABLE):
                decode_nap(rest)


def _open(data: bytes) -> None:
    with only(BatonError):
        identity = identify(data)
        opened = open_baton(data, _RING, _NOW, "/b")
        # Only what was sealed here opens.
        assert identity.digest == opened.digest
        assert opened.header.connection_id == _FIELDS.connection_id
        decode_snapshot(opened.payload)


@functools.cache
def seeds() -> list[bytes]:
    known = []
    for scene in scenes():
        state = msgspec.msgpack.decode(scene.state, type=ConnectionState)
        stream_ids = list(state.streams)[:1]
        snapshot = Snapshot(
            connection=state,
            http3=None,
            application=b"program",
            frozen_at_us=5,
            host=b"host",
            precopied=Precopied(b"c" * 16, [(stream_id, 0, 9) for stream_id in stream_ids]),
            relayed=[RelayedStream(stream_id, 3, False, 0, None, None) for stream_id in stream_ids],
        )
        for precopied in (snapshot.precopied, None):
            snapshot.precopied = precopied
            payload = encode_snapshot(snapshot)
            known.append(b"\x01" + payload)
        baton = seal(payload, _FIELDS, _RING, lambda size: b"\x03" * size, _NOW)
        nap = msgspec.msgpack.encode(Nap(state, 1.5, None, b"program"))
        known += [b"\x00" + baton, b"\x00" + baton[:70], b"\x02" + nap]
    return known
