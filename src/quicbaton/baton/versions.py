"""Format versions of batons and the pure functions that lift an older payload to the present one.

A reader accepts its own version and the one before: during a rolling upgrade the old release
hands to the new one, and after a roll-back only what the old release wrote is handed on. The
header's layout is common to all versions; a version describes the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from quicbaton.baton.errors import BatonVersionError

#: The version that this release writes.
FORMAT_VERSION: Final = 1

Upgrade = Callable[[bytes], bytes]

#: From a version to the function that turns its payload into the next version's. Version 1 is
#: the first, so there is nothing to upgrade from yet.
UPGRADES: dict[int, Upgrade] = {}


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
