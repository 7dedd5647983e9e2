"""The pages of `examples/` in real browsers, through reloads: `make pages`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from example_service import Example, example
from tests.clients.browser import Page, open_page
from tests.clients.matrix.roster import CACHE, CLIENTS
from websocket_client import websocket_client
from wsproto.events import TextMessage

#: By what browsers are driven.
_DRIVERS = (CACHE / "node_modules" / "playwright-core", CACHE / "python")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        not all(driver.exists() for driver in _DRIVERS) and not os.environ.get("CI"),
        reason="no browsers: make pages",
    ),
]

_STREAMS = 20
#: A hang guard: browsers start slowly, and reload twice.
_GUARD_S = 180


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), _GUARD_S))


def chromium(one: Example) -> list[str]:
    assert shutil.which("chromium"), "chromium is not there: make pages"
    program = str(CLIENTS / "chromium_page.mjs")
    # Not localhost, which is ::1 to it first, where nothing listens in tests.
    url = f"https://127.0.0.1:{one.service.port}/"
    return ["node", program, url, str(one.home.ca)]


def chromium_h3(one: Example) -> list[str]:
    return [*chromium(one), "h3"]


def firefox(one: Example) -> list[str]:
    assert shutil.which("firefox-esr"), "firefox-esr is not there: make pages"
    python = str(CACHE / "python" / "bin" / "python")
    return [python, str(CLIENTS / "firefox_page.py"), f"https://127.0.0.1:{one.service.port}/"]


async def number(page: Page, name: str) -> int:
    return int(await page.evaluate(f"Number(document.getElementById('{name}').textContent)"))


async def more_streams(page: Page) -> None:
    """Until so many more have come back."""
    wanted = await number(page, "same") + _STREAMS
    await page.until(f"Number(document.getElementById('same').textContent) >= {wanted}")


@pytest.mark.parametrize("browser", [chromium, firefox])
def test_a_session_goes_on_through_two_reloads(
    tmp_path: Path, browser: Callable[[Example], list[str]]
) -> None:
    """Opened as a person opens it: without flags, through the warning about the certificate."""

    async def main() -> None:
        async with open_page(browser(one)) as page:
            await more_streams(page)
            session = await number(page, "session")
            first, second = await asyncio.to_thread(one.reload)
            await more_streams(page)
            _, third = await asyncio.to_thread(one.reload)
            await more_streams(page)
            assert session in first
            assert await number(page, "session") == session
            pids = await page.evaluate("[...new Set(seen.map(([, row, pid]) => row + ' ' + pid))]")
            answered = {int(pid.split()[1]) for pid in pids if pid.startswith("requests")}
            assert answered <= {*first, *second, *third}
            assert answered & set(third)
            assert await page.evaluate("document.getElementById('state').textContent") == "open"
            assert await number(page, "other") == 0
            sent, back = await number(page, "sent"), await number(page, "back")
            print(f"{back} of {sent} datagrams came back, {await number(page, 'same')} streams")
            assert back <= sent
            # Only a few can be lost, while it moves.
            assert back > sent * 0.9

    with example("webtransport", tmp_path) as one:
        run(main)


@pytest.mark.parametrize(
    ("browser", "version"), [(chromium, "2"), (chromium_h3, "3"), (firefox, "2")]
)
def test_a_chat_goes_on_through_a_reload(
    tmp_path: Path, browser: Callable[[Example], list[str]], version: str
) -> None:
    """A WebSocket goes by TCP where the certificate is not trusted, and by flag over HTTP/3."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            page = await stack.enter_async_context(open_page(browser(one)))
            await page.until("document.querySelector('li')")
            greeting = await page.evaluate("document.querySelector('li').textContent")
            assert greeting.endswith(f"speaks to you over HTTP/{version}")
            before, _ = await asyncio.to_thread(one.reload)
            assert int(greeting.split()[1]) in before
            member = await stack.enter_async_context(websocket_client(one.service.port))
            assert await member.open("/chat") == b"200"
            await member.message()
            for text in ("from the page", "ü" * 1000):
                await page.evaluate(f"(text.value = '{text}', form.requestSubmit())")
                assert await member.message() == text
                await page.until(f"document.querySelector('li').textContent === '{text}'")
            member.say(TextMessage("to the page"))
            await page.until("document.querySelector('li').textContent === 'to the page'")

    with example("chat", tmp_path, CHAT_ROOM=str(tmp_path / "room")) as one:
        run(main)
