"""niquests, which speaks HTTP/3 by qh3, with its own handling of streams above it."""

from importlib.metadata import version
from typing import Any

from conversation import Answer, Client, converse
from niquests import AsyncSession

_PATIENCE_S = 30


class Niquests(Client):
    name = f"niquests/{version('niquests')} (qh3/{version('qh3')})"

    def __init__(self, host: str, port: int, authority: str) -> None:
        super().__init__(host, port, authority)
        self._session: Any = None

    async def get(self, urls: list[str], moving: bool) -> list[Answer]:
        return await self._perform([("GET", url, None) for url in urls])

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, body: bytes) -> Answer:
        return (await self._perform([("POST", url, body)]))[0]

    async def _perform(self, requests: list[tuple[str, str, bytes | None]]) -> list[Answer]:
        if self._session is None:
            self._session = AsyncSession(
                multiplexed=True, disable_http1=True, disable_http2=True, pool_maxsize=1
            )
            self._session.quic_cache_layer.add_domain(self.host, self.port)
        # Multiplexed, a response is a promise until `gather`.
        responses = [
            await self._session.request(
                method, url, data=body, verify=self.authority, timeout=_PATIENCE_S
            )
            for method, url, body in requests
        ]
        await self._session.gather()
        return [_answer(response) for response in responses]


def _answer(response: Any) -> Answer:
    answer = Answer()
    answer.status = response.status_code
    answer.take_field("x-pid", response.headers.get("x-pid", "0"))
    answer.take(response.content)
    return answer


if __name__ == "__main__":
    converse(Niquests)
