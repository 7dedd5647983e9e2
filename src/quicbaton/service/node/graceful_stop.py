"""A server that stops in good order: no new clients, no new requests, the running ones end.

refuse          a new client is told CONNECTION_REFUSED, and may try another address
hand over       with a destination: all connections that can move go there
GOAWAY          requests on the way are still taken (RFC 9114 §5.2) ...
GOAWAY, final   ... and a round trip later new ones are rejected, so that a client knows
                that it may send them elsewhere
close           each connection as its last request ends; at the end of the grace, the others

Connections for which this process sends are ended by their owners, in the same way (`farewell`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from time import monotonic

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.limits import SLEEP_SLICE_S
from quicbaton.service.node.bulk import BulkHandoff, OwnConnections
from quicbaton.service.node.changes import Changes
from quicbaton.service.node.control import Handler
from quicbaton.service.node.farewell import announce, close, end_proxied, say_goaway
from quicbaton.service.node.node import Node
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel
from quicbaton.service.timing import CUTOVER_S, STALLED_LOOK_S


class GracefulStop(Changes):
    """Ends a node's service, once. `over` is set when the process may end."""

    def __init__(self, node: Node, grace_s: float) -> None:
        """`grace_s` is for commands that name none."""
        handoffs = node.handoffs
        super().__init__(lambda: self._closes or not (handoffs.unfinished or handoffs.relays.left))
        node.endpoint.observers.add(self)
        #: All connections are to be closed, each as soon as its requests have ended.
        self._closes = False
        #: The names of those that have been told to close.
        self._seen: set[bytes] = set()
        #: Those of them with running requests.
        self._busy: set[Session] = set()
        self._node = node
        self._grace_s = grace_s
        self._task: asyncio.Task[c.Left] | None = None
        #: The end of the grace, by the monotonic clock.
        self.until_s = 0.0
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    @property
    def waits_for(self) -> int:
        """The number of connections with requests that have not ended. Those of connections that
        moved run here, too, and count where the connection is."""
        node = self._node
        others = len(node.endpoint.handshakes) + node.beside.running + node.handoffs.relays.left
        return len(self._busy) + others

    def handlers(self) -> dict[type[c.Frame], Handler]:
        return {c.Stop: self._stop}

    def begin(self, grace_s: float = -1.0, to: str = "") -> asyncio.Task[c.Left]:
        """Stop in good order. A second call stops at once."""
        if self._task is None:
            grace_s = self._grace_s if grace_s < 0 else grace_s
            self.until_s = monotonic() + grace_s
            self.begun.set()
            self._task = asyncio.get_running_loop().create_task(self._run(grace_s, to))
        else:
            self.over.set()
            self.note()
        return self._task

    def on_began(self, session: Session, *, is_new: bool) -> None:
        if self._closes:
            # Its handshake was under way. Not before the other observers have been told.
            asyncio.get_running_loop().call_soon(self._close_when_idle, session)
        super().on_began(session, is_new=is_new)

    def on_frozen(self, session: Session) -> None:
        # It may come back, as another session.
        self._busy.discard(session)
        self._seen.discard(session.connection.name)
        self.note()

    def on_ended(self, session: Session) -> None:
        self._busy.discard(session)
        super().on_ended(session)

    # --- helpers, in reading order --------------------------------------------------------------

    async def _stop(self, channel: Channel, frame: c.Stop) -> None:
        # A second command has the same answer.
        answer = await asyncio.shield(self._task or self.begin(frame.grace_s, frame.to))
        channel.write(c.encode(answer))
        # The caller has the answer before the process is gone.
        channel.close()

    async def _run(self, grace_s: float, to: str) -> c.Left:
        endpoint = self._node.endpoint
        endpoint.refuse_new()
        self._node.beside.stop_accepting()
        until = monotonic() + grace_s
        try:
            moved = await self._hand_over(to, until) if to else 0
            here, proxied = await asyncio.gather(
                self._close_all(until), end_proxied(self._node, until, self)
            )
        finally:
            self.over.set()
        return c.Left(moved, here.closed + proxied.closed, here.cut + proxied.cut)

    async def _hand_over(self, to: str, until: float) -> int:
        """Move the connections that can move. Returns their number."""
        bulk = BulkHandoff(
            OwnConnections(self._node.endpoint, self._node.handoffs),
            self._node.link_to,
            [to],
            proxy=False,
            on_done=self.note,
        )
        bulk.begin(self._node.endpoint.names())
        work = asyncio.get_running_loop().create_task(bulk.work())
        try:
            while bulk.waiting and not bulk.is_due(until):
                await self.wait(monotonic() + STALLED_LOOK_S)
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        until = max(until, monotonic() + CUTOVER_S)
        handoffs = self._node.handoffs
        # Requests that still run here count, too: their streams are relayed to the new owners.
        while monotonic() < until and (handoffs.unfinished or handoffs.relays.left):
            await self.wait(until)
        return bulk.moved + bulk.proxied

    async def _close_all(self, until: float) -> c.Left:
        """Close the connections here."""
        endpoint, beside = self._node.endpoint, self._node.beside
        over_tcp = beside.running
        self._closes = True
        # Idle ones, too: a request that is on its way could not be told from one that was served.
        sessions = list(endpoint.sessions.values())
        await announce([one for one in sessions if not one.connection.dozes], until, self)
        # Those that doze or sleep are silent: no round trip is waited for, and each is closed
        # before the next is woken. Datagrams are read meanwhile.
        end = monotonic() + SLEEP_SLICE_S
        for session in list(endpoint.sessions.values()):
            self._close_when_idle(session)
            if monotonic() > end:
                await asyncio.sleep(0)
                end = monotonic() + SLEEP_SLICE_S
        async for session in endpoint.asleep.wake_all():
            self._close_when_idle(session)
        tcp = asyncio.get_running_loop().create_task(beside.until_none_left(math.inf))
        tcp.add_done_callback(lambda _ended: self.note())
        while self.waits_for and monotonic() < until and not self.over.is_set():
            await self.wait(until)
        tcp.cancel()
        cut = list(self._busy)
        for session in cut:
            close(session)
        return c.Left(0, over_tcp + len(self._seen), len(cut) + len(beside.cut()))

    def _close_when_idle(self, session: Session) -> None:
        name = session.connection.name
        if name not in self._seen and not session.is_over:
            self._seen.add(name)
            self._busy.add(session)
            say_goaway(session, final=True)
            session.when_idle(self._close_now)

    def _close_now(self, session: Session) -> None:
        self._busy.discard(session)
        close(session)
        self.note()
