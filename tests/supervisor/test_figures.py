"""What a service says of its traffic: bytes, answers, round trips, handshakes, memory."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicbaton.build import is_compiled, version
from quicbaton.testing import Conditions, Pair
from tests.asgi.test_request_limits import tcp_client
from tests.cli.command_line import wait_for
from tests.supervisor.scraping import scrape, total
from tests.supervisor.service_home import Service, ServiceHome, service_home

_PROGRAM = """
import asyncio

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/wrong":
        raise RuntimeError("as it is meant to")
    status = int(scope["path"][1:] or 200)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        (tmp_path / "program.py").write_text(_PROGRAM)
        yield made


def get(home: ServiceHome, service: Service, path: str) -> None:
    url = f"https://localhost:{service.port}/{path}"
    home.run("get", url, "--ca", home.ca, "-o", home.path / "copy")


def responses(samples: dict[str, float]) -> dict[tuple[str, str], float]:
    """The answers by version of HTTP and class."""
    found = {}
    for name, value in samples.items():
        if name.startswith("quicbaton_responses_total{"):
            labels = dict(pair.split("=") for pair in name.partition("{")[2].rstrip("}").split(","))
            found[labels["http_version"].strip('"'), labels["status"].strip('"')] = value
    return found


@pytest.mark.process
def test_a_folder_s_traffic_is_counted(home: ServiceHome) -> None:
    size = 300_000
    home.write("file.bin", size)
    service = home.service(1, "--metrics", "0", "--memory", "100")
    url = service.wait_for("metrics")["url"]
    for path in ("file.bin", "file.bin", "missing"):
        get(home, service, path)
    # Connections count at their end, too, which the client is asked to wait for a moment.
    samples = wait_for(
        lambda: scrape(url), lambda now: total(now, "quicbaton_rtt_seconds_count") >= 3
    )
    place = '{node="0",worker="0"}'
    assert responses(samples) == {("3", "2xx"): 2, ("3", "4xx"): 1}
    assert samples[f"quicbaton_requests_total{place}"] == 3
    assert 2 * size < samples[f"quicbaton_sent_bytes_total{place}"] < 3 * size
    assert 0 < samples[f"quicbaton_received_bytes_total{place}"] < size
    assert samples[f"quicbaton_handshake_seconds_count{place}"] == 3
    assert 0 < samples[f"quicbaton_handshake_seconds_sum{place}"] < 60
    assert samples[f"quicbaton_rtt_seconds_sum{place}"] > 0
    assert samples[f"quicbaton_packets_lost_total{place}"] >= 0
    assert samples[f"quicbaton_memory_budget_bytes{place}"] == 100 << 20
    assert samples[f"quicbaton_memory_held_bytes{place}"] >= 0
    builds = [name for name in samples if name.startswith("quicbaton_build_info")]
    python = platform.python_version()
    form = "compiled" if is_compiled() else "python"
    for worker in ("0", "supervisor"):
        said = f'form="{form}",node="0",python="{python}",version="{version()}",worker="{worker}"'
        assert f"quicbaton_build_info{{{said}}}" in builds


@pytest.mark.process
def test_a_program_s_answers_are_counted_by_version_and_status(home: ServiceHome) -> None:
    where = ("--host", "127.0.0.1", "--port", "0", "--json", "--metrics", "0", "--workers", "1")
    service = Service(home, home.start("quicbaton", "serve", "program:application", *where))
    url = service.wait_for("metrics")["url"]
    for path in ("", "404", "wrong"):
        get(home, service, path)
    with tcp_client(home, service) as client:
        assert client.get("/").status_code == 200
        assert client.get("/302").status_code == 302
    expected = {
        ("3", "2xx"): 1,
        ("3", "4xx"): 1,
        ("3", "5xx"): 1,
        ("2", "2xx"): 1,
        ("2", "3xx"): 1,
    }
    wait_for(lambda: responses(scrape(url)), lambda found: found == expected)


@pytest.mark.process
def test_restarts_and_reloads_are_counted(home: ServiceHome) -> None:
    service = home.service(2, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    restarts = [f'quicbaton_worker_restarts_total{{node="0",worker="{n}"}}' for n in (0, 1)]
    ok, failed = (
        f'quicbaton_reloads_total{{node="0",outcome="{how}"}}' for how in ("ok", "failed")
    )
    samples = scrape(url)
    assert [samples[name] for name in (*restarts, ok, failed)] == [0, 0, 0, 0]
    os.kill(service.pids()[1], signal.SIGKILL)
    wait_for(lambda: scrape(url)[restarts[1]], lambda count: count == 1)
    service.all_serve()
    assert home.run("reload").returncode == 0
    assert home.run("reload", "--health-timeout", "0.01").returncode == 1
    samples = scrape(url)
    assert [samples[name] for name in (*restarts, ok, failed)] == [0, 1, 1, 1]


def test_packets_declared_lost_are_handed_out_once() -> None:
    pair = Pair(Conditions(delay_s=0.01, loss=0.1), seed="lost")
    pair.connect()
    sender = pair.server.connection
    stream = sender.get_next_available_stream_id(is_unidirectional=True)
    sender.send_stream_data(stream, bytes(500_000), True)
    pair.run(seconds=5)
    assert sender.has_rtt
    assert sender.take_packets_lost() > 0
    assert sender.take_packets_lost() == 0
