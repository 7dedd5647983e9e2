"""Links between hosts when the network between them fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from quicbaton.cli.certificate import CertificateFiles
from quicbaton.service.peers.cluster import DEFAULT_PORT
from tests.hosts.lossy_link import CLEAR
from tests.hosts.sites import CUT, Site, two_hosts
from tests.processes.harness import until

pytestmark = pytest.mark.process

#: Connects to a node and sends it something; says how the one went, and when the channel was lost.
_TALK = """
import asyncio, sys
from pathlib import Path
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.peers.tls import connect_tls
from quicbaton.errors import PeerError

async def main():
    cluster, node, data = Cluster(Path(sys.argv[1]), sys.argv[2]), sys.argv[3], sys.argv[4]
    try:
        channel = await connect_tls(cluster, node, "0")
    except PeerError as error:
        print(error.code, flush=True)
        return
    print("connected", flush=True)
    lost = asyncio.Event()
    channel.on_lost = lost.set
    channel.start()
    channel.write(bytes.fromhex(data))
    await lost.wait()
    print("lost", flush=True)

asyncio.run(main())
"""


class Talk:
    """A process on host `a` that is connected to node `b`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, data: bytes) -> None:
        host = self._site.network.hosts["a"]
        arguments = (str(self._site.cluster), "a", "b", data.hex())
        self._process = await host.start(
            *(sys.executable, "-c", _TALK, *arguments), stdout=subprocess.PIPE
        )

    async def says(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            return (await self._process.stdout.readline()).decode().strip()


def connections(pid: int) -> int:
    """Established TCP connections at the port for other nodes, on the host of the process."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(
        line.split()[1].endswith(f":{DEFAULT_PORT:04X}") and line.split()[3] == "01"
        for line in lines
    )


async def test_a_partition_ends_idle_links_on_both_sides(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async with two_hosts(tmp_path, seed, hosts_certificate, shared=True) as site:
        await site.start("a")
        b = await site.start("b")
        talk = Talk(site)
        # The beginning of a command, whose end the other side waits for.
        await talk.start(b"\0\0")
        assert await talk.says() == "connected"
        assert connections(b.pid) == 1
        await site.between_servers(CUT)
        assert await talk.says() == "lost"
        await until(lambda: not connections(b.pid), "the other side to notice")
        # Nobody is there, and that is found out within seconds.
        again = Talk(site)
        await again.start(b"")
        assert await again.says() in ("unreachable", "deadline")
        await site.between_servers(CLEAR)
        healed = Talk(site)
        await healed.start(b"")
        assert await healed.says() == "connected"
