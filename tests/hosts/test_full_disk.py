"""The ownership store's disk is full: connections stay where they are, and move when it is not."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from quicbaton.cli.certificate import CertificateFiles
from tests.hosts.lossy_link import Condition
from tests.hosts.network import Host, Network
from tests.hosts.sites import CLIENT, A, Datagrams, curl_from
from tests.processes.harness import World

pytestmark = pytest.mark.process

SIZE = 1_500_000
RATE = 300_000
_DISK_BYTES = 512 << 10
#: Pages that SQLite has allocated already take some more writes.
_TRIES = 60


class Disk:
    """A file system of one host, reached through its processes' root."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.folder = folder
        self._filler = Path(f"/proc/{host.pid}/root{folder}/filler")

    def fill(self) -> None:
        """Until not one byte more fits."""
        with self._filler.open("wb", buffering=0) as filler:
            for size in (4096, 512, 1):
                try:
                    while True:
                        filler.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def empty(self) -> None:
        os.unlink(self._filler)


async def test_a_full_disk_stops_handoffs_and_nothing_else(
    tmp_path: Path, seed: str, hosts_certificate: CertificateFiles
) -> None:
    async with Network(tmp_path, seed) as network:
        client = await network.add("client", CLIENT)
        folder = tmp_path / "disk"
        folder.mkdir(mode=0o700)
        a = await network.add("a", A, small_disks={str(folder): _DISK_BYTES})
        await network.connect()
        await network.between(client, a, Condition(delay_ms=5))
        disk = Disk(a, folder)
        async with World(a.folder / "world", hosts_certificate, address=A, entry=a.entry) as w:
            store = f"sqlite:{folder / 'owners'}"
            owner = await w.start(store=store)
            port = await owner.port()
            async with curl_from(client, w, port, SIZE, rate=RATE) as curl:
                connection = await owner.the_connection()
                other = await w.start("join", owner, store=store)
                assert (await owner.hand_over(connection, other)).ok
                owner, other = other, owner
                disk.fill()
                codes = []
                for _ in range(_TRIES):
                    answer = await owner.hand_over(connection, other)
                    codes.append(answer.code)
                    if answer.ok:
                        owner, other = other, owner
                    elif answer.code != "cutover_pending":
                        break
                    await asyncio.sleep(0.01)
                assert codes[-1] not in ("ok", "cutover_pending"), codes
                # It is where it was, and goes on.
                await curl.received(curl.received_bytes + 100_000)
                assert [len((await one.list()).connections) for one in (owner, other)] == [1, 0]
                disk.empty()
                moved = False
                while not moved and curl.outcome is None:
                    moved = (await owner.hand_over(connection, other)).ok
                assert moved, curl.outcome
                await curl.finish()
            assert curl.whole, curl.outcome
            verdict = Datagrams(await network.notes(), port).check(w.keylogs)
            verdict.assert_one_sender(may_reset=True)
