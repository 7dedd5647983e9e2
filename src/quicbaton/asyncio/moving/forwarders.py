"""Who forwards to the connections of this process: the source that each came from, and those who
gave it away earlier and whose connection IDs its client still uses.

    A ── gave it to ──► B ── gives it to ──► C

While the client uses A's IDs, A forwards to B. When B hands the connection on, B tells A (MOVED); A
opens a link to C, announces itself there (MOVED_ACK) and forwards to C. Each forwarder has a
destination machine of its own at the owner, under the id of the handoff in which it gave.
"""

from __future__ import annotations

from collections.abc import Callable

from quicbaton.asyncio.moving.machines import Machines
from quicbaton.asyncio.peers.link import Link
from quicbaton.handoff import DestinationState, HandoffDestination
from quicbaton.handoff import events as ev
from quicbaton.handoff.messages import MovedAck, Refuse
from quicbaton.limits import MAX_FORWARDERS


class Forwarders:
    """By the connection. `slot_of(path)` is what another host knows a process of this one by."""

    def __init__(self, machines: Machines, find_link: Callable[[int | None], Link | None]) -> None:
        self._machines = machines
        self._find_link = find_link
        self._of: dict[bytes, list[HandoffDestination]] = {}
        #: What each is called, by handoff id.
        self._names: dict[bytes, str] = {}
        self.slot_of: Callable[[str], str] = lambda _path: ""

    def add(self, machine: HandoffDestination, name: str) -> None:
        """That process forwards a connection to us."""
        self._of.setdefault(machine.connection_id, []).append(machine)
        self._names[machine.handoff_id] = name

    def can_tell(self, connection_id: bytes, to: Link) -> bool:
        """Whether all of the connection's forwarders would learn that `to` owns it, and it of
        them."""
        known = self._living(connection_id)
        return len(known) < MAX_FORWARDERS and all(
            self._can_tell(machine, to.peer_name) for machine in known
        )

    def announced(
        self, link: Link, message: MovedAck, *, is_here: bool, given_to: str
    ) -> HandoffDestination | None:
        """A process forwards to us from here on: because the connection is here, or is about to
        be, or, if it has been `given_to` another meanwhile, until it has learned so."""
        connection_id = message.connection_id
        if not (is_here or given_to) or len(self._living(connection_id)) >= MAX_FORWARDERS:
            text = "the connection is not owned here"
            link.send(Refuse(connection_id, message.handoff_id, "not_owned", text))
            return None
        machine = self._machines.new_destination(
            connection_id, message.handoff_id, link.peer_pid, link.own_name
        )
        self.add(machine, link.peer_name)
        self._machines.feed(machine, ev.Received(link.number, message))
        if given_to:
            self.handed_on(connection_id, given_to)
        return machine

    def handed_on(self, connection_id: bytes, to: str) -> None:
        """The process `to` owns the connection from now on."""
        for machine in self._of.pop(connection_id, ()):
            self._tell(machine, ev.GivenOn(self._spell(machine, to)))

    def cut_over(self, connection_id: bytes) -> None:
        """The client uses none of their connection IDs any more."""
        for machine in self._of.pop(connection_id, ()):
            self._tell(machine, ev.CutoverSeen())

    def closed(self, connection_id: bytes) -> None:
        """The connection is over."""
        for machine in self._of.pop(connection_id, ()):
            self._tell(machine, ev.ConnectionClosed())

    def forget(self, machine: HandoffDestination) -> None:
        """Nothing more comes of the machine."""
        self._names.pop(machine.handoff_id, None)
        known = self._of.get(machine.connection_id)
        if known is not None and machine in known:
            known.remove(machine)
            if not known:
                del self._of[machine.connection_id]

    def unfinished(self) -> int:
        """Forwarders that have yet to turn to the next owner."""
        return sum(
            machine.state is DestinationState.HANDED_ON
            for machine in self._machines.destinations.values()
        )

    # --- helpers --------------------------------------------------------------------------------

    def _living(self, connection_id: bytes) -> list[HandoffDestination]:
        return [machine for machine in self._of.get(connection_id, ()) if not machine.ended]

    def _can_tell(self, machine: HandoffDestination, to: str) -> bool:
        link = self._find_link(machine.link)
        return link is not None and bool(self._spell(machine, to))

    def _spell(self, machine: HandoffDestination, to: str) -> str:
        """What that forwarder knows the process `to` by. A path means nothing on another host."""
        forwarder = self._names.get(machine.handoff_id, "")
        if to.startswith("/") and not forwarder.startswith("/"):
            return self.slot_of(to)
        return to

    def _tell(self, machine: HandoffDestination, event: ev.Event) -> None:
        if not machine.ended:
            self._machines.feed(machine, event)
