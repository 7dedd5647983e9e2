"""Options of `quicbaton serve` that people know from other ASGI servers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.command_line import Server
from tests.supervisor.service_home import ServiceHome, service_home

pytestmark = pytest.mark.process

_PROGRAM = """
import asyncio
import os

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/wait":
        while not os.path.exists("enough"):
            await asyncio.sleep(0.02)
    body = os.environ.get("GREETING", "none").encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        (tmp_path / "site_program.py").write_text(_PROGRAM)
        yield made


class Started:
    """A server, and what it logs."""

    def __init__(self, home: ServiceHome, *options: str) -> None:
        self.home = home
        arguments = ("--host", "127.0.0.1", "--port", "0", "--json", *options)
        program = "site_program:application"
        self.server = Server(home.start("quicbaton", "serve", program, *arguments))

    def get(self, path: str) -> bytes:
        url = f"https://localhost:{self.server.port}{path}"
        done = self.home.run("get", url, "--ca", self.home.ca, "-o", "answer")
        assert done.returncode == 0, done.stderr
        return (self.home.path / "answer").read_bytes()

    def log(self) -> str:
        """All of it, once the server has stopped."""
        self.server.stop()
        assert self.server.process.stderr is not None
        return self.server.process.stderr.read()


def test_each_request_is_a_line_of_the_log(home: ServiceHome) -> None:
    started = Started(home)
    started.get("/a%20b?q=1")
    pattern = (
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO "
        r'127\.0\.0\.1:\d+ - "GET /a%20b\?q=1 HTTP/3" 200 4 bytes \d+\.\d ms [0-9a-f]{24}$'
    )
    assert re.search(pattern, started.log(), re.MULTILINE)


def test_a_line_names_the_worker(home: ServiceHome) -> None:
    started = Started(home, "--workers", "1")
    started.get("/")
    assert re.search(r'INFO \[0\] 127.* "GET / HTTP/3" 200', started.log())


def test_the_log_is_json_where_programs_read_it(home: ServiceHome) -> None:
    started = Started(home, "--workers", "1", "--log-format", "json")
    started.get("/a%20b?q=1")
    lines = [json.loads(line) for line in started.log().splitlines()]
    (line,) = [line for line in lines if line["logger"] == "quicbaton.access"]
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line.pop("client").startswith("127.0.0.1:")
    assert line.pop("duration_ms") > 0
    assert len(line.pop("connection")) == 24
    assert line == {
        "level": "info",
        "logger": "quicbaton.access",
        "worker": 0,
        "method": "GET",
        "path": "/a%20b?q=1",
        "http_version": "3",
        "status": 200,
        "sent_bytes": 4,
    }


@pytest.mark.parametrize("option", ["--no-access-log", "--log-level=warning"])
def test_nobody_need_read_it(home: ServiceHome, option: str) -> None:
    started = Started(home, option)
    started.get("/")
    assert started.log() == ""


def test_logging_is_configured_by_a_file(home: ServiceHome) -> None:
    config = {
        "version": 1,
        "formatters": {"ours": {"format": "%(name)s|%(args)s|%(sent_bytes)d"}},
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": "log", "formatter": "ours"}
        },
        "loggers": {"quicbaton.access": {"handlers": ["file"], "level": "INFO"}},
    }
    (home.path / "log.json").write_text(json.dumps(config))
    started = Started(home, "--log-config", "log.json")
    started.get("/x")
    assert started.log() == ""
    (line,) = (home.path / "log").read_text().splitlines()
    assert re.fullmatch(
        r"quicbaton\.access\|\('127\.0\.0\.1:\d+', 'GET', '/x', '3', 200\)\|4", line
    )


def test_a_file_that_configures_nothing_is_named(home: ServiceHome) -> None:
    (home.path / "log.json").write_text("{}")
    done = home.run("serve", "site_program:application", "--log-config", "log.json")
    assert done.returncode == 1
    assert "cannot use --log-config log.json" in done.stderr


def test_the_environment_comes_from_a_file(home: ServiceHome) -> None:
    (home.path / "env").write_text("GREETING='hello you'\n")
    started = Started(home, "--env-file", "env")
    assert started.get("/") == b"hello you"
    started.log()
    done = home.run("serve", "site_program:application", "--env-file", "none")
    assert done.returncode == 1
    assert "there is no such file" in done.stderr


def test_more_requests_at_once_than_the_limit_are_turned_away(home: ServiceHome) -> None:
    started = Started(home, "--limit-concurrency", "1")
    waiting = home.download(started.server, "wait", 1_000_000)
    until = time.monotonic() + 20
    while True:
        url = f"https://localhost:{started.server.port}/"
        done = home.run("get", url, "--ca", home.ca, "-o", "answer")
        if done.returncode and "503" in done.stderr:
            break
        assert time.monotonic() < until, done
    (home.path / "enough").touch()
    assert not waiting.outcome()["error"]
    assert started.get("/") == b"none"
    started.log()
