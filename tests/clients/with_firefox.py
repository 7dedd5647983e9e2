"""Firefox, headless, driven by WebDriver BiDi over its own port: what a page of ours fetches."""

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import websockets
from conversation import Answer, Client, converse

_START_S = 60
_PAGE = Path(__file__).with_name("page.js")


def _preferences(host: str, port: int) -> str:
    values = {
        # The origin speaks HTTP/3 there, without a TCP server that says so.
        "network.http.http3.alt-svc-mapping-for-testing": f"{host};h3=:{port}",
        "network.http.http3.enable": True,
        # A certificate of ours is a root that is not Mozilla's.
        "network.http.http3.disable_when_third_party_roots_found": False,
        "network.dns.disableIPv6": True,
        "app.normandy.enabled": False,
        "app.update.enabled": False,
        "browser.safebrowsing.update.enabled": False,
        "datareporting.policy.dataSubmissionEnabled": False,
        "network.captive-portal-service.enabled": False,
        "network.connectivity-service.enabled": False,
        "toolkit.telemetry.enabled": False,
    }
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(v)});" for name, v in values.items()]
    return "\n".join(lines)


class Firefox(Client):
    name = subprocess.run(
        ["firefox-esr", "--version"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()

    def __init__(self, host: str, port: int, authority: str) -> None:
        super().__init__(host, port, authority)
        self._stack = contextlib.AsyncExitStack()
        self._socket: Any = None
        self._context = ""
        self._numbers = itertools.count(1)

    async def get(self, urls: list[str], moving: bool) -> list[Answer]:
        outcome = await self._evaluate([{"url": url} for url in urls])
        return [_PageAnswer(plain) for plain in outcome["answers"]]

    async def upload(self, url: str, size: int) -> tuple[dict[str, Any], str]:
        outcome = await self._evaluate([{"url": url, "size": size}])
        return outcome["answers"][0], outcome["sent"]

    async def close(self) -> None:
        await self._stack.aclose()

    # --- the browser ----------------------------------------------------------------------------

    async def _start(self) -> None:
        profile = Path(tempfile.mkdtemp(prefix="quicbaton-firefox-"))
        self._stack.callback(shutil.rmtree, profile, ignore_errors=True)
        (profile / "user.js").write_text(_preferences(self.host, self.port))
        store = f"sql:{profile}"
        for arguments in (
            ["-N", "--empty-password"],
            ["-A", "-n", "quicbaton", "-t", "C,,", "-i", self.authority],
        ):
            subprocess.run(["certutil", "-d", store, *arguments], check=True)
        process = await asyncio.create_subprocess_exec(
            *("firefox-esr", "--headless", "--no-remote", "--profile", str(profile)),
            *("--remote-debugging-port", "0"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        self._stack.push_async_callback(_end, process)
        async with asyncio.timeout(_START_S):
            url = await _address(process)
            connected = websockets.connect(f"{url}/session", max_size=None, proxy=None)
            self._socket = await self._stack.enter_async_context(connected)
            await self._ask("session.new", capabilities={})
            tree = await self._ask("browsingContext.getTree")
            self._context = tree["contexts"][0]["context"]
            page = f"https://{self.host}:{self.port}/page"
            await self._ask(
                "browsingContext.navigate", context=self._context, url=page, wait="complete"
            )

    async def _evaluate(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        if self._socket is None:
            await self._start()
        result = await self._ask(
            "script.evaluate",
            expression=f"({_PAGE.read_text()})({json.dumps({'requests': requests})})"
            ".then(JSON.stringify)",
            target={"context": self._context},
            awaitPromise=True,
        )
        outcome: dict[str, Any] = json.loads(result["result"]["value"])
        return outcome

    async def _ask(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._socket.recv())
            if message.get("id") == number:
                if "result" not in message:
                    raise RuntimeError(f"{method}: {message.get('message')}")
                return message["result"]


async def _address(process: asyncio.subprocess.Process) -> str:
    """The WebSocket that it says it listens at."""
    assert process.stderr is not None
    async for line in process.stderr:
        _, said, url = line.decode().partition("WebDriver BiDi listening on ")
        if said:
            return url.strip()
    raise RuntimeError("firefox-esr ended before it listened")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


class _PageAnswer(Answer):
    """As the page had it, its hash included."""

    def __init__(self, plain: dict[str, Any]) -> None:
        super().__init__()
        self._plain = plain

    def plain(self) -> dict[str, Any]:
        return self._plain


if __name__ == "__main__":
    converse(Firefox)
