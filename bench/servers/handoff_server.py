"""A process that owns connections and hands them over, with a record of its datagrams.

    GET /BYTES answers with that many bytes: a block of random ones, over and over.
    GET /held/BYTES the same, all of it written at once: the send buffer takes it.
    GET /BYTES?RATE does so at RATE bytes per second, as a live stream comes.

`first` opens the port, `join` shares the port of another process, `takeover` replaces it. Lines on
stdin are requests: `sends` is answered with the moments at which datagrams went to the kernel since
the last time, `memory` with the process's memory. The record is made around `UdpSocket.send`: the
product knows nothing of it.
"""

import argparse
import asyncio
import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

import msgspec
from aioquic.h3.connection import H3_ALPN
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent

from bench.servers.application import CHUNK_BYTES, MAX_DATA, MAX_STREAM_DATA, make_body
from quicbaton.asyncio import QuicConnectionProtocol, StreamWritable
from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.cli.certificate import CertificateFiles
from quicbaton.errors import GivenAwayError
from quicbaton.http3 import H3Connection
from quicbaton.keys.key_ring import KeyRing
from quicbaton.service.host import tune_collector
from quicbaton.service.node.node import Node
from quicbaton.service.node.operations import Operations
from quicbaton.service.node.seat import Seat, join
from quicbaton.service.node.takeover import NewProcess, Takeovers
from quicbaton.service.peers import commands as c
from quicbaton.transport.train import Train

BLOCK_BYTES = 64 * CHUNK_BYTES
#: How often a live stream has something to send.
_TICK_S = 0.005
#: More than one packet: neither a PING nor a probe of the path's size, but bytes of the body.
DATA_TRAIN_BYTES = 1500
#: Long enough that nothing idle ends while a benchmark looks elsewhere.
IDLE_TIMEOUT_S = 600.0

_TAKEOVER_DEADLINE_S = 60.0
_HELD = b"/held/"


class Started(msgspec.Struct):
    """The first line: where it listens; of a takeover also how it went (`message`: what failed)."""

    port: int
    pid: int
    takeover_s: float = 0.0
    took_over: int = 0
    message: str = ""


class Memory(msgspec.Struct):
    """Answer to `memory`: bytes of the process that are resident."""

    resident_bytes: int


class Sends(msgspec.Struct):
    """Answer to `sends`: CLOCK_MONOTONIC in ns, when the kernel was given it, and its bytes."""

    sends: list[tuple[int, int]]


