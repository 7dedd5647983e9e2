"""A client of the matrix over any library with aioquic's API: events in, methods out.

It distinguishes event classes by name, since each library has its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from conversation import Answer, Client

_PATIENCE_S = 30
_MOVE_AFTER_S = 0.5


def http_protocol(base: Any, http_connection: Any) -> Any:
    """A protocol class over the library's `base`, speaking HTTP/3 by its `http_connection`."""

    class HttpProtocol(base):  # type: ignore[misc]
        def transmit(self) -> None:
            """Where the library waits for being told to send."""
            if hasattr(base, "transmit"):
                super().transmit()

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._http: Any = None
            self._requests: dict[int, tuple[Answer, asyncio.Future[Answer]]] = {}

        def request(
            self, method: str, authority: str, path: str, body: bytes = b""
        ) -> asyncio.Future[Answer]:
            """Resolves when the response has ended, one way or another."""
            stream_id = self._quic.get_next_available_stream_id()
            fields = {":method": method, ":scheme": "https", ":authority": authority, ":path": path}
            headers = [(name.encode(), value.encode()) for name, value in fields.items()]
            done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._requests[stream_id] = (Answer(), done)
            self.speak_http()
            self._http.send_headers(stream_id, headers, not body)
            if body:
                self._http.send_data(stream_id, body, True)
            self.transmit()
            return done

        def speak_http(self) -> None:
            """Open the control streams, unless they are open."""
            if self._http is None:
                self._http = http_connection(self._quic)
                self.transmit()

        def quic_event_received(self, event: Any) -> None:
            kind = type(event).__name__
            if kind == "ConnectionTerminated":
                for stream_id in list(self._requests):
                    why = f"closed with {event.error_code}: {event.reason_phrase}"
                    self._end(stream_id, why)
            elif kind == "StreamReset":
                self._end(event.stream_id, f"reset with {event.error_code:#x}")
            if self._http is not None:
                for http_event in self._http.handle_event(event):
                    self._take(http_event)

        def _take(self, event: Any) -> None:
            answer = self._requests.get(event.stream_id, (None, None))[0]
            if answer is None:
                return
            kind = type(event).__name__
            if kind == "HeadersReceived":
                for name, value in event.headers:
                    answer.take_field(name.decode(), value.decode())
            elif kind == "DataReceived":
                answer.take(event.data)
            if getattr(event, "stream_ended", False):
                self._end(event.stream_id)

        def _end(self, stream_id: int, error: str = "") -> None:
            answer, done = self._requests.pop(stream_id, (None, None))
            if answer is not None and done is not None and not done.done():
                answer.error = error
                done.set_result(answer)

    return HttpProtocol


class EventClient(Client):
    """`_connect()` gives an async context manager of a connected protocol, as `connect` does."""

    def __init__(self, host: str, port: int, authority: str) -> None:
        super().__init__(host, port, authority)
        self._context: Any = None
        self.protocol: Any = None

    def connect(self) -> Any:
        raise NotImplementedError

    async def open(self) -> None:
        if self._context is None:
            self._context = self.connect()
            self.protocol = await self._context.__aenter__()
            self.protocol.speak_http()

    async def get(self, urls: list[str], moving: bool) -> list[Answer]:
        await self.open()
        requests = [self._request("GET", url) for url in urls]
        answers = asyncio.gather(*requests)
        if moving:
            await asyncio.sleep(_MOVE_AFTER_S)
            await self.move()
        return list(await answers)

    async def move(self) -> None:
        """Go on from another local port."""
        raise NotImplementedError

    async def post(self, url: str, body: bytes) -> Answer:
        await self.open()
        return await self._request("POST", url, body)

    async def close(self) -> None:
        if self._context is not None:
            await self._context.__aexit__(None, None, None)

    async def _request(self, method: str, url: str, body: bytes = b"") -> Answer:
        _, _, rest = url.partition("://")
        authority, _, path = rest.partition("/")
        done = self.protocol.request(method, authority, f"/{path}", body)
        return await asyncio.wait_for(done, _PATIENCE_S)
