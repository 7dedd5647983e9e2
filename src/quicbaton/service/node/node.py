"""A server process that takes commands: its port, its connections, its control socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from quicbaton.asyncio.beside import Beside, BesideConnection, NothingBeside
from quicbaton.asyncio.endpoint.steer import steer
from quicbaton.asyncio.endpoint.udp import Datagram, open_udp
from quicbaton.asyncio.requests import RequestCount
from quicbaton.asyncio.server import make_endpoint
from quicbaton.baton.versions import readable_versions
from quicbaton.errors import CallerError, PeerError, QuicbatonError
from quicbaton.handoff import Waits
from quicbaton.handoff.messages import Toss
from quicbaton.handoff.waits import DEFAULT_WAITS
from quicbaton.keys.key_ring import KeyRing
from quicbaton.ownership.store import Store
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import Place
from quicbaton.routing.table import Target
from quicbaton.service.failpoints import on_cut
from quicbaton.service.host import boot_id
from quicbaton.service.moving.registry import HandoffRegistry
from quicbaton.service.node.connections import ConnectionCommands
from quicbaton.service.node.control import Control, Handler
from quicbaton.service.node.figures import NodeFigures
from quicbaton.service.node.first_links import FirstLinks
from quicbaton.service.node.old_processes import OldProcesses
from quicbaton.service.node.seat import Seat
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.acceptor import Acceptor, pass_on
from quicbaton.service.peers.asking import Conversation, ask
from quicbaton.service.peers.channel import Channel, Listener
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.directory import Directory, OtherNodes
from quicbaton.service.peers.incoming import Incoming
from quicbaton.service.peers.link import Link
from quicbaton.service.peers.names import Names, ProcessName
from quicbaton.service.peers.peers import Peers
from quicbaton.service.timing import INTRODUCE_S

_Frame = TypeVar("_Frame", bound=c.Frame)


class Node:
    """Drives an endpoint and its handoffs, and answers commands.

    `name` is the path of its control socket, its name on this host. `options` are those of
    `make_endpoint`. The socket is read from `start` on. `formats` are the baton formats that it
    announces to its peers, and the highest of them is that of its files. `host` names this boot of
    this host, if not as the kernel does. With a `cluster` it is also NODE/WORKER, and has links
    with processes of other hosts. With a `store`, which stays its maker's to close, connections
    change hands by that. `supervised`: a supervisor decides what becomes of a dead process's
    connections (`DeclareDead`).
    """

    def __init__(
        self,
        seat: Seat,
        control: Path,
        *,
        ring: KeyRing,
        waits: Waits = DEFAULT_WAITS,
        formats: tuple[int, ...] = readable_versions(),
        host: bytes = b"",
        cluster: Cluster | None = None,
        store: Store | None = None,
        supervised: bool = False,
        **options: Any,
    ) -> None:
        self.name = str(control)
        self.names = Names(
            self.name, None if cluster is None else ProcessName(cluster.me, seat.worker)
        )
        self.endpoint = make_endpoint(
            seat.sock, ring=ring, node=seat.node, worker=seat.worker, toss=self._toss, **options
        )
        #: The processes that share the UDP port, by worker number.
        self.workers = {**seat.workers, seat.worker: self.name}
        self._directory = Directory(cluster, self.workers, seat.worker)
        self.handoffs = HandoffRegistry(
            self.endpoint,
            ring,
            self.names,
            host or boot_id(),
            self._dial,
            remote_name_of=self._directory.remote_name_of,
            waits=waits,
            formats=formats,
            store=store,
        )
        #: Processes that had this place before and live on.
        self.old_processes = OldProcesses(self.endpoint.table, self._directory)
        self._formats = formats
        self._supervised = supervised
        for number in self.workers:
            self.endpoint.table.peers.add(Place(seat.node, number))
        self.endpoint.table.peers.discard(self.endpoint.table.place)
        if cluster is not None:
            self.endpoint.table.nodes = OtherNodes(cluster)
        self._first_links = FirstLinks(self.link_to, self.spawn)
        #: Places of workers that have died.
        self._vacant: set[Place] = set()
        #: Another process is taking over from this one.
        self.is_departing = False
        #: Under a supervisor: the control socket at which this process answers after it has been
        #: replaced, as long as it lives on for requests.
        self.lingers_at: Path | None = None
        self.is_lingering = False
        #: Starts and ends with this node: see `put_beside`.
        self.beside: Beside = NothingBeside()
        #: The count of the program that is served here.
        self.requests = RequestCount()
        #: Lost writes of this process: lines, keys, and records of qlog.
        self.lost: Mapping[str, int] = Counter()
        #: Called when this process begins to serve.
        self.starters: list[Callable[[], None]] = []
        #: Called when this process ends.
        self.closers: list[Callable[[], None]] = []
        self.figures = NodeFigures(self)
        #: Set when a successor has taken everything over.
        self.succeeded = asyncio.Event()
        self._left_to_successor: set[Path] = set()
        self._waits = waits
        self._peers = Peers(self._on_peer_dead)
        self._next_link = 1
        self._dialling: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._siblings: list[socket.socket] = []
        self._siblings_of: dict[str, list[socket.socket]] = {}
        #: The process that had a worker number before: it serves on if its successor fails.
        self._replaced: dict[int, str] = {}
        connections = ConnectionCommands(
            self.endpoint, self.handoffs, self.link_to, self._describe_beside
        )
        self._control = Control(
            {
                **connections.handlers(),
                c.Join: self._join,
                c.Introduce: self._introduce,
                c.PassListener: self._pass_listener,
            },
            open_link=self._on_open_link,
            spawn=self.spawn,
        )
        self.incoming = Incoming(cluster, self._control.on_channel)
        self.answer(self.incoming.handlers())
        self._listeners = [Listener(control, self._control.on_channel)]
        #: Listens for other nodes on behalf of this process alone. Under a supervisor that listens.
        self._acceptor: Acceptor | None = None
        on_cut(self._cut_links)

    # --- commands of this process ---------------------------------------------------------------

    def start(self) -> None:
        """Read the UDP socket from now on, and open links to the others on the port."""
        self.endpoint.start()
        if self.handoffs.store is not None:
            self.spawn(self.handoffs.store.sweep_for_ever)
        for name in self.workers.values():
            if name != self.name:
                self._dial(name)
        for start in self.starters:
            start()
        self.beside.start()

    def close(self) -> None:
        """Close all connections and end."""
        for close in self.closers:
            close()
        self.beside.close()
        self.handoffs.close()
        self.endpoint.close()
        for listener in self._listeners:
            listener.close(leave_path=listener.path in self._left_to_successor)
        self._peers.close()
        self.incoming.close()
        if self._acceptor is not None:
            self._acceptor.close()
        for task in list(self._tasks):
            task.cancel()
        for sibling in self._siblings:
            sibling.close()

    def put_beside(self, beside: Beside) -> None:
        """Start, list and end a TCP server with this node, in the same memory budget."""
        self.beside = beside
        beside.share(self.endpoint.memory)

    def also_listen(self, control: Path) -> None:
        """Answer at another control socket, too: that of the process which this one replaced.

        If that fails, callers do not find this process there. It has the connections all the same.
        """
        try:
            self._listeners.append(Listener(control, self._control.on_channel))
        except (QuicbatonError, OSError) as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"cannot listen at {control}, too", "exception": error}
            )

    def linger(self) -> None:
        """A successor has everything but requests that still run here, and is about to listen at
        our control socket: answer at another."""
        self.is_lingering = True
        if self.lingers_at is not None:
            self.also_listen(self.lingers_at)

    def leave_to_successor(self, asked_at: Path | None) -> None:
        """The successor has everything. It also listens at our own control socket, and at the one
        by which it found us; not at those that we have from processes before us."""
        self._left_to_successor = {Path(self.name)} | ({asked_at} if asked_at else set())
        self.succeeded.set()

    def answer(self, handlers: Mapping[type[c.Frame], Handler]) -> None:
        """Answer the commands of these classes, too, by their handlers."""
        self._control.add(handlers)

    def meet(self, worker: int, name: str) -> None:
        """Send strays for that worker number's IDs to the process `name` from now on."""
        place = Place(self.endpoint.table.place.node, worker)
        before = self.workers.get(worker, name)
        if before != name:
            self._replaced[worker] = before
            if before in self._siblings_of:
                self._siblings_of[name] = self._siblings_of.pop(before)
        self.workers[worker] = name
        self._vacant.discard(place)
        if place != self.endpoint.table.place:
            self.endpoint.table.places.discard(place)
            self.endpoint.table.peers.add(place)

    async def introduce(self, on_missing: Callable[[int, QuicbatonError], None]) -> None:
        """Tell every process on the port who we are, and hold a link to each: it carries strays,
        and its end tells when a process is gone. `on_missing(number, error)` is called for a
        process that is not reached."""
        own = self.endpoint.table.place.worker

        async def meet(number: int, name: str) -> None:
            try:
                await ask(Path(name), c.Introduce(own, self.name), c.Answer, INTRODUCE_S)
                await self.link_to(name)
            except QuicbatonError as error:
                on_missing(number, error)

        others = {number: name for number, name in self.workers.items() if number != own}
        await asyncio.gather(*(meet(*other) for other in others.items()))

    def knows(self, pid: int) -> bool:
        """True until the process has exited and all that it wrote to us was handled; false for one
        with which we never had a link."""
        return self._peers.knows(pid)

    def listen_for_peers(self, sock: socket.socket) -> None:
        """Let processes of other hosts connect to us at this TCP socket, which listens."""
        self._acceptor = Acceptor(sock, self._deliver)

    @property
    def links(self) -> list[Link]:
        """Open links to other processes."""
        return self._peers.links

    async def link_to(self, name: str) -> Link:
        """The link to the process with this name; it is opened if there is none."""
        name = self._directory.canonical(name)
        link = self._peers.find(name)
        if link is not None:
            return link
        if name in self.names:
            raise CallerError("that is this very process", code=Reason.SAME_PROCESS)
        channel = await self._directory.connect(name)
        if channel.peer.pid == os.getpid():
            # The name is the path of a process that this one replaced.
            channel.close()
            raise CallerError("that is this very process", code=Reason.SAME_PROCESS)
        channel.write(c.encode(c.OpenLink()))
        link = self._open_link(channel)
        channel.start()
        await link.wait_up(self._waits.offer_s)
        return link

    async def ask(
        self, name: str, command: c.Frame, answer: type[_Frame], timeout_s: float
    ) -> _Frame:
        """Send a command to the process with this name and return its answer, as `Conversation.ask`
        does."""
        with Conversation(await self._directory.connect(name), timeout_s) as conversation:
            return await conversation.ask(command, answer)

    def spawn(self, work: Callable[[], Any]) -> None:
        """Run a coroutine function to its end in the background. Errors are logged."""
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- links ----------------------------------------------------------------------------------

    async def _deliver(self, target: str, sock: socket.socket) -> None:
        """A connection from another host is for us, or for a process that joined our port."""
        path = self.workers.get(int(target)) if target.isdigit() else self.name
        if path is None:
            self.incoming.take(sock, present=list(self.workers))
        elif path == self.name:
            self.incoming.take(sock)
        else:
            await pass_on(Path(path), sock)

    def _on_open_link(self, channel: Channel, rest: bytes) -> None:
        link = self._open_link(channel)
        if channel.is_remote:
            self.spawn(lambda: self._expect_hello(link))
        if rest:
            link.feed(rest)

    async def _expect_hello(self, link: Link) -> None:
        with contextlib.suppress(PeerError):
            await link.wait_up(self._waits.offer_s)

    def _open_link(self, channel: Channel) -> Link:
        link = Link(
            channel,
            self._next_link,
            str(self.names.remote) if channel.is_remote else self.name,
            formats=self._formats,
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
        self._first_links.on_link_up(link.peer_name)
        place = self._directory.place_of(link.peer_name)
        if place is not None:
            # Behind one virtual address, datagrams for its connections may come here.
            self.endpoint.table.peers.add(place)
        self.handoffs.link_answers(link)

    def _on_link_lost(self, link: Link) -> None:
        self.handoffs.link_lost(link)
        self._peers.lost(link)

    def _on_peer_dead(self, pid: int, names: frozenset[str]) -> None:
        """A process has exited, and everything that it wrote to us was handled."""
        node = self.endpoint.table.place.node
        for worker in [worker for worker, name in self.workers.items() if name in names]:
            before = self._replaced.pop(worker, None)
            if before is not None and self._peers.find(before) is not None:
                self.meet(worker, before)
            else:
                del self.workers[worker]
                self._vacant.add(Place(node, worker))
        for name in names:
            for sibling in self._siblings_of.pop(name, ()):
                # It must stay in the group, and datagrams that the kernel steers there must be
                # answered.
                self.endpoint.read_also(sibling)
        # No other process is on the port, and none that we ever met lives: IDs that are not ours
        # have no owner, and their clients may be told so.
        if not self._supervised:
            # In a cluster it may have handed connections on to nodes that we never met.
            alone = len(self.workers) == 1 and not self._peers and self.names.remote is None
            if alone:
                self.endpoint.table.inherit_all(self._vacant)
            self.handoffs.peer_dead(pid, no_owner_lives=alone)
        self.endpoint.observers.on_process_died(pid)

    def _cut_links(self) -> None:
        for link in self._peers.links:
            link.abort()

    def _dial(self, name: str) -> None:
        if name not in self._dialling:
            self._dialling.add(name)
            self.spawn(lambda: self._dial_until_up(name))

    async def _dial_until_up(self, name: str) -> None:
        """Dial until there is a link. Code that waits for it is told as it comes up."""
        try:
            for pause_s in self._directory.pauses_s(name):
                with contextlib.suppress(QuicbatonError):
                    self.handoffs.link_answers(await self.link_to(name), name)
                    return
                await asyncio.sleep(pause_s)
            self.handoffs.source_unreachable(name)
        finally:
            self._dialling.discard(name)

    def _toss(self, to: Target, datagram: Datagram) -> None:
        """Pass a datagram on to the process that its ID names. It is lost if there is no link
        yet."""
        name = self._directory.name_of(to) if isinstance(to, Place) else to
        if name is None or name == self.name:
            return
        link = self._peers.find(name)
        if link is None:
            if isinstance(to, Place) and to not in self.endpoint.table.peers:
                self._first_links.want(name)
            else:
                self._dial(name)
            return
        if link.is_full:
            # Any sender can send datagrams that name another process. A flood of them must not fill
            # our memory, nor get the link cut, over which connections move.
            self.endpoint.counters["toss_lost"] += 1
            return
        link.send(Toss(datagram.data, datagram.remote, datagram.local, datagram.ecn))

    # --- sharing the port -----------------------------------------------------------------------

    async def _join(self, channel: Channel, frame: c.Join) -> None:
        """Give another process a socket of its own on our port, and steer to both."""
        self.check_no_successor()
        if frame.name in self.workers.values():
            # News of the new process's death would be taken for the old one's.
            raise CallerError(
                f"a process at {frame.name} shares the port and has not ended: end it first",
                code=Reason.BUSY,
            )
        place = self.endpoint.table.place
        worker = max(self.workers) + 1
        address = self.endpoint.udp.address
        sibling = open_udp(str(address[0]), int(address[1]), reuse_port=True)
        joined = c.Joined(place.node, worker, {**self.workers, worker: frame.name})
        try:
            channel.write_descriptors(c.encode(joined), [sibling.fileno()])
        except PeerError:
            # It is the last of its group: that renumbers no other.
            sibling.close()
            raise
        # Should it end before it serves, the datagrams that the kernel steers to it must be
        # answered here.
        self._peers.expect(channel, frame.name)
        self.workers[worker] = frame.name
        self.endpoint.table.peers.add(Place(place.node, worker))
        # Kept open: the kernel numbers a group's sockets by age, and closing one renumbers them.
        self._siblings.append(sibling)
        self._siblings_of.setdefault(frame.name, []).append(sibling)
        steer(self.endpoint.udp.sock, self.endpoint.ids.configs, len(self._siblings) + 1)

    def _describe_beside(self) -> list[BesideConnection]:
        return self.beside.describe()

    async def _pass_listener(self, channel: Channel, _frame: c.PassListener) -> None:
        listener = self.beside.listener
        if listener is None:
            raise CallerError("this process serves no TCP", code=Reason.NO_LISTENER)
        channel.write_descriptors(c.encode(c.SocketOf(0, 1)), [listener.fileno()])

    async def _introduce(self, channel: Channel, frame: c.Introduce) -> c.Frame:
        self._peers.expect(channel, frame.name)
        self.meet(frame.worker, frame.name)
        return c.Answer(True, Reason.OK, "known")

    def check_no_successor(self) -> None:
        """CallerError while another process takes over from this one, and when it has: the port is
        its to share, and two processes with the whole port would take each other's clients for
        strangers'."""
        if self.is_departing:
            raise CallerError("a takeover is under way already", code=Reason.BUSY)
        if self.succeeded.is_set():
            raise CallerError("a successor has this process's port: ask that one", code=Reason.BUSY)
