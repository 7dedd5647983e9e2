"""The device in front of hosts that share an address: it chooses which of them gets a packet.

It goes by the server ID in the connection ID as a QUIC-LB balancer does, or by a hash of addresses
and ports alone, as routers with several equal routes do (ECMP). Its cipher is written after the
draft's text, octet by octet, so that the servers' is checked against another.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_UDP = 17
_BLOCK_BYTES = 16
_UDP_HEADER_BYTES = 8
#: Shorter packets carry no ID that could be read.
_MIN_PAYLOAD_BYTES = 21


class Balance(msgspec.Struct, tag="balance"):
    """Several hosts have this address. IDs name them by server ID; `fallback` gets what carries
    no such ID, or a host chosen by hash if it is empty."""

    address: str
    #: Hosts by server ID; without `config_ids` they are chosen by hash alone, in this order.
    servers: dict[int, str]
    #: The config rotation bits of the IDs that it can read, and how these are cut.
    config_ids: frozenset[int] = frozenset()
    server_id_bytes: int = 0
    nonce_bytes: int = 0
    #: Hexadecimal; IDs are not encrypted if it is empty.
    key: str = ""
    fallback: str = ""


class Balancer:
    """Carries an order out. `numbers` are those of the hosts by name."""

    def __init__(self, order: Balance, numbers: dict[str, int]) -> None:
        self._order = order
        self._servers = {server: numbers[name] for server, name in order.servers.items()}
        self._all = [numbers[name] for name in order.servers.values()]
        self._fallback = numbers[order.fallback] if order.fallback else None

    def choose(self, packet: bytes, header_bytes: int) -> int:
        """Which host gets an IPv4 packet: draft-ietf-quic-load-balancers, "Load Balancer
        Forwarding". It keeps no tables: its fallback depends on the addresses alone."""
        at = header_bytes + _UDP_HEADER_BYTES
        if packet[9] == _UDP and len(packet) >= at + _MIN_PAYLOAD_BYTES:
            server = server_id_of(packet[at:], self._order)
            found = None if server is None else self._servers.get(server)
            if found is not None:
                return found
        if self._fallback is not None:
            return self._fallback
        # Both addresses and both ports.
        return self._all[hashed(packet[12:20] + packet[header_bytes : header_bytes + 4], self._all)]


def hashed(flow: bytes, among: Sequence[object]) -> int:
    """The index of the one to which a flow is led: both addresses and ports, as in a packet."""
    return crc32(flow) % len(among)


def server_id_of(datagram: bytes, order: Balance) -> int | None:
    """The server ID in a datagram's connection ID; None for one that is not routable (the draft,
    "Unroutable Connection IDs")."""
    if datagram[0] & 0x80:
        # RFC 9000 §17.2: flags, version, then the ID's length and the ID.
        cid = datagram[6 : 6 + datagram[5]]
    else:
        cid = datagram[1:]
    size = order.server_id_bytes + (order.nonce_bytes if order.key else 0)
    if len(cid) <= size or cid[0] >> 5 not in order.config_ids:
        return None
    inner = cid[1 : 1 + size]
    if order.key:
        inner = decrypted(bytes.fromhex(order.key), inner)
    return int.from_bytes(inner[: order.server_id_bytes], "big")


def decrypted(key: bytes, ciphertext: bytes) -> bytes:
    """Server ID and nonce: the draft, "Load Balancer Actions". All four passes are made."""
    aes = Cipher(algorithms.AES(key), modes.ECB())
    size = len(ciphertext)
    if size == _BLOCK_BYTES:
        return aes.decryptor().update(ciphertext)
    half = (size + 1) // 2
    left, right = ciphertext[:half], ciphertext[-half:]
    if size % 2:
        left, right = _last_cleared(left), _first_cleared(right)
    for number in (4, 3, 2, 1):
        head = right if number in (4, 2) else left
        block = head.ljust(_BLOCK_BYTES - 2, b"\0") + bytes((size, number))
        mask = aes.encryptor().update(block)[:half]
        if number in (4, 2):
            left = _xored(left, mask)
            left = _last_cleared(left) if size % 2 else left
        else:
            # The pseudocode clears bits of left_1 here, which is a slip: these are right_1's.
            right = _xored(right, mask)
            right = _first_cleared(right) if size % 2 else right
    if size % 2:
        return left[:-1] + bytes((left[-1] | right[0],)) + right[1:]
    return left + right


def _xored(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _last_cleared(half: bytes) -> bytes:
    return half[:-1] + bytes((half[-1] & 0xF0,))


def _first_cleared(half: bytes) -> bytes:
    return bytes((half[0] & 0x0F,)) + half[1:]
