"""Capsules: frames inside an Extended CONNECT stream (RFC 9297 §3).

A reader keeps the beginning of a capsule that it wants, up to a limit, and skips others as they
stream. `CapsuleReader` is for programs that speak the Capsule Protocol over CONNECT themselves,
such as CONNECT-UDP. `H3Connection` reads the capsules of WebTransport sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from quicbaton.http3.errors import MessageError
from quicbaton.http3.frames import pull_header
from quicbaton.limits import MAX_CAPSULE_BYTES
from quicbaton.transport.frames import encode_varint

#: RFC 9297 §3.5.
DATAGRAM: Final = 0x00
#: WebTransport over HTTP/3, "Session Termination" and "Capsule Types".
CLOSE_SESSION: Final = 0x2843
DRAIN_SESSION: Final = 0x78AE


class Capsule(NamedTuple):
    kind: int
    value: bytes


def encode_capsule(kind: int, value: bytes) -> bytes:
    return b"".join((encode_varint(kind), encode_varint(len(value)), value))


def read_capsules(
    data: bytes,
    held: bytearray | None,
    kind: int,
    left: int,
    wanted: Callable[[int], bool],
    last: int = -1,
) -> tuple[list[Capsule], bytearray | None, int, int]:
    """Read on: `held`, `kind` and `left` are the values that this function returned last; None, -1
    and 0 at first. They are returned after the whole capsules of the kinds that are `wanted`. Bytes
    after a capsule of the kind `last` are returned as held, unread.

    Raises MessageError for a wanted capsule that is larger than we take.
    """
    capsules: list[Capsule] = []
    at = 0
    while True:
        if kind < 0:
            if held:
                data = bytes(held) + data[at:]
                at = 0
                held = None
            header = pull_header(data, at)
            if header is None:
                rest = bytearray(data[at:])
                return capsules, rest or None, -1, 0
            kind, left, at = header
            if wanted(kind) and left > MAX_CAPSULE_BYTES:
                raise MessageError(f"a capsule of {left} bytes")
        end = min(len(data), at + left)
        left -= end - at
        if wanted(kind):
            held = held or bytearray()
            held += data[at:end]
        at = end
        if left:
            return capsules, held, kind, left
        if wanted(kind):
            capsules.append(Capsule(kind, bytes(held or b"")))
        if kind == last:
            return capsules, bytearray(data[at:]) or None, -1, 0
        held = None
        kind = -1


class CapsuleReader:
    """Takes a stream's bytes in pieces and gives whole capsules."""

    def __init__(self, kinds: frozenset[int]) -> None:
        """`kinds` are returned by `read`; capsules of others are skipped (RFC 9297 §3.2)."""
        self._kinds = kinds
        self._held: bytearray | None = None
        self._kind = -1
        self._left = 0

    def read(self, data: bytes) -> list[Capsule]:
        """The capsules that `data` completes. Raises MessageError for one that is too large."""
        capsules, self._held, self._kind, self._left = read_capsules(
            data, self._held, self._kind, self._left, self._kinds.__contains__
        )
        return capsules

    @property
    def is_between(self) -> bool:
        """Whether the stream may end here: not within a capsule (RFC 9297 §3.3)."""
        return self._kind < 0 and not self._held
