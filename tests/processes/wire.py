"""A relay between client and servers that records the servers' packets, and a checker of them.

The checker knows one thing of the servers: the traffic secret that the first of them wrote into its
key log, at the user's request. Every packet, of whichever process, is opened here with aioquic's
code, and no (key generation, packet number) may appear with two different ciphertexts.
"""

from __future__ import annotations

import asyncio
import socket
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from aioquic.quic.crypto import CryptoContext, CryptoError, next_key_phase
from aioquic.tls import CipherSuite

_BUFFER_BYTES = 4 << 20
_VERSION_1 = 1
_SUITES_BY_SECRET_BYTES = {
    32: (CipherSuite.AES_128_GCM_SHA256, CipherSuite.CHACHA20_POLY1305_SHA256),
    48: (CipherSuite.AES_256_GCM_SHA384,),
}
#: The longest stateless reset that a server of ours sends.
_MAX_RESET_BYTES = 74


class Relay:
    """Passes datagrams on both ways, between one client and a UDP port."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._client: Any = None
        self._down: asyncio.DatagramTransport
        self._up: asyncio.DatagramTransport
        self.port = 0
        #: The servers' datagrams, in order.
        self.sent: list[bytes] = []
        #: How many came from the client.
        self.client_datagrams = 0
        self.client_id_bytes = -1
        #: While true, the client is not heard.
        self.mutes_client = False
        #: Set to have the client's next datagram `held` back.
        self.holds_next = False
        self.held: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._down = await _open(self._from_client)
        self._up = await _open(self._from_server)
        self.port = self._down.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._down.close()
        self._up.close()

    def check(self, keylogs: list[Path]) -> Verdict:
        """The checker's, of all that has come from the servers."""
        return check(self.sent, self.client_id_bytes, keylogs)

    def _from_client(self, data: bytes, address: Any) -> None:
        self._client = address
        self.client_datagrams += 1
        if self.client_id_bytes < 0 and data[0] & 0x80:
            # RFC 9000 §17.2: flags, version, then both IDs with their lengths before them.
            self.client_id_bytes = data[6 + data[5]]
        if self.holds_next:
            self.holds_next = False
            self.held.append(data)
        elif not self.mutes_client:
            self._up.sendto(data, self._server)

    def release(self) -> None:
        """Pass on what was held back: later than all that the client has sent since."""
        for data in self.held:
            self._up.sendto(data, self._server)
        self.held.clear()

    def _from_server(self, data: bytes, _address: Any) -> None:
        self.sent.append(data)
        self._down.sendto(data, self._client)


class _Port(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: Any) -> None:
        self.datagram_received = on_datagram

    def error_received(self, exc: Exception) -> None:
        """A port that nobody reads any more: the client will notice."""


async def _open(on_datagram: Any) -> asyncio.DatagramTransport:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    sock.bind(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Port(on_datagram), sock=sock)
    return transport


class Verdict:
    """The checker's record of one connection."""

    def __init__(self) -> None:
        self.packets = 0
        self.unopened: list[bytes] = []
        self.reused: list[tuple[int, int]] = []
        self.closed = False

    @property
    def was_reset(self) -> bool:
        """A datagram came that no key opens, of a reset's size."""
        return any(len(data) <= _MAX_RESET_BYTES for data in self.unopened)

    @property
    def strange(self) -> int:
        """Datagrams that are neither packets of this connection nor resets."""
        return sum(len(data) > _MAX_RESET_BYTES for data in self.unopened)

    def assert_one_sender(self, *, may_reset: bool = False) -> None:
        """Packets came, no number of theirs twice, and nothing else but, perhaps, a reset."""
        assert self.packets, "there were no packets"
        assert not self.reused, f"(generation, number) came twice: {self.reused}"
        assert not self.strange, f"{self.strange} datagrams are no packets of this connection"
        assert may_reset or not self.was_reset, "there was a reset"


def check(sent: list[bytes], client_id_bytes: int, keylogs: list[Path]) -> Verdict:
    """Open every 1-RTT packet of one connection and compare."""
    short = [data for data in map(_short_packet, sent) if data]
    context = _find_context(short, client_id_bytes, _secrets(keylogs))
    verdict = Verdict()
    generations = {0: context}
    newest, largest = 0, -1
    seen: dict[tuple[int, int], bytes] = {}
    for packet in short:
        opened = None
        for generation in (newest, newest - 1):
            if generation in generations:
                opened = _open_packet(
                    generations[generation], packet, 1 + client_id_bytes, largest + 1
                )
            if opened is not None:
                break
        if opened is None:
            verdict.unopened.append(packet)
            continue
        payload, number, updated = opened
        if updated:
            generation += 1
            if generation not in generations:
                following = next_key_phase(generations[generation - 1])
                following.hp = context.hp  # RFC 9001 §6.1: not updated
                generations[generation] = following
        newest, largest = max(newest, generation), max(largest, number)
        digest = sha256(packet).digest()
        if seen.setdefault((generation, number), digest) != digest:
            verdict.reused.append((generation, number))
        verdict.packets += 1
        # CONNECTION_CLOSE comes first in the packets that we send it in.
        verdict.closed |= payload[0] in (0x1C, 0x1D)
    return verdict


def _secrets(keylogs: list[Path]) -> list[bytes]:
    return [
        bytes.fromhex(line.split()[2])
        for keylog in keylogs
        if keylog.exists()
        for line in keylog.read_text().splitlines()
        if line.startswith("SERVER_TRAFFIC_SECRET_0")
    ]


def _find_context(
    packets: list[bytes], client_id_bytes: int, secrets: list[bytes]
) -> CryptoContext:
    for secret in secrets:
        for suite in _SUITES_BY_SECRET_BYTES[len(secret)]:
            context = CryptoContext()
            context.setup(cipher_suite=suite, secret=secret, version=_VERSION_1)
            if any(
                _open_packet(context, packet, 1 + client_id_bytes, 0) for packet in packets[:50]
            ):
                return context
    raise AssertionError(f"none of {len(secrets)} secrets opens the connection's packets")


def _open_packet(
    context: CryptoContext, packet: bytes, offset: int, expected: int
) -> tuple[bytes, int, bool] | None:
    try:
        _, payload, number, updated = context.decrypt_packet(packet, offset, expected)
    except (CryptoError, IndexError, ValueError):
        return None
    return payload, number, updated


def _short_packet(datagram: bytes) -> bytes:
    """The 1-RTT packet of a datagram: behind any long-header packets, by their Length."""
    at = 0
    while at < len(datagram) and datagram[at] & 0x80:
        position = at + 5
        for _ in range(2):
            position += 1 + datagram[position]
        if not datagram[at] & 0x30:  # Initial: a token comes first
            size, position = _varint(datagram, position)
            position += size
        size, position = _varint(datagram, position)
        at = position + size
    rest = datagram[at:]
    return rest if rest and rest[0] & 0x40 else b""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size], "big") & (1 << 8 * size - 2) - 1, at + size
