"""An attacker that can send to every port and has no key: its own sockets and captured datagrams.

It knows how everything works, and the plaintext form of connection IDs.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from quicbaton.keys.cluster_key import ClusterKey
from quicbaton.keys.key_ring import KeyRing
from quicbaton.routing.id_text import parse_ids
from quicbaton.routing.quic_lb import IdFactory
from tests.processes.wire import Relay

VERSION_1 = (1).to_bytes(4, "big")
_STRANGE_VERSION = b"\x1a\x2a\x3a\x4a"
_LOOK_S = 0.002
#: Sent at once; more could overflow the receiver's buffer.
_BURST = 48


class Tap(Relay):
    """A relay on the client's way that keeps what the client sent, too."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.server_port = port
        self.heard: list[bytes] = []

    def _from_client(self, data: bytes, address: Any) -> None:
        self.heard.append(data)
        super()._from_client(data, address)

    def short(self) -> list[bytes]:
        """The client's 1-RTT datagrams."""
        return [data for data in self.heard if data[0] < 0x80]

    def long(self) -> list[bytes]:
        """The client's handshake."""
        return [data for data in self.heard if data[0] >= 0x80]

    def ids(self) -> list[bytes]:
        """Connection IDs that the client sends to, the first to the latest."""
        return list(dict.fromkeys(data[1 : 1 + ID_BYTES] for data in self.short()))


#: Whatever the key: the forms of plaintext IDs are alike.
_ANY_RING = KeyRing(ClusterKey(b"none", bytes(32)))
_CONFIGS = parse_ids("plaintext", _ANY_RING)
ID_BYTES = _CONFIGS.issuing.length


def made_up_id(node: int, worker: int) -> bytes:
    """An ID that names this place."""
    return IdFactory(_CONFIGS, node, worker, os.urandom, _ANY_RING).issue()[0]


def short(cid: bytes, size: int = 1200) -> bytes:
    """A 1-RTT packet, as far as somebody without its keys can tell."""
    return (b"\x40" + cid) + os.urandom(size - 1 - len(cid))


def initial(cid: bytes, *, token: bytes = b"", size: int = 1200) -> bytes:
    """An Initial that no key opens."""
    ids = bytes((len(cid),)) + cid + b"\x08attacker"
    length = size - 7 - len(ids) - len(token) - 2
    header = b"\xc3" + VERSION_1 + ids + bytes((len(token),)) + token
    return (header + (0x4000 | length).to_bytes(2, "big")).ljust(size, b"\x55")


def first_flight() -> bytes:
    """A true client's first datagram; nothing will follow it."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="x.test")
    quic = QuicConnection(configuration=configuration)
    quic.connect(("127.0.0.1", 1), now=0.0)
    return quic.datagrams_to_send(now=0.0)[0][0]


class Attacker:
    """Some UDP sockets, each an address of its own, all to one port."""

    def __init__(self, port: int, addresses: int = 1) -> None:
        self.socks = []
        for _ in range(addresses):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.connect(("127.0.0.1", port))
            self.socks.append(sock)
        #: Datagrams that came back, without answers to our own probes.
        self.answers: list[bytes] = []
        self.sent_bytes = 0
        self._probes = 0

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.socks:
            sock.close()

    @property
    def answered_bytes(self) -> int:
        return sum(map(len, self.answers))

    async def send(self, *datagrams: bytes, workers: int = 1, burst: int = _BURST) -> None:
        """Send all of them from every address, and return when they were processed."""
        for sock in self.socks:
            for at in range(0, len(datagrams), burst):
                for data in datagrams[at : at + burst]:
                    self.sent_bytes += len(data)
                    await asyncio.get_running_loop().sock_sendall(sock, data)
                await self._processed(sock, workers)

    async def keep_who_answers(self) -> None:
        """Go on with one of the addresses from which the kernel takes us to a live process."""
        mark = b"\0nybody?"
        probe = b"\xc0" + _STRANGE_VERSION + b"\x00\x08" + mark
        async with asyncio.timeout(60):
            while True:
                for sock in self.socks:
                    if self._probe(sock, probe.ljust(1200, b"\0"), mark):
                        for other in self.socks:
                            if other is not sock:
                                other.close()
                        self.socks = [sock]
                        return
                await asyncio.sleep(_LOOK_S)

    async def _processed(self, sock: socket.socket, workers: int) -> None:
        """Ask every worker for its versions: by the answer it has read what came before."""
        for worker in range(workers):
            self._probes += 1
            mark = self._probes.to_bytes(8, "big")
            probe = b"\xc0" + _STRANGE_VERSION + bytes((ID_BYTES,)) + made_up_id(0, worker)
            probe = (probe + b"\x08" + mark).ljust(1200, b"\0")
            async with asyncio.timeout(60):
                while not self._probe(sock, probe, mark):
                    await asyncio.sleep(_LOOK_S)

    def _probe(self, sock: socket.socket, probe: bytes, mark: bytes) -> bool:
        if self.hear(sock, mark):
            return True
        sock.send(probe)
        return False

    def hear(self, sock: socket.socket, mark: bytes = b"") -> bool:
        """Take in what has come; true when the answer to a probe is among it."""
        found = False
        while True:
            try:
                data = sock.recv(65_535)
            except BlockingIOError:
                return found
            if data[0] & 0x80 and data[1:5] == bytes(4) and data[5] == 8 and data[6] == 0:
                found |= data[6:14] == mark
            else:
                self.answers.append(data)

    def listen(self) -> list[bytes]:
        """All answers so far."""
        for sock in self.socks:
            self.hear(sock)
        return self.answers


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    """Descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """Threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


async def hung_up(sock: socket.socket) -> bytes:
    """The bytes of the other side until it hangs up."""
    said = b""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while True:
            try:
                data = await loop.sock_recv(sock, 65_536)
            except ConnectionError:
                return said
            if not data:
                return said
            said += data


async def unix(path: Path) -> socket.socket:
    """A raw connection to a control socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, str(path))
    return sock


async def tcp(port: int) -> socket.socket:
    """A raw connection to a TCP port."""
    sock = socket.socket(socket.AF_INET)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock
