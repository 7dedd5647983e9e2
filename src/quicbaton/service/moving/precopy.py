"""Copies the buffered bytes of a busy connection to its next owner, while this one still serves it.

    source                                     destination
    ── Precopy, Precopy, …, PrecopyEnd ──────►   keeps them, by the copy's id
    ◄─ Precopied ────────────────────────────
    ── Precopy (what was written meanwhile) ─►   and so on, until that is little
    ── OFFER ────────────────────────────────►
    ◄─ ACCEPT ───────────────────────────────
    freezes
    ── Precopy (the same again) ─────────────►   reads, while the source seals
    ── BATON ────────────────────────────────►   it leaves out what went ahead

Without it a connection with 1 MB in flight stands still while that is encoded, sealed, passed,
opened and decoded: 4 ms. With it, it stands still for 1 ms, also with 64 MB. A copy goes no faster
than the link takes it. Nothing depends on it: if it fails, or the destination keeps none of it, the
handoff is slower, and no more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Final

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.baton.precopy import Pieces, missing
from quicbaton.handoff.messages import Precopied, Precopy, PrecopyEnd
from quicbaton.limits import (
    MAX_PRECOPIES_BYTES,
    MAX_PRECOPY_BYTES,
    MAX_PRECOPY_ROUNDS,
    PRECOPY_PIECE_BYTES,
    PRECOPY_STALL_S,
)
from quicbaton.service.peers.link import Link

#: For fewer bytes the way there and back takes longer than carrying them in the baton.
_WORTH_BYTES: Final = 64 << 10


def is_worth_it(session: Session) -> bool:
    """Whether enough is buffered that it should go ahead."""
    return _WORTH_BYTES <= session.connection.buffered_bytes() <= MAX_PRECOPY_BYTES


class Copying:
    """The source's side, for one handoff. `go_on` is called once, to offer the connection: when
    little is left to copy, or when the link or the peer has made no progress for a while."""

    def __init__(self, session: Session, link: Link, go_on: Callable[[], None]) -> None:
        self.copy_id = os.urandom(16)
        self.link = link
        self.pieces = Pieces()
        #: Whether the baton may leave out the bytes in `pieces`.
        self.copied = True
        self._session = session
        self._go_on = go_on
        self._going_on = False
        self._rounds = 0
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(PRECOPY_STALL_S, self.fail)
        session.connection.prepare_to_part()
        self._begin_round()

    def on_copied(self, kept: bool) -> None:
        """The destination has the bytes that were sent, or says that it keeps none."""
        if self._going_on:
            return
        if not kept or self._session.is_over:
            self.fail()
            return
        self._got_on()
        streams = self._session.connection.streams
        left = sum(len(chunk) for _, _, chunk in missing(streams, self.pieces))
        if left > _WORTH_BYTES and self._rounds < MAX_PRECOPY_ROUNDS:
            self._begin_round()
        else:
            self.send(missing(streams, self.pieces))
            self._end()

    def send(self, chunks: Iterator[tuple[int, int, bytes]]) -> None:
        """Send all of (stream ID, offset, bytes)."""
        for chunk in chunks:
            self._send_chunk(*chunk)

    def fail(self) -> None:
        """Offer without a copy: it is not known that any of it was kept."""
        if not self._going_on:
            self.copied = False
            self.pieces = Pieces()
            self._end()

    def release(self) -> None:
        """The connection stays after all."""
        self._going_on = True
        self._deadline.cancel()
        if not self._session.is_over:
            self._session.connection.stay()
            self._session.process()

    # --- helpers --------------------------------------------------------------------------------

    def _begin_round(self) -> None:
        self._rounds += 1
        # A list of references: the streams go on meanwhile.
        chunks = list(missing(self._session.connection.streams, self.pieces))
        self._pump(iter(chunks))

    def _pump(self, chunks: Iterator[tuple[int, int, bytes]]) -> None:
        """Send as much as the link takes, and go on when it takes more."""
        if self._going_on:
            return
        self._got_on()
        for chunk in chunks:
            self._send_chunk(*chunk)
            if self.link.is_full:
                self.link.when_drained(lambda: self._pump(chunks))
                return
        self.link.send(PrecopyEnd(self.copy_id))

    def _send_chunk(self, stream_id: int, start: int, chunk: bytes) -> None:
        self.pieces.add(stream_id, start, chunk)
        for at in range(0, len(chunk), PRECOPY_PIECE_BYTES):
            piece = chunk[at : at + PRECOPY_PIECE_BYTES]
            self.link.send(Precopy(self.copy_id, stream_id, start + at, piece))

    def _got_on(self) -> None:
        self._deadline.cancel()
        self._deadline = self._loop.call_later(PRECOPY_STALL_S, self.fail)

    def _end(self) -> None:
        self._going_on = True
        self._deadline.cancel()
        self._go_on()


class Copies:
    """The destination's side: the bytes that sources have sent ahead. `kept` is by the copies'
    ids."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Pieces] = {}
        self._total_bytes = 0
        #: The link of each copy, also of those that were too large, until their end is told.
        self._links: dict[bytes, int] = {}
        self._expiries: dict[bytes, asyncio.TimerHandle] = {}

    def on_message(self, link: Link, message: Precopy | PrecopyEnd) -> None:
        copy_id = message.precopy_id
        if isinstance(message, PrecopyEnd):
            kept = copy_id in self.kept
            link.send(Precopied(copy_id, kept))
            if kept:
                self._renew(copy_id)
            else:
                self.drop(copy_id)
            return
        if copy_id not in self._links:
            self.kept[copy_id] = Pieces()
            self._links[copy_id] = link.number
        if self._links[copy_id] != link.number:
            return
        self._renew(copy_id)
        pieces = self.kept.get(copy_id)
        if pieces is None:
            return
        before = pieces.size_bytes
        pieces.add(message.stream_id, message.offset, message.data)
        self._total_bytes += pieces.size_bytes - before
        if pieces.size_bytes > MAX_PRECOPY_BYTES or self._total_bytes > MAX_PRECOPIES_BYTES:
            # The rest of it must not look like a copy of its own.
            self._total_bytes -= pieces.size_bytes
            del self.kept[copy_id]

    def drop(self, copy_id: bytes) -> None:
        """Forget a copy: it was used, or will not be."""
        pieces = self.kept.pop(copy_id, None)
        if pieces is not None:
            self._total_bytes -= pieces.size_bytes
        self._links.pop(copy_id, None)
        expiry = self._expiries.pop(copy_id, None)
        if expiry is not None:
            expiry.cancel()

    def link_lost(self, link: Link) -> None:
        """Copies that came over the link end with it."""
        for copy_id in [key for key, number in self._links.items() if number == link.number]:
            self.drop(copy_id)

    def _renew(self, copy_id: bytes) -> None:
        """The source goes on within its own limit, or has given up."""
        expiry = self._expiries.pop(copy_id, None)
        if expiry is not None:
            expiry.cancel()
        wait_s = 2 * PRECOPY_STALL_S
        loop = asyncio.get_running_loop()
        self._expiries[copy_id] = loop.call_later(wait_s, self.drop, copy_id)
