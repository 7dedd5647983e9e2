"""Operators' commands to a service: drain it, even it out, place connections, read its figures."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import pytest

from tests.cli.command_line import GUARD_S, check_whole, wait_for
from tests.supervisor.service_home import FILE_BYTES, RATE, Service, ServiceHome

pytestmark = pytest.mark.process

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def counts(service: Service) -> list[int]:
    return [worker["connections"] for worker in service.all_serve()]


def test_drain_empties_a_worker_and_what_still_comes_is_passed_on(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin", each=2)
    source, destination = service.status()
    summary = home.json("drain", source["control"], "--to", destination["control"])
    assert (summary["event"], summary["moved"]) == ("drained", source["connections"])
    assert (summary["proxied"], summary["left"], summary["refused"]) == (0, 0, {})
    assert 0 < summary["blackout_us"]["p50"] <= summary["blackout_us"]["max"]
    # The kernel brings clients to both; those of the drained worker move at once.
    for _ in range(40):
        download = home.download(service, "file.bin", RATE)
        download.wait_for_bytes(1)
        downloads.append(download)
        if service.status()[0]["accepted"] > source["accepted"]:
            break
    wait_for(lambda: counts(service), lambda found: found == [0, len(downloads)])
    assert service.status()[0]["accepted"] > source["accepted"]
    undone = home.json("drain", source["control"], "--undo")
    assert undone["processes"] == 1
    downloads += service.download_everywhere("file.bin")
    for download in downloads:
        check_whole(download, content)


def test_a_service_passes_a_handoff_with_proxy_on_to_its_worker(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service, other = home.service(1), home.service(1)
    (download,) = service.download_everywhere("file.bin")
    (name,) = service.names(0)
    handoff = ("handoff", str(service.port), name, "--to", str(other.port), "--json")
    assert '"cannot_send_from"' in home.run(*handoff).stderr
    assert home.json(*handoff[:-1], "--proxy")["proxied"]
    (info,) = home.json("ps", str(other.port))["connections"]
    assert (info["connection"], info["state"]) == (name, "proxied")
    check_whole(download, content)


def test_a_drain_that_has_nowhere_to_go_is_refused(home: ServiceHome) -> None:
    service = home.service(2)
    refused = home.run("drain", str(service.port), "--to", str(service.port), "--json")
    assert refused.returncode == 1
    assert "stay where they are" in refused.stderr


def test_rebalance_evens_out_a_service(home: ServiceHome) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(3)
    downloads = service.download_everywhere("file.bin")
    first, second, third = service.status()
    home.json("drain", first["control"], "--to", third["control"])
    home.json("drain", second["control"], "--to", third["control"])
    for worker in (first, second):
        home.json("drain", worker["control"], "--undo")
    wait_for(lambda: counts(service), lambda found: found == [0, 0, len(downloads)])
    summary = home.json("rebalance", str(service.port))
    assert (summary["event"], summary["left"]) == ("rebalanced", 0)
    found = wait_for(lambda: counts(service), lambda found: sum(found) == len(downloads))
    assert max(found) - min(found) <= 1
    for download in downloads:
        check_whole(download, content)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("round-robin", "even"), ("least-loaded", "even"), ("consistent-hash", "together")],
)
def test_new_connections_go_where_the_placement_says(
    home: ServiceHome, policy: str, expected: str
) -> None:
    content = home.write("file.bin", FILE_BYTES // 3)
    service = home.service(2, "--placement", policy)
    # Loads are told twice a second; before that each worker knows itself only.
    wait_for(lambda: figures(home, service), lambda lines: len(lines) == 2)
    downloads = []
    for _ in range(12):
        download = home.download(service, "file.bin", RATE)
        download.wait_for_bytes(1)
        downloads.append(download)
    found = wait_for(lambda: counts(service), lambda found: sum(found) == len(downloads))
    if expected == "together":
        # All of them have one address.
        wait_for(lambda: sorted(counts(service)), lambda found: found == [0, 12])
    else:
        assert min(found) >= 3
    for download in downloads:
        check_whole(download, content)


def test_the_first_request_s_path_decides_who_serves(home: ServiceHome) -> None:
    content = home.write("video.bin", FILE_BYTES // 3)
    other = home.write("other.bin", FILE_BYTES // 3)
    service = home.service(2, "--placement", "path:/video=1,/other=0")
    wait_for(lambda: figures(home, service), lambda lines: len(lines) == 2)
    videos = [home.download(service, "video.bin", RATE) for _ in range(6)]
    others = [home.download(service, "other.bin", RATE) for _ in range(5)]
    for download in (*videos, *others):
        download.wait_for_bytes(1)
    wait_for(lambda: counts(service), lambda found: found == [5, 6])
    for download in videos:
        check_whole(download, content)
    for download in others:
        check_whole(download, other)


def figures(home: ServiceHome, service: Service) -> list[dict[str, object]]:
    """One look of `top`, a second long."""
    lines: list[dict[str, object]] = home.json("top", str(service.port), "--count", "1")["workers"]
    return lines


def test_top_shows_workers_and_what_they_do(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin")

    def looks_right(lines: list[dict[str, object]]) -> bool:
        connections = sum(int(str(line["connections"])) for line in lines)
        sent = [float(str(line["sent"])) for line in lines]
        workers = [line["worker"] for line in lines]
        return workers == [0, 1] and connections == len(downloads) and min(sent) > 0

    # A worker that does not answer in time, or sends nothing in that second, is left out of one
    # look.
    wait_for(lambda: figures(home, service), looks_right)
    wait_for(
        lambda: home.run("top", str(service.port), "--count", "1"),
        lambda shown: f"{len(downloads)} connections in 2 workers" in shown.stdout,
    )
    for download in downloads:
        download.process.kill()


def test_a_port_means_another_worker_than_the_one_that_has_the_connection(
    home: ServiceHome,
) -> None:
    content = home.write("file.bin", FILE_BYTES)
    service = home.service(2)
    downloads = service.download_everywhere("file.bin")
    baton = home.path / "baton"
    port = str(service.port)
    for worker in (0, 1):
        name = min(service.names(worker))
        home.json("save", port, name, baton)
        home.json("resume", baton, "--to", port)
        assert name in service.names(1 - worker)
        baton.unlink()
        cut_over = {"connection": name, "cutover_pending": False}
        wait_for(
            lambda: service.connections(1 - worker),  # noqa: B023 - called before the next round
            lambda listed: any(cut_over.items() <= one.items() for one in listed),  # noqa: B023
        )
        home.json("handoff", port, name, "--to", port)
        assert name in service.names(worker)
    for download in downloads:
        check_whole(download, content)


def probe(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=GUARD_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)


def test_probes_say_who_lives_and_who_accepts_clients(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(1, "--metrics", "0", "--grace", "60")
    base = service.wait_for("metrics")["url"].removesuffix("/metrics")
    assert [probe(base + path) for path in ("/healthz", "/readyz")] == [200, 200]
    (download,) = service.download_everywhere("file.bin")
    service.process.terminate()
    wait_for(lambda: probe(f"{base}/readyz"), lambda status: status == 503)
    assert probe(f"{base}/healthz") == 200
    download.outcome()
    assert service.process.wait(GUARD_S) == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_nothing_serves_without_the_port_for_metrics(
    home: ServiceHome, workers: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--port", "0", "--metrics", port, *workers)
        failed = home.start("quicbaton", "serve", home.files, "--json", *options)
        out, errors = failed.communicate(timeout=GUARD_S)
    assert failed.returncode == 1
    assert json.loads(errors.splitlines()[-1])["error"] == "metrics_port"
    assert "ready" not in out
    assert not home.worker_pids()


def test_metrics_are_openmetrics_of_every_worker(home: ServiceHome) -> None:
    home.write("file.bin", FILE_BYTES)
    service = home.service(2, "--metrics", "0")
    url = service.wait_for("metrics")["url"]
    downloads = service.download_everywhere("file.bin")
    source, destination = service.status()
    moved = home.json("drain", source["control"], "--to", destination["control"])["moved"]
    place = 'node="0",worker="0"'
    other = 'node="0",worker="1"'
    request = urllib.request.Request(url, headers={"Accept": OPENMETRICS})

    def scrape() -> str:
        with urllib.request.urlopen(request, timeout=GUARD_S) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            return str(answer.read().decode())

    # A worker that does not answer in time is left out.
    text = wait_for(scrape, lambda text: place in text and other in text)
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    given = 'quicbaton_handoffs_total{node="0",outcome="given",reason="ok",worker="0"}'
    assert float(values[given]) == moved
    resumed = 'quicbaton_handoffs_total{node="0",outcome="resumed",reason="ok",worker="1"}'
    assert float(values[resumed]) == moved
    assert float(values[f"quicbaton_blackout_seconds_count{{{place}}}"]) == moved
    assert float(values[f"quicbaton_connections{{{other}}}"]) == len(downloads)
    assert float(values[f"quicbaton_draining{{{place}}}"]) == 1
    for name in ("strays_total", "open_forwards", "resets_total", "sleeping", "tossed_total"):
        assert f"quicbaton_{name}{{{place}}}" in values
    for download in downloads:
        download.process.kill()
