"""libcurl (ngtcp2), through pycurl."""

import asyncio

import pycurl
from conversation import Answer, Client, converse

_HTTP_3_ONLY = 31
_PATIENCE_S = 30


class Libcurl(Client):
    name = " ".join(
        part for part in pycurl.version.split() if part.startswith(("libcurl/", "ngtcp2/"))
    )

    def __init__(self, host: str, port: int, authority: str) -> None:
        super().__init__(host, port, authority)
        self._multi = pycurl.CurlMulti()
        # It would open a connection for each of several requests that begin at once.
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, 1)
        self._multi.setopt(pycurl.M_PIPELINING, 2)

    async def get(self, urls: list[str], moving: bool) -> list[Answer]:
        return await self._perform([(self._handle(url), Answer()) for url in urls])

    async def post(self, url: str, body: bytes) -> Answer:
        curl = self._handle(url)
        at = 0

        def read(size: int) -> bytes:
            nonlocal at
            at += size
            return body[at - size : at]

        curl.setopt(pycurl.UPLOAD, True)
        curl.setopt(pycurl.CUSTOMREQUEST, "POST")
        curl.setopt(pycurl.INFILESIZE_LARGE, len(body))
        curl.setopt(pycurl.READFUNCTION, read)
        return (await self._perform([(curl, Answer())]))[0]

    def _handle(self, url: str) -> pycurl.Curl:
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.HTTP_VERSION, _HTTP_3_ONLY)
        curl.setopt(pycurl.CAINFO, self.authority)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.PIPEWAIT, True)
        curl.setopt(pycurl.TIMEOUT, _PATIENCE_S)
        curl.setopt(pycurl.NOSIGNAL, True)
        return curl

    async def _perform(self, requests: list[tuple[pycurl.Curl, Answer]]) -> list[Answer]:
        return await asyncio.to_thread(self._perform_now, requests)

    def _perform_now(self, requests: list[tuple[pycurl.Curl, Answer]]) -> list[Answer]:
        for curl, answer in requests:
            curl.setopt(pycurl.WRITEFUNCTION, answer.take)
            curl.setopt(pycurl.HEADERFUNCTION, _field_taker(answer))
            self._multi.add_handle(curl)
        running = len(requests)
        while running:
            _, running = self._multi.perform()
            if running:
                self._multi.select(1.0)
        _, _, failed = self._multi.info_read(len(requests))
        for curl, answer in requests:
            answer.status = curl.getinfo(pycurl.RESPONSE_CODE)
            answer.error = "".join(
                f"curl error {code}: {text}" for handle, code, text in failed if handle is curl
            )
            self._multi.remove_handle(curl)
        return [answer for _, answer in requests]


def _field_taker(answer: Answer):
    def take(line: bytes) -> None:
        name, _, value = line.decode("latin-1").partition(":")
        answer.take_field(name, value.strip())

    return take


if __name__ == "__main__":
    converse(Libcurl)
