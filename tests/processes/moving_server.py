"""The server process of these tests, and the process that forks it.

    GET /N        N bytes of `content`, exported at their offset
    GET /bug      answered, and from then on export_state raises
    GET /busy/MS  answered after MS milliseconds, in which its connection refuses to be exported
    POST /...     answered with the number of bytes that came

`python moving_server.py` reads one JSON object a line from stdin (`Options`), forks a server for
each and answers with its pid. Forking saves the half second in which Python imports aioquic, and
makes processes as real as any. When stdin ends all of them are killed.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from aioquic.h3.connection import H3_ALPN
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent

from quicbaton.asyncio import QuicConnectionProtocol, StreamWritable
from quicbaton.asyncio.endpoint.udp import open_udp
from quicbaton.baton.versions import readable_versions
from quicbaton.errors import PeerError, QuicbatonError, RefusedError
from quicbaton.handoff import Waits
from quicbaton.http3 import H3Connection
from quicbaton.keys.key_ring import KeyRing
from quicbaton.reasons import Reason
from quicbaton.routing.id_text import parse_ids
from quicbaton.service import failpoints
from quicbaton.service.node.node import Node
from quicbaton.service.node.seat import Seat, join
from quicbaton.service.node.takeover import NewProcess, Takeovers
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.acceptor import listen
from quicbaton.service.peers.cluster import Cluster
from quicbaton.service.stores import open_store
from tests.processes import format_before

#: No client that waits for a thousand others to open is idle for so long, on the busiest machine.
IDLE_TIMEOUT_S = 600.0

_BLOCK = Random("content").randbytes(1 << 20)
_CHUNK_BYTES = 65_536


class Options(msgspec.Struct):
    """The server's options, and how to begin: `first`, `join` or `takeover`."""

    mode: str
    control: str
    ring: str
    certificate: str
    key: str
    log: str
    address: str = "127.0.0.1"
    port: int = 0
    #: A cluster's folder, and the node that this server is.
    cluster: str = ""
    node: str = ""
    other: str = ""
    failpoint: str = ""
    keylog: str = ""
    #: Forms of connection IDs, as `parse_ids` reads them.
    ids: str = "plaintext"
    waits: Waits = Waits()
    deadline_s: float = 60.0
    #: A file to wait for before anything else.
    hold: str = ""
    #: import_state raises, as that of another program version might.
    forgetful: bool = False
    #: Baton formats that it speaks; empty: all that it can.
    formats: tuple[int, ...] = ()
    #: Names the host, if it is to count as another one.
    host: bytes = b""
    #: A shared ownership store's URL.
    store: str = ""
    #: One of `PROGRAMS`.
    program: str = "moving"


def content(start: int, end: int) -> bytes:
    """Bytes [start, end) of the endless body that every download is the beginning of."""
    size = len(_BLOCK)
    pieces = []
    while start < end:
        at = start % size
        piece = _BLOCK[at : at + end - start]
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)


class _State(msgspec.Struct):
    downloads: dict[int, tuple[int, int]] = {}  # stream -> (next offset, bytes in all)
    uploads: dict[int, int] = {}  # stream -> bytes so far


