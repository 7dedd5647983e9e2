"""A client without manners: aioquic does the handshake, then every frame is the attack's own.

The server's packets are opened and read as far as an attack needs it: their numbers, the credit
that they give, the connection IDs that they issue, and the close.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoError, apply_key_phase, next_key_phase

from quicbaton.transport import rangeset
from quicbaton.transport.frames import decode_varint, encode_varint

#: Packets that leave at once, and those that may be on their way: the attacker has a fast link,
#: and no wish to lose its packets to a full buffer.
TRAIN_PACKETS: Final = 16
WINDOW_PACKETS: Final = 64
#: How long the server may be silent before the attacker sends on.
_PATIENCE_S: Final = 0.25
_HANDSHAKE_S: Final = 20.0
_BUFFER_BYTES: Final = 4 << 20
_UDP_SEGMENT: Final = (17, 103)  # SOL_UDP, UDP_SEGMENT of linux/udp.h
_TAG_BYTES: Final = 16
#: Payload bytes of a packet that fits every path (RFC 9000 §14): 1200 less header and tag.
PAYLOAD_BYTES: Final = 1150
_PING: Final = b"\x01"


class OverError(Exception):
    """The server ended the connection, or the attack's budget is spent."""


class Budget:
    """The budget of an attack: packets and seconds, whichever ends first."""

    def __init__(self, packets: int, seconds: float) -> None:
        self.packets = packets
        self._until_s = monotonic() + seconds

    def spend(self, packets: int = 1) -> None:
        """So many packets more; OverError when there is none left, or no time."""
        self.packets -= packets
        if self.packets < 0 or monotonic() > self._until_s:
            raise OverError


