"""Capsules, as a whole and in pieces.

The first byte is the size of the pieces.
"""

from __future__ import annotations

from typing import Final

from quicbaton.http3.capsules import (
    CLOSE_SESSION,
    DATAGRAM,
    DRAIN_SESSION,
    Capsule,
    CapsuleReader,
    encode_capsule,
)
from quicbaton.http3.errors import MessageError
from quicbaton.limits import MAX_CAPSULE_BYTES
from quicbaton.transport.frames import encode_varint as v
from tests.fuzz.fuzzing import Reader, at_most

_KINDS: Final = frozenset({DATAGRAM, CLOSE_SESSION})
_CALLS: Final = 500
_CALLS_PER_BYTE: Final = 60


def target(data: bytes) -> None:
    reader = Reader(data)
    step = reader.byte() + 1
    rest = reader.rest()
    with at_most(_CALLS + _CALLS_PER_BYTE * len(rest)):
        whole, ended = _read(rest, len(rest) or 1)
        cut, cut_ended = _read(rest, step)
    # One that is too large is refused by its header: what came in the same piece goes with it.
    assert whole == cut or None in (ended, cut_ended)
    assert ended == cut_ended
    for capsule in whole:
        assert len(capsule.value) <= MAX_CAPSULE_BYTES
        assert (
            encode_capsule(capsule.kind, capsule.value)[-len(capsule.value) :] or not capsule.value
        )


def _read(data: bytes, step: int) -> tuple[list[Capsule], bool | None]:
    """The capsules, and whether the stream may end here; None where they are refused."""
    capsules: list[Capsule] = []
    reader = CapsuleReader(_KINDS)
    try:
        for at in range(0, len(data), step):
            capsules += reader.read(data[at : at + step])
            assert len(reader._held or b"") <= MAX_CAPSULE_BYTES
    except MessageError:
        return capsules, None
    return capsules, reader.is_between


def seeds() -> list[bytes]:
    capsules = [
        encode_capsule(DATAGRAM, b"hello"),
        encode_capsule(CLOSE_SESSION, b"\0\0\0\7over"),
        encode_capsule(DRAIN_SESSION, b""),
        encode_capsule(0x1F, bytes(200)),
    ]
    return [
        *(b"\xff" + one for one in capsules),
        b"\x00" + b"".join(capsules),
        b"\x02" + b"".join(capsules)[:-1],
        b"\xff" + v(DATAGRAM) + v(MAX_CAPSULE_BYTES + 1),
        b"\xff" + v(0x1F) + v((1 << 62) - 1) + b"skipped",
    ]
