"""Capsules (RFC 9297 §3), whatever the pieces in which they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicbaton.http3.capsules import (
    CLOSE_SESSION,
    Capsule,
    CapsuleReader,
    encode_capsule,
    read_capsules,
)
from quicbaton.http3.errors import MessageError
from quicbaton.limits import MAX_CAPSULE_BYTES
from quicbaton.transport.frames import encode_varint as v

WANTED = frozenset((0x00, CLOSE_SESSION))
_CAPSULES = st.lists(
    st.builds(
        Capsule, st.sampled_from([0x00, CLOSE_SESSION, 0x21, 1 << 40]), st.binary(max_size=99)
    ),
    max_size=6,
)


def encoded(capsules: list[Capsule]) -> bytes:
    return b"".join(encode_capsule(*capsule) for capsule in capsules)


@given(_CAPSULES, st.integers(1, 40))
def test_the_capsules_that_are_wanted_come_whole_and_in_order(
    capsules: list[Capsule], size: int
) -> None:
    data = encoded(capsules)
    reader = CapsuleReader(WANTED)
    read = [
        capsule for at in range(0, len(data), size) for capsule in reader.read(data[at : at + size])
    ]
    assert read == [capsule for capsule in capsules if capsule.kind in WANTED]
    assert reader.is_between


@given(_CAPSULES.filter(bool), st.integers(1, 200))
def test_a_stream_that_ends_within_a_capsule_is_seen(capsules: list[Capsule], cut: int) -> None:
    data = encoded(capsules)
    boundaries = [len(encoded(capsules[:number])) for number in range(len(capsules) + 1)]
    end = max(0, len(data) - cut)
    reader = CapsuleReader(WANTED)
    reader.read(data[:end])
    assert reader.is_between == (end in boundaries)


def test_a_skipped_capsule_is_not_kept() -> None:
    reader = CapsuleReader(WANTED)
    reader.read(v(0x21) + v(1 << 50) + bytes(10_000))
    assert reader._held is None
    assert not reader.is_between


def test_a_capsule_that_is_too_large_is_refused_by_its_header() -> None:
    with pytest.raises(MessageError):
        CapsuleReader(WANTED).read(v(0) + v(MAX_CAPSULE_BYTES + 1))
    CapsuleReader(WANTED).read(v(0) + v(MAX_CAPSULE_BYTES))


@given(st.binary(max_size=50))
def test_what_follows_the_last_capsule_is_not_read(behind: bytes) -> None:
    data = encode_capsule(CLOSE_SESSION, b"code") + behind
    capsules, held, kind, left = read_capsules(
        data, None, -1, 0, WANTED.__contains__, CLOSE_SESSION
    )
    assert capsules == [Capsule(CLOSE_SESSION, b"code")]
    assert bytes(held or b"") == behind
    assert (kind, left) == (-1, 0)
