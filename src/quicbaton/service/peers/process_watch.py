"""Whether another process lives. Only the kernel knows: a silent process may just be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import Final

_SO_PEERPIDFD: Final = 77  # Linux 6.5; asm-generic/socket.h


class ProcessWatch:
    """Calls `on_exit` once, when the process at the other end of a Unix socket has exited.

    Where the kernel has no pidfds (before Linux 5.3, and elsewhere) it never does: no death is
    proven there, and code that waits for proof waits on.
    """

    def __init__(self, sock: socket.socket, pid: int, on_exit: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._over = False
        self._descriptor: int | None = None
        try:
            self._descriptor = _open_pidfd(sock, pid)
        except ProcessLookupError:
            self._loop.call_soon(self._fire)
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._fire)

    def close(self) -> None:
        self._over = True
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def kill(self) -> None:
        """Kill the process; never another one with its number."""
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def _fire(self) -> None:
        if not self._over:
            self.close()
            self._on_exit()


def _open_pidfd(sock: socket.socket, pid: int) -> int | None:
    """A descriptor that becomes readable when the process exits, or None.

    Raises ProcessLookupError when it already has. SO_PEERPIDFD names the very process that
    connected; its pid could have been used again since.
    """
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, struct.calcsize("i"))
        return int(struct.unpack("i", raw)[0])
    except OSError as error:
        # Linux 6.5 to 6.15 have none for a process that has exited: another process may have its
        # number now.
        if error.errno in (errno.EINVAL, errno.ESRCH):
            raise ProcessLookupError(error.errno, "the peer has exited") from error
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (OSError, AttributeError):
        return None
