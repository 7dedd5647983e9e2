"""Reloads under connections whose clients have vanished, or do not go on."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted, PingAcknowledged

from tests.cli.command_line import GUARD_S, Download, check_whole, wait_for
from tests.supervisor.service_home import FILE_BYTES, Service, ServiceHome, is_alive

pytestmark = pytest.mark.process


@contextmanager
def stopped(downloads: list[Download]) -> Iterator[None]:
    """Clients that are absent meanwhile."""
    for download in downloads:
        os.kill(download.process.pid, signal.SIGSTOP)
    yield
    for download in downloads:
        os.kill(download.process.pid, signal.SIGCONT)


def move_all(home: ServiceHome, service: Service, source: int, destination: int) -> int:
    """Hand a worker's connections to another, one by one; their number."""
    names = service.names(source)
    workers = service.status()
    for name in names:
        ends = workers[source]["control"], name, "--to", workers[destination]["control"]
        home.json("handoff", *ends)
    return len(names)


def reload(home: ServiceHome, service: Service) -> dict[str, Any]:
    """Its last event, with what it had waited for."""
    done = home.run("reload", str(service.port), "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "reloaded"
    waits = [event["message"] for event in events if event["event"] == "waiting"]
    return {**events[-1], "waits": waits}


def lingering(home: ServiceHome, service: Service) -> dict[int, dict[str, Any]]:
    """The old processes of the service that live, by pid."""
    listed = home.json("workers", str(service.port))["lingering"]
    return {old["pid"]: old for old in listed}


def test_reloads_leave_absent_clients_to_old_processes_and_lose_none(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin")
    with stopped(downloads):
        moved = move_all(home, service, 0, 1)
        first = service.pids()
        told = reload(home, service)
        assert f"{moved} connection" in told["message"]
        assert "did not confirm the new ID" in told["message"]
        assert any("confirmed" in wait and "s left" in wait for wait in told["waits"])
        old = lingering(home, service)
        assert (old[first[0]]["worker"], old[first[0]]["unconfirmed"]) == (0, moved)
        assert old[first[0]]["seconds_left"] > 0
        assert first[0] in [one["pid"] for one in told["lingering"]]
        (shown,) = [
            line
            for line in home.run("workers", str(service.port)).stdout.splitlines()
            if f" {first[0]} " in line
        ]
        assert "lingering" in shown
        assert "confirmed" in shown
        assert home.json("ps", str(service.port))["lingering"]
        # Several generations at once.
        assert [pid for pid, one in old.items() if one["unconfirmed"]] == [first[0]]
        second = service.pids()
        reload(home, service)
        assert not set(second) & set(service.pids())
        assert first[0] in lingering(home, service)
    for download in downloads:
        check_whole(download, content)
    # The clients have confirmed: nothing is left to do.
    for pid in {*first, *second}:
        wait_for(lambda pid=pid: is_alive(pid), lambda alive: not alive)
    assert lingering(home, service) == {}
    assert [worker["restarts"] for worker in service.status()] == [0, 0]


def test_a_stop_ends_the_processes_that_linger_for_absent_clients(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin")
    with stopped(downloads):
        move_all(home, service, 0, 1)
        reload(home, service)
        pids = [*lingering(home, service), *service.pids()]
        assert len(pids) > 2
        done = home.run("stop", str(service.port), "--grace", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    assert service.process.wait(GUARD_S) == 0
    assert not any(map(is_alive, pids))
    assert not [path for path in service.control.parent.iterdir() if path.is_socket()]


def test_a_proxied_connection_goes_on_through_reloads_of_the_service_that_sends_for_it(
    home: ServiceHome,
) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service, other = home.service(1), home.service(1)
    (download,) = service.download_everywhere("file.bin")
    (name,) = service.names(0)
    home.json("handoff", str(service.port), name, "--to", str(other.port), "--proxy")
    (first,) = service.pids()
    for _ in range(2):
        reload(home, service)
        assert lingering(home, service)[first]["proxied"] == 1
    check_whole(download, content)
    wait_for(lambda: is_alive(first), lambda alive: not alive)


def test_a_connection_for_which_another_server_sends_stays_in_the_old_process(
    home: ServiceHome,
) -> None:
    content = home.write("file.bin", FILE_BYTES)
    server, owner = home.service(1), home.service(1)
    (download,) = server.download_everywhere("file.bin")
    (name,) = server.names(0)
    home.json("handoff", str(server.port), name, "--to", str(owner.port), "--proxy")
    (old,) = owner.pids()
    for _ in range(2):
        reload(home, owner)
        assert lingering(home, owner)[old]["sent_for"] == 1
        (shown,) = home.json("ps", str(owner.port))["connections"]
        assert (shown["connection"], shown["state"]) == (name, "proxied")
    check_whole(download, content)
    wait_for(lambda: is_alive(old), lambda alive: not alive)


class SlowClient:
    """aioquic's client, whose time stands still but in `go_on`."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(0.02)
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=True,
                alpn_protocols=H3_ALPN,
                verify_mode=ssl.CERT_NONE,
                server_name="localhost",
            )
        )
        self.quic.connect(self._server, time.time())
        self.send()

    def send(self) -> None:
        for data, _ in self.quic.datagrams_to_send(time.time()):
            self._socket.sendto(data, self._server)

    def go_on(self, until: type) -> None:
        """Take part again, until such an event comes."""
        deadline = time.monotonic() + GUARD_S
        while time.monotonic() < deadline:
            try:
                data = self._socket.recv(65_535)
            except TimeoutError:
                self.quic.handle_timer(time.time())
            else:
                self.quic.receive_datagram(data, self._server, time.time())
            self.send()
            while (event := self.quic.next_event()) is not None:
                if isinstance(event, until):
                    return
        raise AssertionError(f"no {until.__name__}")

    def close(self) -> None:
        self._socket.close()


def test_a_handshake_that_is_slower_than_a_reload_ends_and_its_connection_moves(
    home: ServiceHome,
) -> None:
    service = home.service(1)
    client = SlowClient(service.port)
    try:
        wait_for(service.status, lambda workers: workers[0]["handshakes"])
        (old,) = service.pids()
        reload(home, service)
        assert lingering(home, service)[old]["handshakes"] == 1
        client.go_on(HandshakeCompleted)
        wait_for(lambda: is_alive(old), lambda alive: not alive)
        assert len(service.names(0)) == 1
        client.quic.send_ping(1)
        client.send()
        client.go_on(PingAcknowledged)
    finally:
        client.close()
