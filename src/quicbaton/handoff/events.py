"""Events that a runtime tells the machines of a handoff. Links are the runtime's numbers, never
used twice."""

from __future__ import annotations

from enum import Enum

import msgspec

from quicbaton.handoff.messages import Address, HandoffMessage
from quicbaton.reasons import Reason


class Outcome(Enum):
    """The end of a handoff, as one side knows it."""

    #: Source: the connection stays here, in a higher term if it was frozen.
    KEPT = "kept"
    #: Source: the destination owns it. Nothing undoes this.
    GIVEN = "given"
    #: Source, after GIVEN: the destination let it go, and no process owns it.
    LOST = "lost"
    #: Source, with a shared store: its owner could not be found out. It is silent for good.
    IN_DOUBT = "in_doubt"
    #: Destination: it is ours.
    RESUMED = "resumed"
    #: Destination: it is not ours and never will be by this handoff.
    DISCARDED = "discarded"


class Event(msgspec.Struct, frozen=True):
    """Something that happened outside a machine."""


# --- to both sides -------------------------------------------------------------------------


class Received(Event, frozen=True):
    """A message came in over a link."""

    link: int
    message: HandoffMessage


class LinkLost(Event, frozen=True):
    """A link is at its end, and all its messages were handled before."""

    link: int


class PeerDead(Event, frozen=True):
    """The other process has provably exited (a pidfd says so; a silent peer may be stopped).

    `no_owner_lives`: the supervisor has moreover made sure that no other living process owns the
    connection or may still come to own it: each has read its links to the dead one to their end. A
    dead source may have taken the connection back and given it to a third before it died.
    """

    no_owner_lives: bool


class Cancel(Event, frozen=True):
    """Give up, if it is not too late."""

    code: Reason
    message: str


class DeadlinePassed(Event, frozen=True):
    """Made by `handle_timer` itself."""


# --- to the source ----------------------------------------------------------------------------


class Start(Event, frozen=True):
    """Hand the connection to the process at the other end of a link.

    `cutover_pending`: its last handoff's cutover is open, and strays come from a forwarder that
    cannot be told of a further owner; then the handoff is refused. `local`: the address to which
    its client sends. `proxy`: if the destination cannot send from there, it is proxied rather than
    refused.
    """

    link: int
    source: str
    audience: str
    size_bytes: int
    format_version: int
    cutover_pending: bool
    local: Address = ()
    proxy: bool = False


class Save(Event, frozen=True):
    """Freeze the connection into a baton in a file, for the first process that claims it."""

    cutover_pending: bool


class Sealed(Event, frozen=True):
    """Answer to `SealBaton`. `digest` is over the state that was sealed."""

    baton_id: bytes
    digest: bytes
    sealed: bytes


class SealFailed(Event, frozen=True):
    """Answer to `SealBaton`: the connection cannot be moved faithfully."""

    code: Reason
    message: str


class StrayArrived(Event, frozen=True):
    """A datagram came for the connection after `FreezeConnection`."""

    datagram: bytes
    remote: Address
    local: Address
    ecn: int
    received_us: int


class TakenBack(Event, frozen=True):
    """The connection came back to this process by a later handoff: forwarding ends."""


# --- to the destination -----------------------------------------------------------------------


class Rebuilt(Event, frozen=True):
    """A baton was opened, checked and rebuilt into a silent connection.

    The answer to `Rebuild`, and the first event of a resume from a file.
    """

    connection_id: bytes
    term: int
    baton_id: bytes
    digest: bytes


class RebuildFailed(Event, frozen=True):
    """Answer to `Rebuild`."""

    code: Reason
    message: str


class LinkUp(Event, frozen=True):
    """Answer to `Connect` and `Reroute`: there is a link, and the Hellos were exchanged."""

    link: int


class Spoke(Event, frozen=True):
    """The resumed connection has sent its first datagram, `blackout_us` after the source's
    freeze."""

    blackout_us: int


class GivenOn(Event, frozen=True):
    """The connection was handed on from here, and `to` is its owner."""

    to: str


class CutoverSeen(Event, frozen=True):
    """The client has retired every connection ID that leads to the source."""


class ConnectionClosed(Event, frozen=True):
    """The resumed connection is over."""
