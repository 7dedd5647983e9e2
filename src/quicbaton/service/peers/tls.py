"""A channel to a process of another host, over mutually authenticated TLS 1.3.

    connects                                        listens
    QBTN1 TARGET\\n, in the clear ────────────────────►  which process is meant (`acceptor`)
    ◄═══════════════ TLS 1.3, both certificates ═══════════════►
    ◄─ QBTN1 ok\\n ──────────────────────────────────  you are a node of this cluster
       (QBTN1 no REASON\\n, and the end: you are none, or that worker is not there)
    commands, or a handoff link, as on a Unix socket

TARGET is a worker's number, `any` for any worker, or `node` for the process that speaks for the
node. It is sent in the clear, because the process that it names does TLS. It grants nothing, since
every node of a cluster may talk to every process of another. Until the certificate is checked, a
connection can make us hold a few KB, for a few seconds (`limits`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Final

from quicbaton.errors import PeerError
from quicbaton.limits import (
    MAX_PEER_HANDSHAKE_BYTES,
    MAX_REMOTE_OUTBOX_BYTES,
    PEER_CONNECT_S,
    PEER_HANDSHAKE_S,
    PEER_SILENCE_S,
)
from quicbaton.reasons import Reason
from quicbaton.service.peers.channel import Channel, PeerCredentials
from quicbaton.service.peers.cluster import Address, Cluster
from quicbaton.service.peers.process_watch import ProcessWatch

#: Protocol version at the beginning of the lines before and right after TLS.
GREETING: Final = b"QBTN1 "
_OK: Final = GREETING + b"ok\n"
_NO: Final = GREETING + b"no "
_MAX_GREETING_BYTES: Final = 128
#: For the list of workers that are there, in `_MAX_GREETING_BYTES`.
_MAX_WORKERS_CHARS: Final = 90
#: Plaintext bytes taken from TLS, and given to it, at once: some records.
_CHUNK_BYTES: Final = 256 << 10
_HANDSHAKE_READ_BYTES: Final = 16 << 10
_NOBODY: Final = -1


class TlsChannel(Channel):
    """A `Channel` whose bytes go through TLS. `tls` has shaken hands with the node `node`."""

    def __init__(self, sock: socket.socket, tls: _Tls, node: str) -> None:
        super().__init__(sock, PeerCredentials(pid=0, uid=_NOBODY, node=node))
        self._tls = tls
        self.max_outbox_bytes = MAX_REMOTE_OUTBOX_BYTES

    def start(self) -> None:
        super().start()
        # Bytes right behind the handshake are in memory already, and wake no selector.
        self._loop.call_soon(self._decrypt)

    def write(self, data: bytes) -> None:
        if self.closed or self._closing or self._broken:
            return
        view = memoryview(data)
        try:
            while view:
                self._tls.object.write(view[:_CHUNK_BYTES])
                view = view[_CHUNK_BYTES:]
        except ssl.SSLError as error:
            self._break_off(error)
            return
        self._put(self._tls.outgoing.read())

    def write_descriptors(self, data: bytes, descriptors: list[int]) -> None:
        raise PeerError(
            "a descriptor means nothing on another host: ask on the host itself",
            code=Reason.OTHER_HOST,
        )

    def watch(self, on_exit: Callable[[], None]) -> ProcessWatch:
        raise PeerError(
            "nothing here proves the death of another host's process", code=Reason.OTHER_HOST
        )

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(ssl.SSLError):
                # Sends close_notify, and then asks to read the peer's.
                self._tls.object.unwrap()
            self._put(self._tls.outgoing.read())
        super().close()

    # --- helpers --------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        self._tls.incoming.write(data)
        self._decrypt()

    def _decrypt(self) -> None:
        try:
            while not self.closed and not self._closing:
                data = self._tls.object.read(_CHUNK_BYTES)
                if not data:
                    self._lose()
                    return
                self.on_data(data)
        except ssl.SSLWantReadError:
            # An update of the peer's keys is answered here.
            pending = self._tls.outgoing.read()
            if pending:
                self._put(pending)
        except ssl.SSLZeroReturnError:
            self._lose()
        except ssl.SSLError as error:
            self._break_off(error)

    def _break_off(self, error: ssl.SSLError) -> None:
        self.reason = _describe(error)
        self._lose()


async def connect_tls(cluster: Cluster, node: str, target: str) -> TlsChannel:
    """Connect to the process of `node` that `target` means. PeerError gives the reason of a
    failure."""
    address = cluster.find(node).peers
    tls = _Tls(cluster.context(server_side=False), server_side=False)
    what = f"{node} at {address}"
    sock = await _connect_tcp(address, node)
    try:
        set_timeouts(sock)
        async with asyncio.timeout(PEER_HANDSHAKE_S):
            await asyncio.get_running_loop().sock_sendall(sock, GREETING + target.encode() + b"\n")
            await tls.shake(sock)
            found = cluster.check_peer(tls.object)
            if found != node:
                raise PeerError(f"it is {found!r}, as its certificate says", code=Reason.WRONG_NODE)
            await _read_answer(sock, tls, node, target)
        return TlsChannel(sock, tls, node)
    except TimeoutError:
        sock.close()
        raise PeerError(
            f"{what} does not answer within {PEER_HANDSHAKE_S:g} s; {_hint(node)}",
            code=Reason.DEADLINE,
        ) from None
    except PeerError as error:
        sock.close()
        hint = f"; {_hint(node)}" if error.code is Reason.LINK_LOST else ""
        raise PeerError(f"{what}: {error}{hint}", code=error.code) from None
    except OSError as error:
        sock.close()
        raise PeerError(
            f"{what} hung up: {error.strerror or error}; {_hint(node)}",
            code=Reason.LINK_LOST,
        ) from error
    except BaseException:
        sock.close()
        raise


async def accept_tls(
    cluster: Cluster, sock: socket.socket, present: Iterable[int] | None = None
) -> TlsChannel:
    """Shake hands with the node that connected. Its preamble has been read.

    `present`: the node asked for a worker that is not there; these are. Only nodes are told that.

    PeerError, and the socket is closed, unless the peer is a node of the cluster and the worker is
    there.
    """
    try:
        sock.setblocking(False)
        set_timeouts(sock)
        tls = _Tls(cluster.context(server_side=True), server_side=True)
        async with asyncio.timeout(PEER_HANDSHAKE_S):
            await tls.shake(sock)
            try:
                node = cluster.check_peer(tls.object)
            except PeerError as error:
                await tls.say(sock, _NO + error.code.encode() + b"\n")
                raise
            if present is not None:
                there = _spell(present)
                await tls.say(sock, _NO + f"{Reason.NO_SUCH_WORKER} {there}\n".encode())
                raise PeerError(f"asked for a worker beside {there}", code=Reason.NO_SUCH_WORKER)
            await tls.say(sock, _OK)
        return TlsChannel(sock, tls, node)
    except TimeoutError:
        sock.close()
        raise PeerError("the TLS handshake takes too long", code=Reason.DEADLINE) from None
    except OSError as error:
        sock.close()
        raise PeerError(f"the connection broke: {error}", code=Reason.LINK_LOST) from error
    except BaseException:
        sock.close()
        raise


def set_timeouts(sock: socket.socket) -> None:
    """Send at once, and lose the connection within seconds when the other host falls silent."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PEER_SILENCE_S)
    # RFC 5482: for data that is not acknowledged, and for a window that stays closed.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_SILENCE_S * 1000)


