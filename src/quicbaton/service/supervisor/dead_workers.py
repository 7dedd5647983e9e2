"""What becomes of a dead worker's connections.

A worker is dead when the kernel says so (its pidfd), never because it is silent. Then everybody
who could own a connection of its is asked, after having read all that it wrote:

* What its roster lists was its own until the end: the clients are reset at once, without waiting
  for a packet of theirs (RFC 9000 §10.3).
* What it had handed on, and whose clients still use its connection IDs, lives in other workers.
  Its successor sends such packets on.
* Other IDs of its are nobody's as soon as every living worker has answered. Its successor may then
  answer them with resets, and who was in the middle of a handoff with it may do the same. While
  one worker is silent, which may just be stopped, all these are withheld (§21.11).

What a worker had given to another host nobody here can tell once it has ended, in good order or
not, and with a shared store whoever had got its baton may still commit. In such services IDs of its
that are not in its roster are therefore never reset: these clients wait for their idle timeout, and
none that lives elsewhere is cut off.
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
    """What a survey came to."""

    whole: bool  # everybody has answered
    names: list[bytes]  # connections that live
    elsewhere: dict[bytes, int]  # IDs of others' -> number of the worker that has their connection


async def survey(pid: int, living: Mapping[Path, int]) -> Verdict:
    """Ask the living workers, control socket to worker number, what they own."""

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
    # An owner counts for more than one who sends on.
    for worker, answer in zip(living.values(), answers, strict=True):
        if answer is not None:
            elsewhere.update(dict.fromkeys(answer.ids, worker))
    return Verdict(None not in answers, names, elsewhere)


class Announcer:
    """Resets connections of the dead from a socket of the port, which need not be read."""

    def __init__(self, sock: socket.socket, ring: Callable[[], KeyRing]) -> None:
        self._sock = sock
        self._ring = ring

    async def announce(self, roster: int) -> int:
        """Tell the clients in a dead worker's roster; how many there were."""
        try:
            entries = read_roster(roster, int(self._sock.getsockname()[1]))
        except PeerError:
            # Another release's. These clients learn by their own next packets.
            return 0
        ring = self._ring()
        for start in range(0, len(entries), RESETS_PER_SLICE):
            for entry in entries[start : start + RESETS_PER_SLICE]:
                self._tell(entry, ring)
            await asyncio.sleep(0)
        return len(entries)

    def _tell(self, entry: Entry, ring: KeyRing) -> None:
        # Under each of our IDs, since we do not know which the client uses, and under each key that
        # may have made its token. Its address is validated, and these go out once.
        for cid in entry.cids:
            for key in ring:
                data = announce_reset(reset_token(key, cid), os.urandom)
                self._send(data, entry)

    def _send(self, data: bytes, entry: Entry) -> None:
        """From the very address that the client talks to."""
        sock = self._sock
        ancillary = []
        if entry.local:
            ancillary.append(source_ancillary(entry.local, is_v6=sock.family == socket.AF_INET6))
        with contextlib.suppress(OSError):
            # What cannot be sent is lost, as on any network; the client's next packet brings
            # another.
            sock.sendmsg([data], ancillary, 0, entry.remote)
