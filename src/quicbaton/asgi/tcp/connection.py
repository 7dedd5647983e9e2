"""A TLS connection with requests on it, whatever the version of HTTP.

A response writes no more than the transport has room for: `room_bytes` says how much that is. When
there is room again, the response that has waited longest is told first. Bytes of the client are
parsed as programs take them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from time import monotonic, time
from typing import Any, Final

from msgspec import Struct

from quicbaton.asgi import disk
from quicbaton.asgi.exchange import Exchange, Fields
from quicbaton.asgi.lifespan import Lifespan
from quicbaton.asgi.scope import (
    NO_CLIENT_CERTIFICATE,
    TLS_1_3,
    Application,
    Scope,
    request_scope,
)
from quicbaton.asyncio.beside import BesideConnection
from quicbaton.asyncio.endpoint.memory import Memory
from quicbaton.asyncio.requests import RequestCount
from quicbaton.errors import StreamStateError
from quicbaton.files import Folder
from quicbaton.files.dates import http_date
from quicbaton.files.downloads import CHUNK_BYTES, Download, FileChangedError
from quicbaton.limits import (
    SMALL_BUFFER_HIGH_BYTES,
    TCP_BUFFER_BYTES,
    TCP_LINGER_S,
    TCP_UNREAD_S,
    TURN_S,
)
from quicbaton.transport.state import Address

_LOG: Final = logging.getLogger("quicbaton.asgi")
#: Bytes parsed at a time: some hundreds of the smallest frames, or chunks.
_PIECE_BYTES: Final = 8192
#: For `SO_LINGER`: drop unsent bytes, and tell the peer by a reset.
NO_LINGER: Final = struct.pack("ii", 1, 0)
#: The smoothed round trip in `tcp_info` (Linux's tcp.h), in microseconds.
_RTT: Final = struct.Struct("=68xI")
_TLS_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": TLS_1_3}


class Serving(Struct, frozen=True):
    """What all connections of a server share."""

    application: Application
    lifespan: Lifespan
    root_path: str
    #: Value of the Alt-Svc field (RFC 7838 §3).
    alt_svc: bytes
    #: Seconds without a request after which a connection is closed.
    keep_alive_s: float
    #: Where programs find the files that they name.
    disk: Folder
    #: The budget from which connections take what they hold.
    memory: Memory
    #: Counts requests.
    requests: RequestCount

    def complete(self, fields: Fields) -> Fields:
        """A response's fields with those that every response has, unless the program gave them."""
        names = {name for name, _ in fields}
        # RFC 9110 §6.6.1: an origin server with a clock says the time.
        own = [(b"date", http_date(int(time()))), (b"alt-svc", self.alt_svc)]
        return fields + [field for field in own if field[0] not in names]