class _Tls:
    """TLS between two memory buffers; the methods' callers have the socket."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side)
        self._read_bytes = 0

    async def shake(self, sock: socket.socket) -> None:
        """Do the handshake. PeerError when it fails or the other side's certificate is not
        valid."""
        while True:
            try:
                self.object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError as error:
                # The peer gets an alert with the reason.
                with contextlib.suppress(OSError):
                    await self._flush(sock)
                raise PeerError(_describe(error), code=Reason.TLS) from error
            await self._flush(sock)
            if done:
                return
            await self.fill(sock)

    async def say(self, sock: socket.socket, data: bytes) -> None:
        self.object.write(data)
        await self._flush(sock)

    async def fill(self, sock: socket.socket) -> None:
        """Read once, before the deadline of the handshake."""
        data = await asyncio.get_running_loop().sock_recv(sock, _HANDSHAKE_READ_BYTES)
        if not data:
            raise PeerError("it hung up before it had proved its identity", code=Reason.LINK_LOST)
        self._read_bytes += len(data)
        if self._read_bytes > MAX_PEER_HANDSHAKE_BYTES:
            raise PeerError("its handshake is too long", code=Reason.MESSAGE_TOO_LONG)
        self.incoming.write(data)

    async def _flush(self, sock: socket.socket) -> None:
        pending = self.outgoing.read()
        if pending:
            await asyncio.get_running_loop().sock_sendall(sock, pending)


async def _connect_tcp(address: Address, node: str) -> socket.socket:
    """Connect to the first of the host's addresses that answers."""
    loop = asyncio.get_running_loop()
    what = f"{node} at {address}"
    failure = "it has no address"
    try:
        async with asyncio.timeout(PEER_CONNECT_S):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, where in found:
                sock = socket.socket(family, kind, protocol)
                sock.setblocking(False)
                try:
                    await loop.sock_connect(sock, where)
                    return sock
                except OSError as error:
                    sock.close()
                    failure = error.strerror or str(error)
                except BaseException:
                    sock.close()
                    raise
    except TimeoutError:
        failure = f"no answer within {PEER_CONNECT_S:g} s"
    except OSError as error:
        failure = error.strerror or str(error)
    raise PeerError(f"cannot reach {what}: {failure}; {_hint(node)}", code=Reason.UNREACHABLE)


