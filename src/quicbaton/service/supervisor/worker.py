"""A worker's side of a service: it waits until it is told to begin, and reports its state.

    supervisor                                 worker
    starts it, with all sockets ────────────►  imports, keys, certificate, application, health
                             ◄─ WorkerState ─  answers at its control socket: it is ready
    Begin(others, predecessor) ─────────────►  takes over from its predecessor, or just reads
                             ◄─ Progress ────
                             ◄─ Answer ──────  serves
    WorkerStatus, once a second ────────────►

The supervisor asks and the worker answers, never the other way round. So a worker does not notice
that its supervisor has died, and the next one finds it by its control socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.asyncio.endpoint.steer import steer
from quicbaton.errors import CallerError, ConfigurationError, PeerError
from quicbaton.limits import NO_RESET_LIFETIME_S
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import Place
from quicbaton.service.moving.strays import StraySink
from quicbaton.service.node.control import Handler
from quicbaton.service.node.graceful_stop import GracefulStop
from quicbaton.service.node.node import Node
from quicbaton.service.node.takeover import NewProcess
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel
from quicbaton.service.peers.tally import Tally
from quicbaton.service.supervisor.control_paths import control_of
from quicbaton.service.supervisor.group import inodes
from quicbaton.service.supervisor.lingering import lingering_control
from quicbaton.service.supervisor.roster import Roster
from quicbaton.service.supervisor.tally_file import Record, TallyPlace
from quicbaton.service.timing import LAST_ANSWER_S, LINKS_END_S, TALLY_S, VERDICT_S

#: The pid of a predecessor that has not told it yet.
_NOT_ASKED: Final = -1


class Assignment(msgspec.Struct, forbid_unknown_fields=False):
    """What a supervisor gives a new worker: its number, and descriptors."""

    worker: int
    sockets: list[int]  # one for each worker, in order
    roster: int
    stderr: int  # for standard error, once it serves
    ready: int  # closed when it has everything that it needs to serve
    control: str  # the supervisor's control socket
    listener: int = -1  # of TCP, for a program that is served over that, too
    no_listener: str = ""  # why there is none
    tallies: int = -1  # the service's figures, and the place in them
    place: int = 0
    use: int = 0

    @classmethod
    def parse(cls, text: str) -> Assignment:
        try:
            return msgspec.convert(json.loads(text), cls)
        except (ValueError, msgspec.ValidationError) as error:
            raise ConfigurationError(f"not a supervisor's assignment: {error}") from error

    @property
    def tally_place(self) -> TallyPlace | None:
        """Its place among the service's figures; None under a supervisor that keeps none."""
        return TallyPlace(self.tallies, self.place, self.use) if self.tallies >= 0 else None

    @property
    def own_control(self) -> Path:
        """The path at which this process is to listen."""
        return control_of(Path(self.control), os.getpid())


class RosterKeeper(Observer):
    """Keeps a worker's roster: the clients that are told, should the worker die. It strikes a
    connection out before the first byte of the commit, since from then on the connection may live
    elsewhere."""

    def __init__(self, roster: Roster, node: Node) -> None:
        self._roster = roster
        self._endpoint = node.endpoint
        self._has_store = node.handoffs.store is not None

    def on_began(self, session: Session, *, is_new: bool) -> None:
        connection = session.connection
        decode = self._endpoint.ids.decode
        # IDs that the client chose have no reset token.
        ours = [cid for cid in session.cids if decode(cid) is not None]
        self._roster.enter(connection.name, connection.peer_address, connection.local_address, ours)

    def on_ids_retired(self, session: Session) -> None:
        # Later: the same packet brings new IDs.
        asyncio.get_running_loop().call_soon(self._enter_again, session)

    def on_frozen(self, session: Session) -> None:
        # The process that gets the baton may commit in the store after our death.
        if self._has_store:
            self._roster.strike(session.connection.name)

    def on_given(self, connection_id: bytes) -> None:
        self._roster.strike(connection_id)

    def on_ended(self, session: Session) -> None:
        self._roster.strike(session.connection.name)

    def _enter_again(self, session: Session) -> None:
        if self._endpoint.sessions.get(session.connection.name) is session:
            self.on_began(session, is_new=False)


