"""Datagrams that the kernel can steer and others that it cannot: all of them arrive."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import msgspec
import pytest

from quicbaton.asyncio.endpoint.steer import steer
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.id_text import parse_ids
from quicbaton.routing.quic_lb import IdLayout
from tests.processes.crowd import Getter, crowd
from tests.processes.harness import Server, World, until
from tests.processes.matrix import TABLES
from tests.processes.moving_server import content

#: Clients of the first worker: so many that not all of them stay with it by luck.
BEFORE = 16
#: Clients that come when there are two.
AFTER = 6


async def tossed(server: Server) -> int:
    """Datagrams that it passed on to the other worker."""
    server.signal(signal.SIGUSR2)
    line = await server.line("counters")
    counters = msgspec.json.decode(line.removeprefix("counters"), type=dict[str, int])
    return counters.get("tossed", 0)


@pytest.mark.process
@pytest.mark.parametrize(
    ("ids", "steered"),
    [("plaintext", True), ("encrypted", True), ("encrypted:nomask,nonce=8", False)],
)
async def test_every_client_keeps_its_worker_when_another_joins(
    ids: str, steered: bool, world: World, certificate: CertificateFiles
) -> None:
    # Without a worker that it can read the kernel picks among two sockets by address from then on:
    # about half of the clients come to the wrong one, which tosses what is not its own. As good as
    # no filter at all.
    async with world:
        first = await world.start(ids=ids)
        port = await first.port()
        async with crowd(certificate, port, BEFORE) as before:
            second = await world.start("join", first, ids=ids)
            async with crowd(certificate, port, AFTER) as after:
                for _ in range(2):
                    bodies = await asyncio.gather(*(one.get("/20000") for one in [*before, *after]))
                    assert bodies == [content(0, 20_000)] * (BEFORE + AFTER)
                lived = [len((await one.list()).connections) for one in (first, second)]
            assert sum(lived) == BEFORE + AFTER
            assert lived[0] >= BEFORE
            counts = [await tossed(one) for one in (first, second)]
            received = sum([(await one.list()).datagrams_received for one in (first, second)])
            TABLES[f"tossed, {ids}"] = f"{sum(counts)} of {received} datagrams"
            if steered:
                assert counts == [0, 0]
            else:
                assert counts[1] > 0


@pytest.mark.process
async def test_connection_with_encrypted_ids_changes_hands(
    world: World, certificate: CertificateFiles
) -> None:
    async with world:
        first = await world.start(ids="encrypted")
        async with crowd(certificate, await first.port(), 1) as (client,):
            second = await world.start("join", first, ids="encrypted")
            here, there = first, second
            for _ in range(4):
                answer = await here.hand_over(await here.the_connection(), there)
                assert answer.ok, answer.message
                assert await client.get("/50000") == content(0, 50_000)
                await there.cut_over()
                here, there = there, here
            assert client.terminated is None


@pytest.mark.process
async def test_connection_is_not_moved_to_where_ids_have_another_length(
    world: World, certificate: CertificateFiles
) -> None:
    async with world:
        first = await world.start(ids="plaintext")
        async with crowd(certificate, await first.port(), 1) as (client,):
            second = await world.start("join", first, ids="aws-nlb")
            name = await first.the_connection()
            answer = await first.hand_over(name, second)
            assert not answer.ok
            assert answer.code == "id_lengths"
            assert await client.get("/1000") == content(0, 1000)
            assert await first.the_connection() == name


@pytest.mark.process
@pytest.mark.parametrize("ids", ["plaintext", "encrypted"])
async def test_successor_with_a_new_key_gives_clients_ids_of_its_own_configuration(
    ids: str, world: World, certificate: CertificateFiles
) -> None:
    # The second step of a key rotation, taken by a takeover: nothing about the place has changed,
    # but servers MUST update clients to the new configuration (the draft's "config rotation").
    old_key = ClusterKey.generate(os.urandom)
    new_key = ClusterKey.generate(os.urandom, beside=[old_key])

    def bits(client: Getter) -> set[int]:
        return {peer.cid[0] >> 5 for peer in client._quic._state.ids.peer}

    async with world:
        world.ring.write_text(KeyRing(old_key, [new_key]).encode())
        old = await world.start(ids=ids)
        async with crowd(certificate, await old.port(), 3) as clients:
            before = parse_ids(ids, KeyRing(old_key)).issuing.config_id
            assert all(bits(client) == {before} for client in clients)
            ring = KeyRing(new_key, [old_key])
            world.ring.write_text(ring.encode())
            await world.start("takeover", old, ids=ids)
            after = parse_ids(ids, ring).issuing.config_id
            assert after != before
            for client in clients:
                await until(lambda: bits(client) == {after}, "its new IDs")  # noqa: B023
                assert await client.get("/1000") == content(0, 1000)
            await old.gone()


def test_where_the_kernel_cannot_be_told_steer_says_so() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        assert not steer(here, IdLayout(), 2)
