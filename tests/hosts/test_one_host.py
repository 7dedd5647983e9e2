"""One server host, reached over a link that delays, loses, doubles and reorders."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from network import Network
from sites import ROUGH, curl_from, one_host
from wire import check

from quicbaton.cli.certificate import CertificateFiles

pytestmark = pytest.mark.process

SIZE = 800_000


async def assert_one_sender(network: Network, keylogs: list[Path]) -> None:
    """No packet number came twice from the servers, whatever the client got of it."""
    notes = await network.notes()
    sent = [note.payload for note in notes if note.receiver == "client"]
    first = next(note.payload for note in notes if note.sender == "client")
    verdict = check(sent, first[6 + first[5]], keylogs)
    assert verdict.packets
    assert not verdict.reused
    assert not verdict.strange


def test_a_download_arrives_over_a_rough_link(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async def run() -> None:
        async with one_host(tmp_path, seed, hosts_certificate, ROUGH) as (network, world):
            server = await world.start()
            client = network.hosts["client"]
            async with curl_from(client, world, await server.port(), SIZE) as curl:
                await curl.end()
            assert curl.whole, curl.outcome
            notes = await network.notes()
            assert any(note.lost for note in notes)
            await assert_one_sender(network, world.keylogs)

    asyncio.run(run())


def test_a_client_moves_to_another_port_in_the_middle(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async def run() -> None:
        async with one_host(tmp_path, seed, hosts_certificate, ROUGH) as (network, world):
            server = await world.start()
            client = network.hosts["client"]
            port = await server.port()
            async with curl_from(client, world, port, SIZE, rate=250_000) as curl:
                for shift in (7, 1000):
                    await curl.received(curl.received_bytes + 150_000)
                    await network.rebind(client, shift)
                await curl.end()
            assert curl.whole, curl.outcome
            ports = {note.source_port for note in await network.notes() if note.sender == "client"}
            assert len(ports) == 3
            await assert_one_sender(network, world.keylogs)

    asyncio.run(run())


def test_a_connection_goes_to_and_fro_between_processes_over_a_rough_link(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async def run() -> None:
        async with one_host(tmp_path, seed, hosts_certificate, ROUGH) as (network, world):
            owner = await world.start()
            other = await world.start("join", owner)
            client = network.hosts["client"]
            port = await owner.port()
            answers: list[str] = []
            async with curl_from(client, world, port, SIZE, rate=250_000) as curl:
                while curl.outcome is None:
                    infos = (await owner.list()).connections
                    if infos:
                        answer = await owner.hand_over(infos[0].connection, other)
                        answers.append(answer.code)
                    if not infos or answer.ok:
                        owner, other = other, owner
                await curl.end()
            assert curl.whole, curl.outcome
            assert answers.count("ok") > 2, Counter(answers)
            await assert_one_sender(network, world.keylogs)

    asyncio.run(run())


def test_a_new_process_takes_over_under_loss(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async def run() -> None:
        async with one_host(tmp_path, seed, hosts_certificate, ROUGH) as (network, world):
            server = await world.start()
            client = network.hosts["client"]
            port = await server.port()
            async with curl_from(client, world, port, SIZE, rate=250_000) as curl:
                await curl.received(150_000)
                for _ in range(2):
                    successor = await world.start("takeover", server)
                    await server.gone()
                    server = successor
                    await curl.received(curl.received_bytes + 150_000)
                await curl.end()
            assert curl.whole, curl.outcome
            await assert_one_sender(network, world.keylogs)

    asyncio.run(run())
