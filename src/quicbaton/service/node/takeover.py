"""Replacing a whole process: its socket first, then its connections one by one.

    old                                         new
    reads the socket         ◄─ TakeOver ──
                             ── SocketPassed ►  (with the descriptor) listens at a control socket
                             ◄─ Listening ──
                             ══ link ═════════
    stops reading            ── Stopped ─────►  reads it, accepts clients
    what is not its own      ◄─ Toss ─────      does not know all IDs yet
    hands over, a few at once ══ handoffs ═══►  resumes; the port and the IDs are the same, so no
                                                client has anything to cut over to
    finishes handshakes      ◄─ Toss ─────
    ... and hands them over  ══ handoffs ════►
    exits                    ── Answer ───►     forgets its predecessor

A passed descriptor is the same open socket, so only one of the two reads it at any time. If the new
process dies before the end, the old one reads again and keeps its remaining connections. It does
the same if at the deadline the new one has failed with more connections than it took, because it
does not answer or cannot read the old one's state. The new one then closes the connections that it
got.

A request whose handler is a running coroutine goes on in the old process after its connection has
moved (`moving.stream_relay`). The old process waits for it, too, until the deadline. Or, if it may
linger, it answers as soon as only such requests are left, and lives on until they have ended.

A client may be absent: it has not confirmed the IDs that an earlier handoff brought it, or does not
go on with its handshake. A successor that passes its datagrams back (`TakeOverEarly`) does not wait
for it, either: the old process lingers, with the IDs that it has told (`PassBack`).

A link or a channel that breaks proves nothing: the link is opened again, and only a process that
has exited counts as dead.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final, Self

from quicbaton.asyncio.endpoint.session import Session
from quicbaton.counted import counted
from quicbaton.errors import PeerError, QuicbatonError
from quicbaton.limits import HANDSHAKE_S, NO_RESET_LIFETIME_S
from quicbaton.reasons import Fault, Reason
from quicbaton.service.failpoints import reach
from quicbaton.service.node.bulk import BulkHandoff, OwnConnections
from quicbaton.service.node.changes import Changes
from quicbaton.service.node.control import Handler
from quicbaton.service.node.node import Node
from quicbaton.service.node.seat import Seat
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import Conversation
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.old_process import describe_absent
from quicbaton.service.timing import ABSENT_S, LOOK_S, PROGRESS_S, SUCCESSOR_LINK_S, TAKEOVER_S

#: H3_NO_ERROR (RFC 9114 §8.1) is the code for a client that is cut off at the deadline.
_H3_NO_ERROR: Final = 0x100


class Takeovers:
    """Lets another process replace a node's."""

    def __init__(self, node: Node) -> None:
        self._node = node
        #: The process that takes over, or has.
        self._successor = ""

    def handlers(self) -> dict[type[c.Frame], Handler]:
        return {
            c.TakeOver: self._take_over,
            c.TakeOverEarly: self._take_over,
            c.ReadOldProcess: self._read,
        }

    async def _read(self, _channel: Channel, _frame: c.ReadOldProcess) -> c.Frame:
        sessions = self._node.endpoint.sessions.values()
        sent_for = sum(session.sent_for_by is not None for session in sessions)
        return read_old_process(self._node, self._successor, sent_for)

    async def _take_over(self, channel: Channel, frame: c.TakeOver | c.TakeOverEarly) -> None:
        node = self._node
        node.check_no_successor()
        old = OldProcess(node, channel, frame)
        self._successor = frame.name
        node.is_departing = True
        node.endpoint.observers.add(old)
        try:
            await old.run()
        finally:
            node.endpoint.observers.remove(old)
            node.is_departing = False


