"""`quicbaton serve --reload`: saving a file swaps the code under open connections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import GUARD_S
from tests.supervisor.service_home import Service, ServiceHome, service_home

pytestmark = pytest.mark.process

_PROGRAM = """
import asyncio, pathlib

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/version":
        await send({"type": "http.response.body", "body": b"VERSION"})
        return
    for number in range(100):
        piece = b"%05d\\n" % number * 1000
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        while number == 50 and not pathlib.Path("finish").exists():
            await asyncio.sleep(0.02)
    await send({"type": "http.response.body"})
"""
_WHOLE = b"".join(b"%05d\n" % number * 1000 for number in range(100))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        (tmp_path / "program").mkdir()
        save(made, "one")
        yield made


def save(home: ServiceHome, version: str) -> None:
    (home.path / "program" / "site_program.py").write_text(_PROGRAM.replace("VERSION", version))


def version_of(home: ServiceHome, service: Service) -> bytes:
    url = f"https://localhost:{service.port}/version"
    assert home.run("get", url, "--ca", home.ca, "-o", "answer").returncode == 0
    return (home.path / "answer").read_bytes()


def test_saving_a_file_swaps_the_code_and_downloads_go_on(home: ServiceHome) -> None:
    arguments = ("--app-dir", "program", "--host", "127.0.0.1", "--port", "0", "--json")
    process = home.start("quicbaton", "serve", "site_program:application", *arguments, "--reload")
    service = Service(home, process)
    download = home.download(service, "slow", 10_000_000)
    download.wait_for_bytes(1)
    assert version_of(home, service) == b"one"
    save(home, "two")
    changed = service.wait_for("changed")
    assert changed["files"] == ["site_program.py"]
    assert service.wait_for("reloaded")["ok"]
    assert version_of(home, service) == b"two"
    # What does not come up replaces nothing, and says why.
    (home.path / "program" / "site_program.py").write_text("this is no Python")
    failed = service.wait_for("reload_failed")
    assert "SyntaxError" in failed["message"]
    assert version_of(home, service) == b"two"
    save(home, "three")
    assert service.wait_for("reloaded")["ok"]
    assert version_of(home, service) == b"three"
    (home.path / "finish").touch()
    outcome = download.outcome()
    assert not outcome["error"]
    assert outcome["connections"] == 1
    assert outcome["sha256"] == hashlib.sha256(_WHOLE).hexdigest()


def test_standard_output_has_nothing_but_json(home: ServiceHome) -> None:
    path = home.path / "program" / "site_program.py"
    path.write_text("print('from the program', flush=True)\n" + path.read_text())
    arguments = ("--app-dir", "program", "--host", "127.0.0.1", "--port", "0", "--json")
    process = home.start("quicbaton", "serve", "site_program:application", *arguments, "--reload")
    service = Service(home, process)
    download = home.download(service, "slow", 10_000_000)
    download.wait_for_bytes(1)
    done = home.run("reload", service.control)
    assert done.returncode == 0, done.stderr
    (home.path / "finish").touch()
    assert not download.outcome()["error"]
    service.process.terminate()
    out, errors = service.process.communicate(timeout=GUARD_S)
    # Connections have moved, and a program has said something: neither is the supervisor's word.
    for line in out.splitlines():
        assert json.loads(line)["event"]
    assert "from the program" in errors


def test_what_is_not_there_cannot_be_watched(home: ServiceHome) -> None:
    done = home.run(
        "serve",
        "site_program:application",
        "--app-dir",
        "program",
        "--reload",
        "--reload-dir",
        "no",
    )
    assert done.returncode == 1
    assert "cannot watch no: there is no such folder" in done.stderr
