"""Pipes into which a process writes, and that nobody reads."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def fill(pid: int, reader: int) -> None:
    """Leave no room in a pipe into which a process writes."""
    size = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
    inode = os.fstat(reader).st_ino
    folder = Path(f"/proc/{pid}/fd")
    (number,) = [name for name in ("1", "2") if os.stat(folder / name).st_ino == inode]
    writer = os.open(folder / number, os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(writer, b"\n" * size)
    except BlockingIOError:
        pass
    try:
        while True:
            os.write(writer, b"\n")
    except BlockingIOError:
        os.close(writer)
