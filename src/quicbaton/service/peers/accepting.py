"""Accepts connections at a listening socket, one for each time that the event loop finds some."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from quicbaton.service.timing import ACCEPT_PAUSE_S


class Accepting:
    """Until closed, `take` gets each accepted socket and has to close it."""

    def __init__(self, sock: socket.socket, take: Callable[[socket.socket], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Accept no more, and close the listening socket."""
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            # The process has no descriptor left; some are freed as connections end.
            self._loop.remove_reader(self._sock.fileno())
            self._loop.call_later(ACCEPT_PAUSE_S, self._listen)
            return
        self._take(sock)
