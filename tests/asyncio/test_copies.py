"""The bytes of streams that a destination keeps when they are copied to it ahead of a baton."""

from __future__ import annotations

from typing import Any

import pytest

from quicbaton.handoff.messages import Precopied, Precopy, PrecopyEnd
from quicbaton.service.moving import precopy
from quicbaton.service.moving.precopy import Copies

COPY = b"c" * 16


class OneLink:
    """A link as `Copies` sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


async def test_a_copy_that_was_too_much_is_not_said_to_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the source would freeze the connection for a baton that cannot be completed."""
    monkeypatch.setattr(precopy, "MAX_PRECOPY_BYTES", 1000)
    copies, link = Copies(), OneLink(1)
    for offset in range(0, 3000, 600):
        copies.on_message(link, Precopy(COPY, 0, offset, bytes(600)))  # type: ignore[arg-type]
    copies.on_message(link, PrecopyEnd(COPY))  # type: ignore[arg-type]
    assert link.sent == [Precopied(COPY, False)]
    assert not copies.kept
    # What comes now is the beginning of another attempt.
    copies.on_message(link, Precopy(COPY, 0, 0, bytes(600)))  # type: ignore[arg-type]
    copies.on_message(link, PrecopyEnd(COPY))  # type: ignore[arg-type]
    assert link.sent[-1] == Precopied(COPY, True)
    copies.link_lost(link)  # type: ignore[arg-type]
    assert not copies.kept


async def test_only_the_link_that_began_a_copy_goes_on_with_it() -> None:
    copies, link, stranger = Copies(), OneLink(1), OneLink(2)
    copies.on_message(link, Precopy(COPY, 0, 0, b"right"))  # type: ignore[arg-type]
    copies.on_message(stranger, Precopy(COPY, 0, 5, b"wrong"))  # type: ignore[arg-type]
    assert copies.kept[COPY].size_bytes == 5
    copies.link_lost(link)  # type: ignore[arg-type]


async def test_a_copy_lives_on_while_its_pieces_come() -> None:
    """However long the link takes for all of them."""
    copies, link = Copies(), OneLink(1)
    copies.on_message(link, Precopy(COPY, 0, 0, b"first"))  # type: ignore[arg-type]
    expiry = copies._expiries[COPY]
    copies.on_message(link, Precopy(COPY, 0, 5, b"second"))  # type: ignore[arg-type]
    assert expiry.cancelled()
    assert copies._expiries[COPY].when() >= expiry.when()
    copies.link_lost(link)  # type: ignore[arg-type]
    assert not copies._expiries
