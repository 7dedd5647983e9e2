"""Open files that go along with a connection, between two processes of one host.

    source                                    destination
    ── Descriptors (with the files) ────────►  keeps them with the handoff
    ── BATON ───────────────────────────────►  gives them to the program that it rebuilds

They are copies from the kernel's hand: the source's own stay open until it has given the
connection away, so a handoff that is broken off finds them where they were. Whatever ends an
attempt at the destination closes what came for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from quicbaton.handoff.messages import Baton, Descriptors
from quicbaton.service.peers.link import Link


class Parcel:
    """Descriptors that belong to nobody else; closed unless somebody takes them."""

    def __init__(self, descriptors: Iterable[int] = ()) -> None:
        self._descriptors = list(descriptors)

    def take(self) -> list[int]:
        """All of them; they are the caller's to close."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def close(self) -> None:
        """Close what nobody took."""
        for descriptor in self.take():
            os.close(descriptor)


def copy(descriptors: Iterable[int]) -> Parcel:
    """Further descriptors for the same open files; none where this process can have no more."""
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(os.dup(descriptor))
    except OSError:
        Parcel(copies).close()
        return Parcel()
    return Parcel(copies)


def send_ahead(link: Link, baton: Baton, descriptors: tuple[int, ...]) -> None:
    """Send what goes along with a baton, which is sent next."""
    if descriptors:
        message = Descriptors(baton.connection_id, baton.handoff_id, len(descriptors))
        link.send_descriptors(message, descriptors)
