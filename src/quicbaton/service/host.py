"""This host and this process."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from quicbaton.limits import MAX_DESCRIPTORS, YOUNG_OBJECTS

#: Bytes of the 16 that the kernel draws at random: enough to tell boots apart. They are in every
#: baton.
_BOOT_ID_BYTES: Final = 8
#: The inode of the first time namespace (PROC_TIME_INIT_INO in linux/proc_ns.h): its clock is the
#: kernel's own.
_FIRST_TIME_NAMESPACE: Final = "time:[4026531834]"
#: Runs before it also looks at older objects. It never finds anything of ours there, and with a
#: million objects that takes a quarter of a second.
_LOOKS: Final = 1_000


def tune_collector() -> None:
    """Have the garbage collector run less often. Call it once, when a server has imported
    everything.

    Imported objects stay, so they are never looked at again: that took tens of milliseconds.
    Connections that arrive by the thousand are alive, so repeated looks find nothing: of the 123 µs
    of CPU that it takes to build one, they were 69. Connections and handshakes are freed without
    the collector's help. Only a program's own cycles wait a little longer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, _LOOKS, _LOOKS)


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may. The soft limit is 1024 on most systems,
    for programs that use select(2), as nothing here does. Workers inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, if it is installed. Over UDP it gains nothing; with it an idle TCP connection takes
    51 KB instead of 287."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def boot_id() -> bytes:
    """Names this boot of this host: monotonic clocks compare within it, and nowhere else.

    A container may have a clock of its own (time_namespaces(7)): then it counts as a host.
    """
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return socket.gethostname().encode()[:_BOOT_ID_BYTES].ljust(_BOOT_ID_BYTES, b"\0")
    boot = bytes.fromhex(text.strip().replace("-", ""))
    clock = _time_namespace()
    if clock not in ("", _FIRST_TIME_NAMESPACE):
        boot = hashlib.sha256(boot + clock.encode()).digest()
    return boot[:_BOOT_ID_BYTES]


def _time_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/time")
    except OSError:
        # Before Linux 5.6 there is one clock for all.
        return ""
