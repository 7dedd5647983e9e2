"""The processes that had a port's place before this one and live on.

    client ── strays ──► this process, which reads the socket
                           ── Toss ──► an old process ── Stray ──► the owner, elsewhere

An old process reads the socket no more, and may still be needed: it forwards for connections that
it gave away, sends for them, or has handshakes. It says which connection IDs these are (`PassBack`)
to its successor, which passes their datagrams back to it, and tells its own successor of them.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import NamedTuple

from quicbaton.asyncio.endpoint.newcomers import Owner
from quicbaton.limits import NO_RESET_LIFETIME_S
from quicbaton.routing.table import RoutingTable
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.directory import Directory


class _Old(NamedTuple):
    name: str
    control: str


class OldProcesses:
    """Those of one place. Datagrams for their IDs go to them as `table` and `directory` say."""

    def __init__(self, table: RoutingTable[Owner], directory: Directory) -> None:
        self._table = table
        self._directory = directory
        #: By pid.
        self._old: dict[int, _Old] = {}

    def add(self, frame: c.PassBack) -> None:
        """An old process lives on for these IDs."""
        self._old[frame.pid] = _Old(frame.name, frame.control)
        self._directory.moved[frame.name] = frame.control
        table = self._table
        for cid in frame.connection_ids:
            if cid in table.owners:
                continue
            if table.has_room(1):
                # The supervisor says when that process has ended; nothing else does.
                table.forward(cid, frame.name, math.inf)
            else:
                table.withhold_resets(cid, monotonic() + NO_RESET_LIFETIME_S)

    def frames(self) -> list[c.PassBack]:
        """What a successor must know of them."""
        return [
            c.PassBack(old.name, old.control, pid, self._table.forwards_to(old.name))
            for pid, old in self._old.items()
        ]

    def ended(self, pid: int) -> None:
        """That process has ended: what was its is not known here any more."""
        old = self._old.pop(pid, None)
        if old is not None:
            self._directory.moved.pop(old.name, None)
            for cid in self._table.forwards_to(old.name):
                self._table.remove(cid)
