"""A server's output harms no connection, with a reader or without."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicbaton.asyncio.qlog_folder import QlogFolder
from quicbaton.cli.output import KeyLog, Output

FULL = Path("/dev/full")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(reading, False)
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):  # closed by the test
            os.close(descriptor)


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""


def line(number: int) -> str:
    return f"{number:04d} " + "x" * 200 + "\n"


def test_lines_arrive_as_they_are_written(pipe: tuple[int, int]) -> None:
    lost: Counter[str] = Counter()
    output = Output(pipe[1], lost)
    output.write("one\n")
    assert read(pipe[0]) == b"one\n"
    output.write("zwei ä\ndrei\n")
    assert read(pipe[0]) == "zwei ä\ndrei\n".encode()
    output.close()
    assert not lost


def test_a_reader_that_has_gone_costs_lines_alone(pipe: tuple[int, int]) -> None:
    lost: Counter[str] = Counter()
    output = Output(pipe[1], lost)
    os.close(pipe[0])
    output.write("one\n")
    output.write("two\nthree\n")
    output.close()
    assert lost == {"lines": 3}


async def test_a_reader_who_is_behind_gets_every_line_when_he_reads(
    pipe: tuple[int, int],
) -> None:
    lost: Counter[str] = Counter()
    output = Output(pipe[1], lost)
    for number in range(100):
        output.write(line(number))
    got = b""
    while got.count(b"\n") < 100:
        got += read(pipe[0])
        await asyncio.sleep(0)
    assert got.decode() == "".join(line(number) for number in range(100))
    output.close()
    assert not lost


def test_a_reader_who_stands_still_holds_nobody_up_and_loses_whole_lines(
    pipe: tuple[int, int],
) -> None:
    lost: Counter[str] = Counter()
    output = Output(pipe[1], lost)
    count = 20_000  # four times what may wait
    for number in range(count):
        output.write(line(number))
    assert lost["lines"] > count / 2
    got = b""
    while piece := read(pipe[0]):
        got += piece
        output.write("")
    lines = got.decode().splitlines(keepends=True)
    assert len(lines) + lost["lines"] == count
    assert lines == [line(number) for number in range(len(lines))]


def test_a_line_that_was_cut_ends_before_the_next(pipe: tuple[int, int]) -> None:
    lost: Counter[str] = Counter()
    output = Output(pipe[1], lost)
    output.write("a" * 6000 + "\n")
    again = os.dup(pipe[0])
    os.close(pipe[0])
    begun = read(again)
    assert begun == b"a" * 4096
    os.close(again)
    output.write("lost\n")
    assert lost == {"lines": 2}


def test_a_full_disk_costs_lines_alone() -> None:
    lost: Counter[str] = Counter()
    with FULL.open("w") as disk:
        output = Output(disk.fileno(), lost)
        output.write("one\n")
        output.close()
    assert lost == {"lines": 1}


def test_keys_that_cannot_be_written_are_counted() -> None:
    lost: Counter[str] = Counter()
    log = KeyLog(FULL.open("w", buffering=1), lost)
    log.write("CLIENT_TRAFFIC_SECRET_0 00 00\n")
    log.close()
    assert lost == {"keys": 1}


def test_a_qlog_on_a_full_disk_loses_records_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "01.sqlog").symlink_to(FULL)
    folder = QlogFolder(tmp_path)
    trace = folder.start_trace(is_client=False, odcid=b"\x01")
    for number in range(2000):
        trace.log_event(category="transport", event="packet_sent", data={"n": number})
    folder.end_trace(trace)
    assert folder.lost == {"qlog": 2001}  # with the head


def test_a_qlog_that_cannot_be_made_is_none(tmp_path: Path) -> None:
    folder = QlogFolder(tmp_path)
    (tmp_path / "01.sqlog").symlink_to(tmp_path / "no folder" / "file")
    trace = folder.start_trace(is_client=False, odcid=b"\x01")
    trace.log_event(category="transport", event="packet_sent", data={})
    folder.end_trace(trace)
    assert folder.lost == {"qlog": 1}
