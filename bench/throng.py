"""Thousands of HTTP/3 connections from one process, all of them with traffic: do they all live?

    python -m bench.throng ADDRESS PORT FOLDER SECONDS

Every connection fetches a file of FOLDER about every SECONDS seconds, and compares it. Lines on
stdin: `open COUNT` makes connections and has them begin, `mark` begins a new measurement, `report`
answers with the events since. A connection that ends or gets no answer is dropped.
"""

import asyncio
import resource
import ssl
import statistics
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import msgspec
from aioquic.h3.connection import H3_ALPN
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

from quicbaton.asyncio import QuicConnectionProtocol, connect
from quicbaton.http3 import H3Connection

_AT_ONCE = 16
_ANSWER_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 120.0


class Report(msgspec.Struct):
    """The events since the mark."""

    connections: int
    dropped: int
    hash_errors: int
    requests: int
    #: Per connection that asked at all: the longest wait for an answer.
    longest_ms: list[float]
    #: Of all answers.
    median_ms: float
    first_failure: str = ""


class _Member(QuicConnectionProtocol):
    """One connection, one request at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._body = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._end: ConnectionTerminated | None = None

    async def get(self, path: str) -> bytes:
        """The body; ConnectionError when the connection ends before it does."""
        if self._end is not None:
            raise ConnectionError(f"ended: {self._end.reason_phrase or self._end.error_code}")
        assert self._http is not None
        stream_id = self._quic.get_next_available_stream_id()
        headers = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
        ]
        self._body.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._http.send_headers(stream_id, headers, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self._answer, _ANSWER_TIMEOUT_S)

    def quic_event_received(self, event: QuicEvent) -> None:
        assert self._http is not None
        waiting = self._answer if self._answer is not None and not self._answer.done() else None
        if isinstance(event, ConnectionTerminated):
            self._end = event
            if waiting is not None:
                waiting.set_exception(ConnectionError(event.reason_phrase or "it ended"))
            return
        for http_event in self._http.handle_event(event):
            if not isinstance(http_event, DataReceived | HeadersReceived):
                continue
            if isinstance(http_event, DataReceived):
                self._body += http_event.data
            if http_event.stream_ended and waiting is not None:
                waiting.set_result(bytes(self._body))


class _Throng:
    def __init__(self, address: str, port: int, folder: Path, every_s: float) -> None:
        self._every_s = every_s
        self._address = address
        self._port = port
        self._files = [(f"/{path.name}", path.read_bytes()) for path in sorted(folder.iterdir())]
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._dropped: list[str] = []
        self._hash_errors = 0
        self._count = 0
        self._waits_ms: dict[int, list[float]] = {}

    async def perform(self, line: str) -> Report:
        operation, *arguments = line.split()
        if operation == "open":
            waiting = iter(range(int(arguments[0])))
            await asyncio.gather(*(self._open(waiting) for _ in range(_AT_ONCE)))
        elif operation == "mark":
            self._waits_ms = {}
        return self._report()

    async def _open(self, numbers: Any) -> None:
        for number in numbers:
            member = await self._stack.enter_async_context(
                connect(
                    self._address,
                    self._port,
                    configuration=_configuration(),
                    create_protocol=_Member,
                )
            )
            assert isinstance(member, _Member)
            self._count += 1
            self._tasks.append(asyncio.create_task(self._keep_asking(number, member)))

    async def _keep_asking(self, number: int, member: _Member) -> None:
        chance = Random(number)
        try:
            while True:
                path, content = chance.choice(self._files)
                begun = monotonic()
                body = await member.get(path)
                waits = self._waits_ms.setdefault(number, [])
                waits.append((monotonic() - begun) * 1e3)
                self._hash_errors += body != content
                await asyncio.sleep(chance.uniform(0, 2 * self._every_s))
        except (TimeoutError, ConnectionError) as failure:
            self._dropped.append(repr(failure))

    def _report(self) -> Report:
        everything = [one for waits in self._waits_ms.values() for one in waits]
        return Report(
            connections=self._count,
            dropped=len(self._dropped),
            hash_errors=self._hash_errors,
            requests=len(everything),
            longest_ms=[max(waits) for waits in self._waits_ms.values()],
            median_ms=statistics.median(everything) if everything else 0.0,
            first_failure=self._dropped[0] if self._dropped else "",
        )


def _configuration() -> QuicConfiguration:
    """Certificates are not what is measured here."""
    return QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name="localhost",
        verify_mode=ssl.CERT_NONE,
        idle_timeout=IDLE_TIMEOUT_S,
    )


async def _main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))
    throng = _Throng(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        report = await throng.perform(line)
        print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
