"""An attacker without the cluster key that can send to every port, against servers at work.

In every test a libcurl download goes on meanwhile, through a tap that records both directions. In
the end it is whole, over the connection on which it began. Every packet of the servers opens with
that connection's keys (so none was a reset), and no packet number was used twice.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic

import pytest

from quicbaton.baton import seal
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.handoff import encode
from quicbaton.handoff.messages import Stray, Toss
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import reset_token
from quicbaton.limits import RESET_BURST_PER_ADDRESS, RETRY_FROM_HANDSHAKES
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import Conversation
from quicbaton.service.peers.channel import connect_channel
from tests.processes.attack_stage import RATE, WorkerScene, two_workers
from tests.processes.attacker import (
    Attacker,
    first_flight,
    initial,
    made_up_id,
    resident_bytes,
    short,
)
from tests.processes.harness import Curl, Server, until

pytestmark = pytest.mark.process

_MB = 1 << 20


# --- connection IDs -----------------------------------------------------------------------------


async def test_initials_with_random_ids_cost_little_and_lock_nobody_out(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        before = [resident_bytes(server.pid) for server in scene.servers]
        with Attacker(scene.port) as attacker:
            flood = [initial(os.urandom(8 + n % 13)) for n in range(3 * RETRY_FROM_HANDSHAKES)]
            await attacker.send(*flood, workers=2)
            # No packet of theirs was one: they are answered with a Retry at most.
            assert all(data[0] & 0xF0 == 0xF0 for data in attacker.answers)
            assert attacker.answered_bytes < attacker.sent_bytes / 4
        assert await scene.handshakes() <= 2 * RETRY_FROM_HANDSHAKES
        for server, memory in zip(scene.servers, before, strict=True):
            assert resident_bytes(server.pid) - memory < 120 * _MB
        async with Curl(certificate, scene.port, 1000, 0) as newcomer:
            await newcomer.end()
            assert newcomer.whole


async def test_initials_with_one_id_are_one_handshake(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        accepted = [count[0] for count in await scene.counts()]
        with Attacker(scene.port) as attacker:
            await attacker.send(*[initial(b"fixed id")] * 2000, workers=2)
            assert attacker.answers == []
        assert sum(count[0] for count in await scene.counts()) <= sum(accepted) + 1
        assert await scene.handshakes() <= 1


async def test_initials_that_are_cut_short_hold_no_place(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    """Their Length says more than there is: nobody can be answered, and nothing times out."""
    async with two_workers(tmp_path, certificate) as scene:
        with Attacker(scene.port) as attacker:
            whole = [initial(os.urandom(12), size=1300) for _ in range(200)]
            await attacker.send(*[data[:1200] for data in whole], workers=2)
            assert attacker.answers == []
        assert await scene.handshakes() == 0


async def test_guessed_ids_provoke_few_resets_smaller_than_their_triggers(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        ring = scene.ring
        live = {reset_token(ring.active, cid) for cid in scene.tap.ids()}
        with Attacker(scene.port) as attacker:
            resets, began = 0, monotonic()
            for size in (1200, 100, 43, 40, 21):
                flood = [short(made_up_id(0, number % 4), size) for number in range(500)]
                await attacker.send(*flood, workers=2)
                for data in attacker.answers:
                    assert data[0] < 0x80
                    assert len(data) < size
                    assert data[-16:] not in live
                resets += len(attacker.answers)
                attacker.answers.clear()
            # Half of them name a worker that is there; each answers an address a few times, and
            # then twice a second.
            assert 0 < resets <= 2 * RESET_BURST_PER_ADDRESS + 4 * (monotonic() - began)
            everything = [b"", b"\x40", *(os.urandom(size) for size in range(1, 300))]
            await attacker.send(*everything, workers=2)
        assert (await scene.owner())[2].term == 1


async def test_an_address_that_proves_nothing_gets_three_times_what_it_sent_at_most(
    tmp_path: Path,
    certificate: CertificateFiles,
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        with Attacker(scene.port) as attacker:
            await attacker.send(first_flight(), workers=2)
            await until(lambda: len(attacker.listen()) >= 2, "the server's first flight")
            # Long enough for the server to say it again, more than once.
            await scene.curl.received(scene.curl.received_bytes + RATE)
            attacker.listen()
            assert 0 < attacker.answered_bytes <= 3 * attacker.sent_bytes


async def test_forged_version_negotiation_and_retry_begin_no_loop(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        cid = scene.tap.ids()[-1]
        forged = []
        for destination in (cid, made_up_id(0, 0), made_up_id(0, 1), b"", os.urandom(20)):
            ids = bytes((len(destination),)) + destination + b"\x08attacker"
            forged += [
                b"\xc0" + bytes(4) + ids + b"\x00\x00\x00\x01\x1a\x2a\x3a\x4a",
                (b"\xc0" + bytes(4) + ids).ljust(1200, b"\x01"),
                (b"\xf0\x00\x00\x00\x01" + ids).ljust(1200, b"t"),
            ]
        with Attacker(scene.port) as attacker:
            await attacker.send(*forged * 20, workers=2)
            assert attacker.answers == []


# --- what was captured --------------------------------------------------------------------------


async def test_a_captured_id_provokes_no_reset_before_or_after_a_handoff(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        with Attacker(scene.port, addresses=8) as attacker:
            for _ in range(2):
                replay = [short(cid, size) for cid in scene.tap.ids() for size in (1200, 60, 43)]
                await attacker.send(*replay * 4, workers=2)
                # The latest ID is its owner's; the one before is forwarded.
                assert attacker.listen() == []
                await scene.hand_over()
            await attacker.send(*[short(cid) for cid in scene.tap.ids()] * 4, workers=2)
            assert attacker.listen() == []


async def test_captured_datagrams_from_another_address_move_nothing(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        for _ in range(2):
            peer = (await scene.owner())[2].peer
            with Attacker(scene.port) as attacker:
                await attacker.send(*scene.tap.short()[-200:], workers=2)
                assert attacker.listen() == []
            assert (await scene.owner())[2].peer == peer
            await scene.hand_over()


async def test_a_replayed_handshake_makes_no_connection_and_no_flood(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        with Attacker(scene.port) as attacker:
            for _ in range(20):
                await attacker.send(*scene.tap.long(), workers=2)
            attacker.listen()
            assert attacker.answered_bytes <= 3 * attacker.sent_bytes
        assert await scene.handshakes() <= 2
        listed = [await server.list() for server in scene.servers]
        assert sum(info.state == "open" for one in listed for info in one.connections) == 1


async def test_messages_of_links_are_nothing_on_the_udp_port(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        before = await scene.counts()
        owner, other, info = await scene.owner()
        cid, name = scene.tap.ids()[-1], bytes.fromhex(info.connection)
        remote, local = ("127.0.0.1", 9), ("127.0.0.1", scene.port)
        messages = [
            encode(Toss(short(cid), remote, local, 0)),
            encode(Stray(name, bytes(16), short(cid), remote, local, 0, 0)),
            c.encode(c.HandOff(info.connection, str(other.control))),
            c.encode(c.Save(info.connection, str(scene.world.folder / "taken"))),
            c.encode(c.OpenLink()),
        ]
        with Attacker(scene.port) as attacker:
            wrapped = [b"\x40" + cid + message for message in messages]
            await attacker.send(*messages, *wrapped, workers=2)
            assert attacker.answers == []
        assert await scene.counts() == before
        assert (await scene.owner())[0] is owner
        assert not (scene.world.folder / "taken").exists()


# --- batons -------------------------------------------------------------------------------------


async def save(scene: WorkerScene, name: str = "baton") -> tuple[Path, Server, Server]:
    source, other, info = await scene.owner()
    path = scene.world.folder / name
    answer = await source.command(c.Save(info.connection, str(path)))
    assert answer.ok, answer
    return path, source, other


async def test_a_baton_is_good_once_unaltered_and_in_its_time(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        path, source, other = await save(scene)
        sealed = path.read_bytes()
        for at in range(0, len(sealed), max(1, len(sealed) // 40)):
            bent = bytearray(sealed)
            bent[at] ^= 1 << at % 8
            answer = await other.command(c.Revive(bytes(bent)))
            assert not answer.ok, at
        ring = scene.ring
        opened = seal.open_baton(sealed, ring, None)
        fields = seal.BatonFields(
            opened.header.connection_id, opened.header.term, opened.header.source
        )
        stranger = KeyRing(ClusterKey(ring.active.key_id, bytes(32)))
        issued = opened.header.issued_ms / 1000
        for bad, code in (
            (seal.seal(opened.payload, fields, stranger, os.urandom, issued), "baton_seal"),
            (seal.seal(opened.payload, fields, ring, os.urandom, issued - 900), "baton_expired"),
            (sealed[:-1], "baton_seal"),
            (b"", "baton_malformed"),
        ):
            answer = await other.command(c.Revive(bad))
            assert (answer.ok, answer.code) == (False, code)
        # Another seal of the same state, by somebody who even has the keys, fits no claim.
        again = seal.seal(opened.payload, fields, ring, os.urandom, issued)
        answer = await other.command(c.Revive(again))
        assert not answer.ok
        answer = await other.command(c.Resume(str(path)))
        assert answer.ok, answer
        for server in (other, source, other):
            answer = await server.command(c.Resume(str(path)))
            assert not answer.ok, answer


async def test_a_baton_of_before_a_thaw_is_worth_nothing(
    tmp_path: Path, certificate: CertificateFiles
) -> None:
    async with two_workers(tmp_path, certificate) as scene:
        source, other, info = await scene.owner()
        channel = await connect_channel(source.control)
        frozen = await Conversation(channel).ask(c.Freeze(info.connection), c.Frozen)
        # Nobody says that it is safe.
        channel.abort()
        await until(lambda: _is_open(source), "the thaw")
        for _ in range(2):
            for server in (other, source):
                answer = await server.command(c.Revive(frozen.sealed))
                assert not answer.ok, answer
            await scene.hand_over()
        assert sorted(await scene.counts()) == [(0, 1, 1), (1, 1, 1)]


async def _is_open(server: Server) -> bool:
    return any(info.state == "open" for info in (await server.list()).connections)
