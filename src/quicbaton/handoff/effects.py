"""Requests of the machines of a handoff to the runtime, performed one after the other, in order."""

from __future__ import annotations

import msgspec

from quicbaton.handoff.events import Outcome
from quicbaton.handoff.messages import HandoffMessage, ProxiedTrain, Stray
from quicbaton.ownership import Claim
from quicbaton.reasons import Reason


class Effect(msgspec.Struct, frozen=True):
    """Something to be done outside a machine."""


# --- of both sides -------------------------------------------------------------------------


class Send(Effect, frozen=True):
    """Write the message to the link; if that fails, the link is lost."""

    link: int
    message: HandoffMessage


class Report(Effect, frozen=True):
    """Tell the operator how the handoff ended."""

    outcome: Outcome
    code: Reason
    message: str


class AnswerWithResets(Effect, frozen=True):
    """No process owns the connection: answer its datagrams with stateless resets (RFC 9000
    §10.3)."""

    connection_id: bytes


# --- of the source ----------------------------------------------------------------------------


class FreezeConnection(Effect, frozen=True):
    """Stop the connection: from here on its datagrams are `StrayArrived`, and it sends nothing."""

    connection_id: bytes


class SealBaton(Effect, frozen=True):
    """Snapshot the connection, seal the snapshot, and keep the snapshot for a thaw. `Sealed` or
    `SealFailed` answers."""

    connection_id: bytes
    term: int
    #: The process that may open the baton; empty for any.
    audience: str


class WriteBaton(Effect, frozen=True):
    """Write the baton to its file. `Cancel` if that fails."""

    sealed: bytes


class ThawConnection(Effect, frozen=True):
    """Restore the connection from its snapshot in this term, and let it process these datagrams
    first."""

    connection_id: bytes
    term: int
    strays: tuple[Stray, ...]


class DestroyKeys(Effect, frozen=True):
    """Forget the connection's keys, snapshot and baton now: they are another process's."""

    connection_id: bytes


class StopForwarding(Effect, frozen=True):
    """Drop the connection's datagrams from here on, without a reset, and forget this machine."""

    connection_id: bytes


class Reroute(Effect, frozen=True):
    """Open a link to the connection's new owner; `LinkUp` answers. A failure has no answer."""

    to: str


class SendProxied(Effect, frozen=True):
    """Send this train for the owner, if it goes to the connection's client."""

    train: ProxiedTrain


class NoteBlackout(Effect, frozen=True):
    """The destination has resumed the connection, and its client waited for `blackout_us`."""

    blackout_us: int


# --- of the destination -----------------------------------------------------------------------


class Rebuild(Effect, frozen=True):
    """Open, check and rebuild the baton, silently; `Rebuilt` or `RebuildFailed` answers."""

    sealed: bytes


class Connect(Effect, frozen=True):
    """Open a new link to the source, trying until it is up or this machine ends; `LinkUp`
    answers."""

    connection_id: bytes


class Resume(Effect, frozen=True):
    """The rebuilt connection is ours: process the strays, then speak first.

    `frozen_us`: the time for which it stood still by the source's own clock, 0 where the claim was
    given again.
    """

    claim: Claim
    strays: tuple[Stray, ...]
    frozen_us: int


class Deliver(Effect, frozen=True):
    """Give a forwarded datagram to the resumed connection, or send it on if the connection has been
    handed on."""

    stray: Stray


class WakeProxied(Effect, frozen=True):
    """The link over which the connection is proxied is up again: let it send."""


class CloseProxied(Effect, frozen=True):
    """No process is left that could send for the connection: close it without telling the
    client."""


class Discard(Effect, frozen=True):
    """Destroy the rebuilt connection, or the part of it that there is. It has sent nothing."""

    connection_id: bytes
