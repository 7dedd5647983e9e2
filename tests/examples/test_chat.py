"""examples/chat, as its README says, through a reload."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from wsproto.events import TextMessage

from tests.asgi.websocket_client import WebSocketClient, websocket_client
from tests.examples.example_service import Example, example

pytestmark = pytest.mark.process


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Example]:
    with example("chat", tmp_path, CHAT_ROOM=str(tmp_path / "room")) as started:
        yield started


async def enter(stack: AsyncExitStack, chat: Example) -> tuple[WebSocketClient, int]:
    """A new member, and the process that it came to."""
    member = await stack.enter_async_context(websocket_client(chat.service.port))
    assert await member.open("/chat") == b"200"
    greeting = await member.message()
    assert isinstance(greeting, str)
    assert greeting.endswith(" speaks to you over HTTP/3")
    return member, int(greeting.split()[1])


async def say(speaker: WebSocketClient, text: str, hearers: list[WebSocketClient]) -> None:
    """It must reach them all, and nothing else may come before."""
    speaker.say(TextMessage(text))
    for hearer in hearers:
        assert await hearer.message() == text


async def test_members_of_old_and_new_processes_hear_each_other(chat: Example) -> None:
    async with AsyncExitStack() as stack:
        members, pids = [], set()
        # Until both workers have one.
        while len(pids) < 2:
            member, pid = await enter(stack, chat)
            members.append(member)
            pids.add(pid)
        for number, member in enumerate(members):
            await say(member, f"{number} is here", members)
        before, after = await asyncio.to_thread(chat.reload)
        assert pids == set(before)
        for number, member in enumerate(members):
            await say(member, f"{number} is still here", members)
        member, pid = await enter(stack, chat)
        assert pid in after
        members.append(member)
        for number, member in enumerate(members):
            await say(member, f"{number} heard it, too", members)


async def test_the_room_ends_with_its_members(chat: Example, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, pid = await enter(stack, chat)
        before, after = await asyncio.to_thread(chat.reload)
        assert pid in before
    # The old process, and its socket, are gone; those of the new ones stay.
    while {int(path.name) for path in (tmp_path / "room").iterdir()} != set(after):
        await asyncio.sleep(0.01)
