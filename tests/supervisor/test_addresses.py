"""Services at one port, each on an address of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quicbaton.cli.control_names import Where, is_service, service_of
from tests.cli.command_line import GUARD_S, Server, wait_for
from tests.supervisor.service_home import ServiceHome

pytestmark = pytest.mark.process

_ADDRESSES = ("127.0.0.1", "127.0.0.2", "::1")


def serve(home: ServiceHome, host: str, port: int, *options: str) -> Server:
    where = ("--host", host, "--port", str(port), *options)
    return Server(home.start("quicbaton", "serve", home.files, "--json", *where))


def named(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_commands_find_the_server_at_an_address(
    home: ServiceHome, options: tuple[str, ...]
) -> None:
    servers = {"127.0.0.1": serve(home, "127.0.0.1", 0, *options)}
    port = servers["127.0.0.1"].port
    for host in _ADDRESSES[1:]:
        servers[host] = serve(home, host, port, *options)
    for host, server in servers.items():
        listed = home.json("ps", named(host, port))
        assert (listed["pid"], listed["address"]) == (server.pid, named(host, port))
    everything = home.run("ps", str(port), "--json").stdout.splitlines()
    assert {json.loads(line)["pid"] for line in everything} == {
        server.pid for server in servers.values()
    }
    ambiguous = home.run("stop", str(port), "--json")
    assert ambiguous.returncode == 1
    assert "HOST:PORT" in ambiguous.stderr
    if options:
        before = {host: home.json("workers", named(host, port)) for host in servers}
        assert home.run("reload", named("::1", port)).returncode == 0
        after = {host: home.json("workers", named(host, port)) for host in servers}
        pids = [
            {host: [worker["pid"] for worker in one["workers"]] for host, one in listed.items()}
            for listed in (before, after)
        ]
        assert [host for host in servers if pids[0][host] != pids[1][host]] == ["::1"]
    for host in ("127.0.0.2", "127.0.0.1", "::1"):
        assert home.run("stop", named(host, port)).returncode == 0
        assert servers[host].process.wait(GUARD_S) == 0
    assert not [path for path in (home.path / "run").rglob("*") if path.is_socket()]


@pytest.mark.parametrize("order", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
def test_the_next_supervisor_finds_the_workers_at_its_address(
    home: ServiceHome, order: tuple[str, str]
) -> None:
    first = serve(home, "127.0.0.1", 0, "--workers", "1")
    servers = {
        "127.0.0.1": first,
        "127.0.0.2": serve(home, "127.0.0.2", first.port, "--workers", "1"),
    }
    pids = {
        host: [worker["pid"] for worker in home.json("workers", named(host, first.port))["workers"]]
        for host in servers
    }
    for server in servers.values():
        server.process.kill()
        server.process.wait()
    stopped = home.run("stop", named(order[0], first.port), "--json")
    assert stopped.returncode == 0, stopped.stderr
    wait_for(home.worker_pids, lambda left: left == pids[order[1]])
    again = serve(home, order[1], first.port, "--workers", "1")
    (adopted,) = [event["pid"] for event in again.events if event["event"] == "adopted"]
    assert [adopted] == pids[order[1]]


def test_names_of_sockets_say_whose_they_are() -> None:
    for stem, service in (
        ("4433", "4433"),
        ("4433-12", "4433"),
        ("127.0.0.1:4433-12", "127.0.0.1:4433"),
        ("[::1]:4433", "[::1]:4433"),
        ("my-host:4433", "my-host:4433"),
        ("my-host:4433-7", "my-host:4433"),
        ("of-mine", "of-mine"),
    ):
        path = Path(f"/run/{stem}.sock")
        assert service_of(path) == service
        assert is_service(path) == stem.endswith("4433")
    assert Where.parse("[::1]:4433") == Where("::1", 4433)
    assert Where.parse("[::1]:4433").stem == "[::1]:4433"  # type: ignore[union-attr]
    assert Where.parse("4433") == Where("", 4433)
    for text in ("/run/4433.sock", "b/0", "a:b:4433", "node"):
        assert Where.parse(text) is None
