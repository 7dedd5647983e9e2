"""A peer's violation closes the connection with the RFC's error code, and the peer is told."""

from __future__ import annotations

import pytest
from aioquic.quic.events import ConnectionTerminated

from quicbaton.testing import CLIENT_ADDRESS, SERVER_ADDRESS, EndOptions, Pair
from quicbaton.transport import frames as f
from quicbaton.transport.frames import encode_varint as v
from tests.transport.forge import Forger, state_of

TOO_MANY = (1 << 60) + 1
TOKEN = bytes(16)


def frame(kind: int, *values: int, rest: bytes = b"") -> bytes:
    return b"".join(map(v, (kind, *values))) + rest


def stream(stream_id: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    return frame(0x0E | fin, stream_id, offset, len(data), rest=data)


def new_id(sequence: int, retire_prior_to: int, cid: bytes, token: bytes = TOKEN) -> bytes:
    return frame(0x18, sequence, retire_prior_to, rest=bytes([len(cid)]) + cid + token)


#: A client's payloads to a server, with the error code. Several payloads are several packets.
FROM_CLIENT: dict[str, tuple[list[bytes], int]] = {
    "a packet without frames (12.4)": ([b""], f.PROTOCOL_VIOLATION),
    "an unknown frame (12.4)": ([frame(0x21)], f.FRAME_ENCODING_ERROR),
    "half an integer (12.4)": ([b"\x10\x40"], f.FRAME_ENCODING_ERROR),
    "STREAM without its offset": ([b"\x0e\x00"], f.FRAME_ENCODING_ERROR),
    "STREAM longer than its packet": ([frame(0x0A, 0, 10, rest=b"x")], f.FRAME_ENCODING_ERROR),
    "STREAM beyond 2^62 (19.8)": (
        [frame(0x0C, 0, f.MAX_VARINT, rest=b"x")],
        f.FLOW_CONTROL_ERROR,
    ),
    "STREAM on a server's unidirectional stream (19.8)": (
        [stream(3, 0, b"x")],
        f.STREAM_STATE_ERROR,
    ),
    "STREAM on a server's stream that is not open (19.8)": (
        [stream(1, 0, b"x")],
        f.STREAM_STATE_ERROR,
    ),
    "a bidirectional stream too many (4.6)": ([stream(4 * 128, 0, b"x")], f.STREAM_LIMIT_ERROR),
    "a unidirectional stream too many (4.6)": (
        [stream(4 * 128 + 2, 0, b"x")],
        f.STREAM_LIMIT_ERROR,
    ),
    "more than the stream's window (4.1)": ([stream(0, 20_000, b"x")], f.FLOW_CONTROL_ERROR),
    "more than the connection's window (4.1)": (
        [stream(4 * index, 19_999, b"x") for index in range(2)],
        f.FLOW_CONTROL_ERROR,
    ),
    "data behind the end (4.5)": (
        [stream(0, 0, b"xx", fin=True), stream(0, 2, b"x")],
        f.FINAL_SIZE_ERROR,
    ),
    "an end before data (4.5)": (
        [stream(0, 0, b"xx"), stream(0, 0, b"x", fin=True)],
        f.FINAL_SIZE_ERROR,
    ),
    "two ends (4.5)": (
        [stream(4, 5, b"", fin=True), stream(4, 6, b"", fin=True)],
        f.FINAL_SIZE_ERROR,
    ),
    "a reset below what came (4.5)": (
        [stream(0, 0, b"xx"), frame(0x04, 0, 7, 1)],
        f.FINAL_SIZE_ERROR,
    ),
    "a reset beyond the window (4.5)": ([frame(0x04, 0, 7, 20_001)], f.FLOW_CONTROL_ERROR),
    "RESET_STREAM of a server's stream (19.4)": ([frame(0x04, 3, 7, 0)], f.STREAM_STATE_ERROR),
    "RESET_STREAM without its size": ([frame(0x04, 0, 7)], f.FRAME_ENCODING_ERROR),
    "STOP_SENDING of what is sent to us (19.5)": ([frame(0x05, 2, 7)], f.STREAM_STATE_ERROR),
    "STOP_SENDING of a stream not open (19.5)": ([frame(0x05, 1, 7)], f.STREAM_STATE_ERROR),
    "MAX_STREAM_DATA of what is sent to us (19.10)": (
        [frame(0x11, 2, 7)],
        f.STREAM_STATE_ERROR,
    ),
    "MAX_STREAM_DATA of a stream not open (19.10)": ([frame(0x11, 1, 7)], f.STREAM_STATE_ERROR),
    "STREAM_DATA_BLOCKED of what we send (19.13)": ([frame(0x15, 3, 7)], f.STREAM_STATE_ERROR),
    "MAX_STREAMS beyond 2^60 (19.11)": ([frame(0x12, TOO_MANY)], f.FRAME_ENCODING_ERROR),
    "MAX_STREAMS beyond 2^60, unidirectional": (
        [frame(0x13, TOO_MANY)],
        f.FRAME_ENCODING_ERROR,
    ),
    "STREAMS_BLOCKED beyond 2^60 (19.14)": ([frame(0x16, TOO_MANY)], f.FRAME_ENCODING_ERROR),
    "an empty connection ID (19.15)": ([new_id(20, 0, b"")], f.FRAME_ENCODING_ERROR),
    "a connection ID of 21 bytes (19.15)": ([new_id(20, 0, bytes(21))], f.FRAME_ENCODING_ERROR),
    "a connection ID without its token": ([new_id(20, 0, bytes(12), b"x")], f.FRAME_ENCODING_ERROR),
    "Retire Prior To above its ID (19.15)": (
        [new_id(20, 21, bytes(12))],
        f.FRAME_ENCODING_ERROR,
    ),
    "two IDs under one number (19.15)": (
        [new_id(20, 20, bytes(12)), new_id(20, 20, b"\1" * 12)],
        f.PROTOCOL_VIOLATION,
    ),
    "one ID under two numbers (19.15)": (
        [new_id(20, 20, bytes(12)), new_id(21, 20, bytes(12))],
        f.PROTOCOL_VIOLATION,
    ),
    "more IDs than allowed (5.1.1)": (
        [new_id(index, 0, bytes([index]) * 12) for index in range(20, 29)],
        f.CONNECTION_ID_LIMIT_ERROR,
    ),
    "retirements without end (5.1.2)": (
        [new_id(index, index, bytes([index]) * 12) for index in range(20, 120)],
        f.CONNECTION_ID_LIMIT_ERROR,
    ),
    "RETIRE_CONNECTION_ID of none of ours (19.16)": ([frame(0x19, 99)], f.PROTOCOL_VIOLATION),
    "RETIRE_CONNECTION_ID of its own packet's (19.16)": ([frame(0x19, 0)], f.PROTOCOL_VIOLATION),
    "NEW_TOKEN from a client (19.7)": ([frame(0x07, 1, rest=b"t")], f.PROTOCOL_VIOLATION),
    "HANDSHAKE_DONE from a client (19.20)": ([frame(0x1E)], f.PROTOCOL_VIOLATION),
    "ACK of what was not sent (13.1)": ([frame(0x02, 9999, 0, 0, 0)], f.PROTOCOL_VIOLATION),
    "ACK below zero (19.3.1)": ([frame(0x02, 1, 0, 0, 2)], f.FRAME_ENCODING_ERROR),
    "ACK with a gap below zero (19.3.1)": (
        [frame(0x02, 2, 0, 1, 0, 1, 5)],
        f.FRAME_ENCODING_ERROR,
    ),
    "ACK cut off": ([frame(0x02, 2, 0, 1, 0)], f.FRAME_ENCODING_ERROR),
    "CRYPTO far ahead (7.5)": (
        [frame(0x06, 1 << 20, 1, rest=b"x")],
        f.CRYPTO_BUFFER_EXCEEDED,
    ),
    "a TLS message from a client (RFC 9001 section 6)": (
        [frame(0x06, 0, 5, rest=b"\x18\0\0\1\0")],
        0x10A,
    ),
    "PATH_CHALLENGE cut off": ([b"\x1a1234567"], f.FRAME_ENCODING_ERROR),
    "PATH_RESPONSE cut off": ([b"\x1b1234567"], f.FRAME_ENCODING_ERROR),
    "a DATAGRAM larger than announced (RFC 9221 section 3)": (
        [b"\x30" + bytes(1100)],
        f.PROTOCOL_VIOLATION,
    ),
    "a DATAGRAM longer than its packet": ([b"\x31\x20x"], f.FRAME_ENCODING_ERROR),
}

#: A server's payloads to a client.
FROM_SERVER: dict[str, tuple[list[bytes], int]] = {
    "an empty NEW_TOKEN (19.7)": ([frame(0x07, 0)], f.FRAME_ENCODING_ERROR),
    "NEW_TOKEN cut off": ([frame(0x07, 9, rest=b"t")], f.FRAME_ENCODING_ERROR),
    "STREAM on a client's unidirectional stream": ([stream(2, 0, b"x")], f.STREAM_STATE_ERROR),
    "STREAM on a client's stream that is not open": ([stream(0, 0, b"x")], f.STREAM_STATE_ERROR),
    "STOP_SENDING of what is sent to a client": ([frame(0x05, 3, 7)], f.STREAM_STATE_ERROR),
    "a TLS message that is not a ticket": (
        [frame(0x06, 0, 5, rest=b"\x18\0\0\1\0")],
        0x10A,
    ),
}

SMALL = {"max_data": 30_000, "max_stream_data": 20_000, "max_datagram_frame_size": 1000}


def new_pair() -> Pair:
    pair = Pair(client=EndOptions(configuration=SMALL), server=EndOptions(configuration=SMALL))
    pair.connect()
    pair.run(seconds=1)
    pair.client.take_events()
    pair.server.take_events()
    return pair


def expect_close(
    pair: Pair, side: str, payloads: list[bytes], code: int, first: int = 0x43
) -> None:
    victim, other = getattr(pair, side), pair.client if side == "server" else pair.server
    forger = Forger(victim, other.address)
    for payload in payloads:
        forger.send(payload, first_byte=first)
    assert [e for e in victim.take_events() if isinstance(e, ConnectionTerminated)] == []
    pair.run(seconds=0.1)
    for end in (victim, other):
        (told,) = [e for e in end.take_events() if isinstance(e, ConnectionTerminated)]
        assert told.error_code == code, told
        assert told.frame_type is not None
    pair.run(seconds=5)
    assert victim.connection.closed
    assert other.connection.closed


@pytest.mark.parametrize("name", FROM_CLIENT)
def test_server_closes_with_the_code_for(name: str) -> None:
    expect_close(new_pair(), "server", *FROM_CLIENT[name])


@pytest.mark.parametrize("name", FROM_SERVER)
def test_client_closes_with_the_code_for(name: str) -> None:
    expect_close(new_pair(), "client", *FROM_SERVER[name])


@pytest.mark.parametrize("bits", [0x08, 0x10, 0x18])
def test_reserved_bits_are_a_violation(bits: int) -> None:
    # RFC 9000 §17.3.1: once protection is removed they must be zero.
    expect_close(new_pair(), "server", [b"\x01"], f.PROTOCOL_VIOLATION, 0x43 | bits)


@pytest.mark.parametrize(
    "payload",
    [
        frame(0x1B, rest=bytes(8)),  # §19.18: an unknown PATH_RESPONSE may be ignored
        frame(0x10, 1),  # §4.1: limits that fall are ignored
        frame(0x12, 1),
        frame(0x14, 7),
        frame(0x16, 7),
        b"\0" * 30,
        frame(0x03, 0, 0, 0, 0, 1, 2, 3),
        stream(0, 0, b"x") + stream(0, 0, b"x"),
    ],
    ids=lambda payload: payload[:4].hex(),
)
def test_what_is_odd_but_legal_changes_nothing(payload: bytes) -> None:
    pair = new_pair()
    Forger(pair.server, CLIENT_ADDRESS).send(payload)
    assert state_of(pair.server).closing is None


@pytest.mark.parametrize("name", list(FROM_CLIENT)[:6])
def test_what_is_not_authentic_closes_nothing(name: str) -> None:
    pair = new_pair()
    forger = Forger(pair.server, CLIENT_ADDRESS)
    for payload in FROM_CLIENT[name][0]:
        packet = bytearray(forger.packet(payload))
        packet[-1] ^= 1
        pair.server.receive(bytes(packet), CLIENT_ADDRESS, pair.now)
    assert state_of(pair.server).closing is None
    assert state_of(pair.server).protection.failed_decryptions == 1


def test_a_client_takes_nothing_from_a_strange_address() -> None:
    pair = new_pair()
    Forger(pair.client, ("203.0.113.9", 443)).send(frame(0x21))
    assert state_of(pair.client).closing is None
    Forger(pair.client, SERVER_ADDRESS).send(frame(0x21))
    assert state_of(pair.client).closing is not None
