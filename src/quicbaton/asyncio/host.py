"""This host and this process."""

from __future__ import annotations

import gc
import socket
from pathlib import Path
from typing import Final

#: Of the 16 that the kernel draws at random: enough to tell boots apart, and in every baton.
_BOOT_ID_BYTES: Final = 8
#: Objects made before the collector looks at the youngest; passes before it looks at older ones.
_YOUNG_OBJECTS: Final = 20_000
_PASSES: Final = 20


def tune_collector() -> None:
    """Have the garbage collector look less often. Call it once, when a server has imported all.

    What was imported stays, so it is never looked at again: that took tens of milliseconds. And
    connections that arrive by the thousand are alive, so looking at them again and again finds
    nothing: of 123 µs of CPU that it takes to build one, that were 69. Few cycles become garbage
    here; what waits meanwhile is some megabytes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _PASSES, _PASSES)


def boot_id() -> bytes:
    """Names this boot of this host: monotonic clocks compare within it, and nowhere else."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return socket.gethostname().encode()[:_BOOT_ID_BYTES].ljust(_BOOT_ID_BYTES, b"\0")
    return bytes.fromhex(text.strip().replace("-", ""))[:_BOOT_ID_BYTES]
