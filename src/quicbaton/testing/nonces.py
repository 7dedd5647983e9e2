"""The checker of the first invariant, from outside: no key and packet number protect two packets.

It sees all datagrams, of any sender, and is told the connection's keys once. From then on it
derives later generations itself and opens every packet. It shares no state with the sender.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from cryptography.exceptions import InvalidTag

from quicbaton.errors import InternalError
from quicbaton.testing.errors import NonceReuseError
from quicbaton.testing.link import Direction
from quicbaton.transport.packets.cipher import (
    NONCE_BYTES,
    SAMPLE_BYTES,
    KeyContext,
    KeySchedule,
    Masks,
    header_key,
    next_keys,
    suite_of,
)
from quicbaton.transport.state import Keys, ProtectionState


class Packet(NamedTuple):
    """A 1-RTT packet that an end has sent."""

    direction: Direction
    generation: int  # of its key
    number: int
    payload: bytes  # frames, in the clear


class _Sender:
    """One direction's keys, and the packets that were protected with them."""

    def __init__(
        self, version: int, cipher: int, hp: bytes, keys: Keys, generation: int, cid_bytes: int
    ) -> None:
        self._version = version
        self._cipher = cipher
        self._masks: Masks = suite_of(cipher).masks(hp)
        self._keys = {generation: keys}
        self._contexts = {generation: KeySchedule(version, cipher, keys).packet_protection()}
        self.newest = generation
        self.cid_bytes = cid_bytes
        self.largest = -1
        self.digests: dict[tuple[int, int], bytes] = {}

    def open(self, packet: bytes) -> tuple[int, int, bytes] | None:
        """(generation, number, payload), or None when no key opens it."""
        offset = 1 + self.cid_bytes
        sample = packet[offset + 4 : offset + 4 + SAMPLE_BYTES]
        if len(sample) < SAMPLE_BYTES:
            return None
        mask = self._masks(sample)
        first_byte = packet[0] ^ mask[0] & 0x1F
        size = (first_byte & 0x03) + 1
        end = offset + size
        low = bytes(a ^ b for a, b in zip(packet[offset:end], mask[1 : 1 + size], strict=True))
        number = _nearest(int.from_bytes(low), 1 << 8 * size, self.largest + 1)
        head = bytes((first_byte,)) + packet[1:offset] + low
        phase = first_byte >> 2 & 1
        for generation in (self.newest, self.newest + 1, self.newest - 1):
            if generation & 1 != phase or generation < min(self._keys):
                continue
            context = self._context(generation)
            nonce = (context.iv ^ number).to_bytes(NONCE_BYTES)
            try:
                payload = context.aead.decrypt(nonce, packet[end:], head)
            except InvalidTag:
                continue
            self.newest = max(self.newest, generation)
            self.largest = max(self.largest, number)
            return generation, number, payload
        return None

    def _context(self, generation: int) -> KeyContext:
        context = self._contexts.get(generation)
        if context is None:
            keys = next_keys(self._version, self._cipher, self._keys[generation - 1])
            self._keys[generation] = keys
            schedule = KeySchedule(self._version, self._cipher, keys)
            context = self._contexts[generation] = schedule.packet_protection()
        return context


class NonceChecker:
    """Records (key generation, packet number, digest of the ciphertext) of all 1-RTT packets.

    Call `observe` with every datagram as it leaves its sender. Datagrams from before `learn` are
    kept until then. `on_packet`, if set, is called with each opened packet, for tests that look at
    the wire.
    """

    def __init__(self) -> None:
        self._senders: dict[Direction, _Sender] = {}
        self._early: list[tuple[Direction, bytes]] = []
        self.on_packet: Callable[[Packet], None] | None = None
        self.checked = 0  # packets

    def learn(
        self, protection: ProtectionState, *, is_client: bool, own_cid_bytes: int, cid_bytes: int
    ) -> None:
        """Learn the keys of both directions from one side's state; once per connection.

        `own_cid_bytes` is the length of that side's connection IDs, `cid_bytes` of its peer's.
        """
        if self._senders:
            return
        own: Direction = "client" if is_client else "server"
        other: Direction = "server" if is_client else "client"
        common = (protection.version, protection.cipher)
        send_hp = header_key(*common, protection.send_hp, protection.send)
        recv_hp = header_key(*common, protection.recv_hp, protection.recv)
        self._senders[own] = _Sender(
            *common, send_hp, protection.send, protection.send_generation, cid_bytes
        )
        self._senders[other] = _Sender(
            *common, recv_hp, protection.recv, protection.recv_generation, own_cid_bytes
        )
        early, self._early = self._early, []
        for direction, data in early:
            self.observe(direction, data)

    def observe(self, direction: Direction, data: bytes) -> None:
        """Check a datagram that leaves. Raises NonceReuseError when one of its nonces was used
        before."""
        if not self._senders:
            self._early.append((direction, data))
            return
        sender = self._senders[direction]
        packet = _short_packet(data, sender.cid_bytes)
        if not packet:
            return
        opened = sender.open(packet)
        if opened is None:
            raise InternalError(f"the {direction} sent a packet that no key of its opens")
        generation, number, payload = opened
        digest = sha256(packet).digest()
        known = sender.digests.setdefault((generation, number), digest)
        if known != digest:
            raise NonceReuseError(
                f"the {direction}'s key generation {generation} protected two packets "
                f"with number {number}"
            )
        self.checked += 1
        if self.on_packet is not None:
            self.on_packet(Packet(direction, generation, number, payload))

    def skipped(self, direction: Direction) -> set[int]:
        """1-RTT packet numbers below the largest that were not used. (aioquic's handshake packets
        share the count: their numbers are among them.)"""
        sender = self._senders[direction]
        return set(range(sender.largest)) - {number for _, number in sender.digests}

    def generations(self, direction: Direction) -> set[int]:
        """Key generations seen in use."""
        return {generation for generation, _ in self._senders[direction].digests}


def _nearest(low: int, span: int, expected: int) -> int:
    """RFC 9000 §A.3: the number with these low bits that is nearest to the expected one."""
    start = max(0, expected + 1 - (span >> 1))
    return start + (low - start) % span


def _short_packet(datagram: bytes, cid_bytes: int) -> bytes:
    """The short-header packet at the end of a datagram; empty when there is none."""
    at = 0
    while at < len(datagram) and datagram[at] & 0x80:
        try:
            header = pull_quic_header(Buffer(data=datagram[at:]), host_cid_length=cid_bytes)
        except (ValueError, BufferReadError):
            return b""
        if header.packet_type in (QuicPacketType.RETRY, QuicPacketType.VERSION_NEGOTIATION):
            return b""
        at += header.packet_length
    rest = datagram[at:]
    return rest if rest and rest[0] & 0x40 else b""  # without the fixed bit: datagram padding
