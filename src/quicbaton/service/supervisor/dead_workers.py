"""What becomes of a dead worker's connections.

A worker is dead when the kernel says so (its pidfd), never because it is silent. Then the
supervisor asks every worker that could own one of its connections. Each answers after it has read
all that the dead worker wrote.

* Connections in its roster were its own until the end. Their clients are reset at once, without
  waiting for a packet of theirs (RFC 9000 §10.3).
* Connections that it had handed on, and whose clients still use its connection IDs, live in other
  workers. Its successor sends such packets on.
* Its other IDs have no owner once every living worker has answered. Its successor may then answer
  them with resets, and so may a worker that was in the middle of a handoff with it. While one
  worker is silent, which may just be stopped, all these resets are withheld (§21.11).

Once a worker has ended, in good order or not, no process here can tell which connections it had
given to another host. With a shared store a process that has got its baton may still commit. In
such services its IDs that are not in its roster are never reset. Their clients wait for their idle
timeout, and no client whose connection lives elsewhere is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from quicbaton.asyncio.endpoint.udp import source_ancillary
from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token
from quicbaton.limits import RESETS_PER_SLICE
from quicbaton.routing.reset import announce_reset
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from quicbaton.service.supervisor.roster import Entry, read_roster
from quicbaton.service.timing import SURVEY_S


class Verdict(NamedTuple):
    """The result of a survey."""

    whole: bool  # everybody has answered
    names: list[bytes]  # connections that live
    elsewhere: dict[bytes, int]  # IDs of others' -> number of the worker that has their connection


async def survey(pid: int, living: Mapping[Path, int]) -> Verdict:
    """Ask the living workers what they own. `living`: from control socket to worker number."""

    async def one(control: Path) -> c.Survivors | None:
        with contextlib.suppress(QuicbatonError):
            return await ask(control, c.Survey(pid), c.Survivors, SURVEY_S)
        return None

    answers = await asyncio.gather(*(one(control) for control in living))
    names: list[bytes] = []
    elsewhere: dict[bytes, int] = {}
    for worker, answer in zip(living.values(), answers, strict=True):
        if answer is not None:
            names += answer.names
            for cid in answer.passed_on:
                elsewhere.setdefault(cid, worker)
    # A worker that owns a connection counts for more than one that forwards for it.
    for worker, answer in zip(living.values(), answers, strict=True):
        if answer is not None:
            elsewhere.update(dict.fromkeys(answer.ids, worker))
    return Verdict(None not in answers, names, elsewhere)


class Announcer:
    """Resets connections of dead workers from a socket of the port, which need not be read."""

    def __init__(self, sock: socket.socket, ring: Callable[[], KeyRing]) -> None:
        self._sock = sock
        self._ring = ring

    async def announce(self, roster: int) -> int:
        """Reset the clients in a dead worker's roster. Returns their number."""
        try:
            entries = read_roster(roster, int(self._sock.getsockname()[1]))
        except PeerError:
            # The roster is another release's. Its clients learn by their own next packets.
            return 0
        ring = self._ring()
        for start in range(0, len(entries), RESETS_PER_SLICE):
            for entry in entries[start : start + RESETS_PER_SLICE]:
                self._tell(entry, ring)
            await asyncio.sleep(0)
        return len(entries)

    def _tell(self, entry: Entry, ring: KeyRing) -> None:
        # One for each of our IDs, since we do not know which the client uses, and for each key that
        # may have made its token. The address is validated, and each goes out once.
        for cid in entry.cids:
            for key in ring:
                data = announce_reset(reset_token(key, cid), os.urandom)
                self._send(data, entry)

    def _send(self, data: bytes, entry: Entry) -> None:
        """Send a datagram from the very address that the client talks to."""
        sock = self._sock
        ancillary = []
        if entry.local:
            ancillary.append(source_ancillary(entry.local, is_v6=sock.family == socket.AF_INET6))
        with contextlib.suppress(OSError):
            # A datagram that cannot be sent is lost, as on any network. The client's next packet
            # brings another.
            sock.sendmsg([data], ancillary, 0, entry.remote)
