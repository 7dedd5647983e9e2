"""Servers and services that stop in good order."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from typing import Any

import pytest
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.buffer import Buffer
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from command_line import GUARD_S, Server
from service_home import FILE_BYTES, RATE, ServiceHome, check_whole, wait_for

pytestmark = pytest.mark.process

_GOAWAY = 0x7
_NO_ERROR = 0x100
_REQUEST_REJECTED = 0x10B
_SERVERS_CONTROL_STREAM = 3


class Client(QuicConnectionProtocol):
    """aioquic's own: HTTP/3, and what came on the server's control stream as it came."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self.control = b""
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.terminated: events.ConnectionTerminated | None = None

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            if event.stream_id == _SERVERS_CONTROL_STREAM:
                self.control += event.data
        elif isinstance(event, events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, events.ConnectionTerminated):
            self.terminated = event
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, DataReceived):
                stream_id = http_event.stream_id
                self.bodies[stream_id] = self.bodies.get(stream_id, b"") + http_event.data
                if http_event.stream_ended:
                    self.ended.add(stream_id)

    def request(self, path: str) -> int:
        stream_id = self._quic.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        self._http.send_headers(stream_id, headers, end_stream=True)
        self.transmit()
        return stream_id

    def goaways(self) -> list[int]:
        """The IDs in the GOAWAY frames so far (RFC 9114 §7.2.6)."""
        found = []
        buffer = Buffer(data=self.control)
        assert buffer.pull_uint_var() == 0  # a control stream
        while not buffer.eof():
            kind, size = buffer.pull_uint_var(), buffer.pull_uint_var()
            body = Buffer(data=buffer.pull_bytes(size))
            if kind == _GOAWAY:
                found.append(body.pull_uint_var())
        return found


async def come(condition: Any) -> None:
    async with asyncio.timeout(GUARD_S):
        while not condition():
            await asyncio.sleep(0.01)


def client_of(home: ServiceHome, port: int) -> Any:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(str(home.ca))
    return connect("127.0.0.1", port, configuration=configuration, create_protocol=Client)


def test_a_running_request_ends_after_goaway_and_a_late_one_is_rejected(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES // 2)
    home.write("late.bin", 1000)
    server = home.serve("--grace", "60")

    async def run() -> None:
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

    asyncio.run(run())
    assert server.process.wait(GUARD_S) == 0


def test_new_clients_are_refused_while_a_service_stops_and_a_second_signal_ends_it(
    home: ServiceHome,
) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2, "--grace", "60")
    downloads = service.download_everywhere("file.bin")
    service.process.send_signal(signal.SIGTERM)
    wait_for(service.status, lambda slots: slots[0]["state"] == "stopping")

    async def run() -> None:
        with pytest.raises(ConnectionError):
            async with client_of(home, service.port):
                pass

    asyncio.run(run())
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
