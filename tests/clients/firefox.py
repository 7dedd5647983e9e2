"""Firefox, headless, driven by WebDriver BiDi over its own port."""

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import websockets

_START_S = 60
_PREFERENCES = {
    "network.dns.disableIPv6": True,
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}


def version() -> str:
    """Its name and version."""
    done = subprocess.run(
        ["firefox-esr", "--version"], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


class Browser:
    """One with an empty profile. It trusts the certificates that `authority` (PEM) has signed;
    without one it goes on where a person would be warned."""

    def __init__(self, preferences: Mapping[str, Any], authority: str = "") -> None:
        self._preferences = {**_PREFERENCES, **preferences}
        self._authority = authority
        self._stack = contextlib.AsyncExitStack()
        self._socket: Any = None
        self._context = ""
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        profile = Path(tempfile.mkdtemp(prefix="quicbaton-firefox-"))
        self._stack.callback(shutil.rmtree, profile, ignore_errors=True)
        lines = [
            f"user_pref({json.dumps(name)}, {json.dumps(value)});"
            for name, value in self._preferences.items()
        ]
        (profile / "user.js").write_text("\n".join(lines))
        if self._authority:
            _trust(profile, self._authority)
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
            wanted = {} if self._authority else {"alwaysMatch": {"acceptInsecureCerts": True}}
            await self._ask("session.new", capabilities=wanted)
            tree = await self._ask("browsingContext.getTree")
            self._context = tree["contexts"][0]["context"]

    async def open(self, url: str) -> None:
        async with asyncio.timeout(_START_S):
            await self._ask(
                "browsingContext.navigate", context=self._context, url=url, wait="complete"
            )

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, as JSON; a promise is awaited."""
        result = await self._ask(
            "script.evaluate",
            expression=f"Promise.resolve({expression}).then((it) => JSON.stringify(it ?? null))",
            target={"context": self._context},
            awaitPromise=True,
        )
        if result["type"] != "success":
            raise RuntimeError(result["exceptionDetails"]["text"])
        return json.loads(result["result"]["value"])

    async def close(self) -> None:
        await self._stack.aclose()

    async def _ask(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._socket.recv())
            if message.get("id") == number:
                if "result" not in message:
                    raise RuntimeError(f"{method}: {message.get('message')}")
                return message["result"]


def _trust(profile: Path, authority: str) -> None:
    for arguments in (
        ["-N", "--empty-password"],
        ["-A", "-n", "quicbaton", "-t", "C,,", "-i", authority],
    ):
        subprocess.run(["certutil", "-d", f"sql:{profile}", *arguments], check=True)


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
