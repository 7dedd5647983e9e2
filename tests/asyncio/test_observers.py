"""All observers of a process's connections are told, even if one of them fails."""

from __future__ import annotations

import asyncio
import os
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from quicbaton.asyncio.endpoint.observer import Observer
from quicbaton.baton.seal import identify
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.handoff.messages import ClaimRequest, Committed
from quicbaton.service.supervisor.roster import Roster, make_roster, read_roster
from quicbaton.service.supervisor.worker import RosterKeeper
from tests.asyncio.loopback import http_client
from tests.asyncio.movable import movable_node


class Failing(Observer):
    """As a reporter whose pipe is closed."""

    def on_began(self, session: Any, *, is_new: bool) -> None:
        raise BrokenPipeError

    def on_given(self, connection_id: bytes) -> None:
        raise BrokenPipeError


class Told(Observer):
    def __init__(self) -> None:
        self.given: list[bytes] = []

    def on_given(self, connection_id: bytes) -> None:
        self.given.append(connection_id)


class Retirements(Observer):
    """Notes whether a cutover was still open whenever IDs had been retired."""

    def __init__(self) -> None:
        self.was_open: list[bool] = []
        self.told = asyncio.Event()

    def on_ids_retired(self, session: Any) -> None:
        self.was_open.append(session.connection.cutover_pending)
        self.told.set()


class CutsOverAgain(Observer):
    """Begins another cutover as soon as the client has obeyed one, as the owner of a connection
    that has moved twice does."""

    def __init__(self) -> None:
        self.left = 3
        self.over = asyncio.Event()

    def on_ids_retired(self, session: Any) -> None:
        if self.left:
            self.left -= 1
            session.connection.begin_cutover()
        else:
            self.over.set()


class ClaimingLink:
    """A link over which a saved connection is claimed; reads the roster when it is given."""

    number = 1
    is_remote = False
    is_crowded = True
    peer_name = "claimer"

    def __init__(self, roster: int) -> None:
        self._roster = roster
        self.listed_at_commit: list[int] = []

    def send(self, message: object) -> None:
        if isinstance(message, Committed):
            self.listed_at_commit.append(len(read_roster(self._roster, 1)))


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.loop(expected_problems=2)
async def test_a_connection_is_off_the_roster_before_the_first_byte_of_its_commit(
    order: tuple[int, ...], tmp_path: Path, certificate: CertificateFiles
) -> None:
    descriptor = make_roster(10)
    node = movable_node(tmp_path / "node.sock", certificate)
    told = Told()
    observers = (RosterKeeper(Roster(descriptor), node), Failing(), told)
    for number in order:
        node.endpoint.observers.add(observers[number])
    node.endpoint.start()
    link: Any = ClaimingLink(descriptor)
    node.handoffs.link_up(link)
    async with http_client(certificate, int(node.endpoint.udp.address[1])) as client:
        await client.get(10)
        (session,) = node.endpoint.sessions.values()
        name, kept = session.connection.name, list[bytes]()
        await node.handoffs.save(session, kept.append)
        assert len(read_roster(descriptor, 1)) == 1
        baton_id, digest = identify(kept[0])
        node.handoffs.on_message(link, ClaimRequest(name, bytes(16), baton_id, digest))
        assert link.listed_at_commit == [0]
        assert told.given == [name]
    node.close()
    os.close(descriptor)


async def test_ids_that_one_packet_retires_are_told_of_once(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    node = movable_node(tmp_path / "node.sock", certificate)
    retirements = Retirements()
    node.endpoint.observers.add(retirements)
    node.endpoint.start()
    async with http_client(certificate, int(node.endpoint.udp.address[1])) as client:
        await client.get(10)
        (session,) = node.endpoint.sessions.values()
        before = session.connection.issued_ids()
        session.connection.begin_cutover()
        session.process()
        await retirements.told.wait()
        assert len(before) > 1
        assert retirements.was_open == [False]
        assert not set(session.cids).intersection(before)
    node.close()


async def test_ids_of_a_cutover_that_follows_another_are_routed_before_the_client_has_them(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    node = movable_node(tmp_path / "node.sock", certificate)
    cuts_over = CutsOverAgain()
    node.endpoint.observers.add(cuts_over)
    node.endpoint.start()
    async with http_client(certificate, int(node.endpoint.udp.address[1])) as client:
        await client.get(10)
        (session,) = node.endpoint.sessions.values()
        session.connection.begin_cutover()
        session.process()
        await cuts_over.over.wait()
        assert set(session.cids).issuperset(session.connection.issued_ids())
        assert not node.endpoint.counters["reset"]
        await client.get(10)
    node.close()
