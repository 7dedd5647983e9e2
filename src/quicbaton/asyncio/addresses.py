"""Addresses as people read them."""

from __future__ import annotations

from typing import Any


def address_text(address: tuple[Any, ...]) -> str:
    """HOST:PORT of a socket's address, an IPv4 address in IPv6 as what it is."""
    host = str(address[0]).removeprefix("::ffff:")
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
