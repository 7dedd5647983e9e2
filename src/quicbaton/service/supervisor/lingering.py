"""The control socket of an old worker in which requests still run: its successor has its former
one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: Not the ending of control sockets, among which commands look for servers.
LINGERING_SUFFIX: Final = ".lingering"


def lingering_control(control: Path) -> Path:
    """The lingering worker's socket, from its former control socket or from this very path."""
    return control.with_suffix(LINGERING_SUFFIX)
