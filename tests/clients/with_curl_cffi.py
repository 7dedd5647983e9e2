"""curl_cffi: libcurl-impersonate, with Chrome's TLS and QUIC fingerprints."""

import asyncio
from importlib.metadata import version
from typing import Any

from conversation import Answer, Client, converse
from curl_cffi import Curl, CurlHttpVersion, CurlOpt
from curl_cffi.requests import AsyncSession

_PATIENCE_S = 30


class CurlCffi(Client):
    name = " ".join(
        part
        for part in (f"curl_cffi/{version('curl_cffi')}", *Curl().version().decode().split())
        if part.startswith(("curl_cffi/", "libcurl/", "ngtcp2/"))
    )

    def __init__(self, host: str, port: int, authority: str) -> None:
        super().__init__(host, port, authority)
        self._session: Any = None

    async def get(self, urls: list[str], moving: bool) -> list[Answer]:
        return list(await asyncio.gather(*(self._request("GET", url) for url in urls)))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, body: bytes) -> Answer:
        return await self._request("POST", url, body)

    async def _request(self, method: str, url: str, body: bytes | None = None) -> Answer:
        if self._session is None:
            self._session = AsyncSession(
                impersonate="chrome",
                verify=self.authority,
                http_version=CurlHttpVersion.V3ONLY,
                timeout=_PATIENCE_S,
                # A request that begins while another connects waits for that connection.
                curl_options={CurlOpt.PIPEWAIT: 1},
            )
        answer = Answer()
        try:
            response = await self._session.request(method, url, data=body)
        except Exception as error:
            answer.error = str(error)
            return answer
        answer.status = response.status_code
        answer.take_field("x-pid", response.headers.get("x-pid", "0"))
        answer.take(response.content)
        return answer


if __name__ == "__main__":
    converse(CurlCffi)
