"""Servers named by cluster, port or socket: the same commands wherever they are."""

import signal
import stat
from pathlib import Path

import pytest

from tests.cli.command_line import GUARD_S, Home, Server, check_whole, is_stopped, wait_for
from tests.cli.test_moving import begin, cut_over
from tests.processes.cluster_folder import make_cluster

pytestmark = pytest.mark.process


@pytest.fixture
def cluster(home: Home) -> Path:
    folder = make_cluster(home.path / "cluster", "a", "b")
    home.environment["QUICBATON_CLUSTER"] = str(folder)
    return folder


def node(home: Home, name: str) -> Server:
    return home.serve("--node-name", name)


def test_ps_finds_servers_by_whatever_names_them(home: Home, cluster: Path) -> None:
    first, second = node(home, "a"), node(home, "b")
    for name, server in (
        ("a", first),
        ("a/0", first),
        ("b", second),
        (str(second.port), second),
        (second.control, second),
    ):
        assert home.json("ps", name)["pid"] == server.pid
    everybody = home.run("ps").stdout
    for server in (first, second):
        assert f"pid {server.pid} " in everybody
    second.stop()
    gone = home.run("ps", "b")
    assert gone.returncode == 1
    assert "cannot reach b at 127.0.0.1" in gone.stderr
    assert "see that node b serves" in gone.stderr
    assert "no server of yours" in home.run("ps", str(second.port)).stderr
    assert "no socket" in home.run("ps", "c/0").stderr
    assert str(cluster) in home.run("ps", "c/0").stderr


def test_a_connection_is_saved_here_and_resumed_by_name(home: Home, cluster: Path) -> None:
    first = node(home, "a")
    other = home.serve("--join", first.control, "--node-name", "a")
    content, client, connection, (owner, _) = begin(home, first, other)
    names = {first: ("a/0", "a/1"), other: ("a/1", "a/0")}[owner]
    baton = home.path / "connection.baton"
    home.json("save", names[0], connection, baton)
    assert stat.S_IMODE(baton.stat().st_mode) == 0o600
    assert home.json("inspect", baton)["header"]["source"] == names[0]
    home.json("resume", baton, "--to", names[1])
    (info,) = home.json("ps", names[1])["connections"]
    assert info["connection"] == connection
    assert "once" in home.run("resume", baton, "--to", names[1]).stderr

    def look() -> bool:
        return home.run("handoff", names[1], connection, "--to", names[0]).returncode == 0

    assert wait_for(look, bool)
    check_whole(client, content)


def test_a_node_that_cannot_be_reached_after_a_takeover_keeps_its_clients(
    home: Home, cluster: Path
) -> None:
    content, client, connection, (first,) = begin(home, node(home, "a"))
    home.environment["QUICBATON_FAILPOINT"] = "takeover_settled:STOP"
    arguments = (home.files, "--json", "--takeover", first.control, "--node-name", "a")
    process = home.start("quicbaton", "serve", *arguments)
    assert first.process.wait(GUARD_S) == 0
    wait_for(lambda: is_stopped(process.pid), bool)
    # It has everything, and then its address is another host's (RFC 5737).
    file = cluster / "cluster.toml"
    file.write_text(file.read_text().replace("127.0.0.1", "192.0.2.1", 1))
    process.send_signal(signal.SIGCONT)
    second = Server(process)
    assert "not_reachable" in [event["event"] for event in second.events]
    (info,) = home.json("ps", second.control)["connections"]
    assert info["connection"] == connection
    check_whole(client, content)


def test_a_port_stands_for_all_that_serve_there(home: Home) -> None:
    debug = ("--log-level", "debug")
    first = home.serve(*debug)
    other = home.serve("--join", first.control, *debug)
    content, client, connection, (owner, idle) = begin(home, first, other)
    shown = home.run("ps", str(first.port)).stdout
    assert f"pid {first.pid} " in shown
    assert f"pid {other.pid} " in shown
    home.json("handoff", str(first.port), connection, "--to", idle.control)
    assert idle.wait_for("resumed")["connection"] == connection
    cut_over(home, idle)
    home.json("handoff", str(first.port), connection, "--to", str(first.port))
    assert owner.wait_for("resumed")["connection"] == connection
    check_whole(client, content)


def test_a_local_name_is_not_for_another_host(home: Home, cluster: Path) -> None:
    first = node(home, "a")
    refused = home.run("handoff", "a", "00", "--to", first.control)
    assert refused.returncode == 1
    assert "NODE/WORKER" in refused.stderr


def test_a_server_must_be_sure_which_node_it_is(home: Home, cluster: Path) -> None:
    unsure = home.run("serve", home.files, "--port", "0")
    assert unsure.returncode == 1
    assert "--node-name" in unsure.stderr
    (cluster / "nodes" / "b-key.pem").unlink()
    with_one_key = home.serve()
    assert home.json("ps", "a")["pid"] == with_one_key.pid


def test_a_placement_must_name_nodes_of_the_cluster(home: Home, cluster: Path) -> None:
    serve = ("serve", home.files, "--port", "0", "--node-name", "a", "--placement")
    unknown = home.run(*serve, "path:/video=c/0")
    assert unknown.returncode == 1
    assert "no node 'c'; it has a, b" in unknown.stderr
    assert "NODE/WORKER" in home.run(*serve, "path:/video=b/x").stderr
    del home.environment["QUICBATON_CLUSTER"]
    assert "--cluster" in home.run(*serve[:-1], "--placement", "path:/video=b/0").stderr


def test_a_service_and_its_workers_are_found_by_name(home: Home, cluster: Path) -> None:
    service = home.serve("--workers", "2", "--node-name", "a")
    workers = {name: home.json("ps", name) for name in ("a/0", "a/1")}
    assert home.json("ps", "a")["pid"] == service.pid
    assert len({service.pid, workers["a/0"]["pid"], workers["a/1"]["pid"]}) == 3
    absent = home.run("ps", "a/2")
    assert absent.returncode == 1
    assert "node a has no worker 2; it has 0-1: name one of these" in absent.stderr

    content = home.write("file.bin", 30_000_000)
    client = home.download(service, "file.bin", 300_000)
    client.wait_for_bytes(1)
    (info,) = home.json("ps", "a")["connections"]
    connection = info["connection"]
    baton = home.path / "connection.baton"
    home.json("save", "a", connection, baton)
    assert home.json("ps", "a")["connections"] == []
    source = home.json("inspect", baton)["header"]["source"]
    (other,) = {"a/0", "a/1"} - {source}
    # By the port it would be any worker, which may be the one that froze it.
    home.json("resume", baton, "--to", other)
    (info,) = home.json("ps", other)["connections"]
    assert info["connection"] == connection
    check_whole(client, content)
    assert service.stop() == 0
