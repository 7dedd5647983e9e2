"""Replacing a whole process: its socket first, then its connections one by one.

    old                                         new
    reads the socket         ◄─ TakeOver ──
                             ── SocketPassed ►  (with the descriptor) listens at a control socket
                             ══ link ═════════
    stops reading            ── Stopped ─────►  reads it, accepts clients
    what is not its own      ◄─ Toss ─────      does not know all IDs yet
    hands over, 16 at a time ══ handoffs ════►  resumes; the port and the IDs are the same, so no
                                                client has anything to cut over to
    finishes handshakes      ◄─ Toss ─────
    ... and hands them over  ══ handoffs ════►
    exits                    ── Answer ───►     forgets its predecessor

A passed descriptor is the same open socket, so only one of the two reads it at any time. If the
new process dies before the end, the old one reads again and keeps what it still has.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from quicbaton.asyncio import commands as c
from quicbaton.asyncio.channel import Channel, connect_channel
from quicbaton.asyncio.failpoints import reach
from quicbaton.asyncio.handoffs import Report
from quicbaton.asyncio.link import Link
from quicbaton.asyncio.session import Session
from quicbaton.errors import PeerError, QuicbatonError, RefusedError
from quicbaton.handoff import Outcome
from quicbaton.limits import MAX_CONCURRENT_HANDOFFS

if TYPE_CHECKING:
    from quicbaton.asyncio.node import Node

#: How often connections that could not move are tried again.
_RETRY_S: Final = 0.05
#: How often the successor hears how far it is.
_PROGRESS_S: Final = 0.1
#: Upper bound on a takeover: so long the predecessor's IDs are sent on to it.
_FORWARD_S: Final = 3600.0
#: How long a successor may take to open its control socket.
_LINK_S: Final = 5.0
#: H3_NO_ERROR (RFC 9114 §8.1) is what a client learns that is cut off at the deadline.
_H3_NO_ERROR: Final = 0x100


class Departure:
    """The old process's side."""

    def __init__(self, node: Node, channel: Channel, successor: str, deadline_s: float) -> None:
        self._node = node
        self._channel = channel
        self._successor = successor
        self._deadline_s = deadline_s
        self._link: Link | None = None
        self._queue: asyncio.Queue[Session] = asyncio.Queue()
        self._waiting: dict[bytes, str] = {}
        self._moved = 0
        self._broken = asyncio.Event()

    def on_session(self, session: Session) -> None:
        """A handshake was confirmed, or a connection came back: it is to move."""
        self._queue.put_nowait(session)

    def on_link_lost(self, link: Link) -> None:
        if link is self._link:
            self._broken.set()

    async def run(self) -> None:
        """Pass the socket, move everything, let the node end; or keep all if that fails."""
        node = self._node
        endpoint = node.endpoint
        reach("takeover_asked")
        # This process reads on until it has a link: a successor that cannot be reached holds the
        # socket and may not read it.
        self._pass_socket()
        reach("takeover_socket_passed")
        self._link = await self._link_up()
        endpoint.stop()
        endpoint.accepts = False
        reach("takeover_stopped_reading")
        try:
            self._channel.write(c.encode(c.Stopped(list(endpoint.table.owners))))
            left = await self._move_all()
        except QuicbatonError:
            self._stay()
            raise
        if self._broken.is_set():
            self._stay()
            raise PeerError("the successor went away: this process serves on", code="link_lost")
        cut = [f"{name.hex()}: {reason}" for name, reason in left.items()]
        self._cut(left)
        text = f"{self._moved} connections moved"
        if cut:
            text += f", {len(cut)} cut at the deadline: " + "; ".join(cut)
        self._channel.write(c.encode(c.Answer(not cut, "cut" if cut else "ok", text)))
        reach("takeover_done")
        node.succeeded.set()

    # --- helpers, in reading order --------------------------------------------------------------

    def _pass_socket(self) -> None:
        node = self._node
        table = node.endpoint.table
        frame = c.SocketPassed(
            node=table.place.node,
            worker=table.place.worker,
            workers={w: name for w, name in node.workers.items() if name != node.name},
            name=node.name,
        )
        self._channel.write_descriptors(c.encode(frame), [node.endpoint.udp.sock.fileno()])

    async def _link_up(self) -> Link:
        """A link to the successor, which has yet to open its control socket."""
        until = monotonic() + _LINK_S
        while True:
            try:
                return await self._node.link_to(self._successor)
            except PeerError:
                if self._channel.closed or monotonic() >= until:
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _move_all(self) -> dict[bytes, str]:
        """Hand over until nothing is left or the deadline passes; what is left, and why."""
        node = self._node
        for session in list(node.endpoint.sessions.values()):
            self._queue.put_nowait(session)
        deadline = monotonic() + self._deadline_s
        workers = [
            asyncio.create_task(self._move_from_queue()) for _ in range(MAX_CONCURRENT_HANDOFFS)
        ]
        try:
            next_progress = 0.0
            while not self._broken.is_set():
                now = monotonic()
                left = len(node.endpoint.sessions) + len(node.endpoint.handshakes)
                left += node.handoffs.unfinished_departures()
                if not left or now >= deadline:
                    break
                if now >= next_progress:
                    next_progress = now + _PROGRESS_S
                    waiting = [f"{n.hex()}: {why}" for n, why in self._waiting.items()]
                    self._channel.write(c.encode(c.Progress(self._moved, left, waiting[:20])))
                await asyncio.sleep(0.005)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return {
            name: self._waiting.get(name, "it did not move in time")
            for name in node.endpoint.sessions
        }

    async def _move_from_queue(self) -> None:
        while True:
            session = await self._queue.get()
            name = session.connection.name
            if self._node.endpoint.sessions.get(name) is not session or self._link is None:
                continue
            try:
                report = await self._node.handoffs.hand_over(session, self._link)
            except RefusedError as error:
                report = Report(Outcome.KEPT, error.code, str(error))
            if report.outcome is Outcome.GIVEN:
                self._moved += 1
                self._waiting.pop(name, None)
            elif not self._broken.is_set():
                self._waiting[name] = report.message
                current = self._node.endpoint.sessions.get(name)
                if current is not None:
                    asyncio.get_running_loop().call_later(_RETRY_S, self._queue.put_nowait, current)

    def _cut(self, left: dict[bytes, str]) -> None:
        for name in left:
            session = self._node.endpoint.sessions.get(name)
            if session is not None:
                session.protocol.close(_H3_NO_ERROR, "the server restarted")

    def _stay(self) -> None:
        """Serve on: the successor is gone, or never came."""
        self._node.endpoint.accepts = True
        self._node.endpoint.start()


