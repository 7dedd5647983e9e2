"""Hosts whose clocks are an hour apart: the monotonic ones in one direction, the wall clocks in the
other. No two hosts' clocks are ever compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.sites import hand_over, two_hosts
from tests.processes.harness import Server

pytestmark = pytest.mark.process

HOUR_S = 3600
SIZE = 3_000_000
RATE = 300_000


async def facts(server: Server) -> tuple[float, float]:
    """Age and round trip of its only connection, in seconds."""
    (info,) = (await server.list()).connections
    return info.age_s, info.rtt_ms / 1e3


@pytest.mark.parametrize("wall_ahead_s", [-HOUR_S, HOUR_S], ids=["behind", "ahead"])
async def test_a_download_goes_there_and_back_between_clocks_an_hour_apart(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles, wall_ahead_s: int
) -> None:
    async with two_hosts(
        tmp_path,
        seed,
        hosts_certificate,
        shared=True,
        clock_ahead_s=HOUR_S,
        wall_ahead_s=wall_ahead_s,
    ) as site:
        a, b = await site.start("a"), await site.start("b")
        async with site.curl("a", SIZE, rate=RATE) as curl:
            connection = await a.the_connection()
            for source, destination, name in ((a, b, "b/0"), (b, a, "a/0")):
                await curl.received(curl.received_bytes + 100_000)
                answer = await hand_over(source, connection, name)
                assert answer.ok, answer
                await destination.cut_over()
                # Neither hour has come into the connection's own time.
                age_s, rtt_s = await facts(destination)
                assert age_s < HOUR_S / 4
                assert rtt_s < HOUR_S / 16
            await curl.finish()
        assert curl.whole, curl.outcome
        await site.assert_one_sender()
