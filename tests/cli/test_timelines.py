"""The timeline of each handoff, as commands print it and qlog files have it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quicbaton.handoff.timeline import Timeline
from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from tests.cli.command_line import Home, check_whole, wait_for
from tests.cli.test_moving import begin, cut_over, pair, ps
from tests.processes.cluster_folder import make_cluster
from tests.supervisor.service_home import ServiceHome, service_home

pytestmark = pytest.mark.process

#: What every handoff within one host passes, in this order, as its source sees it.
BY_SOURCE = ("offer", "accept", "freeze", "snapshot", "baton", "ready", "commit")
AFTERWARDS = ("first_datagram", "cutover", "end")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[ServiceHome]:
    with service_home(tmp_path) as made:
        yield made


def phases(timeline: dict[str, Any], *wanted: str) -> list[int]:
    """When these phases began; they are there, and in this order."""
    found = [timeline["at_us"][phase] for phase in wanted]
    assert all(earlier <= later for earlier, later in pairwise(found)), timeline
    return found


def test_a_handoff_tells_when_each_of_its_phases_was(home: Home) -> None:
    content, client, connection, (owner, other) = begin(home, *pair(home))
    before = datetime.now(UTC)
    told = home.json("handoff", owner.control, connection[:6], "--to", other.control)
    timeline = told["timeline"]
    msgspec.convert(timeline, Timeline)
    assert (timeline["connection"], timeline["pid"]) == (connection, owner.pid)
    assert (timeline["source"], timeline["destination"]) == (str(owner.control), str(other.control))
    assert (timeline["seen_by"], timeline["outcome"], timeline["code"]) == ("source", "given", "ok")
    assert abs(datetime.fromisoformat(timeline["began"]) - before) < timedelta(seconds=60)
    phases(timeline, *BY_SOURCE, *AFTERWARDS)
    at_us = timeline["at_us"]
    assert list(at_us.values()) == sorted(at_us.values())
    assert at_us["first_datagram"] - at_us["snapshot"] == timeline["blackout_us"] > 0
    assert timeline["baton_bytes"] > 500
    assert (timeline["forwards"] > 0) is ("last_forward" in at_us)
    check_whole(client, content)


def test_a_timeline_is_printed_open_if_the_client_is_silent_for_too_long(home: Home) -> None:
    content, client, connection, (owner, other) = begin(home, *pair(home))
    client.process.send_signal(signal.SIGSTOP)
    arguments = (owner.control, connection, "--to", other.control, "--settle", "0.3")
    timeline = home.json("handoff", *arguments)["timeline"]
    phases(timeline, *BY_SOURCE, "first_datagram")
    assert not {"cutover", "end"} & set(timeline["at_us"])
    client.process.send_signal(signal.SIGCONT)
    check_whole(client, content)


def test_a_proxied_handoff_is_told_without_a_cutover(home: Home) -> None:
    cluster = make_cluster(home.path / "cluster", "a", "b")
    home.environment["QUICBATON_CLUSTER"] = str(cluster)
    first, second = home.serve("--node-name", "a"), home.serve("--node-name", "b")
    content, client, connection, _ = begin(home, first)
    # It would wait for a minute, and that is longer than the client's patience.
    arguments = ("a/0", connection, "--to", "b/0", "--proxy", "--settle", "60")
    timeline = home.json("handoff", *arguments)["timeline"]
    assert (timeline["source"], timeline["destination"]) == ("a/0", "b/0")
    assert (timeline["outcome"], timeline["code"]) == ("given", "proxied")
    phases(timeline, *BY_SOURCE, "first_datagram")
    assert not {"cutover", "end"} & set(timeline["at_us"])
    assert [server.process.poll() for server in (first, second)] == [None, None]
    check_whole(client, content)


def test_a_handoff_by_a_shared_store_has_its_phases(home: Home) -> None:
    store = f"sqlite:{home.path / 'owners.db'}"
    first = home.serve("--store", store)
    second = home.serve("--join", first.control, "--store", store)
    content, client, connection, (owner, other) = begin(home, first, second)
    timeline = home.json("handoff", owner.control, connection, "--to", other.control)["timeline"]
    assert (timeline["outcome"], timeline["code"]) == ("given", "ok")
    phases(timeline, "offer", "accept", "freeze", "snapshot", "baton", "first_datagram", "cutover")
    assert timeline["at_us"]["commit"] > timeline["at_us"]["baton"]
    check_whole(client, content)


def test_a_handoff_that_failed_tells_how_far_it_came(home: Home) -> None:
    owner = home.serve()
    keys = home.path / "other.keys"
    keys.write_text(KeyRing(ClusterKey.generate(lambda size: b"\x07" * size)).encode())
    keys.chmod(0o600)
    stranger = home.serve("--join", owner.control, "--keys", keys)
    content, client, connection, (source, other) = begin(home, owner, stranger)
    failed = home.run("handoff", source.control, connection, "--to", other.control, "--json")
    assert failed.returncode == 1
    told = msgspec.json.decode(failed.stdout)
    timeline = told["timeline"]
    assert told["event"] == "not_handed_over"
    assert (timeline["outcome"], timeline["code"]) == ("kept", "baton_seal")
    assert msgspec.json.decode(failed.stderr)["error"] == timeline["code"]
    phases(timeline, *BY_SOURCE[:5], "thaw", "end")
    assert timeline["blackout_us"] is None
    assert not {"commit", "cutover", "first_datagram"} & set(timeline["at_us"])
    check_whole(client, content)


def test_a_qlog_file_has_a_handoff_that_was_refused_before_the_freeze(home: Home) -> None:
    folder = home.path / "qlog"
    first = home.serve("--qlog", folder)
    other = home.serve("--host", "127.0.0.1", "--port", "0")
    content, client, connection, (owner,) = begin(home, first)
    refused = home.run("handoff", owner.control, connection, "--to", other.control, "--json")
    told = msgspec.json.decode(refused.stdout)["timeline"]
    assert told["code"] == "cannot_send_from"
    assert {"offer", "end"} <= set(told["at_us"]) <= {"copy", "offer", "end"}
    (file,) = folder.iterdir()
    records = [msgspec.json.decode(one) for one in file.read_bytes().split(b"\x1e")[1:]]
    assert [one["data"] for one in records if one.get("name") == "quicbaton:handoff_ended"] == [
        told
    ]
    check_whole(client, content)


def test_a_resumed_baton_tells_how_long_it_stood_still(home: Home) -> None:
    content, client, connection, (owner, other) = begin(home, *pair(home))
    baton = home.path / "connection.baton"
    home.json("save", owner.control, connection, baton)
    # The client takes what it has buffered, and says so.
    wait_for(lambda: ps(home, owner), lambda listed: listed["datagrams_forwarded"])
    timeline = home.json("resume", baton, "--to", other.control)["timeline"]
    assert (timeline["seen_by"], timeline["outcome"]) == ("destination", "resumed")
    assert (timeline["source"], timeline["destination"]) == (str(owner.control), str(other.control))
    assert (timeline["connection"], timeline["pid"]) == (connection, other.pid)
    snapshot_us, *_ = phases(
        timeline, "snapshot", "ready", "commit", "first_datagram", "cutover", "end"
    )
    assert snapshot_us < 0, "it was frozen before anybody asked for it"
    assert timeline["forwards"] > 0
    assert "last_forward" in timeline["at_us"]
    assert timeline["baton_bytes"] == baton.stat().st_size
    assert timeline["at_us"]["first_datagram"] - snapshot_us == timeline["blackout_us"]
    check_whole(client, content)
    again = home.run("resume", baton, "--to", other.control, "--json")
    assert again.returncode == 1
    told = msgspec.json.decode(again.stdout)
    assert (told["event"], told["timeline"]["code"]) == ("not_resumed", "already_used")


def test_a_service_tells_of_the_handoff_of_a_worker(services: ServiceHome) -> None:
    services.write("file.bin", 6_000_000)
    service = services.service(2)
    clients = service.download_everywhere("file.bin")
    first, second = service.status()
    (name, *_) = sorted(service.names(0))
    told = services.json("handoff", service.control, name, "--to", second["control"])
    assert told["timeline"]["pid"] == first["pid"]
    assert told["timeline"]["destination"] == second["control"]
    for client in clients:
        assert not client.outcome()["error"]


def test_a_drain_tells_of_each_of_its_handoffs(services: ServiceHome) -> None:
    services.write("file.bin", 6_000_000)
    service = services.service(2)
    clients = service.download_everywhere("file.bin")
    names = service.names(0)
    first, second = (worker["control"] for worker in service.status())
    done = services.run("drain", first, "--to", second, "--timelines", "--json")
    events = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["drained", *["timeline"] * len(names)]
    timelines = [event["timeline"] for event in events[1:]]
    assert {timeline["connection"] for timeline in timelines} == names
    for timeline in timelines:
        phases(timeline, "offer", "freeze", "commit", "first_datagram")
    for client in clients:
        assert not client.outcome()["error"]


def test_a_rebalance_tells_of_each_of_its_handoffs(services: ServiceHome) -> None:
    services.write("file.bin", 6_000_000)
    service = services.service(2)
    clients = service.download_everywhere("file.bin")
    first, second = (worker["control"] for worker in service.status())
    assert services.run("drain", first, "--to", second).returncode == 0
    services.json("drain", first, "--undo")
    services.json("drain", second, "--undo")
    done = services.run("rebalance", service.control, "--timelines", "--json")
    summary, *told = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert (summary["event"], summary["moved"]) == ("rebalanced", len(told))
    assert {event["timeline"]["destination"] for event in told} == {first}
    for client in clients:
        assert not client.outcome()["error"]


def test_a_reload_tells_of_each_of_its_handoffs(services: ServiceHome) -> None:
    services.write("file.bin", 6_000_000)
    service = services.service(2)
    clients = service.download_everywhere("file.bin")
    names = service.names(0) | service.names(1)
    for _ in range(2):
        old = {worker["control"] for worker in service.status()}
        done = services.run("reload", service.control, "--timelines", "--json")
        assert done.returncode == 0, done.stderr
        events = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
        told = [event["timeline"] for event in events if event["event"] == "timeline"]
        assert {timeline["connection"] for timeline in told} == names
        assert {timeline["source"] for timeline in told} <= old
        assert {timeline["pid"] for timeline in told} == set(service.pids())
        for timeline in told:
            phases(timeline, "offer", "baton", "ready", "commit", "first_datagram")
    for client in clients:
        assert not client.outcome()["error"]


def test_a_qlog_file_has_both_sides_of_a_handoff(home: Home) -> None:
    folder = home.path / "qlog"
    first = home.serve("--qlog", folder)
    second = home.serve("--join", first.control, "--qlog", folder)
    content, client, connection, (owner, other) = begin(home, first, second)
    told = home.json("handoff", owner.control, connection, "--to", other.control)["timeline"]
    cut_over(home, other)
    (file,) = folder.iterdir()

    def handoffs() -> list[dict[str, Any]]:
        records = map(msgspec.json.decode, file.read_bytes().split(b"\x1e")[1:])
        return [record for record in records if "handoff" in record.get("name", "")]

    events = wait_for(
        handoffs,
        lambda found: sum(event["name"] == "quicbaton:handoff_ended" for event in found) == 2,
    )
    ended = [event for event in events if event["name"] == "quicbaton:handoff_ended"]
    of_source, of_destination = sorted(ended, key=lambda event: event["data"]["pid"] == other.pid)
    assert of_source["data"] == told
    began_ms = datetime.fromisoformat(told["began"]).timestamp() * 1000
    for event in events:
        if event["name"] == "quicbaton:handoff_phase" and event["data"]["seen_by"] == "source":
            at_ms = began_ms + told["at_us"][event["data"]["phase"]] / 1000
            assert event["time"] == pytest.approx(at_ms, abs=0.01)
    phases(
        of_destination["data"],
        *("offer", "accept", "baton", "ready", "commit", "first_datagram", "cutover", "end"),
    )
    # One clock: both sides agree on the moment at which the new owner spoke.
    assert of_destination["data"]["blackout_us"] == told["blackout_us"]
    spoke = {
        event["data"]["seen_by"]: event["time"]
        for event in events
        if event["data"].get("phase") == "first_datagram"
    }
    assert spoke["source"] == pytest.approx(spoke["destination"], abs=5)
    check_whole(client, content)
