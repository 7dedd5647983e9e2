"""Saved connections as files."""

from __future__ import annotations

import os
from pathlib import Path

from quicbaton.errors import PeerError
from quicbaton.limits import MAX_HANDOFF_MESSAGE_BYTES
from quicbaton.reasons import Reason


def write_baton(path: Path, sealed: bytes) -> None:
    """Write a saved baton to a new file that no other user can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(sealed)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def read_baton(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_HANDOFF_MESSAGE_BYTES + 1)
    if len(data) > MAX_HANDOFF_MESSAGE_BYTES:
        raise PeerError(f"{path} is too big for a baton", code=Reason.BATON_TOO_LARGE)
    return data
