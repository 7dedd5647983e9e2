"""What a service has counted outlives the process that counted it, whatever ended that."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.command_line import GUARD_S, wait_for
from tests.supervisor.pipes import fill
from tests.supervisor.scraping import counters, scrape, total
from tests.supervisor.service_home import FILE_BYTES, Service, ServiceHome, is_alive

pytestmark = pytest.mark.process

_PROGRAM = """
async def application(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


class Watch:
    """Reads a service's metrics all the time, and notes what fell or vanished."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.falls: list[str] = []
        self.reads = 0
        self.last: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def running(self) -> Iterator[Watch]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join(GUARD_S)

    def _run(self) -> None:
        while not self._over.is_set():
            now = counters(scrape(self.url))
            self.falls += [
                f"{name}: {value} then {now.get(name)}"
                for name, value in self.last.items()
                if now.get(name, -1.0) < value
            ]
            self.last = now
            self.reads += 1


def get(home: ServiceHome, service: Service, name: str = "file.bin") -> None:
    url = f"https://localhost:{service.port}/{name}"
    home.json("get", url, "--ca", home.ca, "-o", home.path / "copy")


def test_counters_never_fall_over_reloads_and_kills(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    home.write("small.bin", 1000)
    service = home.service(2, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    downloads = service.download_everywhere("file.bin")
    with Watch(url).running() as watch:
        for round_ in range(5):
            assert home.run("reload", str(service.port)).returncode == 0
            get(home, service, "small.bin")
            if round_ < 3:
                pids = service.pids()
                os.kill(pids[round_ % 2], signal.SIGKILL)
                wait_for(service.pids, lambda now, pids=pids: now != pids)  # type: ignore[misc]
        reads = watch.reads
        wait_for(lambda: watch.reads, lambda now: now > reads + 1)
    assert not watch.falls
    assert total(watch.last, "quicbaton_handoffs_total") > 0
    assert total(watch.last, "quicbaton_blackout_seconds_count") > 0
    for download in downloads:
        download.process.kill()


def test_a_killed_worker_s_counters_go_on_in_its_number_s(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(1, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    for _ in range(3):
        get(home, service)
    accepted = 'quicbaton_accepted_total{node="0",worker="0"}'
    assert scrape(url)[accepted] == 3
    (pid,) = service.pids()
    os.kill(pid, signal.SIGKILL)
    wait_for(service.pids, lambda now: now != [pid])
    # Asked for right before it died, so nothing of it is lost.
    assert scrape(url)[accepted] == 3
    get(home, service)
    assert scrape(url)[accepted] == 4


def test_a_worker_that_hangs_is_read_without_being_asked(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(1, "--metrics", "0", "--silence", "60")
    url = service.wait_for("metrics")["url"]
    get(home, service)
    accepted = 'quicbaton_accepted_total{node="0",worker="0"}'
    wait_for(lambda: scrape(url)[accepted], lambda count: count == 1)
    (pid,) = service.pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert scrape(url)[accepted] == 1
    finally:
        os.kill(pid, signal.SIGCONT)


def test_counters_go_on_under_the_next_supervisor(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(2, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    for _ in range(4):
        get(home, service)
    before = total(scrape(url), "quicbaton_accepted_total")
    assert before == 4
    pids = service.pids()
    service.process.kill()
    service.process.wait()
    # One of its workers ends while no supervisor is there to see it.
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: is_alive(pids[0]), lambda alive: not alive)
    successor = home.service(2, "--metrics", "0", port=service.port)
    url = successor.wait_for("metrics")["url"]
    assert total(scrape(url), "quicbaton_accepted_total") == before
    successor.all_serve()
    get(home, successor)
    assert total(scrape(url), "quicbaton_accepted_total") == before + 1


def test_counters_of_a_number_that_goes_and_comes_back_go_on(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(2, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    second = 'quicbaton_accepted_total{node="0",worker="1"}'
    while not scrape(url).get(second):
        get(home, service)
    with Watch(url).running() as watch:
        for workers in ("1", "3", "1", "2"):
            assert home.run("scale", workers).returncode == 0
            get(home, service)
        reads = watch.reads
        wait_for(lambda: watch.reads, lambda now: now > reads + 1)
    assert not watch.falls


def test_counters_go_on_through_an_upgrade_of_the_supervisor(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(1, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    for count in (1, 2):
        get(home, service)
        assert total(scrape(url), "quicbaton_accepted_total") == count
        assert home.run("upgrade").returncode == 0
        url = service.wait_for("metrics")["url"]
        assert total(scrape(url), "quicbaton_accepted_total") == count


def test_workers_and_top_show_totals_since_the_service_began(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(2)
    port = str(service.port)
    for _ in range(3):
        get(home, service)
    shown = home.json("workers", port)["since_start"]
    assert (shown["accepted"], shown["requests"], shown["restarts"]) == (3, 3, 0)
    assert shown["responses"] == {"2xx": 3}
    assert shown["sent_bytes"] > 3000
    for pid in service.pids():
        os.kill(pid, signal.SIGKILL)
        wait_for(service.pids, lambda now, pid=pid: pid not in now)  # type: ignore[misc]
    assert home.run("reload", port).returncode == 0
    get(home, service)
    shown = home.json("workers", port)
    assert sum(worker["accepted"] for worker in shown["workers"]) == 1
    totals = shown["since_start"]
    assert (totals["accepted"], totals["requests"], totals["restarts"]) == (4, 4, 2)
    assert totals["reloads"] == {"ok": 1, "failed": 0}
    # Asked for by no name, a service and its workers are not counted twice.
    for name in ((port,), ()):
        look = home.json("top", *name, "--count", "1", "--interval", "0.1")
        now = look["since_start"]
        bytes_now = {name: now[name] for name in ("received_bytes", "sent_bytes")}
        assert now == totals | bytes_now
        assert look["time"]
    for command in (("workers", port), ("top", port, "--count", "1", "--interval", "0.1")):
        text = home.run(*command).stdout
        assert "since start: 4 connections accepted, 4 requests, " in text
        assert "2 restarts" in text


def test_lines_that_the_supervisor_lost_are_counted(home: ServiceHome) -> None:
    home.write("file.bin", 1000)
    service = home.service(1, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    lost = 'quicbaton_lines_lost_total{node="0",worker="supervisor"}'
    assert scrape(url)[lost] == 0
    assert service.process.stdout is not None
    service.process.stdout.close()
    (pid,) = service.pids()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: scrape(url)[lost], lambda count: count > 0)


def test_lines_that_a_worker_could_not_leave_behind_are_counted(home: ServiceHome) -> None:
    """Its last ones wait for a reader, until the process ends."""
    home.write("file.bin", 1000)
    service = home.service(1, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    assert service.process.stderr is not None
    fill(service.process.pid, service.process.stderr.fileno())
    for _ in range(3):
        get(home, service)
    lost = 'quicbaton_lines_lost_total{node="0",worker="0"}'
    assert scrape(url)[lost] == 0
    assert home.run("reload").returncode == 0
    wait_for(lambda: scrape(url)[lost], lambda count: count == 3)


def test_requests_of_workers_that_reached_their_limit_are_counted_on(home: ServiceHome) -> None:
    (home.path / "program.py").write_text(_PROGRAM)
    options = ("--workers", "1", "--limit-max-requests", "1", "--metrics", "0")
    where = ("--host", "127.0.0.1", "--port", "0", "--json")
    service = Service(
        home, home.start("quicbaton", "serve", "program:application", *where, *options)
    )
    url = service.wait_for("metrics")["url"]
    for _ in range(3):
        (pid,) = service.pids()
        get(home, service, "")
        wait_for(service.pids, lambda now, pid=pid: now != [pid])  # type: ignore[misc]
    assert scrape(url)['quicbaton_requests_total{node="0",worker="0"}'] == 3
