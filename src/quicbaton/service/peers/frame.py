"""The common base of all frames of the control socket."""

from __future__ import annotations

import msgspec


class CommandFrame(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A command, or an answer. The tag of its struct names it."""
