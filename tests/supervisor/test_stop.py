"""Servers and services that stop in good order."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal

import pytest

from tests.cli.command_line import GUARD_S, Server, check_whole, wait_for
from tests.supervisor.aioquic_client import client_of, come
from tests.supervisor.service_home import FILE_BYTES, RATE, ServiceHome

pytestmark = pytest.mark.process

_NO_ERROR = 0x100
_REQUEST_REJECTED = 0x10B


async def test_a_running_request_ends_after_goaway_and_a_late_one_is_rejected(
    home: ServiceHome,
) -> None:
    content = home.write("file.bin", FILE_BYTES // 2)
    home.write("late.bin", 1000)
    server = home.serve("--grace", "60")
    async with client_of(home, server.port) as client:
        running = client.request("/file.bin")
        await come(lambda: client.bodies.get(running))
        server.process.terminate()
        await come(lambda: len(client.goaways()) == 2)
        first, final = client.goaways()
        assert first == (1 << 62) - 4
        assert final == running + 4
        late = client.request("/late.bin")
        assert late == final
        await come(lambda: running in client.ended and client.terminated)
        assert client.resets.get(late) in (None, _REQUEST_REJECTED)
        assert late not in client.bodies
        digest = hashlib.sha256(client.bodies[running]).hexdigest()
        assert digest == hashlib.sha256(content).hexdigest()
        assert client.terminated.error_code == _NO_ERROR
    assert server.process.wait(GUARD_S) == 0


async def test_an_idle_connection_hears_goaway_before_its_end(home: ServiceHome) -> None:
    home.write("small", 1000)
    server = home.serve("--grace", "60")
    async with client_of(home, server.port) as client:
        asked = client.request("/small")
        await come(lambda: asked in client.ended)
        server.process.terminate()
        await come(lambda: client.terminated)
        assert client.goaways() == [(1 << 62) - 4, asked + 4]
        assert client.terminated.error_code == _NO_ERROR
    assert server.process.wait(GUARD_S) == 0


async def test_a_server_that_sends_for_others_has_its_clients_told_before_it_ends(
    home: ServiceHome,
) -> None:
    home.write("small", 1000)
    server, owner = home.serve("--grace", "60"), home.serve()
    async with client_of(home, server.port) as client:
        asked = client.request("/small")
        await come(lambda: asked in client.ended)
        arguments = ("drain", str(server.port), "--to", str(owner.port), "--proxy")
        drained = await asyncio.to_thread(home.json, *arguments)
        assert drained["proxied"] == 1
        stopped = await asyncio.to_thread(home.json, "stop", str(server.port))
        assert (stopped["closed"], stopped["cut"]) == (1, 0)
        await come(lambda: client.terminated)
        assert client.goaways() == [(1 << 62) - 4, asked + 4]
        assert client.terminated.error_code == _NO_ERROR
    assert server.process.wait(GUARD_S) == 0


async def test_new_clients_are_refused_while_a_service_stops_and_a_second_signal_ends_it(
    home: ServiceHome,
) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2, "--grace", "60")
    downloads = service.download_everywhere("file.bin")
    service.process.send_signal(signal.SIGTERM)
    wait_for(service.status, lambda workers: workers[0]["state"] == "stopping")
    with pytest.raises(ConnectionError):
        async with client_of(home, service.port):
            pass
    assert all(download.process.poll() is None for download in downloads)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(GUARD_S) == 0
    wait_for(home.worker_pids, lambda pids: not pids)


def test_what_has_not_ended_after_the_grace_is_cut_and_counted(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin")
    done = home.run("stop", str(service.port), "--grace", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)
    assert (left["closed"], left["cut"]) == (len(downloads), len(downloads))
    assert service.process.wait(GUARD_S) == 0
    for download in downloads:
        assert download.process.wait(GUARD_S) != 0
    assert home.worker_pids() == []


def test_an_idle_service_stops_at_once(home: ServiceHome) -> None:
    home.write("small", 1000)
    service = home.service(2, "--grace", "60")
    url = f"https://localhost:{service.port}/small"
    home.json("get", url, "--ca", home.ca, "-o", "copy")
    done = home.run("stop", "--json")
    assert done.returncode == 0, done.stderr
    assert service.process.wait(GUARD_S) == 0


def test_a_stopping_server_hands_its_connections_to_the_one_named(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    first = home.serve()
    other = home.serve("--join", first.control)
    download = home.download(first, "file.bin", RATE)
    download.wait_for_bytes(1)
    owner, heir = first, other
    if not home.json("ps", owner.control)["connections"]:
        owner, heir = other, first
    done = home.run("stop", owner.control, "--to", heir.control, "--grace", "30", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["moved"] == 1
    assert owner.process.wait(GUARD_S) == 0
    check_whole(download, content)


def test_a_lone_server_with_a_silent_client_ends_at_the_grace(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    server: Server = home.serve("--grace", "0.2")
    download = home.download(server, "file.bin", RATE)
    download.wait_for_bytes(1)
    os.kill(download.process.pid, signal.SIGSTOP)
    assert server.stop() == 0
    os.kill(download.process.pid, signal.SIGCONT)
