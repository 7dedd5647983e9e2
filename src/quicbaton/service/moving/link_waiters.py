"""Handoffs that wait for a link to some process."""

from __future__ import annotations

from collections.abc import Callable

from quicbaton.handoff import CuttingOver, Taking
from quicbaton.handoff import events as ev
from quicbaton.reasons import Reason
from quicbaton.service.moving.handoff import Handoff
from quicbaton.service.peers.link import Link


class LinkWaiters:
    """`connect(name)` has a link opened. In the end `answered` or `unreachable` is called."""

    def __init__(self, connect: Callable[[str], None]) -> None:
        self._connect = connect
        self._sought: dict[Handoff, str] = {}

    def seek(self, handoff: Handoff, name: str) -> None:
        """Have a link to that process opened for the handoff."""
        self._sought[handoff] = name
        self._connect(name)

    def forget(self, handoff: Handoff) -> None:
        self._sought.pop(handoff, None)

    def answered(self, link: Link, name: str) -> None:
        """A link is greeted. It goes to handoffs that wait for one to that process, by this name or
        by its own."""
        for handoff in self._take({name, link.peer_name}):
            handoff.pid = link.peer_pid
            handoff.feed(ev.LinkUp(link.number))

    def unreachable(self, name: str) -> None:
        """No link to that process comes up. A connection that has not come stays where it is; one
        that was given away is forwarded as before."""
        text = "the process that froze this connection cannot be reached; it is its arbiter"
        for handoff in self._take({name}):
            if isinstance(handoff.machine, (Taking, CuttingOver)):
                handoff.feed(ev.Cancel(Reason.SOURCE_GONE, text))

    def _take(self, names: set[str]) -> list[Handoff]:
        found = [handoff for handoff, name in self._sought.items() if name in names]
        for handoff in found:
            del self._sought[handoff]
        return found
