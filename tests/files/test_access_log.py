"""A folder's access log: the same lines, and the same fields, as a program's."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.files.test_file_server import SIZE, Session
from tests.supervisor.service_home import FILE_BYTES, ServiceHome, service_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        yield made


def write(root: Path) -> Path:
    (root / "file.bin").write_bytes(bytes(SIZE))
    (root / "a b").write_bytes(b"1234")
    (root / "sub").mkdir()
    return root


async def test_every_answer_is_a_line_with_its_status_and_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "quicbaton.access")
    session = Session(write(tmp_path))
    for method, path, fields, expected in (
        ("GET", "/file.bin", [], (200, SIZE)),
        ("HEAD", "/file.bin", [], (200, 0)),
        ("GET", "/file.bin", [(b"range", b"bytes=0-9")], (206, 10)),
        ("GET", "/a%20b?q=1", [], (200, 4)),
        ("GET", "/sub", [], (301, 0)),
        ("GET", "/missing", [], (404, len(b"Not found\n"))),
        ("POST", "/file.bin", [], (405, len(b"Only GET and HEAD\n"))),
    ):
        caplog.clear()
        asked = session.ask(method, path, *fields)
        (record,) = [one for one in caplog.records if one.name == "quicbaton.access"]
        client, said_method, said_path, version, status = record.args  # type: ignore[misc]
        assert (said_method, said_path, version) == (method, path, "3")
        assert re.fullmatch(r"[\d.:]+:\d+", str(client))
        assert (status, record.sent_bytes) == expected  # type: ignore[attr-defined]
        assert session.status(asked) == status
        assert record.duration_ms > 0  # type: ignore[attr-defined]
        name = session.pair.server.connection.name.hex()
        assert record.connection == name  # type: ignore[attr-defined]


async def test_no_character_of_a_request_ends_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "quicbaton.access")
    session = Session(write(tmp_path))
    session.ask("GET", '/x"y\u2028z\x7f')
    (record,) = [one for one in caplog.records if one.name == "quicbaton.access"]
    assert re.search(r'"GET /x%22y[%A-F0-9]+z%7F HTTP/3"', record.getMessage())


def get(home: ServiceHome, port: int, path: str) -> None:
    home.run("get", f"https://localhost:{port}{path}", "--ca", home.ca, "-o", "answer")


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_s_requests_are_lines_of_the_log(home: ServiceHome, workers: int) -> None:
    home.write("file.bin", 1000)
    server = home.service(1) if workers else home.serve()
    get(home, server.port, "/file.bin?q=1")
    get(home, server.port, "/missing")
    server.stop()
    assert server.process.stderr is not None
    log = server.process.stderr.read()
    prefix = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO " + (r"\[0\] " if workers else "")
    client = r"127\.0\.0\.1:\d+ - "
    suffix = r" bytes \d+\.\d ms [0-9a-f]{24}$"
    for said in (r'"GET /file\.bin\?q=1 HTTP/3" 200 1000', r'"GET /missing HTTP/3" 404 10'):
        assert re.search(prefix + client + said + suffix, log, re.MULTILINE)


@pytest.mark.process
def test_the_log_is_json_with_a_program_s_fields(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(1, "--log-format", "json")
    get(home, service.port, "/file.bin")
    service.stop()
    assert service.process.stderr is not None
    (line,) = [json.loads(line) for line in service.process.stderr.read().splitlines()]
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line.pop("client").startswith("127.0.0.1:")
    assert line.pop("duration_ms") > 0
    assert len(line.pop("connection")) == 24
    assert line == {
        "level": "info",
        "logger": "quicbaton.access",
        "worker": 0,
        "method": "GET",
        "path": "/file.bin",
        "http_version": "3",
        "status": 200,
        "sent_bytes": 1000,
    }


@pytest.mark.process
@pytest.mark.parametrize("option", ["--no-access-log", "--log-level=warning"])
def test_nobody_need_read_it(home: ServiceHome, option: str) -> None:
    home.write("file.bin", 1000)
    service = home.service(1, option)
    get(home, service.port, "/file.bin")
    service.stop()
    assert service.process.stderr is not None
    assert service.process.stderr.read() == ""


@pytest.mark.process
@pytest.mark.parametrize(("level", "told"), [("info", False), ("debug", True)])
def test_connections_that_move_are_told_at_debug_only(
    home: ServiceHome, level: str, told: bool
) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2, "--log-level", level, "--log-format", "json")
    downloads = service.download_everywhere("file.bin")
    names = service.names(0) | service.names(1)
    assert home.run("reload").returncode == 0
    for download in downloads:
        download.outcome()
    service.stop()
    assert service.process.stderr is not None
    lines = [json.loads(line) for line in service.process.stderr.read().splitlines()]
    moves = [line for line in lines if any(name in line.get("message", "") for name in names)]
    assert bool(moves) is told
    assert {line["level"] for line in moves} <= {"debug"}
    assert service.process.stdout is not None
    events = [*service.events, *map(json.loads, service.process.stdout)]
    assert not any("connection" in event for event in events)
