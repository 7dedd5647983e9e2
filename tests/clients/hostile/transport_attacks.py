"""Attacks by a client that has a connection and misuses the transport."""

from __future__ import annotations

import os
from itertools import count
from typing import Final

from quicbaton.transport.frames import encode_varint as varint
from tests.clients.hostile.http3_attacks import LARGE_PATH, open_control, request
from tests.clients.hostile.raw import (
    PAYLOAD_BYTES,
    RawClient,
    ack_frame,
    stream_frame,
    udp_socket,
)

_UPLOAD_STREAM: Final = 0


def gapped_stream(client: RawClient) -> None:
    """A stream of which every other byte comes: a gap for each."""
    open_control(client)
    offsets = count(1, 2)
    while True:
        client.send_filled(lambda: stream_frame(_UPLOAD_STREAM, next(offsets), b"x"))


def tiny_stream_frames(client: RawClient) -> None:
    """An upload whose every byte is a frame of its own, the last first."""
    open_control(client)
    head = request(method=b"POST")
    client.send(stream_frame(_UPLOAD_STREAM, 0, head))
    base = len(head)
    run = 2000
    for start in count(base, run):
        backwards = iter(range(start + run - 1, start - 1, -1))
        offset = next(backwards, None)
        while offset is not None:
            frames, size = [], 0
            while offset is not None and size < PAYLOAD_BYTES - 10:
                frames.append(stream_frame(_UPLOAD_STREAM, offset, b"\0"))
                size += len(frames[-1])
                offset = next(backwards, None)
            client.send(*frames)


def crypto_hoarding(client: RawClient) -> None:
    """CRYPTO frames beyond a gap that is never filled (CVE-2024-1765)."""
    offsets = count(1, 2)
    while True:
        client.send_filled(lambda: b"\x06" + varint(next(offsets)) + b"\x01x")


def path_challenges(client: RawClient) -> None:
    """PATH_CHALLENGE without end, no answer acknowledged (CVE-2023-49295)."""
    client.acknowledges = False
    while True:
        client.send_filled(lambda: b"\x1a" + os.urandom(8))


def new_connection_ids(client: RawClient) -> None:
    """NEW_CONNECTION_ID that retire each other, no retirement acknowledged (CVE-2024-22189)."""
    client.acknowledges = False
    sequences = count(100)  # beyond those of the handshake

    def one() -> bytes:
        sequence = next(sequences)
        return b"\x18" + varint(sequence) * 2 + b"\x08" + os.urandom(24)

    while True:
        client.send_filled(one)


def retire_connection_ids(client: RawClient) -> None:
    """Every connection ID is retired as soon as it comes, and another asked for thereby."""
    retired = -1
    while True:
        newest = max(client.issued)
        client.peer_id = client.issued[newest]
        frames = [b"\x19" + varint(old) for old in range(retired + 1, newest)]
        retired = max(retired, newest - 1)
        client.send(*frames, b"\x01")
        client.flush()
        client.listen(0.001)


def optimistic_acks(client: RawClient) -> None:
    """Packets of a download are acknowledged before they came (CVE-2025-4820, RFC 9000 §21.4)."""
    client.acknowledges = False
    open_control(client)
    client.send(stream_frame(0, 0, request(LARGE_PATH), fin=True))
    client.flush()
    client.listen(0.05)
    while True:
        # As far ahead as the sender may be, and every number below.
        client.send(ack_frame([(0, client.received[-1] + 30)]))
        client.flush()
        client.listen(0.001)


def acks_of_the_future(client: RawClient) -> None:
    """Packets are acknowledged that were never sent (CVE-2025-4821)."""
    client.acknowledges = False
    while True:
        client.send(ack_frame([(0, 1 << 40)]))
        client.flush()


def ack_scans(client: RawClient) -> None:
    """ACKs of hundreds of ranges, one number each, while a download goes on."""
    client.acknowledges = False
    open_control(client)
    client.send(stream_frame(0, 0, request(LARGE_PATH), fin=True))
    client.flush()
    client.listen(0.02)
    while True:
        newest = client.received[-1] - 1
        lowest = max(0, newest - 1000)
        ranges = [(number, number + 1) for number in range(newest, lowest, -2)]
        client.send(ack_frame(ranges[:500]))
        client.send(client.ack())
        client.flush()


def pings(client: RawClient) -> None:
    """Packets full of PING."""
    while True:
        client.send(b"\x01" * PAYLOAD_BYTES)


def credit_updates(client: RawClient) -> None:
    """Packets full of MAX_DATA, each a little more."""
    limits = count(1 << 30)
    while True:
        client.send_filled(lambda: b"\x10" + varint(next(limits)))


def blocked_frames(client: RawClient) -> None:
    """Packets full of STREAM_DATA_BLOCKED."""
    open_control(client)
    client.send(stream_frame(_UPLOAD_STREAM, 0, request(method=b"POST")))
    while True:
        client.send_filled(lambda: b"\x15" + varint(_UPLOAD_STREAM) + varint(1))


def tiny_packets(client: RawClient) -> None:
    """Packets that hold one PING each."""
    while True:
        client.send(b"\x01")


def datagrams(client: RawClient) -> None:
    """DATAGRAM frames of one byte for sessions that are not there."""
    open_control(client)
    while True:
        client.send_filled(lambda: b"\x31\x02\x00x")


def key_updates(client: RawClient) -> None:
    """The key changes with every packet (RFC 9001 §6)."""
    while True:
        client.send(b"\x01")
        client.flush()
        client.listen(0.005)
        client.update_key()


def migrations(client: RawClient) -> None:
    """Every packet comes from another port, as if a NAT went mad or somebody copied them."""
    open_control(client)
    client.send(stream_frame(0, 0, request(LARGE_PATH), fin=True))
    while True:
        client.flush()
        client.sock.close()
        client.sock = udp_socket(client.port, "127.0.0.1")
        client.send(b"\x01")
