"""Copies what a busy connection's streams keep to its next owner, while this one still serves it.

    source                                     destination
    ── Precopy, Precopy, …, PrecopyEnd ──────►   keeps them, by the copy's id
    ◄─ Precopied ────────────────────────────
    ── Precopy (what was written meanwhile) ─►
    ── OFFER ────────────────────────────────►
    ◄─ ACCEPT ───────────────────────────────
    freezes
    ── Precopy (the same again) ─────────────►   reads, while the source seals
    ── BATON ────────────────────────────────►   it leaves out what went ahead

Without it a connection of 1 MB in flight stands still for as long as that takes to be encoded,
sealed, passed, opened and decoded: 4 ms, with it 1. Nothing depends on it: a copy that fails, or
of which the destination keeps nothing, costs the handoff its speed and no more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Final

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.peers.link import Link
from quicbaton.baton.precopy import Pieces
from quicbaton.handoff.messages import Precopied, Precopy, PrecopyEnd
from quicbaton.limits import HANDOFF_OFFER_S, MAX_BATON_BYTES, MAX_PRECOPIES_BYTES

#: Below this the way there and back takes longer than to carry it in the baton.
_WORTH_BYTES: Final = 64 << 10
#: Smaller chunks go with the baton.
_SMALLEST_CHUNK_BYTES: Final = 2048


def is_worth_it(session: Session) -> bool:
    """Whether so much is buffered that it should go ahead."""
    return _WORTH_BYTES <= session.connection.buffered_bytes() <= MAX_BATON_BYTES // 2


class Copying:
    """The source's side, for one handoff. `go_on` is called once, to offer the connection: after
    `wait_s` at the latest."""

    def __init__(
        self,
        session: Session,
        link: Link,
        go_on: Callable[[], None],
        wait_s: float,
    ) -> None:
        self.copy_id = os.urandom(16)
        self.link = link
        self.pieces = Pieces()
        #: Whether the baton may leave out what `pieces` has.
        self.copied = True
        self._session = session
        self._go_on = go_on
        self._going_on = False
        self._deadline = asyncio.get_running_loop().call_later(wait_s, self.fail)
        session.connection.prepare_to_part()
        self.send(session.connection.stream_chunks())
        link.send(PrecopyEnd(self.copy_id))

    def on_copied(self, kept: bool) -> None:
        """The destination has what was sent, or says that it keeps nothing."""
        if self._going_on:
            return
        if not kept or self._session.is_over:
            self.fail()
            return
        self.send(self._session.connection.stream_chunks())
        self._end()

    def send(self, chunks: Iterable[tuple[int, int, bytes]]) -> None:
        """Send what is not there yet of (stream ID, offset, bytes)."""
        for stream_id, start, chunk in chunks:
            stop = start + len(chunk)
            if len(chunk) >= _SMALLEST_CHUNK_BYTES and not self.pieces.find(stream_id, start, stop):
                self.pieces.add(stream_id, start, chunk)
                self.link.send(Precopy(self.copy_id, stream_id, start, chunk))

    def fail(self) -> None:
        """Offer without: nothing is known to have been kept."""
        if not self._going_on:
            self.copied = False
            self.pieces = Pieces()
            self._end()

    def release(self) -> None:
        """The connection stays after all."""
        self._deadline.cancel()
        if not self._session.is_over:
            self._session.connection.stay()
            self._session.process()

    def _end(self) -> None:
        self._going_on = True
        self._deadline.cancel()
        self._go_on()


class Copies:
    """The destination's side: what sources have sent ahead. `kept` is by the copies' ids."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Pieces] = {}
        self._links: dict[bytes, int] = {}
        self._expiries: dict[bytes, asyncio.TimerHandle] = {}

    def on_message(self, link: Link, message: Precopy | PrecopyEnd) -> None:
        copy_id = message.precopy_id
        if isinstance(message, PrecopyEnd):
            link.send(Precopied(copy_id, copy_id in self.kept))
            return
        pieces = self.kept.get(copy_id)
        if pieces is None:
            pieces = self.kept[copy_id] = Pieces()
            self._links[copy_id] = link.number
            # The offer comes within as long, and the baton at once after it.
            self._expiries[copy_id] = asyncio.get_running_loop().call_later(
                2 * HANDOFF_OFFER_S, self.drop, copy_id
            )
        pieces.add(message.stream_id, message.offset, message.data)
        if self._is_too_much(pieces):
            self.drop(copy_id)

    def drop(self, copy_id: bytes) -> None:
        """Forget a copy: it was used, or will not be."""
        self.kept.pop(copy_id, None)
        self._links.pop(copy_id, None)
        expiry = self._expiries.pop(copy_id, None)
        if expiry is not None:
            expiry.cancel()

    def link_lost(self, link: Link) -> None:
        """What came over it does not go on."""
        for copy_id in [key for key, number in self._links.items() if number == link.number]:
            self.drop(copy_id)

    def _is_too_much(self, pieces: Pieces) -> bool:
        total = sum(kept.size_bytes for kept in self.kept.values())
        return pieces.size_bytes > MAX_BATON_BYTES or total > MAX_PRECOPIES_BYTES