class Arrival:
    """What a new process got from the one that it replaces."""

    def __init__(
        self, channel: Channel, frames: asyncio.Queue[c.Frame], passed: c.SocketPassed, fd: int
    ) -> None:
        self._channel = channel
        self._frames = frames
        self.passed = passed
        #: Whether the socket was ours to read at any time.
        self.reading = False
        self.sock = socket.socket(fileno=fd)

    async def settle(self, node: Node, on_progress: Callable[[c.Progress], None]) -> c.Answer:
        """Read the socket and take in connections until the predecessor is done or dead.

        An answer before the first read means that the predecessor keeps everything.
        """
        endpoint = node.endpoint
        endpoint.predecessor = self.passed.name
        endpoint.may_reset = False
        theirs: list[bytes] = []
        try:
            while True:
                frame = await self._frames.get()
                if isinstance(frame, c.Stopped):
                    theirs = frame.connection_ids
                    self._begin(node, theirs)
                elif isinstance(frame, c.Progress):
                    on_progress(frame)
                elif isinstance(frame, c.Answer):
                    return frame
        finally:
            endpoint.predecessor = None
            endpoint.may_reset = True
            for cid in theirs:
                if cid not in endpoint.table.owners:
                    endpoint.table.remove(cid)
            self._channel.close()

    def _begin(self, node: Node, theirs: list[bytes]) -> None:
        table = node.endpoint.table
        until = monotonic() + _FORWARD_S
        for cid in theirs:
            if cid not in table.owners:
                table.forward(cid, self.passed.name, until)
        node.start()
        self.reading = True
        reach("takeover_reading")


async def ask_for_socket(
    predecessor: Path, command: c.TakeOver | c.Join
) -> tuple[Channel, asyncio.Queue[c.Frame], Any, int]:
    """Send a command that is answered with a descriptor; the channel, its further frames, the
    answer and the descriptor."""
    channel = await connect_channel(predecessor)
    frames = read_frames(channel)
    channel.write(c.encode(command))
    channel.start()
    answer = await frames.get()
    descriptors = channel.take_descriptors()
    if isinstance(answer, c.Answer) or len(descriptors) != 1:
        for descriptor in descriptors:
            os.close(descriptor)
        channel.close()
        text = answer.message if isinstance(answer, c.Answer) else "it passed no socket"
        raise PeerError(f"{predecessor} refused: {text}", code="refused")
    return channel, frames, answer, descriptors[0]


def read_frames(channel: Channel) -> asyncio.Queue[c.Frame]:
    """Frames that a command's channel brings; ends with an `Answer` in any case."""
    frames: asyncio.Queue[c.Frame] = asyncio.Queue()
    reader = c.CommandReader()

    def on_data(data: bytes) -> None:
        try:
            frame = reader.feed(data)
            while frame is not None:
                frames.put_nowait(frame)
                frame = reader.feed(b"")
        except PeerError as error:
            frames.put_nowait(c.Answer(False, error.code, str(error)))
            channel.abort()

    def on_lost() -> None:
        frames.put_nowait(c.Answer(False, "link_lost", "the other process hung up"))

    channel.on_data = on_data
    channel.on_lost = on_lost
    return frames
