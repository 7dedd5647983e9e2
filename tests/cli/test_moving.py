"""Moving connections by hand: `ps`, `handoff`, `save`, `resume`, `--takeover`."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from quicbaton.cli.connections import _fetch
from quicbaton.errors import PeerError
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, Conversation
from quicbaton.service.peers.channel import Channel
from tests.cli.command_line import (
    GUARD_S,
    Download,
    Home,
    Server,
    check_whole,
    is_stopped,
    wait_for,
)

pytestmark = pytest.mark.process

#: Minutes of work for the client, until `check_whole` lets it go.
SIZE = 30_000_000
RATE = 300_000


def ps(home: Home, server: Server) -> dict[str, Any]:
    return home.json("ps", server.control)  # type: ignore[no-any-return]


def pair(home: Home, *options: str) -> tuple[Server, Server]:
    first = home.serve(*options)
    return first, home.serve("--join", first.control, *options)


def begin(home: Home, *servers: Server) -> tuple[bytes, Download, str, list[Server]]:
    """A download that is under way: content, client, connection, its owner before the others."""
    content = home.write("file.bin", SIZE)
    client = home.download(servers[0], "file.bin", RATE)
    client.wait_for_bytes(1)
    for server in servers:
        for info in ps(home, server)["connections"]:
            others = [other for other in servers if other is not server]
            return content, client, info["connection"], [server, *others]
    raise AssertionError("no server has the connection")


def cut_over(home: Home, server: Server) -> dict[str, Any]:
    """The one connection of this server, once its client uses this server's IDs alone."""
    listed = wait_for(
        lambda: ps(home, server), lambda found: not found["connections"][0]["cutover_pending"]
    )
    return listed["connections"][0]  # type: ignore[no-any-return]


def test_a_connection_goes_there_and_back_under_a_download(home: Home) -> None:
    content, client, connection, (owner, other) = begin(home, *pair(home, "--log-level", "debug"))
    moved = home.json("handoff", owner.control, connection[:6], "--to", other.control)
    assert moved["event"] == "handed_over"
    assert owner.wait_for("given")["connection"] == connection
    assert other.wait_for("resumed")["connection"] == connection
    assert cut_over(home, other)["term"] == 2
    home.json("handoff", other.control, connection, "--to", owner.control)
    assert cut_over(home, owner)["term"] == 3
    check_whole(client, content)
    assert [ps(home, server)["accepted"] for server in (owner, other)] == [1, 0]


def test_a_connection_that_moves_is_no_line_of_a_server_s_output(home: Home) -> None:
    """There may be thousands: they are told at the log's level `debug`."""
    content, client, connection, (owner, other) = begin(home, *pair(home))
    home.json("handoff", owner.control, connection, "--to", other.control)
    check_whole(client, content)
    for server in (owner, other):
        server.stop()
        assert server.process.stdout is not None
        said = [json.loads(line)["event"] for line in server.process.stdout]
        assert said == ["stopping", "stopped"]


def test_ps_shows_people_a_table(home: Home) -> None:
    server = home.serve()
    assert "no connections" in home.run("ps", server.control).stdout
    _, _, connection, _ = begin(home, server)
    lines = home.run("ps", server.control).stdout.splitlines()
    assert lines[1].split()[:3] == ["CONN", "WORKER", "STATE"]
    assert lines[2].split()[:3] == [connection, "0", "open"]


def test_a_handoff_to_nobody_or_of_nothing_changes_nothing(home: Home) -> None:
    content, client, connection, (owner, other) = begin(home, *pair(home))
    for arguments, text in (
        ((owner.control, connection, "--to", home.path / "nowhere.sock"), "nobody answers"),
        ((owner.control, "ffffff", "--to", other.control), "no connection here"),
        ((owner.control, connection, "--to", owner.control), "this very process"),
    ):
        failed = home.run("handoff", *arguments)
        assert failed.returncode == 1
        assert text in failed.stderr
    check_whole(client, content)


