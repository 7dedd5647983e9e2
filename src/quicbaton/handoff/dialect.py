"""What of our messages a peer of the release before understands.

The machines speak as this release does. A kind that came with baton format 3 goes to those only
that read this format; to others goes the older kind that says the same, where there is one.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from quicbaton.handoff.messages import (
    Committed,
    HandoffMessage,
    Offer,
    RemoteCommitted,
    RemoteOffer,
    Resumed,
)

#: From this baton format on its readers know every message of this release.
NEW_KINDS_FORMAT: Final = 3


def reads_new_kinds(formats: AbstractSet[int]) -> bool:
    """Whether a peer with whom we share these baton formats knows all of our messages."""
    return max(formats, default=0) >= NEW_KINDS_FORMAT


def spell(message: HandoffMessage, formats: AbstractSet[int]) -> HandoffMessage | None:
    """The message as such a peer understands it; None when it has no use for it.

    A plain `Offer` says nothing of the client-facing address and a plain `Committed` nothing of the
    time: between the processes of one host and port, which is all that the release before can do,
    neither is missed. What an older peer must know and cannot be told is refused before the offer.
    """
    if reads_new_kinds(formats):
        return message
    match message:
        case RemoteOffer():
            return Offer(
                message.connection_id,
                message.handoff_id,
                message.term,
                message.size_bytes,
                message.format_version,
                message.source,
                message.audience,
                message.stray_ids,
            )
        case RemoteCommitted():
            return Committed(
                message.connection_id,
                message.handoff_id,
                message.term,
                message.baton_id,
                message.digest,
            )
        case Resumed():
            return None
        case _:
            return message
