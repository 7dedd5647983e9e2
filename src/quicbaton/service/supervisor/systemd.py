"""systemd's protocols with its services: sd_notify(3), sd_listen_fds(3), file descriptor store.
Without systemd all of it does nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from time import monotonic_ns
from typing import Final, NamedTuple

from quicbaton.service.timing import SYSTEMD_S

#: The first descriptor that systemd passes (SD_LISTEN_FDS_START).
FIRST_DESCRIPTOR: Final = 3
#: The names under which the TCP socket and the memory with the service's figures are kept.
LISTENER_NAME: Final = "listener"
TALLIES_NAME: Final = "tallies"


class Passed(NamedTuple):
    """Descriptors that systemd has passed on."""

    kept: list[socket.socket]  # the port's sockets that a former self has kept, in order
    activated: list[socket.socket]  # a socket unit's
    listeners: list[socket.socket]  # of TCP: the one that a former self has kept, a socket unit's
    rosters: dict[int, tuple[str, int]]  # pid of a worker -> name and descriptor of its roster
    tallies: int | None = None  # descriptor of the memory with the service's figures


def socket_name(worker: int) -> str:
    """The name under which a worker's socket is kept."""
    return f"socket-{worker}"


def roster_name(worker: int, pid: int) -> str:
    """The name under which a worker's roster is kept."""
    return f"roster-{worker}-{pid}"


class Systemd:
    """`environment` is this process's, and `pid` its number: variables for another process are
    ignored."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._notify = environment.get("NOTIFY_SOCKET", "")
        self._descriptors: list[tuple[str, int]] = []
        if environment.get("LISTEN_PID") == str(pid):
            count = int(environment.get("LISTEN_FDS", "0"))
            names = environment.get("LISTEN_FDNAMES", "").split(":")
            names += [""] * (count - len(names))
            self._descriptors = [(names[index], FIRST_DESCRIPTOR + index) for index in range(count)]
        for _, descriptor in self._descriptors:
            os.set_inheritable(descriptor, False)
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        self._watchdog_s = int(usec) / 1e6 if usec.isdigit() and mine else 0.0

    def take(self) -> Passed:
        """The descriptors that systemd has passed to this process. Call it once; the caller owns
        them."""
        numbered: dict[int, socket.socket] = {}
        others = []
        listeners: list[socket.socket] = []
        rosters = {}
        tallies = None
        for name, descriptor in self._descriptors:
            kind, _, number = name.partition("-")
            if name == TALLIES_NAME and tallies is None:
                tallies = descriptor
                continue
            if kind == "roster":
                pid = number.rpartition("-")[2]
                rosters[int(pid) if pid.isdigit() else 0] = (name, descriptor)
                continue
            try:
                sock = socket.socket(fileno=descriptor)
            except OSError:
                os.close(descriptor)  # Neither a socket nor anything of ours.
                continue
            sock.setblocking(False)
            is_inet = sock.family in (socket.AF_INET, socket.AF_INET6)
            if is_inet and sock.type == socket.SOCK_STREAM:
                # A kept socket is in use, and comes first.
                listeners.insert(0 if name == LISTENER_NAME else len(listeners), sock)
            elif kind == "socket" and number.isdigit():
                numbered[int(number)] = sock
            else:
                others.append(sock)
        self._descriptors = []
        # A gap would renumber the sockets behind it: such a group cannot be used.
        whole = sorted(numbered) == list(range(len(numbered)))
        kept = [numbered[number] for number in sorted(numbered)] if whole else []
        if not whole:
            for sock in numbered.values():
                sock.close()
        return Passed(kept, others, listeners, rosters, tallies)

    # --- notifications --------------------------------------------------------------------------

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status.splitlines()[0] if status else ''}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def keep(self, name: str, descriptor: int) -> None:
        """Have systemd keep a descriptor for our next start."""
        # Otherwise systemd looks for hang-ups, which a memory file cannot have (FDPOLL, since 246).
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [descriptor])

    def drop(self, name: str) -> None:
        """Have systemd forget a descriptor."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    async def keep_alive(self) -> None:
        """Tell the watchdog, if there is one, that the event loop runs."""
        while self._watchdog_s:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _send(self, text: str, descriptors: list[int] | None = None) -> None:
        if not self._notify:
            return
        # "@" stands for the zero byte of an abstract address.
        address = "\0" + self._notify[1:] if self._notify.startswith("@") else self._notify
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
            contextlib.suppress(OSError),
        ):
            sock.settimeout(SYSTEMD_S)
            sock.connect(address)
            socket.send_fds(sock, [text.encode()], descriptors or [])
