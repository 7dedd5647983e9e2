"""Whose datagrams the kernel knows and whose it does not: all of them arrive."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import msgspec
import pytest
from harness import Server, World, until
from moving_server import content

from crowd import crowd
from quicbaton.asyncio.endpoint.steer import steer
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.routing.quic_lb import IdLayout

CLIENTS = 12


async def tossed(server: Server) -> int:
    """Datagrams that it passed on to the other worker."""
    server.signal(signal.SIGUSR2)
    line = await until(
        lambda: next((x for x in server.log().splitlines() if x.startswith("counters")), ""),
        "the counters",
    )
    counters = msgspec.json.decode(line.removeprefix("counters"), type=dict[str, int])
    return counters.get("tossed", 0)


@pytest.mark.process
@pytest.mark.parametrize(
    ("ids", "steered"),
    [("plaintext", True), ("encrypted", True), ("encrypted:nomask,nonce=8", False)],
)
def test_every_client_keeps_its_worker_when_another_joins(
    ids: str, steered: bool, tmp_path: Path, certificate: CertificateFiles
) -> None:
    # Without a worker that it can read the kernel picks among two sockets by address from then on:
    # about half of the clients come to the wrong one, which tosses what is not its own. As good as
    # no filter at all.
    async def test() -> None:
        async with asyncio.timeout(60), World(tmp_path, certificate) as world:
            first = await world.start(ids=ids)
            port = await first.port()
            async with crowd(certificate, port, CLIENTS) as before:
                second = await world.start("join", first, ids=ids)
                async with crowd(certificate, port, CLIENTS) as after:
                    for _ in range(3):
                        bodies = await asyncio.gather(
                            *(one.get("/20000") for one in [*before, *after])
                        )
                        assert bodies == [content(0, 20_000)] * 2 * CLIENTS
                    lived = [len((await one.list()).connections) for one in (first, second)]
                assert sum(lived) == 2 * CLIENTS
                assert lived[0] >= CLIENTS
                counts = [await tossed(one) for one in (first, second)]
                if steered:
                    assert counts == [0, 0]
                else:
                    assert counts[1] > 0

    asyncio.run(test())


def test_where_the_kernel_cannot_be_told_steer_says_so() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        assert not steer(here, IdLayout(), 2)
