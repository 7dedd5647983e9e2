"""What all frames of the control socket have in common."""

from __future__ import annotations

import msgspec


class CommandFrame(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A command, or an answer; its struct's tag names it."""
