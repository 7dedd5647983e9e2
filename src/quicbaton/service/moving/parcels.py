"""Open files that go along with a connection, between two processes of one host.

    source                                    destination
    ── Descriptors (with the files) ────────►  keeps them with the handoff
    ── BATON ───────────────────────────────►  gives them to the program that it rebuilds

The kernel makes copies: the source's own stay open until it has given the connection away. So a
handoff that is broken off leaves them untouched. At the destination they are closed with the
attempt for which they came.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from quicbaton.handoff.messages import Baton, Descriptors
from quicbaton.service.peers.link import Link


class Parcel:
    """Descriptors without another owner. They are closed unless they are taken."""

    def __init__(self, descriptors: Iterable[int] = ()) -> None:
        self._descriptors = list(descriptors)

    def take(self) -> list[int]:
        """All descriptors; the caller has to close them."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def close(self) -> None:
        """Close descriptors that were not taken."""
        for descriptor in self.take():
            os.close(descriptor)


def copy(descriptors: Iterable[int]) -> Parcel:
    """Further descriptors for the same open files; none if this process can have no more."""
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(os.dup(descriptor))
    except OSError:
        Parcel(copies).close()
        return Parcel()
    return Parcel(copies)


def send_ahead(link: Link, baton: Baton, descriptors: tuple[int, ...]) -> None:
    """Send the files that go along with a baton, which is sent next."""
    if descriptors:
        message = Descriptors(baton.connection_id, baton.handoff_id, len(descriptors))
        link.send_descriptors(message, descriptors)
