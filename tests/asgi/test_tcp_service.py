"""A program over UDP and TCP by whole processes: one port, one program, through all events in the
life of a service."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request, TextMessage

from quicbaton.asyncio.listener import bind_listener
from tests.cli.command_line import Server, wait_for
from tests.supervisor.service_home import Service, ServiceHome, last_event, service_home

pytestmark = pytest.mark.process

VERSIONS = pytest.mark.parametrize("version", ["1.1", "2"])
_PIECES = 60
_WHOLE = b"".join(b"%05d\n" % number * 1000 for number in range(_PIECES))

_COUNTING = """
import os
COUNT = 0
STARTS = 0
async def app(scope, receive, send):
    global COUNT, STARTS
    if scope["type"] == "lifespan":
        STARTS += 1
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.startup":
                scope["state"]["object"] = id(app)
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    COUNT += 1
    body = f"{COUNT} {STARTS} {scope['state']['object'] == id(app)} {os.getpid()}"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body.encode()})
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        source = Path(__file__).with_name("asgi_programs.py").read_text()
        (tmp_path / "site_program.py").write_text(source)
        (tmp_path / "counting.py").write_text(_COUNTING)
        yield made


def arguments(*options: str | Path, port: int = 0, app: str = "site_program:application") -> Any:
    return ("quicbaton", "serve", app, "--host", "127.0.0.1", f"--port={port}", "--json", *options)


def start(home: ServiceHome, *options: str | Path, **more: Any) -> Service:
    return Service(home, home.start(*arguments("--workers", "2", *options, **more)))


def client_of(home: ServiceHome, version: str = "2") -> httpx.Client:
    context = ssl.create_default_context(cafile=str(home.ca))
    return httpx.Client(http1=version == "1.1", http2=version == "2", verify=context, timeout=60)


def url(server: Server, path: str) -> str:
    return f"https://localhost:{server.port}/{path}"


class Reader(threading.Thread):
    """A download over TCP, in a thread."""

    def __init__(self, home: ServiceHome, server: Server, version: str, path: str) -> None:
        super().__init__(daemon=True)
        self._client = client_of(home, version)
        self._url = url(server, path)
        self.begun = threading.Event()
        self.body = b""
        self.error: Exception | None = None
        self.start()
        assert self.begun.wait(60)

    def run(self) -> None:
        try:
            with self._client, self._client.stream("GET", self._url) as response:
                for piece in response.iter_raw():
                    self.body += piece
                    self.begun.set()
        except httpx.HTTPError as error:
            self.error = error
            self.begun.set()

    def whole(self) -> bytes:
        self.join(60)
        assert self.error is None, self.error
        return self.body


def test_both_ways_reach_one_program_with_one_lifespan(home: ServiceHome) -> None:
    server = Server(home.start(*arguments(app="counting:app")))
    assert server.events[-1]["tcp"] is True
    with client_of(home) as client:
        first = client.get(url(server, ""))
        assert first.headers["alt-svc"] == f'h3=":{server.port}"; ma=3600'
        assert first.text == f"1 1 True {server.pid}"
        over_quic = home.download(server, "", 1_000_000).outcome()
        assert over_quic["sha256"] == hashlib.sha256(b"2 1 True %d" % server.pid).hexdigest()
        assert client.get(url(server, "")).text == f"3 1 True {server.pid}"
    assert server.stop() == 0


@VERSIONS
def test_requests_go_on_through_a_reload(home: ServiceHome, version: str) -> None:
    # Nobody reads what a test's servers say, and a pipe that is full would hold them up.
    service = start(home, "--no-access-log")
    before = service.pids()
    download = Reader(home, service, version, f"slow/{_PIECES}")
    stop, failures, answered = threading.Event(), [], []

    def ask_in_a_row() -> None:
        with client_of(home, version) as client:
            while not stop.is_set() or len(answered) < 50:
                try:
                    answered.append(client.get(url(service, "hello")).text)
                except httpx.HTTPError as error:
                    failures.append(error)
                    return

    asking = threading.Thread(target=ask_in_a_row)
    asking.start()
    wait_for(lambda: len(answered), lambda count: count > 5 or bool(failures))
    done = home.run("reload", service.control, "--json")
    stop.set()
    asking.join(60)
    assert done.returncode == 0, done.stderr
    assert not set(before) & set(service.pids())
    assert not failures
    assert set(answered) == {"hello from startup"}
    assert download.whole() == _WHOLE


def test_nobody_is_refused_while_workers_die(home: ServiceHome) -> None:
    """The kernel has the connections that no worker has accepted."""
    service = start(home)
    with client_of(home) as client:
        client.get(url(service, "hello"))
    pids = service.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    waiting = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(8)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    context = ssl.create_default_context(cafile=str(home.ca))
    for sock in waiting:
        sock.settimeout(60)
        with context.wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"GET /hello HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            assert tls.recv(12) == b"HTTP/1.1 200"


