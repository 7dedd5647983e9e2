"""One server host, reached over a link that delays, loses, doubles and reorders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.lossy_link import CLEAR
from tests.hosts.network import Network
from tests.hosts.sites import ROUGH, Datagrams, curl_from, one_host
from tests.processes.harness import GUARD_S, Curl, Server, World

pytestmark = pytest.mark.process

_HANDOFFS = 10


@asynccontextmanager
async def download(
    network: Network, world: World, server: Server, *, size: int = 800_000, rate: int = 250_000
) -> AsyncIterator[Curl]:
    """A client's download. It gets all, and no packet number came twice from the servers,
    whatever the client got of it."""
    port = await server.port()
    async with curl_from(network.hosts["client"], world, port, size, rate=rate) as curl:
        yield curl
        await curl.finish()
    assert curl.whole, curl.outcome
    verdict = Datagrams(await network.notes(), port).check(world.keylogs)
    verdict.assert_one_sender(may_reset=True)


async def test_a_download_arrives_over_a_rough_link(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async with one_host(tmp_path, seed, hosts_certificate, ROUGH) as (network, world):
        async with download(network, world, await world.start(), rate=0):
            pass
        assert any(note.lost for note in await network.notes())


async def test_an_interface_whose_mtu_drops_costs_no_silence(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    """The kernel refuses what is too large now (EMSGSIZE, or EINVAL of a whole train): it goes out
    again in smaller datagrams, and nobody waits for a probe timeout, let alone for three."""
    async with one_host(tmp_path, seed, hosts_certificate, CLEAR) as (network, world):
        server = await world.start()
        async with download(network, world, server, size=4_000_000, rate=1_000_000) as curl:
            await curl.received(1_000_000)
            await network.hosts["a"].set_mtu(1280)
            before = len(await network.notes())
        sent = [note for note in await network.notes() if note.sender == "a"]
        after = [note for note in (await network.notes())[before:] if note.sender == "a"]
        assert max(len(note.payload) for note in sent) == 1452
        assert 1200 < max(len(note.payload) for note in after) <= 1280 - 28
        pauses = [b.at_s - a.at_s for a, b in pairwise(after)]
        assert max(pauses) < 1  # 4.4 s, where it is taken for loss


async def test_a_client_moves_to_another_port_in_the_middle(
    tmp_path: Path,
    seed: str,
    hosts_certificate: CertificateFiles,
) -> None:
    async with one_host(tmp_path, seed, hosts_certificate, ROUGH) as (network, world):
        # So much that the client has something to say for many seconds.
        async with download(network, world, await world.start(), size=4_000_000) as curl:
            for shift in (7, 1000):
                await curl.received(curl.received_bytes + 150_000)
                await network.rebind(network.hosts["client"], shift)
        ports = {note.source_port for note in await network.notes() if note.sender == "client"}
        assert len(ports) == 3


async def test_a_connection_goes_to_and_fro_between_processes_over_a_rough_link(
    tmp_path: Path,
    seed: str,
    hosts_certificate: CertificateFiles,
) -> None:
    async with one_host(tmp_path, seed, hosts_certificate, ROUGH) as (network, world):
        owner = await world.start()
        other = await world.start("join", owner)
        answers: list[str] = []
        async with download(network, world, owner), asyncio.timeout(GUARD_S):
            while answers.count("ok") < _HANDOFFS:
                infos = (await owner.list()).connections
                if infos:
                    answer = await owner.hand_over(infos[0].connection, other)
                    answers.append(answer.code)
                if not infos or answer.ok:
                    owner, other = other, owner


async def test_a_new_process_takes_over_under_loss(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async with one_host(tmp_path, seed, hosts_certificate, ROUGH) as (network, world):
        server = await world.start()
        async with download(network, world, server) as curl:
            await curl.received(100_000)
            for _ in range(2):
                successor = await world.start("takeover", server)
                await server.gone()
                server = successor
                await curl.received(curl.received_bytes + 150_000)
