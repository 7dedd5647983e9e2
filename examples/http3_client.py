"""A small HTTP/3 client: one connection, one request for each URL, all at once.

python examples/http3_client.py --ca cert.pem https://localhost:4433/1000000
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aioquic.h3.connection import H3_ALPN, ErrorCode
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

from quicbaton.asyncio import QuicConnectionProtocol, connect
from quicbaton.http3 import H3Connection

Answer = tuple[int, bytes]


class Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http: H3Connection = H3Connection(self._quic)
        self._status: dict[int, int] = {}
        self._bodies: dict[int, bytearray] = {}
        self._answers: dict[int, asyncio.Future[Answer]] = {}

    async def request(self, authority: str, path: str, content: bytes = b"") -> Answer:
        stream_id = self._quic.get_next_available_stream_id()
        headers = [
            (b":method", b"POST" if content else b"GET"),
            (b":scheme", b"https"),
            (b":authority", authority.encode()),
            (b":path", path.encode()),
        ]
        self._http.send_headers(stream_id, headers, end_stream=not content)
        if content:
            self._http.send_data(stream_id, content, end_stream=True)
        self._bodies[stream_id] = bytearray()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answers[stream_id] = answer
        self.transmit()
        return await answer

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for answer in self._answers.values():
                answer.set_exception(ConnectionError(event.reason_phrase))
            self._answers.clear()
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                status = int(dict(http_event.headers)[b":status"])
                self._status.setdefault(http_event.stream_id, status)
            elif isinstance(http_event, DataReceived):
                self._bodies[http_event.stream_id] += http_event.data
            if isinstance(http_event, HeadersReceived | DataReceived) and http_event.stream_ended:
                stream_id = http_event.stream_id
                body = bytes(self._bodies.pop(stream_id))
                self._answers.pop(stream_id).set_result((self._status.pop(stream_id), body))


async def fetch(urls: list[str], ca: Path, content: bytes = b"") -> list[Answer]:
    """Send all requests over one connection to the first URL's server."""
    first = urlsplit(urls[0])
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(str(ca))
    async with connect(
        first.hostname or "", first.port or 443, configuration=configuration, create_protocol=Client
    ) as client:
        assert isinstance(client, Client)
        answers = await asyncio.gather(
            *(client.request(first.netloc, urlsplit(url).path or "/", content) for url in urls)
        )
        client.close(error_code=ErrorCode.H3_NO_ERROR)
    return answers


async def main() -> None:
    parser = argparse.ArgumentParser(description="A small HTTP/3 client.")
    parser.add_argument("urls", nargs="+", metavar="URL", help="all of one server")
    parser.add_argument("--ca", type=Path, required=True, help="certificate to trust (PEM)")
    parser.add_argument("--data", default="", help="send this in a POST instead of a GET")
    options = parser.parse_args()
    answers = await fetch(options.urls, options.ca, options.data.encode())
    for url, (status, body) in zip(options.urls, answers, strict=True):
        sys.stdout.write(f"{status} {url}: {len(body)} bytes\n")


if __name__ == "__main__":
    asyncio.run(main())
