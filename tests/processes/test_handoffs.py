"""Handoffs and saved batons between real processes, under downloads of clients that we did not
write."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quicbaton.handoff import Waits
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.service.peers import commands as c
from tests.processes.crowd import crowd
from tests.processes.download import download
from tests.processes.harness import GUARD_S, SLOWLY, Server, World, until
from tests.processes.moving_server import content
from tests.processes.wire import Relay

pytestmark = pytest.mark.process

_NOBODY = 65_534


async def save(server: Server, connection: str, path: Path) -> c.Answer:
    return await server.command(c.Save(connection, str(path)))


async def resume(server: Server, path: Path) -> c.Answer:
    return await server.command(c.Resume(str(path)))


# --- downloads that change hands --------------------------------------------------------------


async def test_a_download_changes_hands_many_times_among_three_processes(world: World) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 2_000_000) as (connection, curl, _):
            ring = [first, await world.start("join", first), await world.start("join", first)]
            for number in range(12):
                await curl.received(curl.received_bytes + 20_000)
                source, destination = ring[number % 3], ring[(number + 1) % 3]
                await source.hand_over_after_cutover(connection, destination)
        assert sum([(await server.list()).accepted for server in ring]) == 1


async def test_the_process_that_accepted_is_killed_after_the_cutover(world: World) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_600_000) as (connection, curl, _):
            second = await world.start("join", first)
            await first.hand_over_after_cutover(connection, second)
            await second.cut_over()
            first.signal(signal.SIGKILL)
            await curl.finish()
            assert curl.whole
            async with world.curl(await second.port(), 1000) as late:
                await late.end()
                assert late.whole


async def test_a_download_of_qh3_changes_hands(world: World) -> None:
    size = 2_000_000
    async with world:
        first = await world.start()
        second = await world.start("join", first)
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.clients.qh3_download", "127.0.0.1"),
            *(str(await first.port()), f"/{size}", str(world.certificate.certificate)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        # The kernel steers a new client to either.
        servers = [first, second]
        await until(lambda: _accepted(servers), "the client")
        if not (await first.list()).accepted:
            servers.reverse()
        connection = await servers[0].the_connection()
        for moves in range(5):
            source, destination = servers[moves % 2], servers[(moves + 1) % 2]
            await source.hand_over_after_cutover(connection, destination)
        # It was under way all the time.
        assert client.stdin is not None
        client.stdin.close()
        output, _ = await client.communicate()
        outcome = json.loads(output)
        bodies, rest = divmod(outcome["received_bytes"], size)
        assert bodies
        assert not rest
        whole = hashlib.sha256(content(0, size) * bodies)
        assert outcome["sha256"] == whole.hexdigest()


async def _accepted(servers: list[Server]) -> bool:
    return any([(await server.list()).accepted for server in servers])


async def test_handing_one_connection_over_leaves_the_other_where_it_is(world: World) -> None:
    async with world:
        first = await world.start()
        port = await first.port()
        async with (
            world.curl(port, 1_600_000, rate=SLOWLY) as one,
            world.curl(port, 1_600_000, rate=SLOWLY) as two,
        ):
            await one.received(50_000)
            await two.received(50_000)
            second = await world.start("join", first)
            names = [info.connection for info in (await first.list()).connections]
            await first.hand_over_after_cutover(names[0], second)
            assert [info.connection for info in (await first.list()).connections] == names[1:]
            assert [info.connection for info in (await second.list()).connections] == names[:1]
            await one.finish()
            await two.finish()
            assert one.whole
            assert two.whole


async def test_a_client_that_dies_in_the_middle_of_a_handoff_harms_nobody(world: World) -> None:
    async with world:
        first = await world.start(failpoint="after_destroy:STOP")
        port = await first.port()
        async with world.curl(port, 1_600_000, rate=SLOWLY) as other:
            async with world.curl(port, 1_600_000, rate=SLOWLY) as dying:
                await other.received(50_000)
                await dying.received(50_000)
                # Nothing but its source's word makes it go on.
                patient = Waits(ready_s=GUARD_S)
                second = await world.start("join", first, waits=patient)
                infos = (await first.list()).connections
                command = asyncio.create_task(first.hand_over(infos[0].connection, second))
                await until(lambda: first.stopped, "the source to stop")
                victim = dying
                os.kill(victim.pid, signal.SIGKILL)
                first.signal(signal.SIGCONT)
                assert (await command).ok
            await other.finish()
            assert other.whole
            assert len((await second.list()).connections) <= 1


async def test_handoffs_and_broken_links_leave_no_descriptors_behind(world: World) -> None:
    async with world:
        first = await world.start(failpoint="after_baton:CUT")
        second = await world.start("join", first)
        # The kernel steers a new client to either.
        async with crowd(world.certificate, await first.port(), 4) as clients:
            everything: dict[str, Server] = {}
            for server in (first, second):
                for info in (await server.list()).connections:
                    everything[info.connection] = server
            other = {first: second, second: first}
            counts: list[list[int]] = []
            for _ in range(6):
                for connection, owner in everything.items():
                    answer = await owner.hand_over(connection, other[owner])
                    while answer.code in ("cutover_pending", "link_lost"):
                        await asyncio.gather(*(client.get("/10") for client in clients))
                        answer = await owner.hand_over(connection, other[owner])
                    assert answer.ok, answer
                    everything[connection] = other[owner]
                counts.append([_descriptors(first), _descriptors(second)])
            # Those of commands go as soon as the servers have read that we hung up. A second link,
            # with its pidfd, may have been opened from either side; one descriptor a handoff
            # would be 24.
            await until(
                lambda: all(
                    _descriptors(server) <= before + 4
                    for server, before in zip((first, second), counts[0], strict=True)
                ),
                f"the descriptors to go: {counts}",
            )
            bodies = await asyncio.gather(*(client.get("/5000") for client in clients))
            assert bodies == [content(0, 5000)] * 4


def _descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


async def test_a_destination_with_other_keys_gets_nothing(world: World) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_600_000) as (connection, *_):
            world.ring.write_text(KeyRing(ClusterKey.generate(os.urandom)).encode())
            stranger = await world.start("join", first)
            answer = await first.hand_over(connection, stranger)
            assert not answer.ok
            assert [info.connection for info in (await first.list()).connections] == [connection]
            assert not (await stranger.list()).connections


async def test_an_application_that_fails_to_export_keeps_its_connection(world: World) -> None:
    async with world:
        first = await world.start()
        async with crowd(world.certificate, await first.port(), 1) as (client,):
            assert await client.get("/bug") == b"bug"
            connection = await first.the_connection()
            second = await world.start("join", first)
            answer = await first.hand_over(connection, second)
            assert (answer.ok, answer.code) == (False, "export_failed")
            assert await client.get("/100") == content(0, 100)


async def test_an_application_that_fails_to_import_leaves_the_connection_to_its_source(
    world: World,
) -> None:
    async with world:
        first = await world.start()
        async with crowd(world.certificate, await first.port(), 1) as (client,):
            connection = await first.the_connection()
            second = await world.start("join", first, forgetful=True)
            answer = await first.hand_over(connection, second)
            assert (answer.ok, answer.code) == (False, "import_failed")
            assert await client.get("/100") == content(0, 100)
            assert await first.the_connection() == connection


# --- who may have it --------------------------------------------------------------------------


async def test_a_connection_is_saved_only_after_its_cutover_and_handed_on_at_any_time(
    world: World,
) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_600_000) as (connection, _, relay):
            second = await world.start("join", first)
            relay.mutes_client = True
            await first.hand_over_after_cutover(connection, second)
            answer = await save(second, connection, world.folder / "baton")
            assert (answer.ok, answer.code) == (False, "cutover_pending")
            third = await world.start("join", first)
            for source, destination in [
                *((second, third), (third, first), (first, third), (third, second)),
                *((second, first), (first, second), (second, third)),
            ]:
                answer = await source.hand_over(connection, destination)
                assert answer.ok, answer
            relay.mutes_client = False
            await third.cut_over()


async def test_a_source_that_thawed_and_handed_over_again_defeats_the_first_baton(
    world: World,
) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_600_000) as (connection, curl, _):
            # Its own patience has not ended when its READY comes.
            patient = Waits(ready_s=GUARD_S)
            stuck = await world.start("join", first, waits=patient, failpoint="before_ready:STOP")
            third = await world.start("join", first)
            answer = await first.hand_over(connection, stuck)
            assert (answer.ok, answer.code) == (False, "deadline")
            assert stuck.stopped
            await curl.received(curl.received_bytes + 50_000)
            await first.hand_over_after_cutover(connection, third)
            # Now its READY comes, and is answered ABORT.
            stuck.signal(signal.SIGCONT)
            assert (await stuck.list()).resumed == 0
            await curl.finish()
            assert curl.whole
            assert (await stuck.list()).resumed == 0


async def test_a_saved_connection_goes_on_in_another_process(world: World) -> None:
    async with world:
        first = await world.start()
        second = await world.start("join", first)
        async with (
            Relay(await first.port()) as relay,
            world.curl(relay.port, 1_600_000, rate=SLOWLY) as curl,
        ):
            await curl.received(50_000)
            source = first if (await first.list()).accepted else second
            destination = second if source is first else first
            path = world.folder / "baton"
            answer = await save(source, await source.the_connection(), path)
            assert answer.ok, answer
            assert path.stat().st_mode & 0o777 == 0o600
            assert not (await source.list()).connections
            answer = await resume(destination, path)
            assert answer.ok, answer
            await curl.finish()
            assert curl.whole
            answer = await resume(destination, path)
            assert (answer.ok, answer.code) == (False, "already_used")
        relay.check(world.keylogs).assert_one_sender()


async def test_of_parallel_resumes_of_one_file_one_wins(world: World) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_600_000) as (connection, *_):
            others = [await world.start("join", first) for _ in range(2)]
            path = world.folder / "baton"
            assert (await save(first, connection, path)).ok
            answers = await asyncio.gather(*(resume(other, path) for other in others * 2))
            assert sorted(answer.code for answer in answers) == ["already_used"] * 3 + ["ok"]
            assert sum([(await other.list()).resumed for other in others]) == 1


async def test_a_baton_whose_source_has_thawed_is_refused(world: World) -> None:
    async with world:
        first = await world.start(waits=Waits(saved_s=0.3))
        async with download(world, first, 1_600_000) as (connection, curl, _):
            second = await world.start("join", first)
            third = await world.start("join", first)
            path = world.folder / "baton"
            assert (await save(first, connection, path)).ok
            await until(lambda: _owns_one(first), "the source to thaw")
            answer = await resume(second, path)
            assert (answer.ok, answer.code) == (False, "superseded")
            # The thawed source sends, and hands over again: the old baton is still worth nothing.
            await curl.received(curl.received_bytes + 50_000)
            await first.hand_over_after_cutover(connection, third)
            answer = await resume(second, path)
            assert (answer.ok, answer.code) == (False, "superseded")


async def _owns_one(server: Server) -> bool:
    return len((await server.list()).connections) == 1


async def test_a_baton_whose_source_is_dead_is_refused_and_its_client_told(world: World) -> None:
    async with world:
        first = await world.start()
        async with (
            Relay(await first.port()) as relay,
            world.curl(relay.port, 1_600_000, rate=SLOWLY) as curl,
        ):
            await curl.received(50_000)
            second = await world.start("join", first)
            path = world.folder / "baton"
            assert (await save(first, await first.the_connection(), path)).ok
            first.signal(signal.SIGKILL)
            await first.gone()
            answer = await resume(second, path)
            assert (answer.ok, answer.code) == (False, "source_gone")
            outcome = await curl.finish()
            assert "curl error 28" not in outcome.error
        assert relay.check(world.keylogs).was_reset


async def test_the_process_that_saved_a_connection_does_not_resume_it(world: World) -> None:
    async with world:
        first = await world.start(waits=Waits(saved_s=0.5))
        async with download(world, first, 1_600_000) as (connection, *_):
            path = world.folder / "baton"
            assert (await save(first, connection, path)).ok
            answer = await resume(first, path)
            assert (answer.ok, answer.code) == (False, "same_process")


async def test_a_baton_that_cannot_be_written_leaves_the_connection_alive(world: World) -> None:
    async with world:
        first = await world.start()
        async with download(world, first, 1_600_000) as (connection, *_):
            path = world.folder / "taken"
            path.write_text("something else")
            answer = await save(first, connection, path)
            assert (answer.ok, answer.code) == (False, "os")
            assert path.read_text() == "something else"


# --- the control socket -----------------------------------------------------------------------


_ASK_AS_ANOTHER_USER = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(bytes.fromhex(sys.argv[2]))
sys.exit(len(sock.recv(1)))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_is_turned_away_by_uid_wherever_the_file_system_lets_it_in(
    world: World,
) -> None:
    async with world:
        server = await world.start()
        reachable = Path(f"/tmp/quicbaton-{os.getpid()}.sock")
        os.link(server.control, reachable)
        try:
            reachable.chmod(0o666)
            asker = await asyncio.create_subprocess_exec(
                *("/usr/bin/env", "python3", "-c", _ASK_AS_ANOTHER_USER),
                *(str(reachable), c.encode(c.ListConnections()).hex()),
                user=_NOBODY,
                stderr=asyncio.subprocess.PIPE,
            )
            _, errors = await asker.communicate()
            # Nothing but the end of the stream, or an error for what it wrote.
            assert asker.returncode == 0 or b"reset" in errors or b"Broken pipe" in errors, errors
        finally:
            reachable.unlink()
        await server.list()


async def test_a_control_socket_in_a_folder_open_to_others_is_refused(world: World) -> None:
    async with world:
        world.folder.chmod(0o755)
        server = await world.fork()
        await server.gone()
        assert "is open to other users" in server.log()


async def test_what_is_no_command_ends_its_connection_and_nothing_else(world: World) -> None:
    async with world:
        server = await world.start()
        for garbage in (b"\xff" * 100, b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x05hello"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(server.control))
                sock.sendall(garbage)
                sock.settimeout(GUARD_S)
                try:
                    assert sock.recv(100) == b""
                except ConnectionResetError:
                    continue
        await server.list()


def test_the_environment_sets_a_failpoint(world: World) -> None:
    environment = {**os.environ, "QUICBATON_FAILPOINT": "before_offer:KILL"}
    script = "from quicbaton.service.failpoints import reach; reach('before_offer')"
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
