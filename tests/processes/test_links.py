"""Channels, links and peers: the order of their events, and the proof of a death."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quicbaton.errors import PeerError
from quicbaton.handoff import Hello, encode
from quicbaton.handoff.messages import PROTOCOL_VERSION, Baton, Cutover, Descriptors, Message
from quicbaton.limits import MAX_WAITING_PARCELS
from quicbaton.service.peers import channel as channel_module
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import CommandFailedError, Conversation
from quicbaton.service.peers.channel import Channel, Listener, connect_channel
from quicbaton.service.peers.link import Link
from quicbaton.service.peers.peers import Peers
from quicbaton.service.peers.process_watch import ProcessWatch
from tests.processes.harness import accepts_nobody, until

NAMES = (b"connection", b"h" * 16)
CUTOVER = Cutover(*NAMES)
HELLO = Hello(version=PROTOCOL_VERSION, node="other", pid=1, formats=(1, 2, 3))

#: Connects twice, greets, says something on both links, and lives on in a child that holds them.
_TALKER = """
import os, signal, socket, sys
links = []
for _ in range(2):
    link = socket.socket(socket.AF_UNIX)
    link.connect(sys.argv[1])
    link.sendall(bytes.fromhex(sys.argv[2]))
    links.append(link)
child = os.fork()
if child:
    print(child, flush=True)
    sys.stdin.read()
else:
    signal.pause()
"""


class Record:
    """The calls that a link made to its owner, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def make(self, channel: Channel, number: int = 1, fail: bool = False) -> Link:
        def on_message(_link: Link, message: Message) -> None:
            self.told.append(type(message).__name__)
            if fail:
                raise PeerError("no such thing")

        return Link(
            channel,
            number,
            "we",
            on_up=lambda _link: self.told.append("up"),
            on_message=on_message,
            on_lost=lambda _link: self.told.append("lost"),
        )


def pair() -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return Channel(ours), theirs


async def test_a_link_is_lost_after_all_that_it_brought() -> None:
    channel, other = pair()
    record = Record()
    record.make(channel)
    channel.start()
    other.sendall(encode(HELLO) + encode(CUTOVER) * 3)
    other.close()
    await until(lambda: channel.closed, "the end")
    assert record.told == ["up", "Cutover", "Cutover", "Cutover", "lost"]


async def test_what_was_written_before_our_write_failed_is_still_read() -> None:
    channel, other = pair()
    record = Record()
    link = record.make(channel)
    other.sendall(encode(HELLO) + encode(CUTOVER))
    other.close()
    link.send(CUTOVER)
    link.send(CUTOVER)
    assert record.told == []
    channel.start()
    await until(lambda: channel.closed, "the end")
    assert record.told == ["up", "Cutover", "lost"]


async def test_nothing_comes_after_a_message_that_broke_the_rules() -> None:
    channel, other = pair()
    record = Record()
    record.make(channel, fail=True)
    channel.start()
    with other:
        other.sendall(encode(HELLO) + encode(CUTOVER) * 3)
        await until(lambda: channel.closed, "the end")
    assert record.told == ["up", "Cutover", "lost"]


async def test_a_link_cut_from_within_a_message_brings_nothing_more() -> None:
    channel, other = pair()
    told: list[str] = []

    def on_message(link: Link, _message: Message) -> None:
        told.append("message")
        link.abort()

    Link(
        channel,
        1,
        "we",
        on_up=lambda _link: None,
        on_message=on_message,
        on_lost=lambda _link: told.append("lost"),
    )
    channel.start()
    with other:
        other.sendall(encode(HELLO) + encode(CUTOVER) * 2)
        await until(lambda: channel.closed, "the end")
    assert told == ["message", "lost"]


async def test_a_peer_of_another_version_is_hung_up_on() -> None:
    channel, other = pair()
    record = Record()
    link = record.make(channel)
    channel.start()
    with other:
        strange = Hello(version=PROTOCOL_VERSION + 1, node="other", pid=1, formats=(1,))
        other.sendall(encode(strange) + encode(CUTOVER))
        with pytest.raises(PeerError, match="upgrade one of them"):
            await link.wait_up(10)
    assert record.told == ["lost"]


async def test_a_process_that_does_not_greet_is_not_waited_for() -> None:
    channel, other = pair()
    record = Record()
    link = record.make(channel)
    channel.start()
    with other, pytest.raises(PeerError, match="does not greet back"):
        await link.wait_up(0.01)
    assert channel.closed
    assert not link.is_up


