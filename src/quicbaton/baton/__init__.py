"""Snapshots to sealed bytes and back."""

from quicbaton.baton.versions import FORMAT_VERSION

__all__ = ["FORMAT_VERSION"]
