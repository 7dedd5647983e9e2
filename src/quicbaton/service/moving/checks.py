"""Whether a connection may be handed over, and another host may say what its message says."""

from __future__ import annotations

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.errors import PeerError, RefusedError
from quicbaton.handoff.messages import Moved, Offer
from quicbaton.reasons import Reason
from quicbaton.service.peers.link import Link
from quicbaton.service.peers.names import ProcessName, is_name_of


def check_not_proxied(session: Session) -> None:
    if session.sent_for_by is not None:
        raise RefusedError(
            "another process sends for this connection: close it, or let it end here",
            code=Reason.ALREADY_PROXIED,
        )


def check_name(link: Link, offer: Offer) -> None:
    """Check that another host offers in its own name: we use that name."""
    if link.is_remote and not is_name_of(offer.source, link.peer_node):
        raise PeerError(f"{link!r} offers as {offer.source!r}", code=Reason.WRONG_NAME)


def check_path(link: Link, moved: Moved) -> None:
    """Check that another host names no path of this one: we connect to the process that it
    names."""
    if link.is_remote and ProcessName.parse(moved.to) is None:
        raise PeerError(f"{link!r} names {moved.to!r}", code=Reason.WRONG_NAME)
