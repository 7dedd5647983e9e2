"""Format versions of batons, and the pure functions between a payload of one and of the next.

A reader accepts its own version and the one before, and a sealer writes either: during a rolling
upgrade the old release hands to the new one, and the new one to the old one in the format that
this reads. What the older format cannot say is refused, never left out. The header's layout is
common to all versions; a version describes the payload.

    1   a snapshot of six fields (release 0.1)
    2   and a seventh: the streams that stay behind at the handoff's source, which relays them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from quicbaton.baton.errors import BatonVersionError
from quicbaton.errors import InternalError, RefusedError

#: The version that this release writes where the reader is not an older one.
FORMAT_VERSION: Final = 2

Upgrade = Callable[[bytes], bytes]

#: MessagePack arrays of six, of seven and of no elements.
_SNAPSHOT_V1: Final = b"\x96"
_SNAPSHOT_V2: Final = b"\x97"
_EMPTY: Final = b"\x90"


def _from_1_to_2(payload: bytes) -> bytes:
    # No stream stays behind in format 1. What is no snapshot is left to the decoder to refuse.
    if payload[:1] != _SNAPSHOT_V1:
        return payload
    return b"".join((_SNAPSHOT_V2, memoryview(payload)[1:], _EMPTY))


def _from_2_to_1(payload: bytes) -> bytes:
    fields = msgspec.msgpack.decode(payload, type=list[msgspec.Raw])
    if payload[:1] != _SNAPSHOT_V2 or len(fields) != 7:
        raise InternalError("only a snapshot of this release can be said in format 1")
    if bytes(fields[-1]) != _EMPTY:
        raise RefusedError(
            "streams of the connection must be relayed, which baton format 1 cannot say: wait "
            "until their requests end, or upgrade the other process first",
            code="needs_format_2",
        )
    return b"".join((_SNAPSHOT_V1, memoryview(payload)[1 : -len(_EMPTY)]))


#: From a version to the function that turns its payload into the next version's.
UPGRADES: dict[int, Upgrade] = {1: _from_1_to_2}
#: From a version to the function that says its payload in the version before, or refuses to.
DOWNGRADES: Final[Mapping[int, Upgrade]] = {2: _from_2_to_1}


def readable_versions(
    current: int = FORMAT_VERSION, upgrades: Mapping[int, Upgrade] = UPGRADES
) -> tuple[int, ...]:
    """Return the versions that can be opened, ascending."""
    return (current - 1, current) if current - 1 in upgrades else (current,)


def check_version(
    version: int, current: int = FORMAT_VERSION, upgrades: Mapping[int, Upgrade] = UPGRADES
) -> None:
    """Raise `BatonVersionError` unless a baton of `version` can be opened."""
    readable = readable_versions(current, upgrades)
    if version in readable:
        return
    age = "newer" if version > current else "older"
    reads = " and ".join(map(str, readable))
    raise BatonVersionError(
        f"the baton has format version {version}, {age} than what this release reads"
        f" (version {reads}); hand over between neighbouring releases only"
    )


def upgrade_payload(
    payload: bytes,
    version: int,
    current: int = FORMAT_VERSION,
    upgrades: Mapping[int, Upgrade] = UPGRADES,
) -> bytes:
    """Return the payload in the present version's form; `version` has passed `check_version`."""
    check_version(version, current, upgrades)
    return payload if version == current else upgrades[version](payload)


def downgrade_payload(payload: bytes, version: int) -> bytes:
    """Return the present version's payload in the form of `version`: the present or the one before.

    Raises:
        RefusedError: code `needs_format_2` and the like: the older format cannot say it.
    """
    check_version(version)
    return payload if version == FORMAT_VERSION else DOWNGRADES[FORMAT_VERSION](payload)
