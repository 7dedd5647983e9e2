"""Several workers on one port: steered by the kernel, killed, stopped, adopted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import pytest
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration

from quicbaton.asyncio import connect
from tests.cli.command_line import GUARD_S, Download, check_whole, is_stopped, wait_for
from tests.processes.crowd import Getter
from tests.supervisor.service_home import FILE_BYTES, ServiceHome, is_alive

pytestmark = pytest.mark.process


def test_the_kernel_steers_every_packet_to_its_worker(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES // 10)
    service = home.service(3)
    assert service.ready["steered"]
    downloads = service.download_everywhere("file.bin")
    owners = {worker: service.names(worker) for worker in range(3)}
    for info in home.json("ps", service.port)["connections"]:
        assert info["connection"] in owners[info["worker"]]
    for download in downloads:
        check_whole(download, content)
    workers = service.status()
    assert [worker["tossed"] for worker in workers] == [0, 0, 0]
    assert all(worker["accepted"] for worker in workers)
    listed = home.json("ps", service.port)
    assert listed["pid"] == service.pid
    assert listed["accepted"] == len(downloads)
    assert service.stop() == 0
    assert home.worker_pids() == []


def test_a_killed_worker_is_replaced_and_only_its_clients_notice(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(3)
    downloads = service.download_everywhere("file.bin")
    victim = service.status()[1]
    lost = {info["peer"] for info in service.connections(1)}
    assert lost
    os.kill(victim["pid"], signal.SIGKILL)
    # Its clients are told: long before any idle timeout, and without being asked.
    assert service.wait_for("clients_told")["reset"] == len(lost)
    workers = wait_for(
        service.status,
        lambda workers: workers[1]["state"] == "serving" and workers[1]["pid"] != victim["pid"],
    )
    assert workers[1]["restarts"] == 1
    reset = wait_for(lambda: ended(downloads), lambda found: len(found) == len(lost))
    for download in downloads:
        if download not in reset:
            check_whole(download, content)
    # The new worker serves on the same socket.
    again = service.download_everywhere("file.bin")
    for download in again:
        check_whole(download, content)
    assert [worker["tossed"] for worker in service.status()] == [0, 0, 0]


def ended(downloads: list[Download]) -> list[Download]:
    """Those that have come to an end; one that goes on does not by itself."""
    return [download for download in downloads if download.process.poll() is not None]


async def test_an_idle_client_of_a_dead_worker_is_told_without_asking(home: ServiceHome) -> None:
    service = home.service(2)
    pids = service.pids()
    # aioquic's own client does not know stateless resets.
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(str(home.ca))
    connecting = connect(
        "127.0.0.1", service.port, configuration=configuration, create_protocol=Getter
    )
    async with connecting as client:
        assert isinstance(client, Getter)
        await client.ping()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # Before there is a new worker that could answer a packet of the client's.
        assert service.wait_for("clients_told")["reset"] == 1
        async with asyncio.timeout(configuration.idle_timeout / 2):
            await client.wait_closed()
        assert client.terminated is not None


def test_workers_of_a_reload_are_listed_and_adopted_once(home: ServiceHome) -> None:
    service = home.service(1)
    home.run("reload", str(service.port))
    (pid,) = service.pids()
    service.process.kill()
    service.process.wait()
    # It answers at its predecessor's socket, too.
    listed = home.run("ps", "--json").stdout.splitlines()
    assert [json.loads(line)["pid"] for line in listed] == [pid]
    assert "start the same command again" in home.run("workers").stderr
    again = home.service(1, port=service.port)
    assert again.pids() == [pid]
    assert [event["pid"] for event in again.events if event["event"] == "adopted"] == [pid]


def test_connections_that_a_dead_worker_had_handed_on_survive(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin")
    source, destination = service.status()
    moving = [info["connection"] for info in service.connections(0)]
    staying = [info["connection"] for info in service.connections(1)]
    for name in moving:
        home.json("handoff", source["control"], name, "--to", destination["control"])
    os.kill(source["pid"], signal.SIGKILL)
    wait_for(service.status, lambda workers: workers[0]["restarts"] == 1)
    service.all_serve()
    there = {info["connection"] for info in service.connections(1)}
    assert there == {*moving, *staying}
    for download in downloads:
        check_whole(download, content)


def test_workers_outlive_their_supervisor_and_the_next_one_adopts_them(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    first = home.service(3)
    downloads = first.download_everywhere("file.bin")
    pids = first.pids()
    at_victim = len(first.connections(2))
    order = first.ready["sockets"]
    first.process.kill()
    first.process.wait()
    # And one worker dies while nobody looks.
    os.kill(pids[2], signal.SIGKILL)
    wait_for(lambda: is_alive(pids[2]), lambda alive: not alive)
    assert all(is_alive(pid) for pid in pids[:2])
    second = home.service(3, port=first.port)
    assert second.ready["sockets"] == order
    workers = second.all_serve()
    assert [worker["pid"] for worker in workers[:2]] == pids[:2]
    assert workers[2]["pid"] != pids[2]
    more = second.download_everywhere("file.bin")
    # Those of the worker that died are told by their own next packets; the others go on.
    lost = wait_for(lambda: ended(downloads), lambda found: len(found) == at_victim)
    for download in [*downloads, *more]:
        if download not in lost:
            check_whole(download, content)
    assert [worker["tossed"] for worker in second.status()] == [0, 0, 0]
    assert second.stop() == 0
    assert home.worker_pids() == []


def test_a_worker_that_is_stopped_is_killed_before_its_clients_are_told(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2, "--silence", "5")
    service.download_everywhere("file.bin")
    victim = service.pids()[0]
    os.kill(victim, signal.SIGSTOP)
    wait_for(lambda: is_stopped(victim), bool)
    assert service.wait_for("worker_silent")["pid"] == victim
    assert service.wait_for("worker_died")["pid"] == victim
    assert service.wait_for("clients_told")["reset"] >= 1
    assert victim not in service.pids()


def test_a_supervisor_that_was_stopped_itself_kills_nobody(home: ServiceHome) -> None:
    """As when the machine was suspended: nobody answered then, and nobody is to blame."""
    service = home.service(1, "--silence", "3")
    (worker,) = service.pids()
    # So that the supervisor, which looks every second, waits for an answer when it is stopped.
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1.2)
    os.kill(service.pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(service.pid), bool)
    os.kill(worker, signal.SIGCONT)
    time.sleep(4)
    os.kill(service.pid, signal.SIGCONT)
    for _ in range(3):
        time.sleep(1)
        assert service.pids() == [worker]


def test_a_worker_that_dies_again_and_again_is_started_ever_more_slowly(home: ServiceHome) -> None:
    service = home.service(2)
    for _ in range(4):
        os.kill(service.pids()[1], signal.SIGKILL)
        service.wait_for("worker_died")
    state = wait_for(service.status, lambda workers: workers[1]["state"] == "backing off")
    assert state[0]["state"] == "serving"
    assert "SIGKILL" in state[1]["message"]
    assert service.all_serve()[1]["restarts"] == 4


def test_two_services_on_one_port_are_refused(home: ServiceHome) -> None:
    service = home.service(2)
    second = home.start(
        "quicbaton", "serve", home.files, "--host", "127.0.0.1", "--port", str(service.port)
    )
    assert second.wait(GUARD_S) == 1
    assert second.stderr is not None
    assert "taken" in second.stderr.read()
    third = home.start(
        *("quicbaton", "serve", home.files, "--host", "127.0.0.1", "--port", str(service.port)),
        *("--workers", "3"),
    )
    assert third.wait(GUARD_S) == 1
    assert third.stderr is not None
    assert "supervisor" in third.stderr.read()
    assert len(service.pids()) == 2
