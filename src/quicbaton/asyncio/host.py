"""This host."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

#: Of the 16 that the kernel draws at random: enough to tell boots apart, and in every baton.
_BOOT_ID_BYTES: Final = 8


def boot_id() -> bytes:
    """Names this boot of this host: monotonic clocks compare within it, and nowhere else."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return socket.gethostname().encode()[:_BOOT_ID_BYTES].ljust(_BOOT_ID_BYTES, b"\0")
    return bytes.fromhex(text.strip().replace("-", ""))[:_BOOT_ID_BYTES]