class Worker(Observer):
    """Puts a supervised node under a supervisor's command. The node must not have been started."""

    def __init__(
        self,
        node: Node,
        sockets: list[socket.socket],
        roster: int,
        *,
        version: str,
        grace_s: float,
        on_begin: Callable[[], None],
        place: TallyPlace | None = None,
    ) -> None:
        """`sockets` are those of all workers, in order; `on_begin` is called when it begins to
        serve. Its figures go to `place`."""
        self._node = node
        self._worker = node.endpoint.table.place.worker
        self._sockets = sockets
        self._version = version
        self._on_begin = on_begin
        self._phase = "ready"
        self._leaving = GracefulStop(node, grace_s)
        self._failed = asyncio.Event()
        #: Set by a message before it begins.
        self._may_reset = False
        #: The process that it takes over from, until the supervisor has settled that one's
        #: connections.
        self._predecessor: int | None = None
        #: Dead processes for which the supervisor has given no verdict yet.
        self._undecided: dict[int, asyncio.TimerHandle] = {}
        self.roster = Roster(roster)
        node.endpoint.observers.add(RosterKeeper(self.roster, node))
        #: Tasks that wait until a process is known to be dead.
        self._waits_for_end: dict[int, asyncio.Event] = {}
        node.endpoint.observers.add(self)
        self._place = place
        if place is not None:
            node.figures.keep_by(self._keep_tally)
            self._tally_again()
        node.lingers_at = lingering_control(Path(node.name))
        handlers: dict[type[c.Frame], Handler] = {
            c.WorkerStatus: self._status,
            c.Begin: self._begin,
            c.PassSocket: self._pass_socket,
            c.ShareSockets: self._take_sockets,
            c.PassRoster: self._pass_roster,
            c.PassTallies: self._pass_tallies,
            c.Survey: self._survey,
            c.DeclareDead: self._on_declared_dead,
            c.Join: self._refuse_to_share,
        }
        node.answer(handlers | self._leaving.handlers())

    def follow(self, predecessor: int) -> None:
        """Take over from `predecessor`. Verdicts about other processes that had the number before
        do not concern its connections."""
        self._predecessor = predecessor
        self._may_reset = self._node.endpoint.may_reset = False

    @property
    def failed(self) -> bool:
        """Whether it was told to begin and could not."""
        return self._failed.is_set()

    def leave(self) -> None:
        """Stop in good order. A second call, or one before it has begun, stops at once."""
        if self._phase != "serving":
            self._leaving.over.set()
        else:
            self._leaving.begin()

    async def until_over(self) -> None:
        """Return when the process is to end."""
        waits = (self._leaving.over, self._node.succeeded, self._failed)
        tasks = [asyncio.ensure_future(event.wait()) for event in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    # --- commands -------------------------------------------------------------------------------

    async def _status(self, _channel: Channel, _frame: c.WorkerStatus) -> c.Frame:
        node = self._node
        endpoint = node.endpoint
        phase = "stopping" if self._leaving.begun.is_set() else self._phase
        if node.is_departing or node.succeeded.is_set():
            phase = "lingering" if node.is_lingering else "departing"
        return c.WorkerState(
            worker=self._worker,
            pid=os.getpid(),
            state=phase,
            version=self._version,
            sockets=inodes(self._sockets),
            connections=endpoint.connection_count,
            handshakes=len(endpoint.handshakes),
            accepted=endpoint.accepted,
            tossed=endpoint.counters["tossed"],
            reset=endpoint.counters["reset"],
            unlisted=self.roster.unlisted,
            requests=node.requests.total,
        )

    async def _begin(self, channel: Channel, frame: c.Begin) -> c.Frame:
        if self._phase != "ready":
            raise CallerError("this worker has begun already", code=Reason.BUSY)
        node = self._node
        endpoint = node.endpoint
        for worker, name in frame.workers.items():
            node.meet(worker, name)
        self._forward(frame.elsewhere)
        endpoint.may_reset = frame.may_reset or self._may_reset
        if frame.predecessor:
            # Before the others know of us: from then on they toss us the datagrams for it.
            endpoint.follow(frame.predecessor)
            self.follow(_NOT_ASKED)
        answer = c.Answer(True, Reason.OK, "serving")
        # The forms of IDs or the cluster key may be newer than the filter; ours reads the older
        # ones, too.
        steer(self._sockets[0], endpoint.ids.configs, len(self._sockets))
        self._phase = "arriving"
        try:
            # A worker that is not reached is dead, which the supervisor finds out, or stopped: it
            # is told again.
            await node.introduce(lambda _number, _error: None)
            if frame.predecessor:
                answer = await self._take_over(channel, frame)
            else:
                node.start()
        except BaseException:
            # The predecessor keeps the port, and this process has nothing to do.
            self._phase = "failed"
            asyncio.get_running_loop().call_later(LAST_ANSWER_S, self._failed.set)
            raise
        self._phase = "serving"
        self._on_begin()
        return answer

    async def _take_over(self, channel: Channel, frame: c.Begin) -> c.Answer:
        node = self._node
        predecessor = Path(frame.predecessor)
        arrival = await _begin_takeover(predecessor, node.name, frame)
        self.follow(arrival.predecessor_pid)
        # We have this very socket already.
        arrival.seat.sock.close()
        answer = await arrival.settle(
            node, lambda step: channel.write(c.encode(step)), supervised=True
        )
        # IDs that it had given to others, and that its clients still use, are settled only when the
        # supervisor has asked every worker.
        node.endpoint.may_reset = self._may_reset
        # A process that knows the old control socket finds this process behind it.
        node.also_listen(predecessor)
        return answer

    async def _refuse_to_share(self, _channel: Channel, _frame: c.Join) -> c.Frame:
        raise CallerError(
            "this is a worker of a service: `quicbaton scale` gives the service more of them",
            code=Reason.SUPERVISED,
        )

    async def _pass_socket(self, channel: Channel, frame: c.PassSocket) -> None:
        if not 0 <= frame.number < len(self._sockets):
            raise CallerError(f"there are {len(self._sockets)} sockets", code=Reason.NO_SUCH_SOCKET)
        channel.write_descriptors(
            c.encode(c.SocketOf(frame.number, len(self._sockets))),
            [self._sockets[frame.number].fileno()],
        )

    async def _take_sockets(self, channel: Channel, frame: c.ShareSockets) -> c.Frame:
        new = [socket.socket(fileno=descriptor) for descriptor in channel.take_descriptors()]
        if not self._worker < frame.first <= len(self._sockets):
            for sock in new:
                sock.close()
            raise CallerError("sockets of others begin elsewhere", code=Reason.NO_SUCH_SOCKET)
        for sock in self._sockets[frame.first :]:
            sock.close()
        self._sockets[frame.first :] = new
        return c.Answer(True, Reason.OK, f"{len(self._sockets)} sockets")

    async def _pass_roster(self, channel: Channel, _frame: c.PassRoster) -> None:
        answer = c.SocketOf(self._worker, len(self._sockets))
        channel.write_descriptors(c.encode(answer), [self.roster.descriptor])

    async def _pass_tallies(self, channel: Channel, _frame: c.PassTallies) -> None:
        if self._place is None:
            raise PeerError("no supervisor keeps its figures", code=Reason.UNEXPECTED_MESSAGE)
        answer = c.SocketOf(self._worker, len(self._sockets))
        channel.write_descriptors(c.encode(answer), [self._place.descriptor])

    # --- figures --------------------------------------------------------------------------------

    def _tally_again(self) -> None:
        """A process that is killed takes along what it has counted since the last time, and nobody
        has read."""
        self._node.figures.read()
        asyncio.get_running_loop().call_later(TALLY_S, self._tally_again)

    def _keep_tally(self, tally: Tally) -> None:
        assert self._place is not None
        with contextlib.suppress(OSError):  # no memory: the next one may be written
            self._place.write(Record(os.getpid(), 0, tally))

    # --- the dead -------------------------------------------------------------------------------

    def on_process_died(self, pid: int) -> None:
        # The supervisor decides what becomes of the connections between us: it asks every worker.
        if pid in self._waits_for_end:
            self._waits_for_end[pid].set()
        loop = asyncio.get_running_loop()
        self._undecided[pid] = loop.call_later(VERDICT_S, self._give_up_on, pid)

    def _give_up_on(self, pid: int) -> None:
        if self._undecided.pop(pid, None) is not None:
            self._node.handoffs.peer_dead(pid, no_owner_lives=False)

    async def _survey(self, _channel: Channel, frame: c.Survey) -> c.Frame:
        await self._until_dead(frame.pid)
        endpoint = self._node.endpoint
        ids = endpoint.ids
        owned: list[bytes] = []
        passed_on: list[bytes] = []
        for cid, owner in endpoint.table.owners.items():
            if ids.decode(cid) not in (None, ids.place):
                (passed_on if isinstance(owner, StraySink) else owned).append(cid)
        living = [*endpoint.names(), *self._node.handoffs.living_elsewhere(frame.pid)]
        return c.Survivors(owned, passed_on, living)

    async def _until_dead(self, pid: int) -> None:
        """Return when the process has exited and all that it wrote to us was handled."""
        if not self._node.knows(pid):
            return
        ended = self._waits_for_end.setdefault(pid, asyncio.Event())
        try:
            async with asyncio.timeout(LINKS_END_S):
                await ended.wait()
        except TimeoutError:
            raise PeerError(f"process {pid} lives, as far as we know", code=Reason.ALIVE) from None
        finally:
            self._waits_for_end.pop(pid, None)

    async def _on_declared_dead(self, _channel: Channel, frame: c.DeclareDead) -> c.Frame:
        if frame.pid == self._predecessor:
            self._predecessor = None
        self._node.old_processes.ended(frame.pid)
        if frame.worker == self._worker:
            self._forward(frame.elsewhere)
            if frame.may_reset and self._predecessor is None:
                self._may_reset = True
                self._node.endpoint.may_reset = True
        timer = self._undecided.pop(frame.pid, None)
        if timer is not None:
            timer.cancel()
            living = frozenset(frame.names)
            self._node.handoffs.peer_dead(frame.pid, no_owner_lives=frame.sure, living=living)
        return c.Answer(True, Reason.OK, "settled")

    def _forward(self, elsewhere: dict[bytes, int]) -> None:
        table = self._node.endpoint.table
        until = monotonic() + NO_RESET_LIFETIME_S
        for cid, worker in elsewhere.items():
            if cid not in table.owners and self._node.endpoint.ids.decode(cid) == table.place:
                table.forward(cid, Place(table.place.node, worker), until)


async def _begin_takeover(predecessor: Path, name: str, frame: c.Begin) -> NewProcess:
    try:
        early = c.TakeOverEarly(name, frame.deadline_s, frame.linger_s)
        return await NewProcess.begin(predecessor, early)
    except PeerError as error:
        if error.code is not Reason.LINK_LOST:
            raise
        # One of release 0.2 does not know the command. It waits for absent clients.
        return await NewProcess.begin(
            predecessor, c.TakeOver(name, frame.deadline_s, frame.linger_s)
        )
