"""A server process that can be commanded: its port, its connections, its control socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.steer import steer
from quicbaton.asyncio.endpoint.udp import Datagram, open_udp
from quicbaton.asyncio.failpoints import on_cut
from quicbaton.asyncio.host import boot_id
from quicbaton.asyncio.moving.handoffs import Handoffs
from quicbaton.asyncio.node.connections import ConnectionCommands
from quicbaton.asyncio.node.control import Control
from quicbaton.asyncio.node.takeover import Departure
from quicbaton.asyncio.peers import commands as c
from quicbaton.asyncio.peers.channel import Channel, Listener, connect_channel
from quicbaton.asyncio.peers.link import Link
from quicbaton.asyncio.peers.peers import Peers
from quicbaton.asyncio.server import make_endpoint
from quicbaton.errors import CallerError, QuicbatonError
from quicbaton.handoff import Waits
from quicbaton.handoff.messages import Toss
from quicbaton.handoff.waits import DEFAULT_WAITS
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.quic_lb import Place
from quicbaton.routing.table import Target

_DIAL_TRIES: Final = 5
_DIAL_PAUSE_S: Final = 0.1


class Node:
    """Drives an endpoint and its handoffs, and answers commands.

    `name` is the path of its control socket: how other processes of the host call it. `options`
    are those of `make_endpoint`. The socket is read from `start` on.
    """

    def __init__(
        self,
        sock: socket.socket,
        control: Path,
        *,
        ring: KeyRing,
        node: int = 0,
        worker: int = 0,
        workers: dict[int, str] | None = None,
        waits: Waits = DEFAULT_WAITS,
        **options: Any,
    ) -> None:
        self.name = str(control)
        self.endpoint = make_endpoint(sock, ring=ring, node=node, worker=worker, **options)
        self.handoffs = Handoffs(self.endpoint, ring, self.name, boot_id(), self._dial, waits=waits)
        #: Who shares the UDP port: worker number -> name.
        self.workers = {**(workers or {}), worker: self.name}
        for number in self.workers:
            self.endpoint.table.peers.add(Place(node, number))
        self.endpoint.table.peers.discard(self.endpoint.table.place)
        #: Places of workers that have died.
        self._vacant: set[Place] = set()
        self.departure: Departure | None = None
        #: Set when a successor has taken everything over.
        self.succeeded = asyncio.Event()
        self._waits = waits
        self._peers = Peers(self._on_peer_dead)
        self._next_link = 1
        self._dialling: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._siblings: list[socket.socket] = []
        self._siblings_of: dict[str, list[socket.socket]] = {}
        self.endpoint.on_session = self._on_session
        self.endpoint.on_session_over = self.handoffs.on_session_over
        self.endpoint.on_retired = self.handoffs.on_retired
        self.endpoint.on_foreign = self._toss
        connections = ConnectionCommands(self.endpoint, self.handoffs, self.link_to)
        self._control = Control(
            {
                **connections.handlers(),
                c.Join: self._join,
                c.Introduce: self._introduce,
                c.TakeOver: self._depart,
            },
            open_link=self._on_open_link,
            spawn=self.spawn,
        )
        self._listeners = [Listener(control, self._control.on_channel)]
        on_cut(self._cut_links)

    # --- commands of this process ---------------------------------------------------------------

    def start(self) -> None:
        """Read the UDP socket from now on, and get to know the others on the port."""
        self.endpoint.start()
        for name in self.workers.values():
            if name != self.name:
                self._dial(name)

    def close(self) -> None:
        """Close all connections and go."""
        self.handoffs.close()
        self.endpoint.close()
        for listener in self._listeners:
            listener.close(leave_path=self.succeeded.is_set())
        self._peers.close()
        for task in list(self._tasks):
            task.cancel()
        for sibling in self._siblings:
            sibling.close()

    def also_listen(self, control: Path) -> None:
        """Answer at another control socket, too: that of the process which this one replaced."""
        self._listeners.append(Listener(control, self._control.on_channel))

    async def link_to(self, name: str) -> Link:
        """The link to the process with this control socket, opened if need be."""
        link = self._peers.find(name)
        if link is not None:
            return link
        if name == self.name:
            raise CallerError("that is this very process", code="same_process")
        channel = await connect_channel(Path(name))
        if channel.peer.pid == os.getpid():
            # By the path of a process that this one replaced.
            channel.close()
            raise CallerError("that is this very process", code="same_process")
        channel.write(c.encode(c.OpenLink()))
        link = self._open_link(channel)
        channel.start()
        await link.wait_up(self._waits.offer_s)
        return link

    def spawn(self, work: Callable[[], Any]) -> None:
        """Run a coroutine function to its end in the background; errors surface in the log."""
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- links ----------------------------------------------------------------------------------

    def _on_open_link(self, channel: Channel, rest: bytes) -> None:
        link = self._open_link(channel)
        if rest:
            link.feed(rest)

    def _open_link(self, channel: Channel) -> Link:
        link = Link(
            channel,
            self._next_link,
            self.name,
            on_up=self._on_link_up,
            on_message=self.handoffs.on_message,
            on_lost=self._on_link_lost,
        )
        self._next_link += 1
        self._peers.add(link)
        self.handoffs.link_up(link)
        return link

    def _on_link_up(self, link: Link) -> None:
        self._peers.greeted(link)
        self.handoffs.link_answers(link)

    def _on_link_lost(self, link: Link) -> None:
        self.handoffs.link_lost(link)
        self._peers.lost(link)

    def _on_peer_dead(self, pid: int, names: frozenset[str]) -> None:
        """A process has exited, and everything that it wrote to us was handled."""
        node = self.endpoint.table.place.node
        for worker in [worker for worker, name in self.workers.items() if name in names]:
            del self.workers[worker]
            self._vacant.add(Place(node, worker))
        for name in names:
            for sibling in self._siblings_of.pop(name, ()):
                # It must stay in the group, and what the kernel steers there be answered.
                self.endpoint.read_also(sibling)
        # Nobody else is on the port, and no process that we ever met lives: what is not ours
        # is nobody's, and its clients may be told so.
        alone = len(self.workers) == 1 and not self._peers
        if alone:
            self.endpoint.table.inherit_all(self._vacant)
        self.handoffs.peer_dead(pid, no_owner_lives=alone)
        if self.departure is not None:
            self.departure.on_peer_dead(pid)

    def _cut_links(self) -> None:
        for link in self._peers.links:
            link.abort()

    def _dial(self, name: str) -> None:
        if name not in self._dialling:
            self._dialling.add(name)
            self.spawn(lambda: self._dial_until_up(name))

    async def _dial_until_up(self, name: str) -> None:
        """Whoever waits for the link learns of it as it comes up."""
        try:
            for _ in range(_DIAL_TRIES):
                with contextlib.suppress(QuicbatonError):
                    self.handoffs.link_answers(await self.link_to(name))
                    return
                await asyncio.sleep(_DIAL_PAUSE_S)
            self.handoffs.source_unreachable(name)
        finally:
            self._dialling.discard(name)

    def _toss(self, to: Target, datagram: Datagram) -> None:
        """Pass a datagram on to the process that its ID names; lost if there is no link yet."""
        name = self.workers.get(to.worker) if isinstance(to, Place) else to
        if name is None or name == self.name:
            return
        link = self._peers.find(name)
        if link is None:
            self._dial(name)
            return
        link.send(Toss(datagram.data, datagram.remote, datagram.local, datagram.ecn))

    def _on_session(self, session: Session) -> None:
        self.handoffs.own(session)
        if self.departure is not None:
            self.departure.on_session(session)

    # --- sharing the port -----------------------------------------------------------------------

    async def _join(self, channel: Channel, frame: c.Join) -> None:
        """Give another process a socket of its own on our port, and steer to both."""
        place = self.endpoint.table.place
        worker = max(self.workers) + 1
        address = self.endpoint.udp.address
        sibling = open_udp(str(address[0]), int(address[1]), reuse_port=True)
        self.workers[worker] = frame.name
        self.endpoint.table.peers.add(Place(place.node, worker))
        # Kept open: the kernel numbers a group's sockets by age, and closing one renumbers them.
        self._siblings.append(sibling)
        self._siblings_of.setdefault(frame.name, []).append(sibling)
        steer(self.endpoint.udp.sock, self.endpoint.ids.layout, len(self._siblings) + 1)
        joined = c.Joined(place.node, worker, dict(self.workers))
        channel.write_descriptors(c.encode(joined), [sibling.fileno()])

    async def _introduce(self, _channel: Channel, frame: c.Introduce) -> c.Frame:
        self.workers[frame.worker] = frame.name
        self.endpoint.table.peers.add(Place(self.endpoint.table.place.node, frame.worker))
        return c.Answer(True, "ok", "known")

    async def _depart(self, channel: Channel, frame: c.TakeOver) -> None:
        if self.departure is not None:
            raise CallerError("a takeover is under way already", code="busy")
        self.departure = Departure(self, channel, frame.name, frame.deadline_s)
        try:
            await self.departure.run()
        finally:
            self.departure = None
