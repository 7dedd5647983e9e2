"""A service's messages to systemd and back, with a systemd that the test plays."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.asyncio.listener import bind_listener
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from tests.cli.command_line import GUARD_S, check_whole, wait_for
from tests.supervisor.service_home import FILE_BYTES, Service, ServiceHome

pytestmark = pytest.mark.process

#: Becomes a command with descriptors from 3 on, as systemd starts it.
_LAUNCHER = """
import fcntl, os, sys
passed = [int(text) for text in sys.argv[1].split(",")]
for index, descriptor in enumerate([fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in passed]):
    os.dup2(descriptor, 3 + index)
os.closerange(3 + len(passed), 200)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""


class FakeSystemd:
    """Listens for notifications, keeps descriptors, starts the service again with them."""

    def __init__(self, home: ServiceHome) -> None:
        self.home = home
        self.path = home.path / "notify"
        self.stored: dict[str, int] = {}
        self.told: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        # In a thread of its own: who notifies waits while nobody reads.
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def hear(self) -> list[dict[str, str]]:
        """Everything that was said and not yet waited for."""
        return list(self.told)

    def _read(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 8)
            if not data:
                return
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            name = fields.get("FDNAME", "")
            if "FDSTORE" in fields:
                old = self.stored.get(name)
                (self.stored[name],) = descriptors
                if old is not None:
                    os.close(old)
            if "FDSTOREREMOVE" in fields and name in self.stored:
                os.close(self.stored.pop(name))
            self.told.append(fields)

    def wait_for(self, key: str) -> dict[str, str]:
        """The last notification with this key, once there is one that was not waited for."""
        said = wait_for(self.hear, lambda told: any(key in fields for fields in told))
        found = [fields for fields in said if key in fields][-1]
        self.told = []
        return found

    def start(self, workers: int, passed: dict[str, int], what: str = "") -> Service:
        return Service(self.home, self.launch(workers, passed, what))

    def launch(self, workers: int, passed: dict[str, int], what: str = "") -> subprocess.Popen[str]:
        """The service of a folder, or of a program."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _LAUNCHER, ",".join(map(str, passed.values()))),
                *("quicbaton", "serve", what or str(self.home.files), "--json"),
                *("--workers", str(workers)),
            ],
            env={
                **self.home.environment,
                "NOTIFY_SOCKET": str(self.path),
                "LISTEN_FDS": str(len(passed)),
                "LISTEN_FDNAMES": ":".join(passed),
                "WATCHDOG_USEC": "400000",
            },
            pass_fds=tuple(passed.values()),
            cwd=self.home.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.home.adopt(process)
        return process

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()
        for descriptor in self.stored.values():
            os.close(descriptor)


@pytest.fixture
def systemd(home: ServiceHome) -> Iterator[FakeSystemd]:
    made = FakeSystemd(home)
    try:
        yield made
    finally:
        made.close()


def inodes(stored: dict[str, int]) -> list[Any]:
    names = sorted(name for name in stored if name.startswith("socket-"))
    return [os.fstat(stored[name]).st_ino for name in names]


def count(service: Service, counter: str) -> int:
    """Of the service since it began, the processes that have ended included."""
    found = asyncio.run(ask(service.control, c.ReadTallies(), c.Tallies)).tallies
    return sum(one.counters.get(counter, 0) for one in found)


def test_a_service_is_activated_by_its_socket_and_notifies(systemd: FakeSystemd) -> None:
    with open_udp("127.0.0.1", 0, reuse_port=True) as activated:
        service = systemd.start(2, {"quicbaton.socket": activated.fileno()})
        assert service.port == activated.getsockname()[1]
        assert service.ready["sockets"][0] == os.fstat(activated.fileno()).st_ino
    assert "2 workers" in systemd.wait_for("READY")["STATUS"]
    wait_for(systemd.hear, lambda _told: len(systemd.stored) == 5)
    assert inodes(systemd.stored) == service.ready["sockets"]
    systemd.wait_for("WATCHDOG")
    service.process.send_signal(signal.SIGHUP)
    assert int(systemd.wait_for("RELOADING")["MONOTONIC_USEC"]) > 0
    assert service.wait_for("reloaded")["ok"]
    assert "2 workers replaced" in systemd.wait_for("READY")["STATUS"]
    # The new workers' rosters instead of the old ones'.
    rosters = {f"roster-{worker}-{pid}" for worker, pid in enumerate(service.pids())}
    wait_for(
        lambda: {name for name in list(systemd.stored) if name.startswith("roster")},
        lambda names: names == rosters,
    )
    service.process.terminate()
    systemd.wait_for("STOPPING")
    assert service.process.wait(GUARD_S) == 0


def test_the_descriptor_store_brings_the_sockets_back_and_dead_workers_clients_are_told(
    systemd: FakeSystemd, home: ServiceHome
) -> None:
    content = home.write("file.bin", FILE_BYTES // 10)
    with open_udp("127.0.0.1", 0, reuse_port=True) as activated:
        first = systemd.start(2, {"quicbaton.socket": activated.fileno()})
    downloads = first.download_everywhere("file.bin")
    order = first.ready["sockets"]
    accepted = count(first, "accepted")
    systemd.wait_for("READY")
    assert len(systemd.stored) == 5
    # A crash of everything, as when the machine's memory runs out.
    first.process.kill()
    for pid in home.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(home.worker_pids, lambda pids: not pids)
    second = systemd.start(2, systemd.stored)
    assert second.ready["sockets"] == order
    assert count(second, "accepted") == accepted >= len(downloads)
    told = second.wait_for("clients_told")["reset"]
    while told < len(downloads):
        told += second.wait_for("clients_told")["reset"]
    wait_for(lambda: [one.process.poll() for one in downloads], lambda codes: None not in codes)
    for download in second.download_everywhere("file.bin"):
        check_whole(download, content)
    assert [worker["tossed"] for worker in second.status()] == [0, 0]


def test_the_tcp_socket_of_a_socket_unit_is_served_and_kept(
    systemd: FakeSystemd, home: ServiceHome
) -> None:
    (home.path / "hello.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        raise NotImplementedError\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        "    await send({'type': 'http.response.body', 'body': b'hello'})\n"
    )
    with open_udp("127.0.0.1", 0, reuse_port=True) as activated:
        port = activated.getsockname()[1]
        with bind_listener("127.0.0.1", port).take() as listening:
            listening.listen()
            inode = os.fstat(listening.fileno()).st_ino
            passed = {"udp.socket": activated.fileno(), "tcp.socket": listening.fileno()}
            first = systemd.start(1, passed, "hello:app")
    assert first.ready["tcp"] is True
    systemd.wait_for("READY")
    assert os.fstat(systemd.stored["listener"]).st_ino == inode
    first.process.kill()
    for pid in home.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(home.worker_pids, lambda pids: not pids)
    context = ssl.create_default_context(cafile=str(home.ca))
    # With nobody there it waits.
    waiting = socket.create_connection(("127.0.0.1", port))
    second = systemd.start(1, systemd.stored, "hello:app")
    assert second.port == port
    waiting.settimeout(GUARD_S)
    with context.wrap_socket(waiting, server_hostname="localhost") as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert tls.recv(12) == b"HTTP/1.1 200"


def test_a_socket_that_nobody_can_join_is_refused(systemd: FakeSystemd) -> None:
    with open_udp("127.0.0.1", 0) as lonely:
        process = systemd.launch(2, {"quicbaton.socket": lonely.fileno()})
        assert process.wait(GUARD_S) == 1
    assert process.stderr is not None
    assert "ReusePort=yes" in process.stderr.read()


@pytest.mark.parametrize("reuse_port", [True, False], ids=["joinable", "not joinable"])
def test_a_socket_of_another_user_is_refused_with_its_owner(
    systemd: FakeSystemd, reuse_port: bool
) -> None:
    """As root's is to a service with User=. ReusePort=yes would not help."""
    if os.getuid() != 0:
        pytest.skip("only root can give a socket to another user")
    with open_udp("127.0.0.1", 0, reuse_port=reuse_port) as others:
        os.fchown(others.fileno(), 54321, -1)
        process = systemd.launch(2, {"quicbaton.socket": others.fileno()})
        assert process.wait(GUARD_S) == 1
    assert process.stderr is not None
    said = process.stderr.read()
    assert "is uid 54321's and this process root (uid 0)'s" in said
    assert "without a socket unit" in said
    assert "ReusePort" not in said


def test_descriptors_meant_for_another_process_are_left_alone(home: ServiceHome) -> None:
    home.environment |= {"LISTEN_PID": "1", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/nowhere"}
    assert home.service(1).stop() == 0
    assert Path("/nowhere").exists() is False
