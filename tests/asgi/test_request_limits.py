"""`quicbaton serve --limit-max-requests`: workers are replaced, and no client notices."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.command_line import GUARD_S, Download, wait_for
from tests.supervisor.service_home import Service, ServiceHome, service_home

pytestmark = pytest.mark.process

#: `/slow` stops in the middle until there is a file `enough`.
_PROGRAM = """
import asyncio, pathlib

async def application(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/slow":
        for number in range(200):
            piece = b"%05d\\n" % number * 1000
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            while number == 100 and not pathlib.Path("enough").exists():
                await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": b"the end"})
"""
_WHOLE = b"".join(b"%05d\n" % number * 1000 for number in range(200)) + b"the end"
#: Bytes that come before it stops.
_HALF_BYTES = 101 * 6000


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        (tmp_path / "site_program.py").write_text(_PROGRAM)
        yield made


def start(
    home: ServiceHome, *options: str, app: str | Path = "site_program:application"
) -> Service:
    # On a slow machine a client may take longer for its next request than the 5 s that it has.
    patience = ("--timeout-keep-alive", "60", "--no-access-log")
    arguments = ("--host", "127.0.0.1", "--port", "0", "--json", *patience, *options)
    return Service(home, home.start("quicbaton", "serve", app, *arguments))


def ask_over_quic(home: ServiceHome, service: Service) -> None:
    url = f"https://localhost:{service.port}/"
    done = home.run("get", url, "--ca", home.ca, "-o", "answer")
    assert done.returncode == 0, done.stderr
    assert (home.path / "answer").read_bytes() == b"the end"


def tcp_client(home: ServiceHome, service: Service) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(home.ca))
    url = f"https://localhost:{service.port}"
    return httpx.Client(http2=True, verify=context, timeout=GUARD_S, base_url=url)


def ask_until(home: ServiceHome, service: Service, holds: Callable[[], bool]) -> None:
    """Ask over QUIC, each time by a new connection, and over TCP by one that stays; none fails."""
    with tcp_client(home, service) as client:
        for _ in range(1_000):
            ask_over_quic(home, service)
            assert client.get("/").content == b"the end"
            if holds():
                return
    raise AssertionError(f"never came: {service.status()}")


def slow_download(home: ServiceHome, service: Service) -> Download:
    download = home.download(service, "slow", 100_000_000)
    download.wait_for_bytes(1)
    return download


def check_whole(download: Download) -> None:
    outcome = download.outcome()
    assert not outcome["error"]
    assert outcome["connections"] == 1
    assert outcome["sha256"] == hashlib.sha256(_WHOLE).hexdigest()


def test_workers_are_replaced_under_downloads_and_no_request_fails(home: ServiceHome) -> None:
    service = start(home, "--workers", "2", "--limit-max-requests", "3")
    pids: list[set[int]] = [set(), set()]
    download = slow_download(home, service)

    def each_was_replaced_three_times() -> bool:
        for known, worker in zip(pids, service.status(), strict=True):
            known.add(worker["pid"])
        return min(map(len, pids)) > 3

    with tcp_client(home, service) as client, client.stream("GET", "/slow") as response:
        pieces = response.iter_raw()
        over_tcp = b""
        # A client that leaves them unread for a minute counts as gone (limits.TCP_UNREAD_S), and on
        # a slow machine it takes longer until all workers are replaced.
        while len(over_tcp) < _HALF_BYTES:
            over_tcp += next(pieces)
        ask_until(home, service, each_was_replaced_three_times)
        (home.path / "enough").touch()
        over_tcp += b"".join(pieces)
    assert over_tcp == _WHOLE
    check_whole(download)
    renewed = [event for event in service.events if event["event"] == "renewing"]
    assert all(event["requests"] >= 3 for event in renewed)
    assert {worker["restarts"] for worker in service.all_serve()} == {0}


def test_old_processes_that_still_work_put_a_replacement_off(home: ServiceHome) -> None:
    service = start(home, "--workers", "1", "--limit-max-requests", "1")
    downloads = []
    for _ in range(5):
        # Each begins in the newest process, which is replaced for it.
        downloads.append(slow_download(home, service))
        if len(downloads) < 5:
            service.wait_for("worker")
    assert service.wait_for("renewal_waits")["pid"] == service.pids()[0]
    assert len(home.worker_pids()) == 5
    (home.path / "enough").touch()
    for download in downloads:
        check_whole(download)
    service.wait_for("renewing")
    wait_for(home.worker_pids, lambda pids: len(pids) == 1)


@pytest.mark.parametrize("during", [True, False])
def test_reloads_and_replacements_do_not_meet(home: ServiceHome, during: bool) -> None:
    """A reload that is asked for `during` a replacement waits for it, and neither is refused."""
    service = start(home, "--workers", "2", "--limit-max-requests", "1")
    with tcp_client(home, service) as client:
        for _ in range(2):
            before = service.pids()
            ask_over_quic(home, service)
            assert client.get("/").content == b"the end"
            if during:
                service.wait_for("renewing")
            done = home.run("reload", service.control, "--json")
            assert done.returncode == 0, done.stderr
            assert not set(before) & set(service.pids())


def test_code_that_does_not_come_up_replaces_nobody(home: ServiceHome) -> None:
    service = start(home, "--workers", "1", "--limit-max-requests", "1")
    (pid,) = service.pids()
    (home.path / "site_program.py").write_text("raise SystemExit('no good')")
    ask_over_quic(home, service)
    failed = service.wait_for("renewal_failed")
    assert "no good" in failed["message"]
    assert service.pids() == [pid]
    ask_over_quic(home, service)
    (home.path / "site_program.py").write_text(_PROGRAM)
    wait_for(service.pids, lambda pids: pids != [pid])
    ask_over_quic(home, service)


def test_workers_shows_requests(home: ServiceHome) -> None:
    service = start(home, "--workers", "1")
    ask_over_quic(home, service)
    with tcp_client(home, service) as client:
        client.get("/")
    assert service.status()[0]["requests"] == 2
    assert "REQUESTS" in home.run("workers", service.control).stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--limit-max-requests", "5"), "add --workers 1"),
        (("--limit-max-requests", "0", "--workers", "1"), "is 1 at least, got 0"),
        (("--limit-max-requests-jitter", "5"), "give that, too"),
        (("--limit-concurrency", "0"), "is 1 at least, got 0"),
    ],
)
def test_a_limit_that_nobody_can_keep_is_refused(
    home: ServiceHome, options: tuple[str, ...], said: str
) -> None:
    done = home.run("serve", "site_program:application", "--port", "0", *options)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--limit-max-requests", "5", "--workers", "1"),
        ("--limit-concurrency", "5"),
        ("--root-path", "/api"),
    ],
)
@pytest.mark.parametrize("served", ["files", "echo:Protocol"])
def test_what_is_no_asgi_program_has_no_such_option(
    home: ServiceHome, options: tuple[str, ...], served: str
) -> None:
    (home.path / "echo.py").write_text(
        "from quicbaton.asyncio import QuicConnectionProtocol\n"
        "class Protocol(QuicConnectionProtocol): pass\n"
    )
    refused = home.start("quicbaton", "serve", served, "--port", "0", *options)
    _, said = refused.communicate(timeout=GUARD_S)
    assert refused.returncode == 1
    assert f"{options[0]} is for ASGI programs" in said
