"""Packets made by hand, sealed with the keys of a connection's peer."""

from __future__ import annotations

from quicbaton.testing import End
from quicbaton.transport.connection import Connection
from quicbaton.transport.packets.cipher import NONCE_BYTES, KeySchedule, header_key, suite_of
from quicbaton.transport.state import Address, ConnectionState


def state_of(end: End) -> ConnectionState:
    connection = end.connection
    assert isinstance(connection, Connection)
    return connection._state


def sealed(state: ConnectionState, number: int, payload: bytes, *, first_byte: int = 0x43) -> bytes:
    """A short-header packet for the connection of `state`; its number has four bytes."""
    protection = state.protection
    suite = suite_of(protection.cipher)
    first_byte |= (protection.recv_generation & 1) << 2
    head = bytes([first_byte]) + state.ids.local[0].cid
    schedule = KeySchedule(protection.version, protection.cipher, protection.recv)
    context = schedule.packet_protection()
    nonce = (context.iv ^ number).to_bytes(NONCE_BYTES)
    low = (number & 0xFFFFFFFF).to_bytes(4)
    body = context.aead.encrypt(nonce, payload, head + low)
    hp = header_key(protection.version, protection.cipher, protection.recv_hp, protection.recv)
    mask = suite.masks(hp)(body[:16])
    hidden = bytes(a ^ b for a, b in zip(low, mask[1:5], strict=True))
    return bytes([head[0] ^ mask[0] & 0x1F]) + head[1:] + hidden + body


class Forger:
    """Speaks to `victim` as its peer would, in packet numbers far ahead of the peer's."""

    def __init__(self, victim: End, source: Address) -> None:
        self.victim = victim
        self.source = source
        state = state_of(victim)
        self.number = state.numbers.largest_received + 100

    def packet(self, payload: bytes, *, first_byte: int = 0x43, number: int | None = None) -> bytes:
        """A short-header packet; its number is the next one unless given."""
        if number is None:
            number = self.number = self.number + 1
        return sealed(state_of(self.victim), number, payload, first_byte=first_byte)

    def send(self, payload: bytes, *, first_byte: int = 0x43, number: int | None = None) -> None:
        self.victim.receive(
            self.packet(payload, first_byte=first_byte, number=number),
            self.source,
            self.victim.pair.now,
        )
