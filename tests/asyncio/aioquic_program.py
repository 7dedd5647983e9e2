"""A program in the style of aioquic's examples: written once, run on aioquic's asyncio and on ours.

`program(runtime)` makes it for `aioquic.asyncio` or `quicbaton.asyncio`: a user changes only that
import. It uses everything of a protocol and its `_quic` that aioquic's example server and client
use, and programs made from them: a task for each request, HTTP/3 by aioquic's own H3Connection,
HTTP/0.9, server push, WebTransport streams and datagrams, 0-RTT-style early requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import ModuleType, SimpleNamespace
from typing import Any

from aioquic.h0.connection import H0_ALPN, H0Connection
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    H3Event,
    HeadersReceived,
    PushPromiseReceived,
    WebTransportStreamDataReceived,
)
from aioquic.h3.exceptions import NoAvailablePushIDError
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent


def program(runtime: ModuleType) -> SimpleNamespace:
    base: Any = runtime.QuicConnectionProtocol

    class HttpServerProtocol(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._queues: dict[int, asyncio.Queue[H3Event]] = {}
            self._tasks: set[asyncio.Task[None]] = set()
            self._http: Any = None

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ProtocolNegotiated):
                if event.alpn_protocol in H3_ALPN:
                    self._http = H3Connection(self._quic, enable_webtransport=True)
                elif event.alpn_protocol in H0_ALPN:
                    self._http = H0Connection(self._quic)
            elif isinstance(event, ConnectionTerminated):
                for task in self._tasks:
                    task.cancel()
            if self._http is not None:
                for http_event in self._http.handle_event(event):
                    self.http_event_received(http_event)

        def http_event_received(self, event: H3Event) -> None:
            if isinstance(event, HeadersReceived) and event.stream_id not in self._queues:
                headers = dict(event.headers)
                self._quic._logger.info(
                    "HTTP request %s %s", headers[b":method"].decode(), headers[b":path"].decode()
                )
                assert len(self._http._quic.get_peer_address()) >= 2
                self._queues[event.stream_id] = asyncio.Queue()
                task = asyncio.ensure_future(self.serve(event.stream_id, headers))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if event.stream_ended:
                    self._queues[event.stream_id].put_nowait(DataReceived(b"", 0, True))
            elif isinstance(event, WebTransportStreamDataReceived):
                self._queues[event.session_id].put_nowait(event)
            elif isinstance(event, DataReceived | DatagramReceived):
                self._queues[event.stream_id].put_nowait(event)

        async def serve(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
            if headers.get(b":protocol") == b"webtransport":
                await self.serve_webtransport(stream_id)
                return
            body = b""
            while True:
                event: Any = await self._queues[stream_id].get()
                body += event.data
                if event.stream_ended:
                    break
            path = headers[b":path"].decode()
            if path == "/push":
                self.push(stream_id, headers)
            self._http.send_headers(
                stream_id=stream_id,
                headers=[(b":status", b"200"), (b"server", b"aioquic-style")],
            )
            self.transmit()
            if path == "/echo":
                pieces = [body]
            elif path[1:].isdigit():
                size = int(path[1:])
                pieces = [bytes(min(16_384, size - at)) for at in range(0, size, 16_384)]
            else:
                pieces = [b"hello"]
            for piece in pieces:
                self._http.send_data(stream_id=stream_id, data=piece, end_stream=False)
                self.transmit()
                await asyncio.sleep(0)
            self._http.send_data(stream_id=stream_id, data=b"", end_stream=True)
            self.transmit()

        def push(self, stream_id: int, headers: dict[bytes, bytes]) -> None:
            request = [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", headers[b":authority"]),
                (b":path", b"/pushed"),
            ]
            try:
                push_stream_id = self._http.send_push_promise(stream_id=stream_id, headers=request)
            except NoAvailablePushIDError:
                return
            self.http_event_received(
                HeadersReceived(headers=request, stream_ended=True, stream_id=push_stream_id)
            )

        async def serve_webtransport(self, session_id: int) -> None:
            self._http.send_headers(
                stream_id=session_id,
                headers=[(b":status", b"200"), (b"sec-webtransport-http3-draft", b"draft02")],
            )
            self.transmit()
            # aioquic's HTTP/3 reads no answer on a stream that it opened itself: an echo comes on
            # a stream of its own.
            echoes: dict[int, int] = {}
            while True:
                event = await self._queues[session_id].get()
                if isinstance(event, DatagramReceived):
                    self._http.send_datagram(stream_id=session_id, data=event.data)
                elif isinstance(event, WebTransportStreamDataReceived):
                    if event.stream_id not in echoes:
                        echoes[event.stream_id] = self._http.create_webtransport_stream(
                            session_id, is_unidirectional=True
                        )
                    self._http._quic.send_stream_data(
                        stream_id=echoes[event.stream_id],
                        data=event.data,
                        end_stream=event.stream_ended,
                    )
                elif isinstance(event, DataReceived) and event.stream_ended:
                    break
                self.transmit()
            self._http.send_data(stream_id=session_id, data=b"", end_stream=True)
            self.transmit()

    class HttpClient(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.pushes: dict[int, deque[H3Event]] = {}
            self.streams: dict[int, asyncio.Queue[Any]] = {}
            self._events: dict[int, deque[H3Event]] = {}
            self._waiters: dict[int, asyncio.Future[deque[H3Event]]] = {}
            self._http: Any
            if self._quic.configuration.alpn_protocols[0].startswith("hq-"):
                self._http = H0Connection(self._quic)
            else:
                self._http = H3Connection(self._quic, enable_webtransport=True)

        async def request(self, method: str, path: str, content: bytes = b"") -> Any:
            stream_id = self._quic.get_next_available_stream_id()
            self._http.send_headers(
                stream_id=stream_id,
                headers=self.headers(method, path),
                end_stream=not content,
            )
            if content:
                self._http.send_data(stream_id=stream_id, data=content, end_stream=True)
            waiter = self._waiters[stream_id] = self._loop.create_future()
            self._events[stream_id] = deque()
            self.transmit()
            return await asyncio.shield(waiter)

        async def webtransport(self) -> int:
            session_id = self._quic.get_next_available_stream_id()
            self.streams[session_id] = asyncio.Queue()
            headers = [*self.headers("CONNECT", "/"), (b":protocol", b"webtransport")]
            self._http.send_headers(stream_id=session_id, headers=headers)
            self.transmit()
            accepted = await self.streams[session_id].get()
            assert dict(accepted.headers)[b":status"] == b"200"
            return int(session_id)

        def headers(self, method: str, path: str) -> list[tuple[bytes, bytes]]:
            return [
                (b":method", method.encode()),
                (b":scheme", b"https"),
                (b":authority", self._quic.configuration.server_name.encode()),
                (b":path", path.encode()),
            ]

        def quic_event_received(self, event: QuicEvent) -> None:
            for http_event in self._http.handle_event(event):
                self.http_event_received(http_event)
            if isinstance(event, ConnectionTerminated):
                for waiter in self._waiters.values():
                    waiter.set_exception(ConnectionError)
                self._events.clear()
                self._waiters.clear()

        def http_event_received(self, event: Any) -> None:
            stream_id = getattr(event, "stream_id", None)
            if isinstance(event, WebTransportStreamDataReceived):
                self.streams[event.session_id].put_nowait(event)
            elif stream_id in self.streams:
                self.streams[stream_id].put_nowait(event)
            elif isinstance(event, PushPromiseReceived):
                self.pushes[event.push_id] = deque([event])
            elif stream_id in self._events:
                self._events[stream_id].append(event)
                if event.stream_ended:
                    self._waiters.pop(stream_id).set_result(self._events.pop(stream_id))
            elif getattr(event, "push_id", None) in self.pushes:
                self.pushes[event.push_id].append(event)

        def finish(self) -> None:
            self.close(error_code=ErrorCode.H3_NO_ERROR)

    return SimpleNamespace(
        serve=runtime.serve, connect=runtime.connect, Server=HttpServerProtocol, Client=HttpClient
    )


def body(events: Any) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, DataReceived))
