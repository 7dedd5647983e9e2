"""The processes that forward to connections of this one: the source of each, and earlier owners
whose connection IDs the client still uses.

    A ── gave it to ──► B ── gives it to ──► C

While the client uses A's IDs, A forwards to B. When B hands the connection on, B tells A (MOVED). A
then opens a link to C, announces itself there (MOVED_ACK) and forwards to C. Each forwarder has a
handoff of its own at the owner, under the id of the handoff by which it gave the connection away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from quicbaton.handoff import events as ev
from quicbaton.limits import MAX_FORWARDERS
from quicbaton.service.moving.handoff import Handoff
from quicbaton.service.peers.link import Link
from quicbaton.transport.connection import Connection


@dataclass
class _Inbound:
    """A connection that came here and whose client may still use IDs that lead elsewhere."""

    handoffs: list[Handoff] = field(default_factory=list)
    #: Its client is to use our IDs (`expect_cutover`).
    is_cutting: bool = False
    #: Its client was asked to use our IDs. If not, it has yet to cut over to an earlier owner.
    asked: bool = False


class InboundForwarders:
    """By the connection. `begin_cutover(connection)` has its client use IDs that lead here, if it
    has others, and returns whether it has. `remote_name_of(path)` is the name of a process of this
    host on other hosts."""

    def __init__(
        self, begin_cutover: Callable[[Connection], bool], remote_name_of: Callable[[str], str]
    ) -> None:
        self._begin_cutover = begin_cutover
        self._remote_name_of = remote_name_of
        self._inbound: dict[bytes, _Inbound] = {}

    def add(self, handoff: Handoff) -> None:
        """The process at the handoff's other end forwards a connection to us."""
        self._inbound.setdefault(handoff.connection_id, _Inbound()).handoffs.append(handoff)

    def expect_cutover(self, connection_id: bytes) -> None:
        """The connection is ours, and its client is to use IDs that lead here."""
        self._inbound.setdefault(connection_id, _Inbound()).is_cutting = True

    def ask_for_cutover(self, connection: Connection) -> None:
        """Have the client use our IDs, if it has others and no earlier cutover to complete."""
        inbound = self._inbound.get(connection.name)
        if inbound is not None and inbound.is_cutting and not connection.cutover_pending:
            inbound.asked = inbound.asked or self._begin_cutover(connection)

    def look(self, connection: Connection) -> None:
        """Tell the forwarders if the client uses none of their connection IDs any more."""
        inbound = self._inbound.get(connection.name)
        if inbound is None or not inbound.is_cutting or connection.cutover_pending:
            return
        # The completed cutover may be the one to an earlier owner (RFC 9000 §5.1.2).
        if not inbound.asked and self._begin_cutover(connection):
            inbound.asked = True
            return
        self._tell_all(connection.name, ev.CutoverSeen())

    def has_room(self, connection_id: bytes) -> bool:
        """Whether one more process may forward to the connection."""
        return len(self._living(connection_id)) < MAX_FORWARDERS

    def can_tell(self, connection_id: bytes, to: Link) -> bool:
        """Whether all of the connection's forwarders would learn that the process at the other end
        of `to` owns it, and that process would learn of them."""
        return self.has_room(connection_id) and all(
            handoff.link is not None and bool(self._name_for(handoff, to.peer_name))
            for handoff in self._living(connection_id)
        )

    def handed_on(self, connection_id: bytes, to: str) -> None:
        """The process `to` owns the connection from now on."""
        inbound = self._inbound.pop(connection_id, None)
        for handoff in [] if inbound is None else inbound.handoffs:
            if not handoff.ended:
                handoff.feed(ev.GivenOn(self._name_for(handoff, to)))

    def closed(self, connection_id: bytes) -> None:
        self._tell_all(connection_id, ev.ConnectionClosed())

    def forget(self, handoff: Handoff) -> None:
        """The process at the handoff's other end forwards no more."""
        inbound = self._inbound.get(handoff.connection_id)
        if inbound is not None and handoff in inbound.handoffs:
            inbound.handoffs.remove(handoff)
            if not inbound.handoffs and not inbound.is_cutting:
                del self._inbound[handoff.connection_id]

    # --- helpers --------------------------------------------------------------------------------

    def _living(self, connection_id: bytes) -> list[Handoff]:
        inbound = self._inbound.get(connection_id)
        return [] if inbound is None else [one for one in inbound.handoffs if not one.ended]

    def _tell_all(self, connection_id: bytes, event: ev.Event) -> None:
        inbound = self._inbound.pop(connection_id, None)
        for handoff in [] if inbound is None else inbound.handoffs:
            if not handoff.ended:
                handoff.feed(event)

    def _name_for(self, handoff: Handoff, to: str) -> str:
        """The name by which the forwarder knows the process `to`. A path means nothing on another
        host."""
        if to.startswith("/") and not handoff.peer.startswith("/"):
            return self._remote_name_of(to)
        return to