class Content:
    """The content: one block, cut up once."""

    def __init__(self) -> None:
        block = make_body(BLOCK_BYTES)
        self._chunks = [
            block[start : start + CHUNK_BYTES] for start in range(0, BLOCK_BYTES, CHUNK_BYTES)
        ]

    def piece(self, offset: int, end: int) -> bytes:
        """Return the bytes from `offset` to the next chunk's beginning, or to `end`."""
        chunk = self._chunks[offset // CHUNK_BYTES % len(self._chunks)]
        start = offset % CHUNK_BYTES
        return chunk[start : start + min(CHUNK_BYTES - start, end - offset)]


class _Live(msgspec.Struct):
    """A live stream; its clock is this machine's, so it goes on where the handoff found it."""

    begun_ns: int
    rate: int
    offset: int
    total: int


class _State(msgspec.Struct):
    downloads: dict[int, tuple[int, int]]
    live: dict[int, _Live]


class Protocol(QuicConnectionProtocol):
    content: Content

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Downloads: stream -> (next offset, bytes in all).
        self._downloads: dict[int, tuple[int, int]] = {}
        self._live: dict[int, _Live] = {}
        self._ticking = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._live:
            self._loop.call_soon(self._on_tick)  # it is ours to send from here on

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        if isinstance(event, ConnectionTerminated):
            self._live = {}
        if self._http is None:
            return
        if isinstance(event, StreamWritable):
            self._pump(event.stream_id)
            return
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived):
                self._answer(http_event.stream_id, dict(http_event.headers)[b":path"])

    def export_state(self) -> bytes:
        return msgspec.msgpack.encode(_State(self._downloads, self._live))

    def import_state(self, data: bytes) -> None:
        state = msgspec.msgpack.decode(data, type=_State)
        self._downloads, self._live = state.downloads, state.live

    def _answer(self, stream_id: int, path: bytes) -> None:
        assert self._http is not None
        held = path.startswith(_HELD)
        size, _, rate = path.removeprefix(_HELD if held else b"/").partition(b"?")
        total = int(size)
        headers = [(b":status", b"200"), (b"content-length", b"%d" % total)]
        self._http.send_headers(stream_id, headers)
        if rate:
            self._live[stream_id] = _Live(monotonic_ns(), int(rate), 0, total)
            self._tick()
            return
        self._downloads[stream_id] = (0, total)
        self._pump(stream_id, at_once=held)

    def _tick(self) -> None:
        if self._live and not self._ticking:
            self._ticking = True
            self._loop.call_later(_TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._ticking = False
        # The connection's present owner has a clock of its own.
        with suppress(GivenAwayError):
            for stream_id in list(self._live):
                self._send_live(stream_id, self._live[stream_id])
            self.transmit()
            self._tick()

    def _send_live(self, stream_id: int, live: _Live) -> None:
        assert self._http is not None
        due = min(live.total, (monotonic_ns() - live.begun_ns) * live.rate // 1_000_000_000)
        while live.offset < due:
            piece = self.content.piece(live.offset, due)
            self._http.send_data(stream_id, piece, live.offset + len(piece) == live.total)
            live.offset += len(piece)
        if live.offset == live.total:
            del self._live[stream_id]

    def _pump(self, stream_id: int, *, at_once: bool = False) -> None:
        assert self._http is not None
        while stream_id in self._downloads:
            if not at_once and self._quic.is_congested(stream_id):
                return
            offset, total = self._downloads[stream_id]
            piece = self.content.piece(offset, total)
            offset += len(piece)
            if offset == total:
                del self._downloads[stream_id]
            else:
                self._downloads[stream_id] = (offset, total)
            self._http.send_data(stream_id, piece, offset == total)


def server_configuration(files: CertificateFiles) -> QuicConfiguration:
    """The configuration of all our server processes."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=H3_ALPN,
        max_data=MAX_DATA,
        max_stream_data=MAX_STREAM_DATA,
        idle_timeout=IDLE_TIMEOUT_S,
    )
    configuration.load_cert_chain(files.certificate, files.key)
    return configuration


def record_sends(node: Node) -> list[tuple[int, int]]:
    """Have every train that goes to the kernel noted; the list grows."""
    sends: list[tuple[int, int]] = []
    udp = node.endpoint.udp
    send = udp.send

    def send_and_note(train: Train) -> bool:
        sends.append((monotonic_ns(), len(train.data)))
        # False would say that the interface takes no datagrams of that size.
        return send(train)

    udp.send = send_and_note  # type: ignore[method-assign]
    return sends


async def start(options: argparse.Namespace) -> tuple[Node, Started]:
    """Begin to serve in the way that the mode says."""
    configuration = server_configuration(CertificateFiles(options.certificate, options.key))
    Protocol.content = Content()
    shared: dict[str, Any] = {
        "ring": KeyRing.parse(options.ring.read_text()),
        "configuration": configuration,
        "create_protocol": Protocol,
    }
    if options.mode == "takeover":
        return await _take_over(options, shared)
    if options.mode == "first":
        node = Node(Seat(open_udp("127.0.0.1", 0, reuse_port=True)), options.control, **shared)
        node.start()
    elif options.mode == "join":
        node = Node(await join(options.other, options.control), options.control, **shared)
        node.start()
    node.answer(Takeovers(node).handlers())
    return node, Started(int(node.endpoint.udp.address[1]), os.getpid())


async def _take_over(options: argparse.Namespace, shared: dict[str, Any]) -> tuple[Node, Started]:
    """Replace the process at `other`; returns when that has nothing left."""
    begun = monotonic()
    command = c.TakeOver(str(options.control), _TAKEOVER_DEADLINE_S, 0.0)
    arrival = await NewProcess.begin(options.other, command)
    node = Node(arrival.seat, options.control, **shared)
    node.answer(Takeovers(node).handlers())
    answer = await arrival.settle(node, lambda _: None)
    return node, Started(
        port=int(node.endpoint.udp.address[1]),
        pid=os.getpid(),
        takeover_s=monotonic() - begun,
        took_over=node.handoffs.counts.resumed,
        message="" if answer.ok else answer.message,
    )


async def _serve(options: argparse.Namespace) -> None:
    tune_collector()
    node, started = await start(options)
    operations = Operations(node)
    sends = record_sends(node)
    _give_back()
    print(msgspec.json.encode(started).decode(), flush=True)
    over = asyncio.Event()

    def on_line() -> None:
        line = sys.stdin.readline().strip()
        if line == "sends":
            print(msgspec.json.encode(Sends(list(sends))).decode(), flush=True)
            sends.clear()
        elif line == "memory":
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            answer = Memory(pages * os.sysconf("SC_PAGE_SIZE"))
            print(msgspec.json.encode(answer).decode(), flush=True)
        elif not line:
            over.set()

    # The parent holds the other end of stdin: when it goes away, however it does, so do we.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), on_line)
    ends = [asyncio.ensure_future(over.wait()), asyncio.ensure_future(node.succeeded.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    operations.close()


def _give_back() -> None:
    """Give back the memory that the start has freed, the 16 MB of the content among it: connections
    would grow into it, and the process would not (malloc_trim(3), where it is glibc's)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main() -> None:
    """Serve until stdin ends or a successor has taken over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["first", "join", "takeover"], required=True)
    parser.add_argument("--control", type=Path, required=True, help="our control socket")
    parser.add_argument("--other", type=Path, help="the control socket of the other process")
    parser.add_argument("--ring", type=Path, required=True)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
