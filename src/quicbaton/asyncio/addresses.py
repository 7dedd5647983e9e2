"""Addresses as text for people."""

from __future__ import annotations

from typing import Any


def address_text(address: tuple[Any, ...]) -> str:
    """HOST:PORT of a socket's address. An IPv4 address inside an IPv6 one is shown as IPv4."""
    host = str(address[0]).removeprefix("::ffff:")
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