def test_a_saved_connection_is_resumed_once(home: Home) -> None:
    content, client, connection, (owner, other) = begin(home, *pair(home))
    baton = home.path / "connection.baton"
    home.json("save", owner.control, connection, baton)
    assert ps(home, owner)["connections"] == []
    assert home.run("save", owner.control, connection, baton).returncode == 1
    home.json("resume", baton, "--to", other.control)
    again = home.run("resume", baton, "--to", other.control)
    assert again.returncode == 1
    assert "once" in again.stderr
    check_whole(client, content)


def test_a_saved_connection_whose_server_died_is_refused(home: Home) -> None:
    _, _, connection, (owner, other) = begin(home, *pair(home))
    baton = home.path / "connection.baton"
    home.json("save", owner.control, connection, baton)
    owner.process.kill()
    owner.process.wait()
    refused = home.run("resume", baton, "--to", other.control)
    assert refused.returncode == 1
    assert "cannot be reached" in refused.stderr


def test_a_takeover_leaves_no_client_behind_and_keeps_the_socket(home: Home) -> None:
    content, client, connection, (old,) = begin(home, home.serve())
    new = home.serve("--takeover", old.control)
    assert old.process.wait(GUARD_S) == 0
    assert old.wait_for("succeeded")
    listed = home.json("ps", old.control)
    assert listed["pid"] == new.pid
    assert [info["connection"] for info in listed["connections"]] == [connection]
    # The first successor has one in turn, by the name of the process before both.
    newest = home.serve("--takeover", old.control)
    assert new.process.wait(GUARD_S) == 0
    assert [ps(home, newest)["pid"], home.json("ps", old.control)["pid"]] == [newest.pid] * 2
    assert home.json("ps", new.control)["pid"] == newest.pid
    same = home.run("handoff", newest.control, connection, "--to", old.control)
    assert "this very process" in same.stderr
    check_whole(client, content)
    copy: Path = home.path / "copy.bin"
    url = f"https://localhost:{newest.port}/file.bin"
    home.json("get", url, "--ca", home.ca, "-o", copy)
    assert copy.read_bytes() == content
    assert newest.stop() == 0


def test_a_path_that_a_successor_is_about_to_take_is_not_removed(home: Home) -> None:
    first = home.serve()
    second = home.serve("--takeover", first.control)
    assert first.process.wait(GUARD_S) == 0
    # The third has everything, and has yet to listen where it found the second.
    home.environment["QUICBATON_FAILPOINT"] = "takeover_settled:STOP"
    arguments = (home.files, "--json", "--takeover", first.control)
    process = home.start("quicbaton", "serve", *arguments)
    assert second.process.wait(GUARD_S) == 0
    assert first.control.exists()
    assert second.control.exists()
    assert wait_for(lambda: is_stopped(process.pid), bool)
    process.send_signal(signal.SIGCONT)
    third = Server(process)
    assert ps(home, third)["pid"] == home.json("ps", first.control)["pid"] == third.pid
    # What it had of the first is its predecessor's to remove, and of no use to the next.
    del home.environment["QUICBATON_FAILPOINT"]
    fourth = home.serve("--takeover", third.control)
    assert third.process.wait(GUARD_S) == 0
    assert not first.control.exists()
    assert fourth.stop() == 0


@pytest.mark.parametrize(
    ("point", "kind"),
    [("takeover_linked", "join"), ("takeover_done", "join"), ("takeover_done", "takeover")],
)
def test_a_process_with_a_successor_shares_its_port_with_no_other(
    point: str, kind: str, home: Home
) -> None:
    home.environment["QUICBATON_FAILPOINT"] = f"{point}:STOP"
    first = home.serve()
    del home.environment["QUICBATON_FAILPOINT"]
    name = str(home.path / "run" / "late.sock")
    command = c.Join(name) if kind == "join" else c.TakeOver(name, 1.0, 0.0)
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(first.control))
        second = home.start("quicbaton", "serve", home.files, "--json", "--takeover", first.control)
        wait_for(lambda: is_stopped(first.pid), bool)
        late.sendall(c.encode(command))
        first.process.send_signal(signal.SIGCONT)
        assert first.process.wait(GUARD_S) == 0
        with contextlib.suppress(ConnectionResetError):  # it ended before it read the command
            _, descriptors, _, _ = socket.recv_fds(late, 1 << 16, 1)
            for descriptor in descriptors:
                os.close(descriptor)
            assert not descriptors
    assert Server(second).stop() == 0


