"""Two hosts behind one virtual address: connections move from host to host under a download."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest

from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.lossy_link import CLEAR, Condition
from tests.hosts.sites import ROUGH, hand_over, two_hosts
from tests.processes.harness import until

pytestmark = pytest.mark.process

SIZE = 4_000_000
RATE = 200_000


@pytest.mark.parametrize("condition", [CLEAR, ROUGH], ids=["clear", "rough"])
async def test_a_download_goes_from_host_to_host_and_its_packets_follow(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles, condition: Condition
) -> None:
    async with two_hosts(tmp_path, seed, hosts_certificate, condition, shared=True) as site:
        a, b = await site.start("a"), await site.start("b")
        async with site.curl("a", SIZE, rate=RATE) as curl:
            connection = await a.the_connection()
            await curl.received(100_000)
            assert (await hand_over(a, connection, "b/0")).code == "ok"
            await b.cut_over()
            since_s = monotonic()
            await curl.received(curl.received_bytes + 200_000)

            async def talk() -> bool:
                # On a busy machine the client holds back the end of its download by now.
                seen = await site.datagrams()
                return bool(seen.to_servers(since_s) and seen.from_servers(since_s))

            await until(talk, "packets both ways")
            datagrams = await site.datagrams()
            # From here on nothing goes through the first host, in either direction.
            assert set(datagrams.to_servers(since_s)) == {"b"}
            assert set(datagrams.from_servers(since_s)) == {"b"}
            await curl.finish()
        assert curl.whole, curl.outcome
        assert [(await one.list()).accepted for one in (a, b)] == [1, 0]
        await site.assert_one_sender()
