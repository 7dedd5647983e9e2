"""Format versions of batons, and the pure functions between the payloads of two versions.

A reader accepts its own version and the one before, and a sealer writes either. During a rolling
upgrade the old release hands to the new one, and the new one to the old one in the format that the
old one reads. State that the older format cannot express is refused, never left out. The header's
layout is common to all versions; a version describes the payload.

Format 3 is the first that was released, with version 0.2.0. Format 4 has BBR's state, what it
remembers of each run of packets, and what was learnt from losses that were none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from quicbaton.baton.errors import BatonMalformedError, BatonVersionError, NeedsNewerFormatError

#: The version that this release writes, unless the reader is an older one.
FORMAT_VERSION: Final = 4

Upgrade = Callable[[bytes], bytes]

#: Places in the arrays of a snapshot (docs/baton-format.md).
_CONNECTION: Final = 0
_RECOVERY: Final = 13
_CONGESTION: Final = 14
_SENT: Final = 0


def _upgrade_from_3(payload: bytes) -> bytes:
    """Format 3 knows no BBR, and learns nothing from late packets."""
    content = msgspec.msgpack.decode(payload)
    connection = content[_CONNECTION]
    for run in connection[_RECOVERY][_SENT]:
        run.append(None)
    connection[_RECOVERY].append(None)
    connection[_CONGESTION] += [None, None]
    return msgspec.msgpack.encode(content)


def _downgrade_to_3(payload: bytes) -> bytes:
    content = msgspec.msgpack.decode(payload)
    connection = content[_CONNECTION]
    *congestion, bbr, _undo = connection[_CONGESTION]
    if bbr is not None:
        raise NeedsNewerFormatError("format 3 has no state of BBR, which the connection uses")
    connection[_CONGESTION] = congestion
    # A release that reads format 3 cuts its window for a late packet and waits for no more than
    # three others, whatever it was told.
    connection[_RECOVERY].pop()
    for run in connection[_RECOVERY][_SENT]:
        run.pop()
    return msgspec.msgpack.encode(content)


#: From a version to the function that turns its payload into the next version's.
UPGRADES: dict[int, Upgrade] = {3: _upgrade_from_3}
#: From a version to the function that puts its payload into the version before, or refuses to.
DOWNGRADES: dict[int, Upgrade] = {4: _downgrade_to_3}


def readable_versions(
    current: int = FORMAT_VERSION, upgrades: Mapping[int, Upgrade] = UPGRADES
) -> tuple[int, ...]:
    """Return the versions that can be opened, ascending."""
    return (current - 1, current) if current - 1 in upgrades else (current,)


def check_version(
    version: int, current: int = FORMAT_VERSION, upgrades: Mapping[int, Upgrade] = UPGRADES
) -> None:
    """Raise `BatonVersionError` unless a baton of `version` can be opened."""
    if version == current or version in (readable := readable_versions(current, upgrades)):
        return
    age = "newer" if version > current else "older"
    reads = " and ".join(map(str, readable))
    raise BatonVersionError(
        f"the baton has format version {version}, {age} than this release reads"
        f" (version {reads}); hand over between neighbouring releases only"
    )


def upgrade_payload(
    payload: bytes,
    version: int,
    current: int = FORMAT_VERSION,
    upgrades: Mapping[int, Upgrade] = UPGRADES,
) -> bytes:
    """Return the payload in the present version's form; `version` has passed `check_version`.

    Raises:
        BatonMalformedError: it is not a payload of that version.
    """
    if version == current:
        return payload
    check_version(version, current, upgrades)
    try:
        return upgrades[version](payload)
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError):
        # The cause could quote a secret: it is not passed on.
        raise BatonMalformedError(
            f"the baton's content is not a connection of format version {version}"
        ) from None


def downgrade_payload(payload: bytes, version: int) -> bytes:
    """Return the present version's payload in the form of `version`: the present or the one before.

    Raises:
        NeedsNewerFormatError: the older format cannot express it.
    """
    check_version(version)
    if version == FORMAT_VERSION:
        return payload
    downgrade = DOWNGRADES.get(FORMAT_VERSION)
    if downgrade is None:
        raise NeedsNewerFormatError(f"this release does not write format {version}")
    return downgrade(payload)
