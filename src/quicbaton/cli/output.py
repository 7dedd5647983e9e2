"""The destination of a server's lines. A line that cannot be written must not harm a connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections import Counter
from typing import Final, TextIO

#: Bytes that wait for a slow reader: some seconds of a busy access log.
_MAX_WAITING_BYTES: Final = 1 << 20
#: A pipe that is ready takes this many without blocking (at least POSIX's PIPE_BUF).
_PIECE_BYTES: Final = select.PIPE_BUF
_END: Final = ord("\n")
#: Seconds for a reader to take the last lines when the process ends.
_CLOSE_S: Final = 1.0


class Output:
    """A descriptor to which whole lines are written, for `logging` and `Reporter` in place of a
    text stream. It never blocks and never raises: lines that find no room, or that the descriptor
    refuses, are lost, and counted in `lost["lines"]`.

    The descriptor keeps its mode (blocking, that is), since it may be another program's terminal,
    too. If another process reads it, it is written to in pieces that fit at once.
    """

    def __init__(self, descriptor: int, lost: Counter[str]) -> None:
        self._descriptor = descriptor
        self._lost = lost
        #: Begins with the rest of a line that was written in part.
        self._waiting = bytearray()
        #: The last write ended within a line.
        self._amid_line = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._watched = False

    def write(self, text: str) -> None:
        """Write whole lines, or lose all of them."""
        data = text.encode(errors="backslashreplace")
        if self._waiting and len(self._waiting) + len(data) > _MAX_WAITING_BYTES:
            self._lost["lines"] += data.count(b"\n")
            return
        if self._amid_line and not self._waiting:
            data = b"\n" + data
        self._waiting += data
        self._pump()

    def flush(self) -> None:
        """`logging` calls this after each line; there is nothing to do."""

    def close(self) -> None:
        """Give the reader a moment for the waiting lines. The descriptor stays open."""
        until = time.monotonic() + _CLOSE_S
        while self._waiting and (left_s := until - time.monotonic()) > 0:
            self._poll.poll(left_s * 1000)
            self._pump()
        if self._waiting:
            self._lose()
        self._unwatch()

    # --- helpers --------------------------------------------------------------------------------

    def _pump(self) -> None:
        waiting = self._waiting
        try:
            while waiting and self._poll.poll(0):
                written = os.write(self._descriptor, waiting[:_PIECE_BYTES])
                self._amid_line = waiting[written - 1] != _END
                del waiting[:written]
        except BlockingIOError:
            pass  # Another process has made it one that does not block.
        except OSError:
            # The reader is gone, or the disk is full. Later lines may fare better: they begin anew.
            self._lose()
        if waiting:
            self._watch()
        else:
            self._unwatch()

    def _lose(self) -> None:
        self._lost["lines"] += self._waiting.count(b"\n")
        self._waiting.clear()

    def _watch(self) -> None:
        if not self._watched:
            # No loop runs, or it cannot watch the descriptor: the next line tries again.
            with contextlib.suppress(RuntimeError, OSError):
                asyncio.get_running_loop().add_writer(self._descriptor, self._pump)
                self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_writer(self._descriptor)


class KeyLog:
    """TLS secrets, a line at a time, for `QuicConfiguration.secrets_log_file`. Lines that cannot be
    written are counted in `lost["keys"]`."""

    def __init__(self, file: TextIO, lost: Counter[str]) -> None:
        self._file = file
        self._lost = lost

    def write(self, line: str) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError:
            self._lost["keys"] += 1

    def flush(self) -> None:
        """aioquic calls this after each line; there is nothing to do."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