class OldProcess(Changes):
    """The old process's side of a takeover."""

    def __init__(self, node: Node, channel: Channel, frame: c.TakeOver | c.TakeOverEarly) -> None:
        super().__init__(lambda: self._begins_no_more or not self._bulk.waiting)
        self._begins_no_more = False
        self._node = node
        self._channel = channel
        self._successor = frame.name
        self._deadline_s = frame.deadline_s
        self._linger_s = frame.linger_s
        #: Clients that are absent are not waited for, if commands find this process afterwards.
        self._is_early = isinstance(frame, c.TakeOverEarly) and node.lingers_at is not None
        self._bulk = BulkHandoff(
            OwnConnections(node.endpoint, node.handoffs),
            node.link_to,
            [frame.name],
            proxy=False,
            on_done=self.note,
        )
        self._successor_died = asyncio.Event()

    def on_began(self, session: Session, *, is_new: bool) -> None:
        # A handshake was confirmed, or a connection came back: it is to move.
        self._bulk.add([session.connection.name])

    def on_process_died(self, pid: int) -> None:
        if pid == self._channel.peer.pid:
            self._successor_died.set()
            self.note()

    async def run(self) -> None:
        """Pass the socket, move everything, let the node end; or keep everything if that fails."""
        node = self._node
        endpoint = node.endpoint
        reach("takeover_asked")
        # This process reads on until it has a link: a successor that cannot be reached holds the
        # socket and may not read it.
        self._pass_socket()
        reach("takeover_socket_passed")
        await self._link_up()
        reach("takeover_linked")
        endpoint.stop()
        endpoint.accepts = False
        node.beside.stop_accepting()
        reach("takeover_stopped_reading")
        self._channel.write(c.encode(c.Stopped(self._foreign_ids())))
        # Their files would be worth nothing without this process: they are thawed and move along.
        node.handoffs.cancel_saves(Reason.TAKEOVER, "a successor takes this process over")
        self._bulk.begin(endpoint.names())
        work = asyncio.create_task(self._bulk.work())
        try:
            try:
                await self._move_all()
                reach("takeover_handed_over")
                self._check_successor()
            except QuicbatonError:
                # Serve on with the remaining connections.
                endpoint.accepts = True
                endpoint.start()
                node.beside.start()
                raise
            self._answer()
            reach("takeover_done")
            await self._linger()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        node.leave_to_successor(self._channel.accepted_at)

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

    async def _link_up(self) -> None:
        """Open a link to the successor, which has yet to open its control socket."""
        await Conversation(self._channel, SUCCESSOR_LINK_S).expect(c.Listening)
        await self._node.link_to(self._successor)

    def _foreign_ids(self) -> list[bytes]:
        """IDs that clients chose. The successor recognises all others as ours."""
        endpoint = self._node.endpoint
        return [
            cid for cid in endpoint.table.owners if endpoint.ids.decode(cid) != endpoint.ids.place
        ]

    async def _move_all(self) -> None:
        """Hand over until nothing is left, the deadline passes or the successor dies; or until only
        absent clients are left, if the successor does not wait for them."""
        handoffs = self._node.handoffs
        bulk = self._bulk
        deadline = monotonic() + self._deadline_s
        absent_until = math.inf
        next_progress = 0.0
        while (left := self._left()) and not bulk.is_due(deadline):
            if self._successor_died.is_set():
                break
            if left > self._waits_for_clients():
                absent_until = math.inf
            else:
                absent_until = min(absent_until, monotonic() + ABSENT_S)
                if monotonic() >= absent_until:
                    return
            if monotonic() >= next_progress:
                next_progress = monotonic() + PROGRESS_S
                waiting = bulk.examples() + handoffs.relays.describe_left()
                waiting += self._node.beside.describe_running()
                waiting = self._describe_absent() + waiting
                self._channel.write(c.encode(c.Progress(bulk.moved, left, waiting[:20])))
            await self.wait(min(next_progress, absent_until))
        bulk.begin_no_more()
        self._begins_no_more = True
        # A connection that is frozen now is given away or thaws, by its own deadline.
        while handoffs.frozen:
            await self.wait(monotonic() + PROGRESS_S)

    def _left(self) -> int:
        endpoint = self._node.endpoint
        unfinished = self._node.handoffs.unfinished
        running = self._node.handoffs.relays.left + self._node.beside.running
        if self._linger_s:
            running = 0
        return endpoint.connection_count + len(endpoint.handshakes) + unfinished + running

    def _waits_for_clients(self) -> int:
        """The number of those left that need not be waited for."""
        if not self._is_early:
            return 0
        stays = len(self._sent_for())
        return self._node.handoffs.given() + len(self._node.endpoint.handshakes) + stays

    def _absent(self) -> int:
        """The number of those left for which this process is needed. The IDs of those that the
        successor got lead to the successor."""
        if not self._is_early:
            return 0
        given = self._node.handoffs.given(besides=self._successor)
        return given + len(self._node.endpoint.handshakes) + len(self._sent_for())

    def _sent_for(self) -> set[bytes]:
        """Connections here for which another process sends. They cannot move, and need nothing of
        the socket: they may stay here until they end."""
        if not self._is_early:
            return set()
        has = self._node.endpoint.has
        kept = self._bulk.kept.items()
        return {name for name, why in kept if why.code is Reason.ALREADY_PROXIED and has(name)}

    def _describe_absent(self) -> list[str]:
        stays = len(self._sent_for())
        return describe_absent(read_old_process(self._node, self._successor, stays))

    def _answer(self) -> None:
        """Cut what may not go on, and tell the successor that it has the rest."""
        node = self._node
        relays, beside = node.handoffs.relays, node.beside
        cut = self._cut()
        if not self._linger_s:
            cut += relays.cut_left(Reason.CUT, "the server restarted") + beside.cut()
        text = f"{counted(self._bulk.moved, 'connection')} moved"
        if cut:
            # The answer is for people; programs read the number from the last step before it.
            self._channel.write(c.encode(c.Progress(self._bulk.moved, len(cut), [])))
            text += f", {len(cut)} cut at the deadline: " + "; ".join(cut)
        going_on = relays.left + beside.running
        absent = self._absent()
        if going_on:
            text += f"; requests of {going_on} go on in pid {os.getpid()}"
        if absent:
            rest = ", ".join(self._describe_absent())
            text += f"; {rest}: pid {os.getpid()} goes on for them"
        if going_on or absent:
            node.linger()
        if self._is_early:
            for frame in node.old_processes.frames():
                self._channel.write(c.encode(frame))
        if absent:
            ids = list(node.endpoint.table.owners)
            frame = c.PassBack(node.name, str(node.lingers_at), os.getpid(), ids)
            self._channel.write(c.encode(frame))
        self._channel.write(c.encode(c.Answer(not cut, Reason.CUT if cut else Reason.OK, text)))

    async def _linger(self) -> None:
        """Return when nothing runs here, and no client is absent, any more."""
        relays, beside = self._node.handoffs.relays, self._node.beside
        await asyncio.gather(
            relays.until_none_left(self._linger_s),
            beside.until_none_left(self._linger_s),
            self._until_none_absent(),
        )
        relays.cut_left(Reason.CUT, "the server restarted")
        beside.cut()

    async def _until_none_absent(self) -> None:
        if not self._is_early:
            return
        handoffs, endpoint = self._node.handoffs, self._node.endpoint
        # A handshake that ends meanwhile makes a connection, which moves.
        until = monotonic() + HANDSHAKE_S + self._deadline_s
        while True:
            moving = endpoint.connection_count - len(self._sent_for())
            if not self._absent() + handoffs.unfinished - handoffs.given() + moving:
                return
            if self._successor_died.is_set() or monotonic() >= until:
                self._cut()
                if not self._absent():
                    return
            await self.wait(monotonic() + LOOK_S)

    def _check_successor(self) -> None:
        """PeerError when the successor is dead, or has failed with more connections than it
        took."""
        if self._successor_died.is_set():
            raise PeerError(
                "the successor died: this process serves on", code=Reason.SUCCESSOR_DIED
            )
        endpoint = self._node.endpoint
        failures = [
            why
            for name, why in self._bulk.kept.items()
            if endpoint.has(name) and why.code.fault is Fault.PEER
        ]
        # One of the two goes on, and the other's connections are closed.
        if len(failures) > self._bulk.moved:
            raise PeerError(
                f"the successor took {counted(self._bulk.moved, 'connection')} and failed with "
                f"{len(failures)} ({failures[0].message}): this process serves on",
                code=Reason.SUCCESSOR_FAILED,
            )

    def _cut(self) -> list[str]:
        """Close the connections that could not move. Returns a line for each, with the reason."""
        cut = []
        stays = self._sent_for()
        for name in self._node.endpoint.names():
            if name in stays:
                continue
            session = self._node.endpoint.session_of(name)
            if session is None:
                continue
            why = self._bulk.kept.get(name)
            cut.append(f"{name.hex()}: {'it did not move in time' if why is None else why.message}")
            session.protocol.close(_H3_NO_ERROR, "the server restarted")
        return cut