async def test_a_peer_whose_descriptors_nobody_asked_for_is_cut_off() -> None:
    before = len(os.listdir("/proc/self/fd"))
    channel, other = pair()
    channel.start()
    with other:
        for _ in range(MAX_WAITING_PARCELS + 1):
            socket.send_fds(other, [b"x"], [0] * 100)
        await until(lambda: channel.closed, "the end")
    assert len(os.listdir("/proc/self/fd")) == before


def two_links(on_message: Callable[[Link, Message], None]) -> tuple[Link, Channel, Link]:
    """A link that writes, and the other end of it, whose channel does not read yet."""
    ours, theirs = (Channel(sock) for sock in socket.socketpair())
    sender = Record().make(ours)
    ours.start()
    receiver = Link(
        theirs,
        2,
        "they",
        on_up=lambda _link: None,
        on_message=on_message,
        on_lost=lambda _link: None,
    )
    return sender, theirs, receiver


async def test_descriptors_come_with_their_message_behind_what_was_written_before(
    tmp_path: Path,
) -> None:
    """Also where the peer does not read for a while: they wait in their place."""
    before = len(os.listdir("/proc/self/fd"))
    received: list[str] = []

    def on_message(link: Link, message: Message) -> None:
        received.append(type(message).__name__)
        if isinstance(message, Descriptors):
            for descriptor in link.take_descriptors(message):
                received.append(os.pread(descriptor, 100, 0).decode())
                os.close(descriptor)

    sender, channel, _ = two_links(on_message)
    for number in range(3):
        sender.send(Baton(*NAMES, bytes(3_000_000)))
        (tmp_path / f"{number}").write_text(f"file {number}")
        with (tmp_path / f"{number}").open() as file:
            sender.send_descriptors(Descriptors(*NAMES, 1), [file.fileno()])
    channel.start()
    await until(lambda: len(received) == 9, "all")
    assert received == [
        part for number in range(3) for part in ("Baton", "Descriptors", f"file {number}")
    ]
    sender.abort()
    await until(lambda: channel.closed, "the end")
    assert len(os.listdir("/proc/self/fd")) == before


async def test_descriptors_that_wait_to_be_written_are_closed_with_the_link() -> None:
    before = len(os.listdir("/proc/self/fd"))
    sender, channel, _ = two_links(lambda _link, _message: None)
    for _ in range(3):
        sender.send(Baton(*NAMES, bytes(3_000_000)))
        sender.send_descriptors(Descriptors(*NAMES, 2), [0, 0])
    assert len(os.listdir("/proc/self/fd")) > before + 2
    sender.abort()
    channel.abort()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_process_that_has_no_room_for_all_descriptors_takes_none() -> None:
    """And takes the next ones for what they are."""
    received: list[int] = []

    def on_message(link: Link, message: Message) -> None:
        if isinstance(message, Descriptors):
            taken = link.take_descriptors(message)
            received.append(len(taken))
            for descriptor in taken:
                os.close(descriptor)

    sender, channel, _ = two_links(on_message)
    sender.send_descriptors(Descriptors(*NAMES, 3), [0, 0, 0])
    sender.send_descriptors(Descriptors(*NAMES, 1), [0])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
    try:
        channel.start()
        await until(lambda: len(received) == 2, "both")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert received == [0, 1]
    sender.abort()
    await until(lambda: channel.closed, "the end")


async def test_descriptors_are_refused_to_a_peer_that_is_gone() -> None:
    channel, other = pair()
    other.close()
    with pytest.raises(PeerError) as caught:
        channel.write_descriptors(b"here", [0])
    assert caught.value.code == "link_lost"
    channel.abort()


async def test_a_dead_process_is_reported_once_after_its_last_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    told: list[str] = []
    peers = Peers(lambda pid, names: told.append(f"dead {pid} {sorted(names)}"))
    numbers = iter(range(1, 10))

    def on_channel(channel: Channel) -> None:
        def on_up(link: Link) -> None:
            peers.greeted(link)

        def on_lost(link: Link) -> None:
            told.append("lost")
            peers.lost(link)

        link = Link(
            channel,
            next(numbers),
            "we",
            on_up=on_up,
            on_message=lambda _link, message: told.append(type(message).__name__),
            on_lost=on_lost,
        )
        peers.add(link)

    listener = Listener(tmp_path / "socket", on_channel)
    words = encode(HELLO) + encode(CUTOVER)
    talker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _TALKER, str(listener.path), words.hex()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert talker.stdin is not None
    assert talker.stdout is not None
    child = int(await talker.stdout.readline())
    try:
        await until(lambda: told.count("Cutover") == 2, "its words")
        assert len(peers) == 1
        assert peers.find("other") is not None
        # Stopped is not dead.
        talker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.05)
        assert "lost" not in told
        # Its child keeps both links open, and is not the process that they were opened by.
        talker.kill()
        await until(lambda: told[-1].startswith("dead"), "the news")
    finally:
        os.kill(child, signal.SIGKILL)
        await talker.communicate()
    assert told == ["Cutover", "Cutover", "lost", "lost", f"dead {talker.pid} ['other']"]
    assert not peers
    listener.close()