class MovingProtocol(QuicConnectionProtocol):
    """Serves downloads, uploads, and requests that cannot be moved while they run."""

    forgetful = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = _State()
        self._busy: dict[int, asyncio.TimerHandle] = {}
        self._has_bug = False

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        elif isinstance(event, StreamWritable):
            self._write(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            for timer in self._busy.values():
                timer.cancel()
            self._state = _State()
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(http_event)

    def export_state(self) -> bytes:
        if self._has_bug:
            raise ZeroDivisionError("an application's bug")
        if self._busy:
            raise RefusedError("a request is being worked on", code=Reason.NOT_EXPORTABLE)
        return msgspec.msgpack.encode(self._state)

    def import_state(self, data: bytes) -> None:
        if self.forgetful:
            raise KeyError("what was this again?")
        self._state = msgspec.msgpack.decode(data, type=_State)

    def _http_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            headers = dict(event.headers)
            path = headers[b":path"].decode()
            if headers[b":method"] == b"POST":
                self._state.uploads[event.stream_id] = 0
            elif path.startswith("/busy/"):
                delay_s = int(path.removeprefix("/busy/")) / 1000
                self._busy[event.stream_id] = asyncio.get_running_loop().call_later(
                    delay_s, self._finish, event.stream_id
                )
            elif path == "/done":
                for busy, timer in self._busy.items():
                    timer.cancel()
                    self._answer(busy, b"done")
                self._busy.clear()
                self._answer(event.stream_id, b"")
            elif path == "/bug":
                self._has_bug = True
                self._answer(event.stream_id, b"bug")
            else:
                self._begin(event.stream_id, int(path.removeprefix("/")))
        elif isinstance(event, DataReceived) and event.stream_id in self._state.uploads:
            self._state.uploads[event.stream_id] += len(event.data)
            if event.stream_ended:
                self._answer(event.stream_id, b"%d" % self._state.uploads.pop(event.stream_id))

    def _begin(self, stream_id: int, total: int) -> None:
        assert self._http is not None
        headers = [(b":status", b"200"), (b"content-length", b"%d" % total)]
        self._http.send_headers(stream_id, headers, end_stream=not total)
        if total:
            self._state.downloads[stream_id] = (0, total)
            self._write(stream_id)

    def _write(self, stream_id: int) -> None:
        assert self._http is not None
        while stream_id in self._state.downloads and not self._quic.is_congested(stream_id):
            offset, total = self._state.downloads[stream_id]
            piece = content(offset, min(total, offset + _CHUNK_BYTES))
            offset += len(piece)
            if offset == total:
                del self._state.downloads[stream_id]
            else:
                self._state.downloads[stream_id] = (offset, total)
            self._http.send_data(stream_id, piece, end_stream=offset == total)

    def _finish(self, stream_id: int) -> None:
        del self._busy[stream_id]
        self._answer(stream_id, b"done")
        self.transmit()

    def _answer(self, stream_id: int, text: bytes) -> None:
        assert self._http is not None
        self._http.send_headers(stream_id, [(b":status", b"200")])
        self._http.send_data(stream_id, text, end_stream=True)


#: Options of `Node`.
PROGRAMS: dict[str, dict[str, Any]] = {
    "moving": {"create_protocol": MovingProtocol},
    "sleepy": {"create_protocol": MovingProtocol, "sleep_after_s": 0.05},
}
#: The one of this process.
nodes: list[Node] = []


async def _start(options: Options) -> tuple[Node, NewProcess | None]:
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=H3_ALPN,
        max_datagram_frame_size=65_536,
        idle_timeout=IDLE_TIMEOUT_S,
    )
    configuration.load_cert_chain(options.certificate, options.key)
    if options.keylog:
        # Closed with the process.
        configuration.secrets_log_file = open(options.keylog, "a")  # noqa: SIM115
    ring = KeyRing.parse(Path(options.ring).read_text())
    shared: dict[str, Any] = {
        "ring": ring,
        "ids": parse_ids(options.ids, ring),
        "configuration": configuration,
        "waits": options.waits,
        "formats": options.formats or readable_versions(),
        "host": options.host,
        **PROGRAMS[options.program],
    }
    cluster = Cluster(Path(options.cluster), options.node) if options.cluster else None
    shared["cluster"] = cluster
    if options.store:
        shared["store"] = open_store(options.store)
    control = Path(options.control)
    if options.mode == "first":
        sock = open_udp(options.address, options.port, reuse_port=True)
        if cluster is None:
            return _node(Seat(sock), control, **shared), None
        node = _node(Seat(sock, cluster.number), control, **shared)
        node.listen_for_peers(listen(cluster.own_entry().listen))
        return node, None
    other = Path(options.other)
    if options.mode == "join":
        return _node(await join(other, control), control, **shared), None
    arrival = await NewProcess.begin(other, c.TakeOver(str(control), options.deadline_s, 0.0))
    return _node(arrival.seat, control, **shared), arrival


def _node(*arguments: Any, **options: Any) -> Node:
    node = Node(*arguments, **options)
    node.answer(Takeovers(node).handlers())
    return node


async def _serve(options: Options) -> None:
    while options.hold and not Path(options.hold).exists():
        await asyncio.sleep(0.001)
    MovingProtocol.forgetful = options.forgetful
    node, arrival = await _start(options)
    nodes.append(node)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, _print_counters, node)
    try:
        if arrival is None:
            node.start()
        else:
            answer = await arrival.settle(node, lambda _progress: None)
            print("settled", answer.code, answer.message, flush=True)
        await node.succeeded.wait()
    except PeerError as error:
        print("gave up", error.code, error, flush=True)
    finally:
        node.close()
        # Closing takes what was written before with it; the last datagrams are in the kernel.
        print("over", flush=True)


def _print_counters(node: Node) -> None:
    print("counters", msgspec.json.encode(dict(node.endpoint.counters)).decode(), flush=True)


def _run_forked(options: Options) -> None:
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    failpoints.arm(options.failpoint)
    # A test that waits in vain asks where it is.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        asyncio.run(_serve(options))
        status = 0
    except QuicbatonError as error:
        print(f"{type(error).__name__} {error.code}: {error}", file=sys.stderr)
        status = 1
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """Fork a server for every line of stdin."""
    format_before.install()
    children: list[int] = []
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _run_forked(msgspec.json.decode(line, type=Options))
        children.append(pid)
        print(pid, flush=True)
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
