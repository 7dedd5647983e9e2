"""An ASGI program as a service: its requests through a reload."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import Server
from tests.supervisor.service_home import Service, ServiceHome, service_home

pytestmark = pytest.mark.process


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        source = Path(__file__).with_name("asgi_programs.py").read_text()
        (tmp_path / "site_program.py").write_text(source)
        yield made


def start(home: ServiceHome, *options: str) -> Service:
    arguments = ("--host", "127.0.0.1", "--port", "0", "--json", *options)
    process = home.start("quicbaton", "serve", "site_program:application", *arguments)
    return Service(home, process)


def test_running_requests_go_on_through_a_reload(home: ServiceHome) -> None:
    service = start(home, "--workers", "2")
    before = service.pids()
    pieces = 100
    downloads = [home.download(service, f"slow/{pieces}", 10_000_000) for _ in range(4)]
    for download in downloads:
        download.wait_for_bytes(1)
    done = home.run("reload", service.control, "--json")
    assert done.returncode == 0, done.stderr
    assert not set(service.pids()) & set(before)
    whole = b"".join(b"%05d\n" % number * 1000 for number in range(pieces))
    for download in downloads:
        outcome = download.outcome()
        assert not outcome["error"]
        assert outcome["connections"] == 1
        assert outcome["sha256"] == hashlib.sha256(whole).hexdigest()


def test_what_is_no_program_is_named(home: ServiceHome) -> None:
    (home.path / "broken.py").write_text("class Thing: pass\nvalue = 3\n")
    for named, said in (
        ("broken:Thing", "no QuicConnectionProtocol"),
        ("broken:value", "no class or function"),
        ("broken:missing", "no class or function"),
        ("nowhere:app", "cannot import nowhere"),
        ("nowhere", "not a folder, nor the MODULE:NAME"),
    ):
        done = home.run("serve", named, "--port", "0")
        assert done.returncode == 1, named
        assert said in done.stderr, named
        sys.modules.pop("broken", None)


def test_a_program_is_made_by_a_factory_and_found_in_its_folder(home: ServiceHome) -> None:
    folder = home.path / "elsewhere"
    folder.mkdir()
    (folder / "made.py").write_text(
        "async def health(request): return {}\n"  # a route: no business of ours
        "def make():\n"
        "    async def app(scope, receive, send):\n"
        "        if scope['type'] == 'lifespan':\n"
        "            raise NotImplementedError\n"
        "        body = (scope['root_path'] + ' ' + scope['path']).encode()\n"
        "        await send({'type': 'http.response.start', 'status': 200})\n"
        "        await send({'type': 'http.response.body', 'body': body})\n"
        "    return app\n"
    )
    options = ("--app-dir", str(folder), "--factory", "--root-path", "/api/")
    arguments = ("--host", "127.0.0.1", "--port", "0", "--json", *options)
    server = Server(home.start("quicbaton", "serve", "made:make", *arguments))
    outcome = home.download(server, "things", 1_000_000).outcome()
    assert outcome["sha256"] == hashlib.sha256(b"/api /api/things").hexdigest()
    assert server.stop() == 0


def test_a_startup_that_fails_ends_the_start(home: ServiceHome) -> None:
    (home.path / "failing.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    done = home.run("serve", "failing:app", "--port", "0", "--json")
    assert done.returncode == 1
    assert "no database" in json.loads(done.stderr or done.stdout)["message"]