async def test_a_socket_that_a_successor_replaced_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "socket"
    accepted: list[Channel] = []
    first = Listener(path, accepted.append)
    second = Listener(path, accepted.append)
    first.close()
    channel = await connect_channel(path)
    await until(lambda: accepted, "the second to accept")
    second.close()
    assert not path.exists()
    for one in (channel, *accepted):
        one.abort()


async def test_a_socket_that_was_replaced_at_once_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a successor, between the moment when ours is in place and the next line."""
    tmp_path.chmod(0o700)
    path = tmp_path / "socket"
    others: list[Listener] = []
    rename = Path.rename

    def rename_and_be_replaced(moved: Path, to: Path) -> Path:
        done = rename(moved, to)
        monkeypatch.undo()
        others.append(Listener(path, lambda _channel: None))
        return done

    monkeypatch.setattr(Path, "rename", rename_and_be_replaced)
    Listener(path, lambda _channel: None).close()
    (await connect_channel(path)).abort()
    others[0].close()
    assert not path.exists()


async def test_a_process_with_the_number_of_a_killed_one_can_listen(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as killed:
        # It had yet to move its socket into place.
        killed.bind(f"{path}.{os.getpid()}")
    Listener(path, lambda _channel: None).close()


async def test_a_process_that_accepts_nobody_is_not_taken_for_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "CONNECT_S", 0.05)
    path = tmp_path / "socket"
    with accepts_nobody(path) as stopped:
        with pytest.raises(PeerError) as caught:
            await connect_channel(path)
        assert caught.value.code == "deadline"
        late = asyncio.create_task(connect_channel(path))
        await asyncio.sleep(0)
        stopped.accept()[0].close()
        (await late).abort()


async def test_who_cannot_open_a_socket_has_not_found_anybody_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(PeerError) as caught:
        await connect_channel(tmp_path / "socket")
    monkeypatch.undo()
    assert caught.value.code == "os"


async def test_a_peer_that_has_exited_is_not_sought_by_its_number() -> None:
    """The number may be another's by now. What the kernel says is as before Linux 6.16."""

    class Orphaned:
        def getsockopt(self, *_what: int) -> bytes:
            raise OSError(errno.EINVAL, "Invalid argument")

    told = asyncio.Event()
    stranger = os.getpid()
    ProcessWatch(Orphaned(), stranger, told.set)  # type: ignore[arg-type]
    await until(told.is_set, "the news")


async def test_an_answer_that_came_in_time_counts_however_late_it_is_read() -> None:
    """This process was stopped, or starved, while it waited."""
    channel, other = pair()
    with other:
        conversation = Conversation(channel, 0.01)
        asking = asyncio.create_task(conversation.ask(c.WorkerStatus(), c.Answer))
        await asyncio.sleep(0)
        other.sendall(c.encode(c.Answer(True, "ok", "here")))
        time.sleep(0.05)
        assert (await asking).message == "here"
    channel.abort()


async def test_that_the_other_hangs_up_is_no_answer_of_its_and_is_said_again() -> None:
    """An answer may say, too, that a link was lost: another one."""
    channel, other = pair()
    with Conversation(channel, 5.0) as conversation:
        other.sendall(c.encode(c.Answer(False, "link_lost", "to the destination")))
        with pytest.raises(CommandFailedError) as refused:
            await conversation.ask(c.WorkerStatus(), c.WorkerState)
        assert refused.value.code == "link_lost"
        other.close()
        for _ in range(2):
            with pytest.raises(PeerError) as lost:
                await conversation.ask(c.WorkerStatus(), c.WorkerState)
            assert lost.value.code == "link_lost"


async def test_a_descriptor_that_comes_too_late_is_not_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    accepted: list[Channel] = []
    listener = Listener(tmp_path / "socket", accepted.append)
    conversation = await Conversation.begin(listener.path, 0.01)
    with pytest.raises(PeerError) as caught:
        await conversation.ask_for_descriptor(c.PassSocket(0), c.SocketOf)
    assert caught.value.code == "deadline"
    # The caller has hung up.
    await until(lambda: accepted and accepted[0].closed, "the end")
    listener.close()
