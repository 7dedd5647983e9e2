"""What the machines of a handoff ask a runtime to do, one effect after the other, in order."""

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
    """Tell the operator."""

    outcome: Outcome
    code: Reason
    message: str


class AnswerWithResets(Effect, frozen=True):
    """Nobody owns the connection: answer its datagrams with stateless resets (RFC 9000 §10.3)."""

    connection_id: bytes


# --- of the source ----------------------------------------------------------------------------


class FreezeConnection(Effect, frozen=True):
    """Stop it: from here on its datagrams are `StrayArrived`, and it sends nothing."""

    connection_id: bytes


class SealBaton(Effect, frozen=True):
    """Snapshot it, seal the snapshot, keep the snapshot for a thaw; `Sealed` or `SealFailed`."""

    connection_id: bytes
    term: int
    #: Who may open the baton, empty for any.
    audience: str


class WriteBaton(Effect, frozen=True):
    """Write the baton to its file; `Cancel` if that fails."""

    sealed: bytes


class ThawConnection(Effect, frozen=True):
    """Bring it back from its snapshot in this term, and let it process these datagrams first."""

    connection_id: bytes
    term: int
    strays: tuple[Stray, ...]


class DestroyKeys(Effect, frozen=True):
    """Forget its keys, its snapshot and its baton now: they are another's."""

    connection_id: bytes


class StopForwarding(Effect, frozen=True):
    """Drop its datagrams from here on, without a reset, and forget this machine."""

    connection_id: bytes


class Reroute(Effect, frozen=True):
    """Open a link to the connection's new owner; `LinkUp`. Nothing comes of it if that fails."""

    to: str


class SendProxied(Effect, frozen=True):
    """Send this train for the owner, if it goes to the connection's client."""

    train: ProxiedTrain


class NoteBlackout(Effect, frozen=True):
    """The destination has resumed the connection, and its client waited so long."""

    blackout_us: int


# --- of the destination -----------------------------------------------------------------------


class Rebuild(Effect, frozen=True):
    """Open, check and rebuild, silently; `Rebuilt` or `RebuildFailed`."""

    sealed: bytes


class Connect(Effect, frozen=True):
    """Open a new link to the source, trying until it is up or this machine ends; `LinkUp`."""

    connection_id: bytes


class Resume(Effect, frozen=True):
    """The rebuilt connection is ours: process the strays, then speak first.

    `frozen_us`: how long it stood still by the source's own clock, 0 where the claim was given
    again.
    """

    claim: Claim
    strays: tuple[Stray, ...]
    frozen_us: int


class Deliver(Effect, frozen=True):
    """Give a forwarded datagram to the resumed connection, or send it after the connection that
    has been handed on."""

    stray: Stray


class WakeProxied(Effect, frozen=True):
    """The link over which the connection is proxied is there again: let it speak."""


class CloseProxied(Effect, frozen=True):
    """There is nobody left to send for the connection: close it, unheard."""


class Discard(Effect, frozen=True):
    """Destroy the rebuilt connection, or what there is of it. It has sent nothing."""

    connection_id: bytes