class TcpConnection(asyncio.Protocol):
    """One client. `on_over(connection)` is called when the connection is closed and no program
    works for it. `name` is what `quicbaton ps` and the access log call it."""

    def __init__(
        self, serving: Serving, name: str, on_over: Callable[[TcpConnection], None]
    ) -> None:
        self.serving = serving
        self.name = name
        self._since_s = monotonic()
        self._account = serving.memory.budget.open(name.encode())
        serving.memory.others[name.encode()] = self
        self._buffer_bytes = TCP_BUFFER_BYTES
        self.peer: Address = ()
        self.local: Address = ()
        #: The one that the client was shown, as PEM, and its own.
        self.certificate = ""
        self.client_certificate = NO_CLIENT_CERTIFICATE
        #: No new request is begun here. The client is told if there is time.
        self.retired = False
        #: Programs at work, by stream.
        self.exchanges: dict[int, Exchange] = {}
        #: Called when there is room, by stream; the next to write comes first.
        self._writers: dict[int, Callable[[], None]] = {}
        #: Responses that are files, in which no program has a further part.
        self._files: dict[int, Download] = {}
        self._tls = (TLS_1_3, 0)
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._is_lost = False
        self._is_reset = False
        self._is_full = False
        #: A response has used up its share of this turn and waits for the next.
        self._is_short = False
        #: The client was told that this is the end.
        self.is_leaving = False
        #: The reasons for which nothing is read.
        self._pauses: set[object] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: Bytes that have come and are not parsed.
        self._unread = bytearray()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    # --- from the transport ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(TCP_BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            _watch_peer(sock)
        self.peer = transport.get_extra_info("peername") or ()
        self.local = transport.get_extra_info("sockname") or ()
        self._tls = _tls_numbers(transport.get_extra_info("ssl_object"))
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self.stop_timer()
        self._waiting.clear()
        for exchange in list(self.exchanges.values()):
            exchange.disconnect()
        for stream_id in list(self._files):
            self.drop_file(stream_id)
        self._unread.clear()
        self.settle()
        self._check_over()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if self._turn not in self._pauses:
            self._turn()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.let_write()
        self.settle()

    # --- memory ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Report the bytes held here, whenever that may have changed. Then follow the memory that
        is left: shrink the send buffer, or read nothing more from a client that has much here."""
        account, memory = self._account, self.serving.memory
        if not account.is_open:
            return
        taken = len(self._unread) + sum(one.held_bytes for one in self.exchanges.values())
        account.note(taken + (0 if self._is_lost else self.held_bytes), 0)
        memory.relieve()
        if self.is_closing:
            return
        if account.may_credit(taken):
            self.resume(account)
        else:
            self.pause(account)
        buffer_bytes = SMALL_BUFFER_HIGH_BYTES if account.is_tight else TCP_BUFFER_BYTES
        if buffer_bytes != self._buffer_bytes:
            self._buffer_bytes = buffer_bytes
            self._transport.set_write_buffer_limits(buffer_bytes)

    def close_for_memory(self, reason: str) -> None:
        _LOG.warning("%s is closed: %s", self.client, reason)
        self.reset()

    def restore_credit(self) -> None:
        self.settle()

    def describe(self) -> BesideConnection:
        """The row of `quicbaton ps`."""
        tls = self._transport.get_extra_info("ssl_object")
        return BesideConnection(
            name=self.name,
            peer=self.peer,
            alpn=(tls and tls.selected_alpn_protocol()) or "http/1.1",
            age_s=monotonic() - self._since_s,
            rtt_ms=_round_trip_ms(self._transport.get_extra_info("socket")),
            running=self.running,
            held_bytes=self._account.held_bytes,
        )

    # --- for the versions -----------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> None:
        """Called when TLS is up."""

    @abstractmethod
    def take(self, data: bytes) -> None:
        """Parse a piece of what the client has sent."""

    @abstractmethod
    def retire(self) -> None:
        """Begin no more requests, and close the connection when those that run have ended."""

    @abstractmethod
    def send_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """Send a piece of a response, for which there is room."""

    @abstractmethod
    def room_bytes(self, stream_id: int) -> int:
        """Bytes that a response may write now; 0: it is told when there is room."""

    @abstractmethod
    def abort(self, stream_id: int) -> None:
        """End the response here, visibly incomplete."""

    @property
    def running(self) -> int:
        """The number of requests whose programs run, or whose responses are still being sent."""
        return len(self.exchanges.keys() | self._files.keys())

    @property
    def client(self) -> str:
        """The client's address, as logs and `ps` show it."""
        if not self.peer:
            return "a client"
        return f"{str(self.peer[0]).removeprefix('::ffff:')} port {self.peer[1]}"

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._is_lost or self._is_reset or self._transport.is_closing()

    @property
    def held_bytes(self) -> int:
        """Bytes that are written and that the client has not taken."""
        return self._waiting_bytes + int(self._transport.get_write_buffer_size())

    def write(self, data: bytes) -> None:
        """Send the bytes, together with all others that are written in this turn of the event
        loop."""
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    def flush(self) -> None:
        """Send all that is written, now."""
        if self._waiting and not self.is_closing:
            self._transport.write(b"".join(self._waiting))
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._is_short and not self._is_full:
            self._is_short = False
            self.let_write()
        self.settle()

    def scope(self, headers: Fields, http_version: str) -> Scope:
        """The scope of a request of this client."""
        version, cipher_suite = self._tls
        return request_scope(
            headers,
            client=self.peer,
            server=self.local,
            root_path=self.serving.root_path,
            state=self.serving.lifespan.state,
            cipher_suite=cipher_suite,
            tls_version=version,
            http_version=http_version,
            certificate=self.certificate,
            client_certificate=self.client_certificate,
        )

    def run(self, exchange: Exchange) -> None:
        """Let the program begin with a request."""
        self.exchanges[exchange.stream_id] = exchange
        self._writers[exchange.stream_id] = exchange.has_room
        exchange.start(self.serving.application)

    def let_write(self, stream_id: int | None = None) -> None:
        """Tell the responses, or the one of a stream, that there is room again."""
        if stream_id is None:
            for write in list(self._writers.values()):
                write()
        elif stream_id in self._writers:
            self._writers[stream_id]()

    def has_written(self, stream_id: int) -> None:
        """Put the stream's response last in line: those that have waited longer write first."""
        if stream_id in self._writers:
            self._writers[stream_id] = self._writers.pop(stream_id)

    def transport_room_bytes(self) -> int:
        """Bytes that may be written now; 0: wait for `has_room`."""
        if self._is_full:
            return 0
        room = self._buffer_bytes - self.held_bytes
        if room <= 0 and self._waiting:
            # A client that takes everything at once gets no more than this in a turn.
            self._is_short = True
            return 0
        # At least one byte: the transport reports room only after its buffer was over-full.
        return max(1, room)

    def pause(self, why: object) -> None:
        """Read nothing until `resume(why)`."""
        if not self._pauses and not self.is_closing:
            self._transport.pause_reading()
        self._pauses.add(why)

    def resume(self, why: object) -> None:
        """Read on, unless another reason not to is left."""
        if why not in self._pauses:
            return
        self._pauses.remove(why)
        if not self._pauses and not self.is_closing:
            self._transport.resume_reading()

    def arm_timer(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after that time, instead of the call that was armed before."""
        if self.is_leaving:
            return
        self.stop_timer()
        self._timer = self._loop.call_later(seconds, then)

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Send all that is written, then close."""
        self.flush()
        self.stop_timer()
        if not self.is_closing:
            self._transport.close()
            # RFC 9112 §9.6: a client that does not take the rest, nor closes, is not waited for.
            self._timer = self._loop.call_later(TCP_UNREAD_S, self.reset)

    def close_when_told(self) -> None:
        """Close when the client has closed, as it was told to. Closing first would answer its next
        bytes with a TCP reset, which can overtake bytes that the client has yet to read (RFC 9112
        §9.6)."""
        self.flush()
        self.arm_timer(TCP_LINGER_S, self.close)
        self.is_leaving = True

    def reset(self) -> None:
        """Close at once by a TCP reset, so that nothing sent looks whole."""
        self._waiting.clear()
        self.stop_timer()
        if self._is_lost or self._is_reset:
            return
        self._is_reset = True
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):  # it is gone already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        # Not within one of the transport's own calls: it may close right after that.
        self._loop.call_soon(self._transport.abort)

    def forget(self, stream_id: int) -> None:
        """The program is done with that request."""
        self.exchanges.pop(stream_id, None)
        if stream_id not in self._files:
            self._writers.pop(stream_id, None)
        self._check_over()

    # --- files (what an exchange's wire has to do, the same for both versions) ------------------

    def connection_name(self) -> str:
        """The connection's name in the access log."""
        return self.name

    @property
    def requests(self) -> RequestCount:
        return self.serving.requests

    def may_begin(self, stream_id: int) -> bool:
        return True

    def keep(self, grown_bytes: int) -> None:
        """Count bytes that an exchange holds (negative: no more) among this connection's
        `held_bytes`."""
        self.settle()

    def open_file(self, stream_id: int, path: str) -> Download:
        return disk.open_file(self.serving.disk, stream_id, path)

    def open_part(
        self, stream_id: int, descriptor: int, offset: int, count: int | None
    ) -> Download:
        return disk.open_part(self.serving.disk, stream_id, descriptor, offset, count)

    def send_file(self, download: Download) -> None:
        """Send a file as the rest of a response."""
        stream_id = download.promise.stream_id
        self._files[stream_id] = download
        self._writers[stream_id] = partial(self._fill, stream_id)
        self._fill(stream_id)

    def is_file(self, stream_id: int) -> bool:
        """Whether the response of a stream is a file that is being sent."""
        return stream_id in self._files

    def drop_file(self, stream_id: int) -> None:
        """Forget the file: it is sent, or the client does not want it."""
        download = self._files.pop(stream_id, None)
        if download is not None:
            download.release()
            self._writers.pop(stream_id, None)

    # --- helpers --------------------------------------------------------------------------------

    def _fill(self, stream_id: int) -> None:
        """Write until there is no room or the file is at its end."""
        download = self._files[stream_id]
        try:
            while not download.is_complete:
                room = self.room_bytes(stream_id)
                if not room:
                    return
                data = download.read(min(CHUNK_BYTES, room))
                ended = not download.left_bytes
                if ended:
                    self.drop_file(stream_id)
                self.send_data(stream_id, data, ended=ended)
        except FileChangedError as error:
            # A short body, or a mixed one, must not look like a whole one.
            _LOG.warning("a response over TCP ends in the middle of a file: %s", error)
            self.abort(stream_id)
        except StreamStateError:
            pass  # the client is gone
        self.drop_file(stream_id)

    def _turn(self) -> None:
        """Parse received bytes for `TURN_S`, so that other connections do not wait longer. One read
        brings up to 256 KB; made of the smallest frames, that is a second's work."""
        until_s = self._loop.time() + TURN_S
        while self._unread and not self.is_closing:
            piece = bytes(self._unread[:_PIECE_BYTES])
            del self._unread[:_PIECE_BYTES]
            self.take(piece)
            if self._unread and self._loop.time() > until_s:
                self.pause(self._turn)
                self._loop.call_soon(self._turn)
                break
        else:
            self.resume(self._turn)
        self.settle()

    def _check_over(self) -> None:
        if self._is_lost and not self.exchanges:
            self._account.close()
            self.serving.memory.others.pop(self.name.encode(), None)
            self._on_over(self)


def _tls_numbers(tls: Any) -> tuple[int, int]:
    """Version and cipher suite, by TLS's numbers (ASGI TLS 0.2)."""
    name, _, _ = tls.cipher()
    suites = (cipher["id"] for cipher in tls.context.get_ciphers() if cipher["name"] == name)
    # OpenSSL puts a prefix before the 16 bits of the wire.
    return _TLS_VERSIONS.get(tls.version(), 0), next(suites, 0) & 0xFFFF


def _round_trip_ms(sock: Any) -> float:
    """The round trip that the kernel has measured; 0 where it gives none."""
    if not sys.platform.startswith("linux"):
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
    except (OSError, AttributeError):  # it is closed
        return 0.0
    return float(_RTT.unpack(info)[0]) / 1000 if len(info) == _RTT.size else 0.0


def _watch_peer(sock: Any) -> None:
    """Let the kernel find out when a peer is gone, or takes none of the bytes that wait for it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(TCP_UNREAD_S))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TCP_UNREAD_S * 1000))
