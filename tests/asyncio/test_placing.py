"""Placing new connections: which processes are members, and where a request waits meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import ConfigurationError
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.placement import Member, Newcomer, Placement
from quicbaton.service.node.node import Node
from quicbaton.service.node.operations import Operations
from quicbaton.service.node.placing import Loads, check_names
from quicbaton.service.node.seat import Seat
from quicbaton.service.peers.cluster import Cluster
from tests.asyncio.loopback import FileServer, HttpClient, body_of, http_client
from tests.asyncio.loopback import server_configuration as configuration
from tests.processes.cluster_folder import make_cluster


def test_members_are_workers_of_the_node_and_those_that_the_policy_names() -> None:
    loads = Loads()
    for name in ("a/1", "b/0", "b/1", "c/0", "/run/other.sock"):
        loads.note(Member(name, 1, 10))
    loads.note(Member("a/2", 1, 0))
    here = Member("a/0", 0, 10)

    def names(*elsewhere: str) -> list[str]:
        return [member.name for member in loads.members(here, elsewhere)]

    assert names() == ["a/0", "a/1"]
    assert names("b/1") == ["a/0", "a/1", "b/1"]
    assert names("b", "c/0") == ["a/0", "a/1", "b/0", "b/1", "c/0"]


def test_a_placement_names_nodes_of_the_cluster(tmp_path: Path) -> None:
    cluster = Cluster(make_cluster(tmp_path / "cluster", "a", "b"), "a")
    check_names(["b", "b/3", "a/1"], cluster)
    check_names([], None)
    for name, given, code in (
        ("c", cluster, "unknown_node"),
        ("b/x", cluster, "placement"),
        ("b/1", None, "no_cluster"),
        ("video", None, "placement"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            check_names([name], given)
        assert caught.value.code == code


class Elsewhere:
    """Wants every request to be answered by a process that is not there."""

    wants_path = True

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def choose(self, newcomer: Newcomer, members: Sequence[Member], here: str) -> str | None:
        self.asked.append(newcomer.path)
        return "9"


class Broken:
    """A policy with a mistake in it."""

    wants_path = True

    def choose(self, newcomer: Newcomer, members: Sequence[Member], here: str) -> str | None:
        raise ZeroDivisionError("a user's mistake")


class Recording(FileServer):
    """Notes what was known of the policy's decision when the first request came."""

    decisions: ClassVar[dict[str, int]] = {}
    seen: ClassVar[list[dict[str, int]]] = []

    def http_event_received(self, event: object) -> None:
        self.seen.append(dict(self.decisions))
        super().http_event_received(event)  # type: ignore[arg-type]


@asynccontextmanager
async def client_of_a_node(
    folder: Path, certificate: CertificateFiles, policy: Placement
) -> AsyncIterator[tuple[HttpClient, Counter[str]]]:
    """A client of a node that places by the policy, and what became of connections there."""
    node = Node(
        Seat(open_udp("127.0.0.1", 0)),
        folder / "node.sock",
        ring=KeyRing(ClusterKey.generate(os.urandom)),
        configuration=configuration(certificate),
        create_protocol=Recording,
    )
    operations = Operations(node, policy)
    assert operations._placing is not None
    node.start()
    async with http_client(certificate, int(node.endpoint.udp.address[1])) as client:
        yield client, operations._placing.outcomes
    operations.close()
    node.close()


@pytest.mark.loop(expected_problems=1)
async def test_a_policy_that_fails_costs_no_client_anything(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with client_of_a_node(tmp_path, certificate, Broken()) as (client, outcomes):
        assert await client.get(1000) == body_of(1000)
        assert await client.get(10) == body_of(10)
        assert outcomes == {"policy_failed": 1}


async def test_a_request_waits_for_its_placement_and_is_answered_here_when_that_fails(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    policy = Elsewhere()
    async with client_of_a_node(tmp_path, certificate, policy) as (client, outcomes):
        Recording.decisions, Recording.seen = outcomes, []
        answers = await asyncio.gather(client.get(1000), client.get(2000))
        assert answers == [body_of(1000), body_of(2000)]
        assert await client.get(10) == body_of(10)
    assert policy.asked == ["/1000"]
    # The program got no request before it was clear that nobody else answers.
    assert {sum(known.values()) for known in Recording.seen} == {1}
