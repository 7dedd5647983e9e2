"""The server process of tests about requests that cannot be exported, since coroutines run.

Beside the paths of `moving_server` it serves:

    GET /pid            the process's id
    GET /counters       counters of its handoffs, as JSON
    GET /slow/N/MS      N bytes of `content`, written over MS milliseconds
    GET /bulk/N         N bytes of `content`, as fast as they go
    POST /echo          the request's bytes, with backpressure
    POST /swallow/MS    reads nothing for MS milliseconds, then answers with the bytes that came
    POST /refuse/N      413 with N bytes of `content` at once, before the request's end
                        or, with a header `x-wait-for`, when the file that it names exists

The program `streams` is one of asyncio's streams: it echoes, slowly.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from typing import Any

import msgspec
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StopSendingReceived, StreamReset

from quicbaton.asyncio import QuicConnectionProtocol, StreamWritable
from quicbaton.errors import StreamStateError
from tests.processes import moving_server
from tests.processes.moving_server import MovingProtocol, content

_STEPS = 50
_CHUNK_BYTES = 65_536
#: An echo stops reading when so much waits to be written.
_ENOUGH_BYTES = 65_536


class _Request:
    """One request's coroutine, and what it waits for."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.changed = asyncio.Event()
        self.headers: dict[bytes, bytes] = {}
        self.received = bytearray()
        self.ended = False


class RunningProtocol(MovingProtocol):
    """Handles requests with coroutines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._requests: dict[int, _Request] = {}

    def running_streams(self) -> Collection[int]:
        return tuple(self._requests)

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for request in self._requests.values():
                request.task.cancel()
        request = self._requests.get(getattr(event, "stream_id", -1))
        if request is not None:
            if isinstance(event, StreamWritable):
                request.changed.set()
            elif isinstance(event, (StreamReset, StopSendingReceived)):
                request.task.cancel()
        super().quic_event_received(event)

    def _http_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            kind, *numbers = dict(event.headers)[b":path"].decode()[1:].split("/")
            work = {
                "slow": self._slow,
                "bulk": self._bulk,
                "echo": self._echo,
                "swallow": self._swallow,
                "refuse": self._refuse,
            }.get(kind)
            if work is not None:
                request = self._requests[event.stream_id] = _Request()
                request.headers = dict(event.headers)
                coroutine = self._run(event.stream_id, work(event.stream_id, *map(int, numbers)))
                request.task = asyncio.get_running_loop().create_task(coroutine)
                return
            if kind == "pid":
                self._answer(event.stream_id, b"%d" % os.getpid())
                return
            if kind == "counters":
                self._answer(event.stream_id, msgspec.json.encode(_counters()))
                return
        elif isinstance(event, DataReceived) and event.stream_id in self._requests:
            request = self._requests[event.stream_id]
            request.received += event.data
            request.ended = event.stream_ended
            if len(request.received) >= _ENOUGH_BYTES:
                self._quic.pause_reading(event.stream_id)
            request.changed.set()
            return
        super()._http_event_received(event)

    async def _run(self, stream_id: int, work: Any) -> None:
        try:
            await work
        except (asyncio.CancelledError, StreamStateError):
            print("cancelled", stream_id, flush=True)
        finally:
            del self._requests[stream_id]

    async def _slow(self, stream_id: int, size: int, duration_ms: int) -> None:
        await self._begin_body(stream_id, size)
        for step in range(_STEPS):
            await asyncio.sleep(duration_ms / 1000 / _STEPS)
            start, stop = size * step // _STEPS, size * (step + 1) // _STEPS
            await self._write_body(stream_id, content(start, stop), step == _STEPS - 1)

    async def _bulk(self, stream_id: int, size: int) -> None:
        await self._begin_body(stream_id, size)
        for start in range(0, size, _CHUNK_BYTES):
            stop = min(size, start + _CHUNK_BYTES)
            await self._write_body(stream_id, content(start, stop), stop == size)

    async def _echo(self, stream_id: int) -> None:
        request = self._requests[stream_id]
        await self._begin_body(stream_id, None)
        ended = False
        while not ended:
            await self._something(request)
            data, ended = bytes(request.received), request.ended
            request.received.clear()
            await self._write_body(stream_id, data, ended)
            self._quic.resume_reading(stream_id)
            self.transmit()

    async def _swallow(self, stream_id: int, duration_ms: int) -> None:
        request = self._requests[stream_id]
        self._quic.pause_reading(stream_id)
        await asyncio.sleep(duration_ms / 1000)
        size = 0
        while not request.ended:
            size += len(request.received)
            request.received.clear()
            self._quic.resume_reading(stream_id)
            self.transmit()
            await self._something(request)
        await self._begin_body(stream_id, None)
        await self._write_body(stream_id, b"%d" % (size + len(request.received)), True)

    async def _refuse(self, stream_id: int, size: int) -> None:
        assert self._http is not None
        wanted = self._requests[stream_id].headers.get(b"x-wait-for", b"/")
        while not os.path.exists(wanted):
            await asyncio.sleep(0.01)
        headers = [(b":status", b"413"), (b"content-length", b"%d" % size)]
        self._http.send_headers(stream_id, headers)
        await self._write_body(stream_id, content(0, size), True)

    async def _something(self, request: _Request) -> None:
        while not request.received and not request.ended:
            request.changed.clear()
            await request.changed.wait()

    async def _begin_body(self, stream_id: int, size: int | None) -> None:
        assert self._http is not None
        length = [] if size is None else [(b"content-length", b"%d" % size)]
        self._http.send_headers(stream_id, [(b":status", b"200"), *length])
        self.transmit()

    async def _write_body(self, stream_id: int, data: bytes, ended: bool) -> None:
        assert self._http is not None
        request = self._requests[stream_id]
        while self._quic.is_congested(stream_id):
            request.changed.clear()
            await request.changed.wait()
        self._http.send_data(stream_id, data, ended)
        self.transmit()


def _counters() -> dict[str, int]:
    handoffs = moving_server.nodes[0].handoffs
    return {
        "relayed": handoffs.relays.relayed,
        "cut": handoffs.relays.cut,
        "left": handoffs.relays.left,
    }


def serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo in small pieces, the process's id first."""

    async def echo() -> None:
        writer.write(b"%d\n" % os.getpid())
        while data := await reader.read(1000):
            await asyncio.sleep(0.005)
            writer.write(data)
            await writer.drain()
        writer.close()

    task = asyncio.get_running_loop().create_task(echo())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Task[None]] = set()
moving_server.PROGRAMS["moving"] = {"create_protocol": RunningProtocol}
moving_server.PROGRAMS["streams"] = {
    "create_protocol": QuicConnectionProtocol,
    "stream_handler": serve_stream,
}

if __name__ == "__main__":
    moving_server.main()
