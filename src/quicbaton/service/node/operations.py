"""Operators' commands for a process as a whole: drain it, place connections, read its figures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable

from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.asyncio.endpoint.session import Session
from quicbaton.errors import CallerError
from quicbaton.handoff.messages import Load
from quicbaton.limits import MAX_ROUTED_IDS
from quicbaton.reasons import Reason
from quicbaton.routing.placement import Member, Placement
from quicbaton.service.moving.handoff import HandoffResult
from quicbaton.service.node.bulk import OwnConnections
from quicbaton.service.node.draining import Draining
from quicbaton.service.node.figures import figures_of
from quicbaton.service.node.node import Node
from quicbaton.service.node.placing import (
    KeptLinks,
    Loads,
    Placing,
    names_elsewhere,
)
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.channel import Channel
from quicbaton.service.timing import LOAD_INTERVAL_S


class Operations(Observer):
    """Lets a node drain, place and report. `placement` decides where new connections go."""

    def __init__(self, node: Node, placement: Placement | None = None) -> None:
        self._node = node
        self._loads = Loads()
        self._draining = Draining(
            OwnConnections(node.endpoint, node.handoffs),
            node.link_to,
            lambda: node.handoffs.relays.left,
        )
        self._placing = (
            None
            if placement is None
            else Placing(
                placement,
                self._loads,
                here=self._here,
                move=self._place,
                go_on=self._go_on,
                spawn=node.spawn,
            )
        )
        names = names_elsewhere(placement)
        if names:
            node.starters.append(lambda: node.spawn(KeptLinks(names, node.link_to).keep))
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(LOAD_INTERVAL_S, self._tell_load)
        placed = {} if self._placing is None else self._placing.outcomes
        node.figures.include(lambda: self._draining.active, placed)
        node.answer(
            {
                **self._draining.handlers(),
                c.ReadFigures: self._read_figures,
                c.ReadTallies: self._read_tallies,
            }
        )
        node.endpoint.observers.add(self)
        node.endpoint.observers.add(self._draining.changes)

    def close(self) -> None:
        """Stop reporting and moving."""
        self._timer.cancel()
        self._draining.stop()

    # --- what it is told ------------------------------------------------------------------------

    def on_began(self, session: Session, *, is_new: bool) -> None:
        if self._draining.active:
            self._draining.on_connection(session.connection.name)
        elif is_new and self._placing is not None:
            self._placing.on_new(session)

    def on_blackout(self, connection_id: bytes, blackout_us: int) -> None:
        self._draining.on_blackout(blackout_us)

    def on_peer_load(self, peer: str, connections: int, room: int) -> None:
        self._loads.note(Member(self._name_of_worker(peer), connections, room))

    # --- helpers, in reading order --------------------------------------------------------------

    def _here(self) -> Member:
        """This process, as placement policies see it."""
        endpoint = self._node.endpoint
        connections = endpoint.connection_count + len(endpoint.handshakes)
        # Three IDs each.
        room = max(0, MAX_ROUTED_IDS // 3 - connections)
        idle = self._draining.active or not endpoint.accepts
        return Member(self._name_of_worker(self._node.name), connections, 0 if idle else room)

    def _name_of_worker(self, name: str) -> str:
        """The worker's name for people and policies: NODE/WORKER across hosts, a number on one
        host."""
        remote = self._node.names.remote
        for worker, path in self._node.workers.items():
            if path == name:
                return str(worker) if remote is None else str(remote._replace(worker=worker))
        return name

    def _path_of(self, member: str) -> str:
        """The name by which a member can be linked to."""
        node, _, worker = member.rpartition("/")
        remote = self._node.names.remote
        if node == ("" if remote is None else remote.node):
            paths = {str(number): path for number, path in self._node.workers.items()}
            return paths.get(worker, member)
        return member

    def _place(self, name: bytes, member: str) -> Awaitable[HandoffResult]:
        return self._hand_over_to(name, self._path_of(member))

    async def _hand_over_to(self, name: bytes, to: str) -> HandoffResult:
        link = await self._node.link_to(to)
        session = self._node.endpoint.session_of(name)
        if session is None:
            raise CallerError("it was closed", code=Reason.CLOSED)
        return await self._node.handoffs.hand_over(session, link)

    def _go_on(self, name: bytes) -> None:
        """A connection was placed, or could not be: then it is answered here."""
        session = self._node.endpoint.sessions.get(name)
        if session is not None:
            session.protocol.let_requests_in()
            session.process()

    def _tell_load(self) -> None:
        here = self._here()
        load = Load(name=here.name, connections=here.connections, room=here.room)
        for link in self._node.links:
            link.send(load)
        self._timer = self._loop.call_later(LOAD_INTERVAL_S, self._tell_load)

    async def _read_figures(self, _channel: Channel, _frame: c.ReadFigures) -> c.Frame:
        return figures_of(self._node.figures.read(), self._node.name, os.getpid())

    async def _read_tallies(self, _channel: Channel, _frame: c.ReadTallies) -> c.Frame:
        return c.Tallies([self._node.figures.read()])
