"""Firefox: requests of a page of ours."""

import json
from pathlib import Path
from typing import Any

from conversation import Answer, Client, converse
from firefox import Browser, version

_PAGE = Path(__file__).with_name("page.js")


class Firefox(Client):
    name = version()

    def __init__(self, host: str, port: int, authority: str) -> None:
        super().__init__(host, port, authority)
        self._browser: Browser | None = None

    async def get(self, urls: list[str], moving: bool) -> list[Answer]:
        outcome = await self._evaluate([{"url": url} for url in urls])
        return [_PageAnswer(plain) for plain in outcome["answers"]]

    async def upload(self, url: str, size: int) -> tuple[dict[str, Any], str]:
        outcome = await self._evaluate([{"url": url, "size": size}])
        return outcome["answers"][0], outcome["sent"]

    async def close(self) -> None:
        if self._browser is not None:
            await self._browser.close()

    async def _evaluate(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        if self._browser is None:
            self._browser = Browser(self._preferences(), self.authority)
            await self._browser.start()
            await self._browser.open(f"https://{self.host}:{self.port}/page")
        expression = f"({_PAGE.read_text()})({json.dumps({'requests': requests})})"
        outcome: dict[str, Any] = await self._browser.evaluate(expression)
        return outcome

    def _preferences(self) -> dict[str, Any]:
        return {
            # The origin speaks HTTP/3 there, without a TCP server that says so.
            "network.http.http3.alt-svc-mapping-for-testing": f"{self.host};h3=:{self.port}",
            "network.http.http3.enable": True,
            # A certificate of ours is a root that is not Mozilla's.
            "network.http.http3.disable_when_third_party_roots_found": False,
        }


class _PageAnswer(Answer):
    """As the page had it, its hash included."""

    def __init__(self, plain: dict[str, Any]) -> None:
        super().__init__()
        self._plain = plain

    def plain(self) -> dict[str, Any]:
        return self._plain


if __name__ == "__main__":
    converse(Firefox)
