"""TCP connections as operators see them: `ps`, `top`, metrics, the access log."""

from __future__ import annotations

import contextlib
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.command_line import GUARD_S, wait_for
from tests.supervisor.service_home import Service, ServiceHome, service_home

pytestmark = pytest.mark.process

_PROGRAM = """
async def application(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200})
    if scope["path"] == "/wait":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await receive()
        await receive()
    await send({"type": "http.response.body", "body": b"done"})
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        (tmp_path / "site_program.py").write_text(_PROGRAM)
        yield made


@pytest.fixture
def service(home: ServiceHome) -> Service:
    options = ("--host", "127.0.0.1", "--port", "0", "--json", "--workers", "2", "--metrics", "0")
    process = home.start("quicbaton", "serve", "site_program:application", *options)
    return Service(home, process)


@contextlib.contextmanager
def waiting_clients(home: ServiceHome, service: Service) -> Iterator[None]:
    """Two that wait for the end of an answer, one by each version of HTTP."""
    context = ssl.create_default_context(cafile=str(home.ca))
    with contextlib.ExitStack() as stack:
        for http2 in (True, False):
            client = httpx.Client(http1=not http2, http2=http2, verify=context, timeout=GUARD_S)
            stack.enter_context(client)
            url = f"https://localhost:{service.port}/wait"
            response = stack.enter_context(client.stream("GET", url))
            pieces = response.iter_raw()
            assert next(pieces) == b"begun"
            stack.callback(pieces.close)  # else it would be closed with the last reference to it
        yield


def over_tcp(home: ServiceHome, service: Service) -> list[dict[str, Any]]:
    listed = home.json("ps", service.control)["connections"]
    return [info for info in listed if info["state"] == "tcp"]


def test_ps_lists_them_and_says_that_they_do_not_move(home: ServiceHome, service: Service) -> None:
    with waiting_clients(home, service):
        infos = over_tcp(home, service)
        assert sorted(info["alpn"] for info in infos) == ["h2", "http/1.1"]
        for info in infos:
            assert info["connection"].startswith("tcp-")
            assert info["peer"].startswith("127.0.0.1:")
            assert info["streams"] == 1
            assert 0 < info["rtt_ms"] < 1000 * GUARD_S
            assert info["worker"] in (0, 1)
        shown = home.run("ps", service.control).stdout
        assert shown.count(" tcp ") == 2
        name = infos[0]["connection"]
        for control in (service.control, service.status()[infos[0]["worker"]]["control"]):
            done = home.run("handoff", control, name, "--to", service.control, "--json")
            assert done.returncode == 1
            assert "a TCP connection, which cannot move" in done.stderr
    wait_for(lambda: over_tcp(home, service), lambda infos: not infos)
    service.stop()
    assert service.process.stderr is not None
    assert '"GET /wait HTTP/2" 200 5 bytes' in (log := service.process.stderr.read())
    assert f" ms {name}\n" in log


def test_top_and_metrics_count_them_and_their_requests(home: ServiceHome, service: Service) -> None:
    url = service.wait_for("metrics")["url"]

    def total(name: str) -> float:
        with urllib.request.urlopen(url, timeout=GUARD_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))

    def tcp_in_top() -> int:
        lines = home.json("top", str(service.port), "--count", "1")["workers"]
        return sum(line["tcp"] for line in lines)

    with waiting_clients(home, service):
        wait_for(lambda: total("quicbaton_tcp_connections"), lambda count: count == 2)
        wait_for(tcp_in_top, lambda count: count == 2)
        shown = home.run("top", str(service.port), "--count", "1").stdout
        assert "REQ/S" in shown
    home.run("get", f"https://localhost:{service.port}/", "--ca", home.ca, "-o", "answer")
    wait_for(lambda: total("quicbaton_tcp_connections"), lambda count: count == 0)
    # A worker that does not answer in time is left out.
    wait_for(lambda: total("quicbaton_requests_total"), lambda count: count == 3)
    wait_for(lambda: total("quicbaton_tcp_requests_total"), lambda count: count == 2)
    wait_for(lambda: total("quicbaton_tcp_accepted_total"), lambda count: count == 2)
    assert total("quicbaton_tcp_refused_total") == 0
    assert total("quicbaton_tcp_handshakes") == 0
