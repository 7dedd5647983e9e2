"""The listening socket of a program, and the connections accepted from it.

All processes of a port accept from one open socket, which is never closed while any of them lives.
So a client that has connected is served by one of them, whichever stops, starts or dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from quicbaton.asgi.disk import whole_disk
from quicbaton.asgi.lifespan import Lifespan
from quicbaton.asgi.scope import Application, client_certificate
from quicbaton.asgi.tcp.connection import NO_LINGER, Serving, TcpConnection
from quicbaton.asgi.tcp.http1 import Http1Connection
from quicbaton.asgi.tcp.http2 import Http2Connection
from quicbaton.asyncio.beside import TCP_NAME, BesideConnection
from quicbaton.asyncio.endpoint.memory import Memory
from quicbaton.asyncio.listener import Listener
from quicbaton.asyncio.requests import RequestCount
from quicbaton.counted import counted
from quicbaton.files import Folder
from quicbaton.handshake import ByName, ClientCertificates
from quicbaton.limits import (
    MAX_TCP_CONNECTIONS,
    MEMORY_BUDGET_BYTES,
    TCP_ALT_SVC_S,
    TCP_BACKLOG,
    TCP_HANDSHAKE_S,
)

_ALPN: Final = ["h2", "http/1.1"]
_PEM_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_PEM_END: Final = "-----END CERTIFICATE-----"
#: Pause after the process ran out of descriptors. They are freed as connections end.
_NO_DESCRIPTOR_S: Final = 1.0
#: Pause after memory was found to be nearly full.
_NO_MEMORY_S: Final = 0.2


class TlsIdentity(NamedTuple):
    """A server's TLS, and the certificates (PEM) that clients are shown, by the context in which
    they are. OpenSSL goes from `context` to the one that fits the server name."""

    context: ssl.SSLContext
    certificates: Mapping[ssl.SSLContext, str]


class TcpServer:
    """Serves `application` at a bound socket, which stays its maker's to close. Clients can connect
    from now on; they wait until `start`.

    Raises ConfigurationError (`tcp_port`) when another program has the port.
    """

    def __init__(
        self,
        listener: Listener,
        identity: TlsIdentity,
        keep_alive_s: float,
        *,
        application: Application,
        lifespan: Lifespan,
        root_path: str = "",
        disk: Folder | None = None,
        requests: RequestCount | None = None,
    ) -> None:
        listener.listen(TCP_BACKLOG)
        self.listener = listener.take()
        port = int(self.listener.getsockname()[1])
        self._identity = identity
        self._serving = Serving(
            application=application,
            lifespan=lifespan,
            root_path=root_path,
            alt_svc=b'h3=":%d"; ma=%d' % (port, TCP_ALT_SVC_S),
            keep_alive_s=keep_alive_s,
            disk=whole_disk() if disk is None else disk,
            memory=Memory(MEMORY_BUDGET_BYTES, {}, Counter()),
            requests=RequestCount() if requests is None else requests,
        )
        self._loop = asyncio.get_running_loop()
        self._connections: set[TcpConnection] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._wanted = False
        self._reading = False
        self._pause: asyncio.TimerHandle | None = None
        self._none_left = asyncio.Event()
        #: How many clients have connected, and how many were turned away for lack of memory.
        self.accepted = self.refused = 0
        self._named = 0

    def share(self, memory: Memory) -> None:
        """Take what connections hold from that memory. To be called before `start`."""
        self._serving = replace(self._serving, memory=memory)

    def show(self, identity: TlsIdentity) -> None:
        """Show new clients that certificate from now on. A session of an earlier one is not
        resumed: its tickets are of another context."""
        self._identity = identity

    def start(self) -> None:
        self._wanted = True
        self._read_if_room()

    def stop_accepting(self) -> None:
        """Leave new clients to other processes. Connections end between two requests; one without a
        request so far ends after its first."""
        self._wanted = False
        self._stop_reading()
        for connection in list(self._connections):
            connection.retire()

    @property
    def running(self) -> int:
        """The number of open connections, and of programs that still run for clients that have
        left."""
        return len(self._connections) + len(self._handshakes)

    @property
    def handshakes(self) -> int:
        """The number of TLS handshakes under way."""
        return len(self._handshakes)

    def describe(self) -> list[BesideConnection]:
        """The rows of `quicbaton ps`."""
        return [connection.describe() for connection in self._connections]

    def describe_running(self) -> list[str]:
        """A line for each connection whose requests run."""
        return [f"{counted(self.running, 'connection')} over TCP"] if self.running else []

    async def until_none_left(self, timeout_s: float) -> None:
        """Wait until nothing runs, at most `timeout_s`."""
        self._none_left.clear()
        if self.running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if timeout_s == math.inf else timeout_s):
                    await self._none_left.wait()

    def cut(self) -> list[str]:
        """End all connections now. Returns a line for each that had running requests."""
        cut = [
            f"{connection.client}: {counted(connection.running, 'request')} over TCP"
            for connection in self._connections
            if connection.running
        ]
        for connection in list(self._connections):
            connection.reset()
        for task in list(self._handshakes):
            task.cancel()
        return cut

    def close(self) -> None:
        """Accept no more clients, and cut open connections. The listening socket stays open."""
        self._wanted = False
        self._stop_reading()
        self.cut()

    # --- helpers, in reading order --------------------------------------------------------------

    def _read_if_room(self) -> None:
        self._pause = None
        if self._wanted and not self._reading and self.running < MAX_TCP_CONNECTIONS:
            self._reading = True
            self._loop.add_reader(self.listener.fileno(), self._accept)

    def _stop_reading(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.listener.fileno())

    def _accept(self) -> None:
        """Accept one client at a time: the other workers get theirs."""
        if self._serving.memory.refuses_clients:
            # Workers that have memory get a moment to accept the clients.
            self._stop_reading()
            self._pause = self._loop.call_later(_NO_MEMORY_S, self._refuse_waiting)
            return
        try:
            sock, _ = self.listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client has gone
        except OSError:
            self._stop_reading()
            self._pause = self._loop.call_later(_NO_DESCRIPTOR_S, self._read_if_room)
            return
        sock.setblocking(False)
        self.accepted += 1
        task = self._loop.create_task(self._shake_hands(sock))
        self._handshakes.add(task)
        task.add_done_callback(self._handshake_over)
        if self.running >= MAX_TCP_CONNECTIONS:
            # Further clients wait with the kernel, or go to another worker.
            self._stop_reading()

    def _refuse_waiting(self) -> None:
        """Turn away, by a TCP reset, the clients that still wait: no worker has memory."""
        while self._serving.memory.refuses_clients:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                break
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            sock.close()
            self.refused += 1
        self._read_if_room()

    async def _shake_hands(self, sock: socket.socket) -> None:
        identity = self._identity
        try:
            await self._loop.connect_accepted_socket(
                lambda: _Greeting(partial(self._begin, identity)),
                sock,
                ssl=identity.context,
                ssl_handshake_timeout=TCP_HANDSHAKE_S,
            )
        except OSError:
            sock.close()  # of the client's making: it hung up, took too long, or speaks no TLS

    def _handshake_over(self, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        self._check_left()
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler(
                {"message": "a TLS handshake failed", "exception": task.exception(), "task": task}
            )
        self._read_if_room()

    def _begin(self, identity: TlsIdentity, tls: ssl.SSLObject) -> TcpConnection:
        protocol = tls.selected_alpn_protocol()
        kind = Http2Connection if protocol == "h2" else Http1Connection
        self._named += 1
        connection = kind(self._serving, f"{TCP_NAME}{self._named}", self._over)
        connection.certificate = identity.certificates[tls.context]
        connection.client_certificate = client_certificate(_client_chain(tls))
        connection.retired = not self._wanted
        self._connections.add(connection)
        return connection

    def _over(self, connection: TcpConnection) -> None:
        self._connections.discard(connection)
        self._check_left()
        self._read_if_room()

    def _check_left(self) -> None:
        if not self.running:
            self._none_left.set()


class _Greeting(asyncio.Protocol):
    """A connection until TLS has said which version of HTTP it speaks."""

    def __init__(self, begin: Callable[[ssl.SSLObject], TcpConnection]) -> None:
        self._begin = begin

    def connection_made(self, transport: Any) -> None:
        connection = self._begin(transport.get_extra_info("ssl_object"))
        transport.set_protocol(connection)
        connection.connection_made(transport)


def tls_identity(
    certificate: Path,
    key: Path,
    keylog: Path | None = None,
    clients: ClientCertificates | None = None,
) -> TlsIdentity:
    """The TLS of a server with that certificate. Raises OSError (`ssl.SSLError`) for files that
    hold no certificate or key. With `keylog`, TLS secrets are appended to that file (NSS format).
    With `clients`, clients are asked for their certificates."""
    context = _context(clients)
    context.load_cert_chain(certificate, key)
    if keylog is not None:
        context.keylog_filename = str(keylog)
    # RFC 8446 §4.4.2: the server's own comes first.
    text = certificate.read_text(encoding="utf-8", errors="replace")
    _, begin, rest = text.partition(_PEM_BEGIN)
    own, end, _ = rest.partition(_PEM_END)
    return TlsIdentity(context, {context: f"{begin}{own}{end}\n"})


def tls_by_name(
    identities: Sequence[tuple[Iterable[str], TlsIdentity]],
    clients: ClientCertificates | None = None,
) -> TlsIdentity:
    """The TLS of a server with several certificates, each with its names. The first is for clients
    that name no server. `clients` as for each of them."""
    by_name = ByName(identities)
    # Session tickets are the first context's. A new one each time the certificates change resumes
    # no session from before.
    context = _context(clients)

    def choose(tls: Any, server_name: str | None, _: ssl.SSLContext) -> None:
        tls.context = by_name.find(server_name).context

    context.sni_callback = choose
    certificates: dict[ssl.SSLContext, str] = {}
    for _, identity in identities:
        certificates.update(identity.certificates)
    return TlsIdentity(context, certificates)


def _client_chain(tls: ssl.SSLObject) -> list[bytes]:
    """The client's certificate (DER), and those that it sent along if Python tells."""
    own = tls.getpeercert(binary_form=True)
    if own is None:
        return []
    whole = getattr(tls, "get_unverified_chain", None)  # from Python 3.13 on
    return [own] if whole is None else list(whole())


def _context(clients: ClientCertificates | None) -> ssl.SSLContext:
    """A server's TLS, without a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113 §9.2
    context.set_alpn_protocols(_ALPN)
    if clients is not None:
        context.load_verify_locations(cadata=clients.authorities.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED if clients.required else ssl.CERT_OPTIONAL
        # As it is over QUIC, whatever this Python's default is.
        context.verify_flags &= ~(ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT)
        # A session must not outlive the certificates with which it began.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context
