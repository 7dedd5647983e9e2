"""Links with processes of other nodes that no handoff has made yet.

Routers that hash addresses (ECMP, anycast) send a client's datagrams to another host when its
address or the number of hosts changes. Its connection IDs name the owner, with which the process
that gets them may never have had a link. The first of them has one made, and is lost with those
that come until it is up. QUIC repairs that.

Anybody can send datagrams that name processes, and each link costs both sides a TLS handshake. So
few are made at once, fewer to one node, which may be out of reach, and a process that was not
reached is left alone for a while, and longer each time that datagrams name it again soon.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from math import inf
from time import monotonic
from typing import Any

from quicbaton.errors import QuicbatonError
from quicbaton.limits import (
    FIRST_LINK_PAUSE_S,
    MAX_FIRST_LINK_PAUSE_S,
    MAX_FIRST_LINKS,
    MAX_FIRST_LINKS_TO_NODE,
    MAX_MISSED_PROCESSES,
)


class FirstLinks:
    """`link_to` makes a link with the process of that name; `spawn` runs a coroutine function in
    the background."""

    def __init__(
        self,
        link_to: Callable[[str], Coroutine[Any, Any, object]],
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self._link_to = link_to
        self._spawn = spawn
        self._under_way: set[str] = set()
        #: Processes that were not reached: for how long they are left alone, and until when; oldest
        #: first.
        self._missed: dict[str, tuple[float, float]] = {}

    def want(self, name: str) -> None:
        """A datagram for this process has come."""
        if name in self._under_way or len(self._under_way) >= MAX_FIRST_LINKS:
            return
        node = _node_of(name)
        if sum(_node_of(one) == node for one in self._under_way) >= MAX_FIRST_LINKS_TO_NODE:
            return
        if name in self._missed and monotonic() < self._missed[name][1]:
            return
        self._under_way.add(name)
        self._spawn(lambda: self._make(name))

    def on_link_up(self, name: str) -> None:
        """There is a link with this process, whoever made it."""
        self._missed.pop(name, None)

    async def _make(self, name: str) -> None:
        missed = True
        try:
            with contextlib.suppress(QuicbatonError, OSError):
                await self._link_to(name)
                missed = False
        finally:
            self._under_way.discard(name)
        pause_s, until_s = self._missed.pop(name, (0.0, -inf))
        if missed:
            now_s = monotonic()
            if now_s > until_s + MAX_FIRST_LINK_PAUSE_S:
                pause_s = FIRST_LINK_PAUSE_S / 2
            if len(self._missed) >= MAX_MISSED_PROCESSES:
                del self._missed[next(iter(self._missed))]
            pause_s = min(2 * pause_s, MAX_FIRST_LINK_PAUSE_S)
            self._missed[name] = (pause_s, now_s + pause_s)


def _node_of(name: str) -> str:
    """Of NODE/WORKER."""
    return name.partition("/")[0]
