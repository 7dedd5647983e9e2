"""A worker's answers about its connections, and when it treats an unknown ID as unowned."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from quicbaton.asyncio import connect
from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import PeerError, RefusedError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.service.node.node import Node
from quicbaton.service.node.seat import Seat
from quicbaton.service.peers import commands as c
from quicbaton.service.stores.memory import MemoryStore
from quicbaton.service.supervisor.group import Group
from quicbaton.service.supervisor.roster import make_roster
from quicbaton.service.supervisor.settings import Settings
from quicbaton.service.supervisor.spawn import Process, Spawner
from quicbaton.service.supervisor.supervisor import Supervisor
from quicbaton.service.supervisor.worker import Worker
from tests.asyncio.loopback import (
    FileServer,
    HttpClient,
    client_configuration,
    server_configuration,
)
from tests.supervisor.service_home import no_figures

NOBODYS_PID = 999_999_999


class MovableServer(FileServer):
    """A file server that can be exported while nothing is under way."""

    def export_state(self) -> bytes:
        if any(self._left.values()) or self._hashes:
            raise RefusedError("a request is under way", code=Reason.NOT_EXPORTABLE)
        return b""

    def import_state(self, data: bytes) -> None:
        self.start_http(self._http)


@asynccontextmanager
async def a_worker(
    folder: Path, certificate: CertificateFiles, **options: Any
) -> AsyncIterator[tuple[Node, Worker]]:
    """A worker that reads its socket, without a supervisor."""
    sock = open_udp("127.0.0.1", 0, reuse_port=True)
    node = Node(
        Seat(sock),
        folder / "worker.sock",
        ring=KeyRing(ClusterKey.generate(os.urandom)),
        configuration=server_configuration(certificate),
        create_protocol=MovableServer,
        supervised=True,
        **options,
    )
    roster = make_roster(8)
    worker = Worker(node, [sock], roster, version="test", grace_s=1.0, on_begin=lambda: None)
    node.endpoint.start()
    try:
        yield node, worker
    finally:
        node.close()
        os.close(roster)


def connected(node: Node, certificate: CertificateFiles) -> Any:
    return connect(
        "127.0.0.1",
        int(node.endpoint.udp.address[1]),
        configuration=client_configuration(certificate),
        create_protocol=HttpClient,
    )


async def come(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def survivors(worker: Worker) -> list[bytes]:
    answer = await worker._survey(None, c.Survey(NOBODYS_PID))  # type: ignore[arg-type]
    assert isinstance(answer, c.Survivors)
    return answer.names


async def test_a_frozen_connection_counts_as_living(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    """A process that still forwards to a dead owner would otherwise reset its client."""
    async with (
        a_worker(tmp_path, certificate) as (node, worker),
        connected(node, certificate) as client,
    ):
        await client.get(10)
        (session,) = node.endpoint.sessions.values()
        name = session.connection.name
        assert await survivors(worker) == [name]
        report = await node.handoffs.save(session, lambda _sealed: None)
        assert report.code == "saved", report
        assert await survivors(worker) == [name]
        node.handoffs.cancel_saves(Reason.TAKEOVER, "thawed")
        assert await survivors(worker) == [name]


async def test_a_sleeper_stays_in_the_roster_with_a_shared_store(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    store = MemoryStore()
    async with (
        a_worker(tmp_path, certificate, store=store, sleep_after_s=0.01) as (
            node,
            worker,
        ),
        connected(node, certificate) as client,
    ):
        await client.get(10)
        assert len(worker.roster) == 1

        def asleep() -> int:
            node.endpoint.asleep.look()
            return len(node.endpoint.asleep)

        await come(asleep)
        assert len(worker.roster) == 1
        await client.get(10)
        assert len(worker.roster) == 1


async def test_a_verdict_about_an_older_process_resets_nobody_of_a_living_predecessor(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    """A worker that takes over while a process before its predecessor is being settled."""
    async with a_worker(tmp_path, certificate) as (node, worker):
        predecessor, older = os.getpid(), NOBODYS_PID
        node.endpoint.may_reset = False
        worker.follow(predecessor)

        async def declare_dead(pid: int) -> bool:
            verdict = c.DeclareDead(
                pid=pid, worker=0, sure=True, names=[], elsewhere={}, may_reset=True
            )
            await worker._on_declared_dead(None, verdict)  # type: ignore[arg-type]
            return node.endpoint.may_reset

        assert not await declare_dead(older)
        assert await declare_dead(predecessor)


async def test_who_takes_over_resets_nobody_from_the_moment_the_others_know_of_it(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    """They toss to it what is for its predecessor, before that has passed its socket."""
    async with a_worker(tmp_path, certificate) as (node, worker):
        predecessor = str(tmp_path / "predecessor.sock")
        begin = c.Begin(
            workers={},
            predecessor=predecessor,
            deadline_s=1.0,
            linger_s=0.0,
            elsewhere={},
            may_reset=True,
        )
        with pytest.raises(PeerError):
            await worker._begin(None, begin)  # type: ignore[arg-type]
        # As far as it came nobody had told it that the predecessor is gone.
        assert not node.endpoint.may_reset
        assert node.endpoint.predecessor == predecessor


class _ForgetfulKeeper:
    def keep(self, name: str, descriptor: int) -> None:
        pass

    def drop(self, name: str) -> None:
        pass


@pytest.mark.parametrize("others_may_own", [False, True])
async def test_what_a_replaced_worker_gave_to_another_host_is_not_reset_by_its_successor(
    others_may_own: bool, tmp_path: Path
) -> None:
    """It ended in good order; what it knew of clients that have yet to cut over ended with it."""
    group = Group.open("127.0.0.1", 0, 1)
    supervisor = Supervisor(
        group,
        Spawner("nothing", [], group, tmp_path / "control.sock", no_figures()),
        ring=lambda: KeyRing(ClusterKey.generate(os.urandom)),
        settings=Settings(health_timeout_s=30, silent_s=10, takeover_s=60, grace_s=10),
        say=lambda *_what, **_fields: None,
        keeper=_ForgetfulKeeper(),
        others_may_own=others_may_own,
    )
    (slot,) = supervisor.slots
    with subprocess.Popen(["true"]) as child:
        departing = Process(
            child.pid,
            tmp_path / "departing.sock",
            make_roster(1),
            lambda process: supervisor._on_exit(slot, process),
        )
        departing.begun = True
        slot.others.add(departing)
        await come(lambda: not slot.others and not slot.unsettled and not supervisor._tasks)
    assert supervisor._may_reset(slot) is not others_may_own
    await supervisor.close()
