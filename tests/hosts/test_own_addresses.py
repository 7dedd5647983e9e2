"""Hosts with addresses of their own. A destination cannot send from the address that the client
talks to: the source passes everything on, in both directions, if asked to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.service.peers import commands as c
from tests.hosts.lossy_link import CLEAR, Condition
from tests.hosts.sites import CUT, ROUGH, hand_over, two_hosts
from tests.processes.harness import until

pytestmark = pytest.mark.process

SIZE = 4_000_000
RATE = 200_000


async def test_without_a_proxy_it_is_refused_and_the_client_unharmed(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async with two_hosts(tmp_path, seed, hosts_certificate, shared=False) as site:
        a, b = await site.start("a"), await site.start("b")
        async with site.curl("a", SIZE, rate=RATE) as curl:
            connection = await a.the_connection()
            await curl.received(100_000)
            answer = await hand_over(a, connection, "b/0")
            assert not answer.ok
            assert answer.code == "cannot_send_from"
            assert (await a.list()).connections
            assert not (await b.list()).connections
            await curl.finish()
        assert curl.whole, curl.outcome
        await site.assert_one_sender()


@pytest.mark.parametrize("condition", [CLEAR, ROUGH], ids=["clear", "rough"])
async def test_a_proxied_download_arrives(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles, condition: Condition
) -> None:
    async with two_hosts(tmp_path, seed, hosts_certificate, condition, shared=False) as site:
        a, b = await site.start("a"), await site.start("b")
        async with site.curl("a", SIZE, rate=RATE) as curl:
            connection = await a.the_connection()
            await curl.received(100_000)
            answer = await a.command(c.HandOffProxied(connection, "b/0"))
            assert (answer.ok, answer.code) == (True, "proxied")
            since_s = monotonic()
            await curl.finish()
        assert curl.whole, curl.outcome
        assert (await b.list()).resumed == 1
        # The client has never heard of the second host, nor has that of the client.
        datagrams = await site.datagrams()
        assert set(datagrams.to_servers()) == set(datagrams.from_servers()) == {"a"}
        # And yet it was the second host's to send, all the time.
        assert datagrams.from_servers(since_s)["a"] > 100
        await site.assert_one_sender()

        async def forgotten() -> bool:
            return not [one for server in (a, b) for one in (await server.list()).connections]

        await until(forgotten, "both to forget the connection")


async def test_a_proxy_outlives_a_short_partition(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async with two_hosts(tmp_path, seed, hosts_certificate, shared=False) as site:
        a = await site.start("a")
        await site.start("b")
        async with site.curl("a", SIZE, rate=RATE) as curl:
            connection = await a.the_connection()
            await curl.received(100_000)
            assert (await a.command(c.HandOffProxied(connection, "b/0"))).ok
            await site.between_servers(CUT)
            # What the client holds back comes first; then it waits.
            await asyncio.sleep(0.5)
            await site.between_servers(CLEAR)
            await curl.finish()
        assert curl.whole, curl.outcome
        await site.assert_one_sender()