def udp_socket(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A non-blocking socket that talks to `port` of the loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


class RawClient:
    """One connection; `send` queues a packet with these frames.

    `closed` says how the server ended it: "transport 0x…", "application 0x…", "reset", or "".
    `acknowledges`: whether ACKs of what has come go along.
    """

    def __init__(self, port: int, budget: Budget) -> None:
        self.port = port
        self.acknowledges = True
        self.closed = ""
        self.reason = ""
        self.sent_packets = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        #: The first stream ID of each kind that may not be opened: bidirectional, unidirectional.
        self.stream_limits = [0, 0]
        #: IDs that the server issued: sequence -> ID.
        self.issued: dict[int, bytes] = {}
        #: Packet numbers that came.
        self.received: list[int] = []
        self._budget = budget
        self._queue: list[bytes] = []
        self._acked = -1
        self.sock = udp_socket(port)
        quic = _shake_hands(self.sock, port)
        pair: Any = quic._cryptos[tls.Epoch.ONE_RTT]
        self._crypto = pair
        self.number = quic._packet_number
        self.peer_id: bytes = quic._peer_cid.cid
        self._id_bytes = len(quic.host_cid)
        self.tokens = {quic._peer_cid.stateless_reset_token}
        self.issued = {one.sequence_number: one.cid for one in quic._peer_cid_available}
        self.issued[0] = self.peer_id
        self.stream_limits = [quic._remote_max_streams_bidi, quic._remote_max_streams_uni]
        self._expected = quic._spaces[tls.Epoch.ONE_RTT].expected_packet_number
        for span in quic._spaces[tls.Epoch.ONE_RTT].ack_queue:
            rangeset.add(self.received, span.start, span.stop)

    def close(self) -> None:
        """Go away without a word."""
        self.sock.close()

    # --- sending --------------------------------------------------------------------------------

    def send(self, *frames: bytes, phase: int | None = None) -> None:
        """Queue one packet; when a train is complete it leaves, and the client keeps its window.

        Raises OverError when there is no connection or budget any more.
        """
        self._budget.spend()
        self._queue.append(self.seal(b"".join(frames), phase=phase))
        if len(self._queue) >= TRAIN_PACKETS:
            self.flush()

    def send_filled(self, frame: Callable[[], bytes]) -> None:
        """One packet full of what `frame` makes."""
        frames, size = [], 0
        while True:
            one = frame()
            frames.append(one)
            size += len(one)
            if size + len(one) > PAYLOAD_BYTES:
                break
        self.send(*frames)

    def flush(self) -> None:
        """Send what is queued, with a PING behind it, and wait while too much is on its way."""
        self._budget.spend(0)
        polite = self.ack() if self.acknowledges and self.received else b""
        # A packet has four bytes at least from which its header protection is sampled (§5.4.2).
        trains = [*self._queue, self.seal(_PING + polite + bytes(3))]
        self._queue.clear()
        self._transmit(trains)
        waited_from = monotonic()
        while True:
            self.listen()
            if self.number - 1 - self._acked <= WINDOW_PACKETS:
                return
            if monotonic() - waited_from > _PATIENCE_S:
                self._acked = self.number - 1  # lost, or the server does not answer this client
                return
            select.select([self.sock], [], [], 0.02)

    def seal(self, payload: bytes, *, phase: int | None = None) -> bytes:
        """A 1-RTT packet with the next number."""
        crypto = self._crypto.send
        bit = crypto.key_phase if phase is None else phase
        header = bytes((0x43 | bit << 2,)) + self.peer_id + struct.pack("!I", self.number)
        packet: bytes = crypto.encrypt_packet(header, payload.ljust(4, b"\0"), self.number)
        self.number += 1
        return packet

    def ack(self) -> bytes:
        """An ACK frame of what has come, its newest 32 ranges."""
        return ack_frame(list(rangeset.pairs(self.received))[-32:])

    def update_key(self) -> None:
        """Use the next generation from now on (RFC 9001 §6); the server's own follow by its
        packets."""
        apply_key_phase(self._crypto.send, next_key_phase(self._crypto.send), trigger="attack")

    def _transmit(self, packets: list[bytes]) -> None:
        self.sent_packets += len(packets)
        self.sent_bytes += sum(map(len, packets))
        at = 0
        while at < len(packets):
            # Packets of one size are one call (UDP segmentation offload).
            end = at + 1
            while end < len(packets) and len(packets[end]) == len(packets[at]):
                end += 1
            _send(self.sock, packets[at:end])
            at = end

    # --- receiving ------------------------------------------------------------------------------

    def listen(self, seconds: float = 0.0) -> None:
        """Take in what has come, or comes in so many seconds; OverError when that is the end."""
        until_s = monotonic() + seconds
        while True:
            try:
                data = self.sock.recv(65_535)
            except BlockingIOError:
                left = until_s - monotonic()
                if left <= 0:
                    return
                select.select([self.sock], [], [], left)
                continue
            except ConnectionRefusedError:
                self.closed = "refused"
                raise OverError from None
            self.received_bytes += len(data)
            self._open(data)
            if self.closed:
                raise OverError

    def settle(self, seconds: float = 1.0) -> None:
        """Have the server process all that was sent; returns when it has, or says so no more."""
        if self.closed:
            return
        with contextlib.suppress(OverError):
            self._transmit([*self._queue, self.seal(_PING)])
            self._queue.clear()
            until_s = monotonic() + seconds
            while self._acked < self.number - 1 and monotonic() < until_s:
                self.listen(0.05)

    def _open(self, data: bytes) -> None:
        if data[0] & 0x80 or len(data) < 1 + self._id_bytes + 4 + _TAG_BYTES:
            return
        if data[-16:] in self.tokens:
            self.closed = "reset"
            return
        try:
            context = self._crypto.recv
            _, payload, number, updated = context.decrypt_packet(
                data, 1 + self._id_bytes, self._expected
            )
        except CryptoError:
            return
        if updated:
            apply_key_phase(context, next_key_phase(context), trigger="server")
        self._expected = max(self._expected, number + 1)
        rangeset.add(self.received, number, number + 1)
        self._read(payload)

    def _read(self, payload: bytes) -> None:
        at = 0
        while at < len(payload):
            kind, at = payload[at], at + 1
            if 0x08 <= kind <= 0x0F:
                if not kind & 0x02:
                    return
                integers = 2 if kind & 0x04 else 1
                at = _skip_bytes(payload, _skip(payload, at, integers))
            elif kind in (0x02, 0x03):
                at = self._read_ack(payload, at, kind)
            elif kind in (0x12, 0x13):
                limit, at = decode_varint(payload, at)
                self.stream_limits[kind - 0x12] = max(limit, self.stream_limits[kind - 0x12])
            elif kind == 0x18:
                at = self._read_new_id(payload, at)
            elif kind in (0x1C, 0x1D):
                self._read_close(payload, at, kind)
                return
            elif kind in (0x06, 0x07, 0x31):
                at = _skip_bytes(payload, _skip(payload, at, kind == 0x06))
            elif kind in (0x1A, 0x1B):
                at += 8
            else:
                at = _skip(payload, at, _INTEGERS.get(kind, 0))

    def _read_ack(self, payload: bytes, at: int, kind: int) -> int:
        largest, at = decode_varint(payload, at)
        self._acked = max(self._acked, largest)
        _, at = decode_varint(payload, at)
        count, at = decode_varint(payload, at)
        return _skip(payload, at, 1 + 2 * count + (3 if kind == 0x03 else 0))

    def _read_new_id(self, payload: bytes, at: int) -> int:
        sequence, at = decode_varint(payload, at)
        _, at = decode_varint(payload, at)
        length = payload[at]
        self.issued[sequence] = payload[at + 1 : at + 1 + length]
        self.tokens.add(payload[at + 1 + length : at + 17 + length])
        return at + 17 + length

    def _read_close(self, payload: bytes, at: int, kind: int) -> None:
        code, at = decode_varint(payload, at)
        if kind == 0x1C:
            _, at = decode_varint(payload, at)
        length, at = decode_varint(payload, at)
        self.closed = f"{'transport' if kind == 0x1C else 'application'} {code:#x}"
        self.reason = payload[at : at + length].decode("utf8", "replace")


#: Integers behind the type of frames that are nothing else.
_INTEGERS: Final = {0x04: 3, 0x05: 2, 0x10: 1, 0x11: 2, 0x14: 1, 0x15: 2, 0x16: 1, 0x17: 1, 0x19: 1}


def _skip(payload: bytes, at: int, integers: int) -> int:
    for _ in range(integers):
        _, at = decode_varint(payload, at)
    return at


def _skip_bytes(payload: bytes, at: int) -> int:
    length, at = decode_varint(payload, at)
    return at + length


def ack_frame(ranges: Iterable[tuple[int, int]], delay: int = 0) -> bytes:
    """An ACK (RFC 9000 §19.3) of ascending (start, stop) ranges."""
    newest, *older = sorted(ranges, reverse=True)
    parts = [b"\x02", *map(encode_varint, (newest[1] - 1, delay, len(older)))]
    parts.append(encode_varint(newest[1] - newest[0] - 1))
    smallest = newest[0]
    for start, stop in older:
        parts += [encode_varint(smallest - stop - 1), encode_varint(stop - start - 1)]
        smallest = start
    return b"".join(parts)


def stream_frame(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    """A STREAM frame with all its fields (RFC 9000 §19.8)."""
    head = bytes((0x0E | fin,)) + encode_varint(stream_id) + encode_varint(offset)
    return head + encode_varint(len(data)) + data


def _send(sock: socket.socket, packets: list[bytes]) -> None:
    size = struct.pack("=H", len(packets[0]))
    ancillary = [(*_UDP_SEGMENT, size)] if len(packets) > 1 else []
    while True:
        try:
            sock.sendmsg(packets, ancillary)
        except BlockingIOError:
            select.select([], [sock], [], 1.0)
            continue
        except ConnectionRefusedError:
            pass
        return


def _shake_hands(sock: socket.socket, port: int) -> QuicConnection:
    """aioquic's connection, its handshake confirmed."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["h3"],
        server_name="localhost",
        verify_mode=ssl.CERT_NONE,
        max_data=1 << 30,
        max_stream_data=1 << 30,
        max_datagram_frame_size=65_536,
    )
    quic = QuicConnection(configuration=configuration)
    address = ("127.0.0.1", port)
    quic.connect(address, now=monotonic())
    until_s = monotonic() + _HANDSHAKE_S
    while not quic._handshake_confirmed:
        for data, _ in quic.datagrams_to_send(now=monotonic()):
            sock.send(data)
        select.select([sock], [], [], 0.05)
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                quic.receive_datagram(sock.recv(65_535), address, now=monotonic())
        timer = quic.get_timer()
        if timer is not None and timer <= monotonic():
            quic.handle_timer(now=monotonic())
        if monotonic() > until_s:
            raise TimeoutError("no handshake")
    for data, _ in quic.datagrams_to_send(now=monotonic()):
        sock.send(data)
    return quic
