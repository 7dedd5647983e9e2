"""Attacks without a connection: Initials, forged Initials, and packets of no connection.

The sender does not wait for answers, which may go to addresses that are not its own. It asks for
the server's versions now and then, and goes on when that is answered.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from itertools import count, cycle
from time import monotonic
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion

from quicbaton.transport.frames import encode_varint as varint
from tests.clients.hostile.raw import Budget, OverError, udp_socket

_BURST: Final = 32
_PATIENCE_S: Final = 0.25
_DATAGRAM_BYTES: Final = 1200
#: Of TLS in each datagram of an endless hello, and datagrams until the next one begins.
_PIECE_BYTES: Final = 1100
_HELLO_PACKETS: Final = 1000
_VERSION_1: Final = b"\x00\x00\x00\x01"
_STRANGE_VERSION: Final = b"\x1a\x2a\x3a\x4a"
_PROBE: Final = b"\0nobody?"
#: Addresses of the loopback network that the spoofing attacks use.
_SOURCES: Final = [f"127.0.{index // 200}.{index % 200 + 2}" for index in range(400)]


class Stranger:
    """Sockets and a budget; `answered_bytes` came back to each attack, probes' answers excepted."""

    def __init__(self, port: int, budget: Budget) -> None:
        self.port = port
        self.sent_packets = 0
        self.sent_bytes = 0
        self.answered_bytes = 0
        self.largest_ratio = 0.0
        self.answers: list[bytes] = []
        self._budget = budget
        self._probe = udp_socket(port)

    def close(self) -> None:
        self._probe.close()

    def send(self, sock: socket.socket, data: bytes) -> None:
        """Send one datagram; after each burst wait until the server has read it."""
        self._budget.spend()
        while True:
            try:
                sock.send(data)
                break
            except BlockingIOError:
                select.select([], [sock], [], 1.0)
            except ConnectionRefusedError:
                raise OverError from None
        self.sent_packets += 1
        self.sent_bytes += len(data)
        if self.sent_packets % _BURST == 0:
            self.settle(_PATIENCE_S)
            self.hear(sock)

    def hear(self, sock: socket.socket) -> int:
        """Take in what came to a socket; its bytes."""
        size = 0
        while True:
            try:
                data = sock.recv(65_535)
            except (BlockingIOError, ConnectionRefusedError):
                self.answered_bytes += size
                return size
            self.answers = [*self.answers[-9:], data]
            size += len(data)

    def settle(self, seconds: float = 1.0) -> None:
        """Return when the server has answered a question that was asked last."""
        ask = b"\xc0" + _STRANGE_VERSION + b"\x08\0\0\0\0\0\0\0\0\x08" + _PROBE
        self._probe.send(ask.ljust(_DATAGRAM_BYTES, b"\0"))
        until_s = monotonic() + seconds
        while (left := until_s - monotonic()) > 0:
            if select.select([self._probe], [], [], left)[0]:
                self._probe.recv(65_535)
                return


class ClientHello:
    """A true client's first flight, for any connection ID: packed anew for each."""

    def __init__(self) -> None:
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=["h3"],
            server_name="localhost",
            verify_mode=ssl.CERT_NONE,
        )
        quic = QuicConnection(configuration=configuration)
        quic.connect(("127.0.0.1", 1), now=0.0)
        sender = quic._crypto_streams[next(iter(quic._crypto_streams))].sender
        self._data = bytes(sender._buffer)
        # The transport parameters name it (RFC 9000 §7.3).
        self._source_id: bytes = quic.host_cid

    def pack(self, destination_id: bytes, token: bytes = b"") -> bytes:
        """The datagram of 1200 bytes."""
        initials = _Initials(destination_id, self._source_id)
        return initials.pack(0, 0, self._data, token)


