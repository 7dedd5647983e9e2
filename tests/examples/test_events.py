"""examples/events, as its README says, through a reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.curl_client import Curl
from tests.examples.example_service import Example, example

pytestmark = pytest.mark.process


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Example]:
    with example("events", tmp_path) as started:
        yield started


def take(curl: Curl, count: int) -> tuple[list[int], set[int]]:
    """The numbers of so many events, and the processes that made them."""
    numbers, pids = [], set()
    for _ in range(count):
        name, _, number = curl.line().partition(": ")
        assert name == "id"
        data, _, pid = curl.line().partition(" from process ")
        assert data == f"data: {number}"
        assert curl.line() == ""
        numbers.append(int(number))
        pids.add(int(pid))
    return numbers, pids


def test_events_go_on_in_the_process_that_had_begun_them(events: Example) -> None:
    curl = Curl(events.home, events.url("events"))
    assert take(curl, 3)[0] == [0, 1, 2]
    before, after = events.reload()
    numbers, pids = take(curl, 20)
    assert numbers == list(range(3, 23))
    assert len(pids) == 1
    assert pids <= set(before)
    # As a browser asks that has lost them.
    numbers, pids = take(
        Curl(events.home, events.url("events"), "--header", "Last-Event-ID: 22"), 3
    )
    assert numbers == [23, 24, 25]
    assert pids <= set(after)


def test_grace_lets_a_client_ask_again(events: Example) -> None:
    curl = Curl(events.home, events.url("events"))
    take(curl, 1)
    events.reload("--grace", "0.5")
    _, error = curl.end()
    assert error, "it ended as if it were whole"