async def _read_answer(sock: socket.socket, tls: _Tls, node: str, target: str) -> None:
    """Read the other side's verdict on our certificate, which it checks after our handshake is
    done."""
    line = b""
    while not line.endswith(b"\n"):
        try:
            line += tls.object.read(1)
        except ssl.SSLWantReadError:
            await tls.fill(sock)
        except ssl.SSLError as error:
            raise PeerError(f"it refuses us: {_describe(error)}", code=Reason.REFUSED) from error
        if len(line) > _MAX_GREETING_BYTES:
            raise PeerError("it does not speak our protocol", code=Reason.UNEXPECTED_MESSAGE)
    if line == _OK:
        return
    if line.startswith(_NO):
        code, _, there = line.removeprefix(_NO).strip().decode("ascii", "replace").partition(" ")
        if code == Reason.NO_SUCH_WORKER:
            text = _describe_absence(node, target, there)
            raise PeerError(text, code=Reason.NO_SUCH_WORKER)
        raise PeerError(f"it refuses us: {code}", code=Reason.REFUSED)
    raise PeerError("it does not speak our protocol", code=Reason.UNEXPECTED_MESSAGE)


def _hint(node: str) -> str:
    return f"see that node {node} serves, at the address that cluster.toml has"


def _describe_absence(node: str, target: str, there: str) -> str:
    if not there:
        return f"node {node} has no worker that serves now: try again"
    return f"node {node} has no worker {target}; it has {there}: name one of these"


def _spell(workers: Iterable[int]) -> str:
    """Numbers and ranges, as in `0-2,5`."""
    spans: list[list[int]] = []
    for worker in sorted(workers):
        if spans and worker == spans[-1][1] + 1:
            spans[-1][1] = worker
        else:
            spans.append([worker, worker])
    text = ",".join(f"{low}-{high}" if low < high else f"{low}" for low, high in spans)
    if len(text) > _MAX_WORKERS_CHARS:
        text = text[:_MAX_WORKERS_CHARS].rpartition(",")[0] + ",..."
    return text


def _describe(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