class _Initials:
    """The datagrams of 1200 bytes of a client that begins a handshake."""

    def __init__(self, destination_id: bytes, source_id: bytes) -> None:
        self._ids = _with_length(destination_id) + _with_length(source_id)
        self._crypto = CryptoPair()
        self._crypto.setup_initial(
            destination_id, is_client=True, version=QuicProtocolVersion.VERSION_1
        )

    def pack(self, number: int, offset: int, data: bytes, token: bytes = b"") -> bytes:
        """The one with that packet number, and these bytes of TLS."""
        head = b"\xc3" + _VERSION_1 + self._ids + varint(len(token)) + token
        payload = b"\x06" + varint(offset) + varint(len(data)) + data
        room = _DATAGRAM_BYTES - len(head) - 2 - 4 - 16
        length = (0x4000 | (4 + room + 16)).to_bytes(2, "big")
        packet: bytes = self._crypto.encrypt_packet(
            head + length + number.to_bytes(4, "big"), payload.ljust(room, b"\0"), number
        )
        return packet


def _with_length(data: bytes) -> bytes:
    return bytes((len(data),)) + data


def handshake_flood(stranger: Stranger) -> None:
    """True first flights from one address, each of a new connection that goes no further."""
    hello = ClientHello()
    sock = udp_socket(stranger.port)
    while True:
        stranger.send(sock, hello.pack(os.urandom(8)))


def endless_hello(stranger: Stranger) -> None:
    """ClientHellos of 16 MB, as they say, in packets without end."""
    sock = udp_socket(stranger.port)
    while True:
        initials = _Initials(os.urandom(8), b"attacker")
        for number in range(_HELLO_PACKETS):
            data = bytes(_PIECE_BYTES) if number else b"\x01\xff\xff\xff".ljust(_PIECE_BYTES, b"\0")
            stranger.send(sock, initials.pack(number, number * _PIECE_BYTES, data))


def spoofed_handshakes(stranger: Stranger) -> None:
    """The same from hundreds of addresses, which all prove nothing: amplification, too."""
    hello = ClientHello()
    socks = [udp_socket(stranger.port, source) for source in _SOURCES]
    sent = dict.fromkeys(socks, 0)
    heard = dict.fromkeys(socks, 0)
    try:
        for sock in cycle(socks):
            stranger.send(sock, hello.pack(os.urandom(8)))
            sent[sock] += _DATAGRAM_BYTES
            heard[sock] += stranger.hear(sock)
    finally:
        stranger.settle()
        for sock in socks:
            heard[sock] += stranger.hear(sock)
            sock.close()
        ratios = [heard[sock] / sent[sock] for sock in socks if sent[sock]]
        stranger.largest_ratio = max(ratios, default=0.0)


def broken_initials(stranger: Stranger) -> None:
    """Initials that no key opens."""
    sock = udp_socket(stranger.port)
    while True:
        head = b"\xc3" + _VERSION_1 + _with_length(os.urandom(8)) + b"\x08attacker\x00"
        length = (0x4000 | (_DATAGRAM_BYTES - len(head) - 2)).to_bytes(2, "big")
        stranger.send(sock, (head + length).ljust(_DATAGRAM_BYTES, b"\x55"))


def strange_versions(stranger: Stranger) -> None:
    """Packets of versions that do not exist; each is answered with those that do."""
    sock = udp_socket(stranger.port)
    head = b"\xc0" + _STRANGE_VERSION
    for number in count():
        ids = _with_length(number.to_bytes(8, "big")) + _with_length(b"attacker")
        stranger.send(sock, (head + ids).ljust(_DATAGRAM_BYTES, b"\0"))


def lost_packets(stranger: Stranger) -> None:
    """1-RTT packets to IDs that nobody has: a question for stateless resets (RFC 9000 §21.11)."""
    sock = udp_socket(stranger.port)
    for number in count():
        size = (1200, 100, 43, 40)[number % 4]
        stranger.send(sock, (b"\x40" + b"\0" + os.urandom(size)).ljust(size, b"\0")[:size])


def forged_tokens(stranger: Stranger) -> None:
    """Initials with tokens that we never gave."""
    hello = ClientHello()
    sock = udp_socket(stranger.port)
    while True:
        stranger.send(sock, hello.pack(os.urandom(8), os.urandom(80)))