def read_old_process(node: Node, successor: str, sent_for: int) -> c.OldProcessInfo:
    """What a process lives on for, or would, when `successor` has replaced it. `sent_for` is the
    number of connections here for which another process sends."""
    handoffs = node.handoffs
    unconfirmed, proxied, left_s = handoffs.read_given(successor)
    return c.OldProcessInfo(
        worker=node.endpoint.table.place.worker,
        pid=os.getpid(),
        unconfirmed=unconfirmed,
        seconds_left=left_s,
        proxied=proxied,
        handshakes=len(node.endpoint.handshakes),
        requests=handoffs.relays.left + node.beside.running,
        sent_for=sent_for,
    )


class NewProcess:
    """The seat that a new process got from the one that it replaces."""

    def __init__(self, conversation: Conversation, passed: c.SocketPassed, fd: int) -> None:
        self._conversation = conversation
        #: Ours from here on; its socket is not ours to read before we are told so.
        self.seat = Seat.given(passed, fd)
        #: The predecessor's name.
        self.predecessor = passed.name
        #: Whether the socket is ours to read.
        self.reading = False
        self._theirs: list[bytes] = []
        #: What is the predecessor's, and older processes', still.
        self._passed_back: list[c.PassBack] = []
        self._predecessor_died = asyncio.Event()
        self._watch = conversation.channel.watch(self._predecessor_died.set)

    @classmethod
    async def begin(cls, predecessor: Path, command: c.TakeOver | c.TakeOverEarly) -> Self:
        """Ask the process with that control socket to be replaced. PeerError when it is not there,
        CommandFailedError when it refuses."""
        conversation = await Conversation.begin(predecessor)
        return cls(conversation, *await conversation.ask_for_descriptor(command, c.SocketPassed))

    @property
    def predecessor_pid(self) -> int:
        return self._conversation.channel.peer.pid

    async def settle(
        self,
        node: Node,
        on_progress: Callable[[c.Progress], None],
        *,
        supervised: bool = False,
    ) -> c.Answer:
        """Read the socket and take connections until the predecessor is done or dead.

        An answer that is not ok names the connections that were cut, or says that the predecessor
        died. If `supervised`, the supervisor says when unknown IDs of ours have no owner.

        Raises PeerError when the predecessor keeps the port and serves on. Then `node` no longer
        reads it; closing `node` closes the connections that it got.
        """
        endpoint = node.endpoint
        endpoint.follow(self.predecessor)
        self._conversation.channel.write(c.encode(c.Listening()))
        reach("takeover_listening")
        try:
            answer = await self._follow(node, on_progress)
        finally:
            self._watch.close()
            self._conversation.close()
        reason, text = answer.heard()
        if not answer.ok and reason not in (Reason.CUT, Reason.PREDECESSOR_DIED):
            endpoint.stop()
            self.reading = False
            raise PeerError(text, code=reason)
        if not supervised:
            self._reset_from_now_on(node)
        endpoint.follow_nobody(died=reason is Reason.PREDECESSOR_DIED)
        for cid in self._theirs:
            if cid not in endpoint.table.owners:
                endpoint.table.remove(cid)
        for frame in self._passed_back:
            node.old_processes.add(frame)
        reach("takeover_settled")
        return answer

    def _reset_from_now_on(self, node: Node) -> None:
        """The predecessor is gone, with its knowledge of connections that it had given to others.
        If there are such connections, clients that have yet to cut over are not reset."""
        if self.seat.workers or node.names.remote or node.handoffs.store is not None:
            table = node.endpoint.table
            table.no_reset_until = max(table.no_reset_until, monotonic() + NO_RESET_LIFETIME_S)
        node.endpoint.may_reset = True

    async def _follow(self, node: Node, on_progress: Callable[[c.Progress], None]) -> c.Answer:
        while True:
            try:
                frame = await self._conversation.next()
            except PeerError:
                break
            if isinstance(frame, c.Stopped):
                self._begin(node, frame.connection_ids)
            elif isinstance(frame, c.PassBack):
                self._passed_back.append(frame)
            elif isinstance(frame, c.Progress):
                on_progress(frame)
            elif isinstance(frame, c.Answer):
                return frame
        # Hanging up is no proof: as long as it lives, it may own connections. Its messages still
        # come over the link.
        await self._predecessor_died.wait()
        if not self.reading:
            self._begin(node, [])
        return c.Answer(
            False,
            Reason.PREDECESSOR_DIED,
            "the other process died before it was done: its remaining connections are lost, and "
            "their clients are told",
        )

    def _begin(self, node: Node, theirs: list[bytes]) -> None:
        table = node.endpoint.table
        until = monotonic() + TAKEOVER_S
        for cid in theirs:
            if cid not in table.owners:
                table.forward(cid, self.predecessor, until)
        self._theirs = theirs
        node.start()
        self.reading = True
        reach("takeover_reading")
