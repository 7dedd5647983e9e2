"""Where an old worker answers in which requests still run: at its own socket its successor does."""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: Not that of control sockets, among which users' commands look for servers.
LINGERING_SUFFIX: Final = ".lingering"


def lingering_control(control: Path) -> Path:
    """By the control socket that the worker had, or by this very path."""
    return control.with_suffix(LINGERING_SUFFIX)