def test_a_path_that_cannot_be_taken_over_costs_no_connection(home: Home) -> None:
    content, client, connection, (first,) = begin(home, home.serve())
    home.environment["QUICBATON_FAILPOINT"] = "takeover_settled:STOP"
    arguments = (home.files, "--json", "--takeover", first.control)
    process = home.start("quicbaton", "serve", *arguments)
    assert first.process.wait(GUARD_S) == 0
    wait_for(lambda: is_stopped(process.pid), bool)
    # It has everything, and then somebody puts a file where it is to listen.
    first.control.unlink()
    first.control.touch()
    process.send_signal(signal.SIGCONT)
    second = Server(process)
    assert [info["connection"] for info in ps(home, second)["connections"]] == [connection]
    check_whole(client, content)


def test_who_waits_for_a_server_that_stands_still_can_be_stopped(home: Home) -> None:
    first = home.serve()
    first.process.send_signal(signal.SIGSTOP)
    process = home.start("quicbaton", "serve", home.files, "--json", "--takeover", first.control)
    wait_for(lambda: catches_sigterm(process.pid), bool)
    process.terminate()
    assert process.wait(GUARD_S / 2) == 0
    first.process.send_signal(signal.SIGCONT)
    assert ps(home, first)["pid"] == first.pid


def test_a_second_signal_ends_a_takeover(home: Home) -> None:
    """The predecessor goes on with what it still has."""
    first = home.serve()
    home.environment["QUICBATON_FAILPOINT"] = f"takeover_listening:STOP:{home.path / 'pid'}"
    (home.path / "pid").write_text(str(first.pid))
    process = home.start("quicbaton", "serve", home.files, "--json", "--takeover", first.control)
    wait_for(lambda: is_stopped(first.pid), bool)
    for _ in range(2):
        process.terminate()
        wait_for(lambda: process.poll() is not None or not has_pending_signals(process.pid), bool)
    assert process.wait(GUARD_S / 2) == 0
    first.process.send_signal(signal.SIGCONT)
    assert wait_for(lambda: ps(home, first), bool)["pid"] == first.pid


def catches_sigterm(pid: int) -> bool:
    return bool(signal_mask(pid, "SigCgt") & 1 << (signal.SIGTERM - 1))


def has_pending_signals(pid: int) -> bool:
    return bool(signal_mask(pid, "ShdPnd"))


def signal_mask(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)), 16)


def test_a_takeover_in_a_group_is_known_to_the_others(home: Home) -> None:
    content, client, connection, (owner, other) = begin(home, *pair(home))
    new = home.serve("--takeover", owner.control)
    assert owner.process.wait(GUARD_S) == 0
    home.json("handoff", new.control, connection, "--to", other.control)
    assert cut_over(home, other)["connection"] == connection
    check_whole(client, content)


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_a_baton_is_kept_unless_the_server_says_that_it_is_worth_nothing(
    hangs_up: bool, tmp_path: Path
) -> None:
    """A server that hangs up may have heard that it is safe, and keeps the connection frozen."""
    ours, theirs = socket.socketpair()
    channel, server = Channel(ours), Channel(theirs)
    answers = Conversation(server)
    file = tmp_path / "connection.baton"
    fetching = asyncio.create_task(_fetch(Conversation(channel), "ab", file))
    assert isinstance(await answers.next(), c.Freeze)
    server.write(c.encode(c.Frozen(b"sealed")))
    assert isinstance(await answers.next(), c.Kept)
    if not hangs_up:
        server.write(c.encode(c.Answer(False, "not_kept", "it came too late")))
    server.close()
    with pytest.raises(PeerError if hangs_up else CommandFailedError):
        await fetching
    assert file.exists() is hangs_up
    channel.abort()
