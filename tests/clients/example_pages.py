"""Pages in real browsers (`make pages`): those of `examples/` through reloads, and one of our own,
whose uploads are answered early, and whose browser is killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from wsproto.events import TextMessage

from tests.asgi.websocket_client import websocket_client
from tests.clients.browser import Page, open_page
from tests.clients.matrix.roster import CACHE, CLIENTS
from tests.examples.example_service import Example, example
from tests.supervisor.service_home import Service, ServiceHome, service_home

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
_LOOK_S = 0.1
#: One flight; more than a stream's window; more than a connection's.
_UPLOADS_BYTES = (10_000, 1_000_000, 50_000_000)


class Site(NamedTuple):
    """`page_program` as a service of one worker."""

    home: ServiceHome
    service: Service

    async def until_seen(self, **wanted: set[str]) -> None:
        """Until the program has seen just this of its clients."""
        url = f"https://localhost:{self.service.port}/seen"
        trust = ssl.create_default_context(cafile=str(self.home.ca))
        async with httpx.AsyncClient(verify=trust) as client:
            while True:
                seen = (await client.get(url)).json()
                if {name: set(seen[name]) for name in wanted} == wanted:
                    return
                await asyncio.sleep(_LOOK_S)


@contextmanager
def site(path: Path) -> Iterator[Site]:
    options = ("--app-dir", CLIENTS, "--workers", "1", "--host", "127.0.0.1", "--port", "0")
    with service_home(path) as home:
        program = "page_program:application"
        yield Site(
            home, Service(home, home.start("quicbaton", "serve", program, *options, "--json"))
        )


def chromium(one: Example | Site) -> list[str]:
    assert shutil.which("chromium"), "chromium is not there: make pages"
    program = str(CLIENTS / "chromium_page.mjs")
    # Not localhost, which is ::1 to it first, where nothing listens in tests.
    url = f"https://127.0.0.1:{one.service.port}/"
    return ["node", program, url, str(one.home.ca)]


def chromium_h3(one: Example | Site) -> list[str]:
    return [*chromium(one), "h3"]


def firefox(one: Example | Site) -> list[str]:
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
async def test_a_session_goes_on_through_two_reloads(
    tmp_path: Path, browser: Callable[[Example], list[str]]
) -> None:
    """Opened as a person opens it: without flags, through the warning about the certificate."""

    with example("webtransport", tmp_path) as one:
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
            # The page goes on between the two.
            back, sent = await number(page, "back"), await number(page, "sent")
            print(f"{back} of {sent} datagrams came back, {await number(page, 'same')} streams")
            assert back <= sent
            # Only a few can be lost, while it moves.
            assert back > sent * 0.9


@pytest.mark.parametrize(
    ("browser", "version"), [(chromium, "2"), (chromium_h3, "3"), (firefox, "2")]
)
async def test_a_chat_goes_on_through_a_reload(
    tmp_path: Path, browser: Callable[[Example], list[str]], version: str
) -> None:
    """A WebSocket goes by TCP where the certificate is not trusted, and by flag over HTTP/3."""

    with example("chat", tmp_path, CHAT_ROOM=str(tmp_path / "room")) as one:
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


@pytest.mark.parametrize(
    ("browser", "version"), [(chromium, "2"), (chromium_h3, "3"), (firefox, "2")]
)
async def test_an_upload_that_is_answered_early_has_its_answer(
    tmp_path: Path, browser: Callable[[Site], list[str]], version: str
) -> None:
    with site(tmp_path) as one:
        async with open_page(browser(one)) as page:
            for size in _UPLOADS_BYTES:
                for status in (200, 413):
                    body = f"{{method: 'POST', body: new Uint8Array({size})}}"
                    answer = await page.evaluate(
                        f"fetch('early/{status}', {body}).then(async (a) => "
                        "[a.status, await a.text()])"
                    )
                    assert answer == [status, version], size


async def test_a_browser_that_is_killed_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a download, an upload and a session, whose programs are told."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # it cannot tidy up
    lasting = {"down", "up", "session"}

    with site(tmp_path) as one:
        async with open_page(chromium_h3(one)) as page:
            await page.evaluate(
                "fetch('down').then((a) => (reader = a.body.getReader()).read()).then(() => true)"
            )
            await page.evaluate(
                "(up = fetch('up', {method: 'POST', body: new Uint8Array(50_000_000)}), true)"
            )
            await page.evaluate(
                "(session = new WebTransport(new URL('session', location))).ready.then(() => true)"
            )
            await one.until_seen(begun=lasting, gone=set())
            assert await asyncio.to_thread(one.service.names, 0)
            page.kill()
            await one.until_seen(gone=lasting)
            while await asyncio.to_thread(one.service.names, 0):
                await asyncio.sleep(_LOOK_S)
