"""Links that are made because datagrams name processes: few at once, and not again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from quicbaton.errors import PeerError
from quicbaton.limits import (
    FIRST_LINK_PAUSE_S,
    MAX_FIRST_LINK_PAUSE_S,
    MAX_FIRST_LINKS,
    MAX_FIRST_LINKS_TO_NODE,
    MAX_MISSED_PROCESSES,
)
from quicbaton.reasons import Reason
from quicbaton.service.node import first_links
from quicbaton.service.node.first_links import FirstLinks


class Network:
    """Links come up, or are refused, when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.tried: list[str] = []
        self.present = asyncio.Event()
        self.refuses = False
        self.tasks: list[asyncio.Task[None]] = []
        self.links = FirstLinks(self._link_to, self._spawn)

    async def settle(self) -> None:
        self.present.set()
        await asyncio.gather(*self.tasks)
        self.tasks.clear()
        self.present.clear()

    async def _link_to(self, name: str) -> object:
        self.tried.append(name)
        await self.present.wait()
        if self.refuses:
            raise PeerError("there is no such worker", code=Reason.NO_SUCH_WORKER)
        return name

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work()))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(first_links, "monotonic", lambda: made.now_s)
    return made


async def test_many_datagrams_for_a_process_make_one_link(network: Network) -> None:
    for _ in range(100):
        network.links.want("b/0")
    await network.settle()
    assert network.tried == ["b/0"]


async def test_few_links_are_made_at_once_whatever_datagrams_name(network: Network) -> None:
    for number in range(256):
        network.links.want(f"{number % 16}/{number // 16}")
    await asyncio.sleep(0)
    assert len(network.tried) == MAX_FIRST_LINKS
    await network.settle()
    network.links.want("15/15")
    await network.settle()
    assert network.tried[-1] == "15/15"


async def test_a_process_that_was_not_reached_is_left_alone_for_a_while(network: Network) -> None:
    network.refuses = True
    network.links.want("b/9")
    await network.settle()
    for _ in range(100):
        network.links.want("b/9")
    await network.settle()
    assert network.tried == ["b/9"]
    network.now_s += FIRST_LINK_PAUSE_S
    network.links.want("b/9")
    await network.settle()
    assert network.tried == ["b/9", "b/9"]


async def test_a_process_that_is_never_reached_is_tried_more_and_more_seldom(
    network: Network,
) -> None:
    network.refuses = True
    while network.now_s < 1_000:
        network.links.want("b/9")
        await network.settle()
        network.now_s += FIRST_LINK_PAUSE_S
    # At 0, 5 and 15 seconds, and then every 20.
    assert len(network.tried) == 3 + (999 - 15) // MAX_FIRST_LINK_PAUSE_S
    network.refuses = False
    network.now_s += MAX_FIRST_LINK_PAUSE_S
    network.links.want("b/9")
    await network.settle()
    network.refuses = True
    network.links.want("b/9")  # its link is gone
    await network.settle()
    network.links.on_link_up("b/9")  # which it has made itself
    network.links.want("b/9")
    await network.settle()
    before = len(network.tried)
    network.now_s += FIRST_LINK_PAUSE_S
    network.links.want("b/9")
    await network.settle()
    assert len(network.tried) == before + 1


async def test_pauses_begin_anew_where_nobody_has_asked_for_long(network: Network) -> None:
    network.refuses = True
    for _ in range(4):
        network.links.want("b/9")
        await network.settle()
        network.now_s += 2 * MAX_FIRST_LINK_PAUSE_S
    network.links.want("b/9")
    await network.settle()
    network.now_s += FIRST_LINK_PAUSE_S
    network.links.want("b/9")
    await network.settle()
    assert len(network.tried) == 6


async def test_a_bounded_number_of_missed_processes_is_remembered(network: Network) -> None:
    network.refuses = True
    for number in range(MAX_MISSED_PROCESSES + 1):
        network.links.want(f"b/{number}")
        await network.settle()
    # The oldest was forgotten, and is tried again.
    network.links.want("b/1")
    network.links.want("b/0")
    await network.settle()
    assert len(network.tried) == MAX_MISSED_PROCESSES + 2
    assert network.tried[-1] == "b/0"


async def test_a_node_that_is_out_of_reach_leaves_others_their_links(network: Network) -> None:
    for number in range(MAX_FIRST_LINKS):
        network.links.want(f"b/{number}")
    network.links.want("c/0")
    await asyncio.sleep(0)
    assert network.tried == [*(f"b/{number}" for number in range(MAX_FIRST_LINKS_TO_NODE)), "c/0"]
    await network.settle()