def test_a_new_supervisor_gets_the_listening_socket_back(home: ServiceHome) -> None:
    service = start(home)
    before = service.pids()
    download = Reader(home, service, "1.1", f"slow/{_PIECES}")
    service.process.kill()
    service.process.wait()
    with client_of(home) as client:
        assert client.get(url(service, "hello")).status_code == 200
    again = start(home, port=service.port)
    assert again.events[-1]["tcp"] is True
    assert set(again.pids()) == set(before)
    done = home.run("reload", again.control, "--json")
    assert done.returncode == 0, done.stderr
    with client_of(home) as client:
        assert client.get(url(again, "hello")).status_code == 200
    assert download.whole() == _WHOLE


def test_a_stop_lets_requests_end(home: ServiceHome) -> None:
    service = start(home)
    downloads = [Reader(home, service, version, "slow/20") for version in ("1.1", "2")]
    with client_of(home) as idle:
        idle.get(url(service, "hello"))
        done = home.run("stop", service.control, "--json")
        assert done.returncode == 0, done.stderr
        assert last_event(done.stdout)["cut"] == 0
    for download in downloads:
        assert download.whole() == _WHOLE[: 20 * 6_000]
    assert service.process.wait(60) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", service.port))


def test_a_stop_cuts_what_does_not_end(home: ServiceHome) -> None:
    server = Server(home.start(*arguments("--grace", "0.2")))
    download = Reader(home, server, "1.1", "wait")
    assert server.stop() == 0
    download.join(60)
    assert download.error is not None


@pytest.mark.parametrize("way", ["--takeover", "--join"])
def test_another_process_accepts_from_the_same_socket(home: ServiceHome, way: str) -> None:
    first = Server(home.start(*arguments()))
    download = Reader(home, first, "2", "slow/20")
    options = [part for part in arguments(way, first.control) if not str(part).startswith("--port")]
    second = Server(home.start(*options))
    assert second.events[-1]["tcp"] is True
    if way == "--join":
        assert first.stop() == 0
    assert first.process.wait(60) == 0
    with client_of(home) as client:
        assert client.get(url(second, "hello")).status_code == 200
    assert download.whole() == _WHOLE[: 20 * 6_000]
    assert second.stop() == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_taken_port_is_refused_with_the_way_out(
    home: ServiceHome, workers: tuple[str, ...]
) -> None:
    with bind_listener("127.0.0.1", 0).take() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        refused = home.start(*arguments(*workers, port=port))
        _, said = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert f"cannot listen at TCP port {port}: Address already in use" in said
        assert "--no-tcp" in said
        alone = Server(home.start(*arguments("--no-tcp", *workers, port=port)))
        assert alone.events[-1]["tcp"] is False
        assert alone.stop() == 0


def test_what_only_quic_carries_leaves_tcp_alone(home: ServiceHome) -> None:
    """A folder, or a protocol class: their port may be another server's over TCP."""
    (home.path / "echo.py").write_text(
        "from quicbaton.asyncio import QuicConnectionProtocol\n"
        "class Protocol(QuicConnectionProtocol): pass\n"
    )
    with bind_listener("127.0.0.1", 0).take() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        for options in (("--workers", "1"), ()):
            for app in (str(home.files), "echo:Protocol"):
                server = Server(home.start(*arguments(*options, port=port, app=app)))
                assert server.events[-1]["tcp"] is False
                assert server.stop() == 0


def test_a_new_certificate_is_served_after_a_reload(home: ServiceHome) -> None:
    service = start(home)
    before = ssl.get_server_certificate(("127.0.0.1", service.port))
    for name in ("cert.pem", "key.pem"):
        (home.ca.parent / name).unlink()
    done = home.run("reload", service.control, "--json")
    assert done.returncode == 0, done.stderr
    after = ssl.get_server_certificate(("127.0.0.1", service.port))
    assert after == home.ca.read_text()
    assert after != before


async def test_a_websocket_lives_until_the_grace_of_a_reload(home: ServiceHome) -> None:
    (home.path / "sockets.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        raise NotImplementedError\n"
        "    await receive()\n"
        "    await send({'type': 'websocket.accept'})\n"
        "    while (message := await receive())['type'] == 'websocket.receive':\n"
        "        await send({'type': 'websocket.send', 'text': message['text']})\n"
    )
    service = start(home, app="sockets:app")
    context = ssl.create_default_context(cafile=str(home.ca))
    reader, writer = await asyncio.open_connection("localhost", service.port, ssl=context)
    frames = WSConnection(ConnectionType.CLIENT)
    writer.write(frames.send(Request("localhost", "/")))
    frames.receive_data(await reader.read(65536))
    list(frames.events())

    async def echo(text: str) -> None:
        writer.write(frames.send(TextMessage(text)))
        frames.receive_data(await reader.read(65536))
        assert [event.data for event in frames.events()] == [text]  # type: ignore[attr-defined]

    await echo("before")
    reload = asyncio.create_task(asyncio.to_thread(home.run, "reload", service.control))
    while not reload.done():
        await echo("meanwhile")
        await asyncio.sleep(0.05)
    assert (await reload).returncode == 0
    await echo("after")
    writer.close()
