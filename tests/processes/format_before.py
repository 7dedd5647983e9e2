"""A baton format before the present one that cannot say something common.

These processes have it in place of the real one (`tests/releases` tries that), so that handoffs
between neighbouring releases are tried, and refused. It has no relayed streams, the last field of
a snapshot: a connection with such streams cannot be expressed in it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quicbaton.baton.errors import NeedsNewerFormatError
from quicbaton.baton.versions import DOWNGRADES, FORMAT_VERSION, UPGRADES

VERSION = FORMAT_VERSION - 1


def install() -> None:
    """Have this process read the format, and write it to peers that read no later one."""
    UPGRADES[VERSION] = upgrade
    DOWNGRADES[FORMAT_VERSION] = downgrade


def upgrade(payload: bytes) -> bytes:
    """The payload in the present format."""
    fields: list[Any] = msgspec.msgpack.decode(payload)
    return msgspec.msgpack.encode([*fields, []])


def downgrade(payload: bytes) -> bytes:
    """The payload in this format. NeedsNewerFormatError if the connection has relayed streams."""
    *fields, relayed = msgspec.msgpack.decode(payload)
    if relayed:
        raise NeedsNewerFormatError(
            f"format {VERSION} knows no relayed streams: wait for its requests to end"
        )
    return msgspec.msgpack.encode(fields)
