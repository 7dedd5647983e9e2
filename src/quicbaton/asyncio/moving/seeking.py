"""Machines that wait for a link to some process."""

from __future__ import annotations

from collections.abc import Callable

from quicbaton.asyncio.moving.machines import Machine, Machines
from quicbaton.asyncio.peers.link import Link
from quicbaton.handoff import HandoffDestination
from quicbaton.handoff import events as ev


class Seekers:
    """`connect(name)` has a link opened; `answered` or `unreachable` is called in the end."""

    def __init__(self, machines: Machines, connect: Callable[[str], None]) -> None:
        self._machines = machines
        self._connect = connect
        self._sought: dict[Machine, str] = {}

    def seek(self, machine: Machine, name: str) -> None:
        """Have a link to that process opened for the machine."""
        self._sought[machine] = name
        self._connect(name)

    def forget(self, machine: Machine) -> None:
        self._sought.pop(machine, None)

    def answered(self, link: Link, name: str) -> None:
        """A link is greeted: whoever waits for one to that process, by this name or by its own, has
        it."""
        for machine in self._take({name, link.peer_name}):
            self._machines.pids[machine] = link.peer_pid
            self._machines.feed(machine, ev.LinkUp(link.number))

    def unreachable(self, name: str) -> None:
        """No link to that process comes up: who waits for one gives up, if it may. A source whose
        new owner cannot be reached goes on as before."""
        text = "the process that froze this connection cannot be reached; it is its arbiter"
        for machine in self._take({name}):
            if isinstance(machine, HandoffDestination):
                self._machines.feed(machine, ev.Cancel("source_gone", text))

    def _take(self, names: set[str]) -> list[Machine]:
        found = [machine for machine, name in self._sought.items() if name in names]
        for machine in found:
            del self._sought[machine]
        return found
