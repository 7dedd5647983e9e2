"""The address that means all addresses."""

from __future__ import annotations

from typing import Final

from quicbaton.asyncio.endpoint.udp import open_udp

ALL_ADDRESSES: Final = "::"


def any_address() -> str:
    """The address that listens on all others, of both families where there are two."""
    try:
        open_udp(ALL_ADDRESSES, 0).close()
    except OSError:
        return "0.0.0.0"
    return ALL_ADDRESSES
