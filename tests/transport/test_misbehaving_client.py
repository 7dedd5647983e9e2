"""Each frame, wrong in each way, in each state, and the error code that RFC 9000 §20.1 has for it.

`test_connection_violations.py` has one instance of each rule, with both ends at work; the tables
here go through all frames, streams and situations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from quicbaton.transport import frames as f
from tests.transport.misbehaving import (
    CONNECTION_WINDOW,
    DATAGRAM_BYTES,
    ENDED,
    FORGOTTEN,
    FORGOTTEN_UNI,
    OPEN,
    OPEN_UNI,
    OWN,
    OWN_ENDED,
    OWN_UNI,
    OWN_UNI_UNOPENED,
    OWN_UNOPENED,
    RESET,
    SITUATIONS,
    STOPPED,
    TOO_MANY,
    TOO_MANY_UNI,
    UNOPENED,
    WINDOW,
    WITH_STREAMS,
    Stage,
    frame,
    new_id,
    stream,
)

ENCODING = f.FRAME_ENCODING_ERROR
PROTOCOL = f.PROTOCOL_VIOLATION
STATE = f.STREAM_STATE_ERROR
LIMIT = f.STREAM_LIMIT_ERROR
FLOW = f.FLOW_CONTROL_ERROR
SIZE = f.FINAL_SIZE_ERROR
IDS = f.CONNECTION_ID_LIMIT_ERROR
CRYPTO_BUFFER = f.CRYPTO_BUFFER_EXCEEDED
BIG = f.MAX_VARINT
TOO_MANY_STREAMS = (1 << 60) + 1


def expect(stage: Stage, codes: int | set[int], frame_type: int | None = None) -> None:
    """The connection is closed with one of these codes, for that frame, and the peer is told."""
    closing = stage.state.closing
    assert closing is not None, "nothing happened"
    assert closing.error_code in ({codes} if isinstance(codes, int) else codes), closing
    if frame_type is not None:
        assert closing.frame_type == frame_type, closing
    told = stage.told()
    assert (told.error_code, told.frame_type) == (closing.error_code, closing.frame_type)
    stage.pass_time(10)
    assert stage.state.closed


# --- cut off at every byte ------------------------------------------------------------------------

#: A whole frame of each type that has a size of its own: STREAM and DATAGRAM without a length end
#: with their packet, wherever that is.
WHOLE: dict[str, bytes] = {
    "ACK": frame(f.ACK, 3, 0, 1, 0, 0, 0),
    "ACK with ECN": frame(f.ACK_ECN, 3, 0, 1, 0, 0, 0, 1, 2, 3),
    "RESET_STREAM": frame(f.RESET_STREAM, OPEN, 300, 70_000),
    "STOP_SENDING": frame(f.STOP_SENDING, OPEN, 300),
    "CRYPTO": frame(f.CRYPTO, 0, 4, rest=b"abcd"),
    "NEW_TOKEN": frame(f.NEW_TOKEN, 4, rest=b"abcd"),
    "STREAM with offset and length": frame(0x0E, OPEN, 300, 4, rest=b"abcd"),
    "STREAM with length": frame(0x0A, OPEN, 4, rest=b"abcd"),
    "MAX_DATA": frame(f.MAX_DATA, 70_000),
    "MAX_STREAM_DATA": frame(f.MAX_STREAM_DATA, OPEN, 70_000),
    "MAX_STREAMS, bidirectional": frame(f.MAX_STREAMS_BIDI, 300),
    "MAX_STREAMS, unidirectional": frame(f.MAX_STREAMS_UNI, 300),
    "DATA_BLOCKED": frame(f.DATA_BLOCKED, 70_000),
    "STREAM_DATA_BLOCKED": frame(f.STREAM_DATA_BLOCKED, OPEN, 70_000),
    "STREAMS_BLOCKED, bidirectional": frame(f.STREAMS_BLOCKED_BIDI, 300),
    "STREAMS_BLOCKED, unidirectional": frame(f.STREAMS_BLOCKED_UNI, 300),
    "NEW_CONNECTION_ID": new_id(20, 1, 7),
    "RETIRE_CONNECTION_ID": frame(f.RETIRE_CONNECTION_ID, 70),
    "PATH_CHALLENGE": frame(f.PATH_CHALLENGE, rest=bytes(8)),
    "PATH_RESPONSE": frame(f.PATH_RESPONSE, rest=bytes(8)),
    "CONNECTION_CLOSE of the transport": frame(f.TRANSPORT_CLOSE, 300, 300, 4, rest=b"abcd"),
    "CONNECTION_CLOSE of the application": frame(f.APPLICATION_CLOSE, 300, 4, rest=b"abcd"),
    "DATAGRAM with length": frame(f.DATAGRAM_LEN, 4, rest=b"abcd"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_frame_cut_off_at_any_byte_is_an_encoding_error(name: str) -> None:
    # RFC 9000 §20.1: FRAME_ENCODING_ERROR, "a frame that was badly formatted".
    whole = WHOLE[name]
    for size in range(1, len(whole)):
        # A PING before it is handled, and changes nothing.
        for before in (b"", b"\x01"):
            stage = Stage("busy")
            stage.send(before + whole[:size])
            expect(stage, ENCODING, whole[0])


@pytest.mark.parametrize("name", WHOLE)
def test_a_server_s_frame_cut_off_at_any_byte_is_one_for_the_client(name: str) -> None:
    whole = WHOLE[name]
    for size in range(1, len(whole)):
        stage = Stage("fresh", "client")
        stage.send(whole[:size])
        expect(stage, ENCODING, whole[0])


# --- types that do not exist ----------------------------------------------------------------------

KNOWN_TYPES = {*range(0x1F), 0x30, 0x31}


def test_every_unknown_type_of_one_byte_is_an_encoding_error() -> None:
    # RFC 9000 §12.4: a frame of unknown type is "a connection error of type FRAME_ENCODING_ERROR".
    for kind in {*range(0x40)} - KNOWN_TYPES:
        stage = Stage("fresh")
        stage.send(bytes([kind]) + bytes(30))
        expect(stage, ENCODING, kind)


@pytest.mark.parametrize("kind", [0x40, 0xAF, 0x4000, 0x15228C00, 1 << 61], ids=hex)
def test_a_longer_unknown_type_is_named_whole(kind: int) -> None:
    stage = Stage("fresh")
    stage.send(frame(kind, rest=bytes(20)))
    expect(stage, ENCODING, kind)


@pytest.mark.parametrize("kind", sorted(KNOWN_TYPES), ids=hex)
@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_known_type_in_more_bytes_than_it_needs_is_a_violation(kind: int, size: int) -> None:
    # RFC 9000 §12.4: the shortest encoding; a longer one MAY be a PROTOCOL_VIOLATION.
    stage = Stage("fresh")
    stage.send(bytes([{2: 0x40, 4: 0x80, 8: 0xC0}[size]]) + bytes(size - 2) + bytes([kind]))
    expect(stage, PROTOCOL, kind or None)


@pytest.mark.parametrize("start", [0x40, 0x80, 0xC0], ids=hex)
def test_half_a_type_is_an_encoding_error(start: int) -> None:
    stage = Stage("fresh")
    stage.send(bytes([start]))
    expect(stage, ENCODING)


# --- frames that name a stream, and what has become of it -----------------------------------------

FOR_STREAM: dict[str, Callable[[int], bytes]] = {
    "STREAM": lambda stream_id: stream(stream_id, 0, b""),
    "RESET_STREAM": lambda stream_id: frame(f.RESET_STREAM, stream_id, 9, 24),
    "STOP_SENDING": lambda stream_id: frame(f.STOP_SENDING, stream_id, 9),
    "MAX_STREAM_DATA": lambda stream_id: frame(f.MAX_STREAM_DATA, stream_id, 9),
    "STREAM_DATA_BLOCKED": lambda stream_id: frame(f.STREAM_DATA_BLOCKED, stream_id, 9),
}
#: RFC 9000 §19.4, §19.5, §19.8, §19.10, §19.13 for direction and existence, §4.6 for the limit.
#: Frames that are no error change nothing for the connection (§3.2: late ones of finished streams).
STREAM_GRID = """
                        STREAM  RESET_STREAM  STOP_SENDING  MAX_STREAM_DATA  STREAM_DATA_BLOCKED
client's, open          -       -             -             -                -
client's, ended         -       SIZE          -             -                -
client's, reset         -       SIZE           -             -                -
client's, stopped       -       -             -             -                -
client's, forgotten     -       -             -             -                -
client's, not open      -       -             -             -                -
client's, too many      LIMIT   LIMIT         LIMIT         LIMIT            LIMIT
client's uni, open      -       -             STATE         STATE            -
client's uni, forgotten -       -             STATE         STATE            -
client's uni, too many  LIMIT   LIMIT         STATE         STATE            LIMIT
server's, open          -       -             -             -                -
server's, ended         -       -             -             -                -
server's, not open      STATE   STATE         STATE         STATE            STATE
server's uni, open      STATE   STATE         -             -                STATE
server's uni, not open  STATE   STATE         STATE         STATE            STATE
"""
STREAM_IDS = {
    "client's, open": OPEN,
    "client's, ended": ENDED,
    "client's, reset": RESET,
    "client's, stopped": STOPPED,
    "client's, forgotten": FORGOTTEN,
    "client's, not open": UNOPENED,
    "client's, too many": TOO_MANY,
    "client's uni, open": OPEN_UNI,
    "client's uni, forgotten": FORGOTTEN_UNI,
    "client's uni, too many": TOO_MANY_UNI,
    "server's, open": OWN,
    "server's, ended": OWN_ENDED,
    "server's, not open": OWN_UNOPENED,
    "server's uni, open": OWN_UNI,
    "server's uni, not open": OWN_UNI_UNOPENED,
}
CODES = {"STATE": STATE, "LIMIT": LIMIT, "SIZE": SIZE}


def _grid() -> list[tuple[str, str, str]]:
    head, *lines = STREAM_GRID.strip("\n").splitlines()
    names = head.split()
    rows = []
    for line in lines:
        kind, cells = line[:24].strip(), line[24:].split()
        rows += [(kind, name, cell) for name, cell in zip(names, cells, strict=True)]
    return rows


@pytest.mark.parametrize(("kind", "name", "cell"), _grid())
def test_a_frame_for_a_stream(kind: str, name: str, cell: str) -> None:
    for situation in WITH_STREAMS:
        stage = Stage(situation)
        stage.send(FOR_STREAM[name](STREAM_IDS[kind]))
        if cell == "-":
            assert stage.state.closing is None, (situation, stage.state.closing)
        else:
            expect(
                stage, CODES[cell], FOR_STREAM[name](0)[0] & (0x08 if name == "STREAM" else 0xFF)
            )


# --- one rule after the other ---------------------------------------------------------------------


class Row(NamedTuple):
    """Packets that break a rule of a section, and the codes that this may be answered with."""

    section: str
    packets: list[bytes]
    codes: int | set[int]
    situations: tuple[str, ...] = SITUATIONS


#: The client's connection has been used up by so much in no situation.
_HALF = CONNECTION_WINDOW // 2
ROWS: dict[str, Row] = {
    "a packet without frames": Row("12.4", [b""], PROTOCOL),
    # --- streams
    "STREAM that ends at 2^62": Row("19.8", [stream(UNOPENED, BIG)], {FLOW, ENCODING}),
    "STREAM that begins at 2^62 - 1, empty": Row("4.1", [stream(UNOPENED, BIG, b"")], FLOW),
    "STREAM beyond its window": Row("4.1", [stream(UNOPENED, WINDOW)], FLOW),
    "STREAM with FIN beyond its window": Row("4.1", [stream(UNOPENED, WINDOW, fin=True)], FLOW),
    "STREAMs beyond the connection's window": Row(
        "4.1", [stream(UNOPENED + 4 * n, WINDOW - 1) for n in range(4)], FLOW
    ),
    "STREAM behind the end": Row("4.5", [stream(UNOPENED, 0, fin=True), stream(UNOPENED, 1)], SIZE),
    "STREAM behind an end that is not reached": Row(
        "4.5", [stream(UNOPENED, 9, fin=True), stream(UNOPENED, 10)], SIZE
    ),
    "an end before what came": Row(
        "4.5", [stream(UNOPENED, 9), stream(UNOPENED, 3, fin=True)], SIZE
    ),
    "a second end elsewhere": Row(
        "4.5", [stream(UNOPENED, 9, fin=True), stream(UNOPENED, 3, fin=True)], SIZE
    ),
    "an end in one packet, and another": Row(
        "4.5", [stream(UNOPENED, 9, fin=True) + stream(UNOPENED, 3, fin=True)], SIZE
    ),
    "a reset before what came": Row(
        "4.5", [stream(UNOPENED, 9), frame(f.RESET_STREAM, UNOPENED, 0, 9)], SIZE
    ),
    "a reset elsewhere than the end": Row(
        "4.5", [stream(UNOPENED, 9, fin=True), frame(f.RESET_STREAM, UNOPENED, 0, 11)], SIZE
    ),
    "two resets with two sizes": Row(
        "4.5", [frame(f.RESET_STREAM, UNOPENED, 0, 9), frame(f.RESET_STREAM, UNOPENED, 0, 8)], SIZE
    ),
    "STREAM beyond the size of a reset": Row(
        "4.5", [frame(f.RESET_STREAM, UNOPENED, 0, 9), stream(UNOPENED, 9)], SIZE
    ),
    "an end elsewhere than a reset": Row(
        "4.5", [frame(f.RESET_STREAM, UNOPENED, 0, 9), stream(UNOPENED, 7, fin=True)], SIZE
    ),
    "a reset beyond the stream's window": Row(
        "4.5", [frame(f.RESET_STREAM, UNOPENED, 0, WINDOW + 1)], FLOW
    ),
    "a reset at 2^62 - 1": Row("4.5", [frame(f.RESET_STREAM, UNOPENED, 0, BIG)], FLOW),
    "resets beyond the connection's window": Row(
        "4.5", [frame(f.RESET_STREAM, UNOPENED + 4 * n, 0, WINDOW) for n in range(4)], FLOW
    ),
    "STREAM beyond the size of a stopped stream": Row(
        "4.5", [stream(STOPPED, 9, fin=True), stream(STOPPED, 10)], SIZE, ("busy",)
    ),
    "STREAM beyond the window of a stopped stream": Row(
        "4.1", [stream(STOPPED, WINDOW + 10)], {FLOW, SIZE}, WITH_STREAMS
    ),
    "more bytes on a stream that has ended": Row("4.5", [stream(ENDED, 3)], SIZE, WITH_STREAMS),
    "more bytes on a stream that was reset": Row("4.5", [stream(RESET, 4)], SIZE, WITH_STREAMS),
    # --- limits of streams
    "a stream too many": Row("4.6", [stream(TOO_MANY, 0)], LIMIT),
    "a unidirectional stream too many": Row("4.6", [stream(TOO_MANY_UNI, 0)], LIMIT),
    "the highest stream": Row("4.6", [stream(BIG - 3, 0)], LIMIT),
    "MAX_STREAMS beyond 2^60": Row(
        "19.11", [frame(f.MAX_STREAMS_BIDI, TOO_MANY_STREAMS)], ENCODING
    ),
    "MAX_STREAMS beyond 2^60, unidirectional": Row(
        "19.11", [frame(f.MAX_STREAMS_UNI, TOO_MANY_STREAMS)], ENCODING
    ),
    "STREAMS_BLOCKED beyond 2^60": Row(
        "19.14", [frame(f.STREAMS_BLOCKED_BIDI, TOO_MANY_STREAMS)], {LIMIT, ENCODING}
    ),
    "STREAMS_BLOCKED beyond 2^60, unidirectional": Row(
        "19.14", [frame(f.STREAMS_BLOCKED_UNI, TOO_MANY_STREAMS)], {LIMIT, ENCODING}
    ),
    # --- what only a server sends
    "HANDSHAKE_DONE": Row("19.20", [frame(f.HANDSHAKE_DONE)], PROTOCOL),
    "NEW_TOKEN": Row("19.7", [frame(f.NEW_TOKEN, 1, rest=b"t")], PROTOCOL),
    "an empty NEW_TOKEN": Row("19.7", [frame(f.NEW_TOKEN, 0)], {PROTOCOL, ENCODING}),
    # --- connection IDs
    "NEW_CONNECTION_ID of no bytes": Row("19.15", [new_id(20, 0, 1, size=0)], ENCODING),
    "NEW_CONNECTION_ID of 21 bytes": Row("19.15", [new_id(20, 0, 1, size=21)], ENCODING),
    "NEW_CONNECTION_ID of 255 bytes": Row("19.15", [new_id(20, 0, 1, size=255)], ENCODING),
    "NEW_CONNECTION_ID that is to be retired itself": Row("19.15", [new_id(20, 21, 1)], ENCODING),
    "NEW_CONNECTION_ID, Retire Prior To 2^62 - 1": Row("19.15", [new_id(20, BIG, 1)], ENCODING),
    "one number for two IDs": Row("19.15", [new_id(20, 20, 1), new_id(20, 20, 2)], PROTOCOL),
    "one ID with two numbers": Row("19.15", [new_id(20, 20, 1), new_id(21, 20, 1)], PROTOCOL),
    "one ID with two tokens": Row(
        "19.15", [new_id(20, 20, 1), new_id(20, 20, 1, token=9)], PROTOCOL
    ),
    "more IDs than are allowed": Row("5.1.1", [new_id(20 + n, 20, 1 + n) for n in range(9)], IDS),
    "retirements without end": Row(
        "5.1.2", [new_id(20 + n, 20 + n, 1 + n) for n in range(100)], IDS
    ),
    "gaps between IDs without end": Row(
        "5.1.2", [new_id(20 + 2 * n, 20 + 2 * n, 1 + n) for n in range(100)], IDS
    ),
    "RETIRE_CONNECTION_ID of what was not issued": Row(
        "19.16", [frame(f.RETIRE_CONNECTION_ID, 1000)], PROTOCOL
    ),
    "RETIRE_CONNECTION_ID 2^62 - 1": Row("19.16", [frame(f.RETIRE_CONNECTION_ID, BIG)], PROTOCOL),
    # --- acknowledgements
    "ACK of what was not sent": Row("13.1", [frame(f.ACK, 100_000, 0, 0, 0)], PROTOCOL),
    "ACK of 2^62 - 1": Row("13.1", [frame(f.ACK, BIG, 0, 0, 0)], PROTOCOL),
    "ACK whose first range goes below zero": Row("19.3.1", [frame(f.ACK, 1, 0, 0, 2)], ENCODING),
    "ACK whose gap goes below zero": Row("19.3.1", [frame(f.ACK, 3, 0, 1, 0, 3, 0)], ENCODING),
    "ACK whose range goes below zero": Row("19.3.1", [frame(f.ACK, 3, 0, 1, 0, 0, 2)], ENCODING),
    "ACK of more ranges than there are bytes": Row(
        "19.3.1", [frame(f.ACK, 3, 0, BIG, 0)], ENCODING
    ),
    "ACK with half of its ECN counts": Row(
        "19.3.2", [frame(f.ACK_ECN, 0, 0, 0, 0, 1, 2)], ENCODING
    ),
    # --- TLS
    "CRYPTO beyond the buffer": Row("7.5", [frame(f.CRYPTO, 1 << 20, 1, rest=b"x")], CRYPTO_BUFFER),
    "CRYPTO that ends at 2^62": Row(
        "19.6", [frame(f.CRYPTO, BIG, 1, rest=b"x")], {CRYPTO_BUFFER, ENCODING}
    ),
    "CRYPTO in countless pieces": Row(
        "7.5", [frame(f.CRYPTO, 2 * n + 1, 1, rest=b"x") for n in range(2000)], CRYPTO_BUFFER
    ),
    "a TLS message that clients do not send": Row(
        "RFC 9001 6", [frame(f.CRYPTO, 0, 5, rest=b"\x18\0\0\1\0")], 0x10A
    ),
    # --- datagrams
    "DATAGRAM larger than announced": Row(
        "RFC 9221 3", [frame(f.DATAGRAM, rest=bytes(DATAGRAM_BYTES))], PROTOCOL
    ),
    "DATAGRAM with length, larger than announced": Row(
        "RFC 9221 3", [frame(f.DATAGRAM_LEN, DATAGRAM_BYTES, rest=bytes(DATAGRAM_BYTES))], PROTOCOL
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_server_closes_with_the_code_for(name: str) -> None:
    row = ROWS[name]
    for situation in row.situations:
        stage = Stage(situation)
        stage.send(*row.packets)
        expect(stage, row.codes)


def test_retiring_the_id_of_the_very_packet_is_a_violation() -> None:
    # RFC 9000 §19.16: "MUST NOT refer to the Destination Connection ID field of the packet".
    for situation in SITUATIONS:
        stage = Stage(situation)
        stage.send(frame(f.RETIRE_CONNECTION_ID, stage.state.ids.local[0].sequence))
        expect(stage, PROTOCOL, f.RETIRE_CONNECTION_ID)


def test_who_chose_the_empty_id_has_no_others() -> None:
    # RFC 9000 §19.15, §19.16: neither issues IDs nor has them retired.
    stage = Stage("with an empty ID")
    stage.send(new_id(1, 0, 7))
    expect(stage, PROTOCOL, f.NEW_CONNECTION_ID)
    stage = Stage("with an empty ID", "client")
    stage.send(frame(f.RETIRE_CONNECTION_ID, 0))
    expect(stage, PROTOCOL, f.RETIRE_CONNECTION_ID)


def test_an_ack_of_a_number_left_out_ends_the_connection_in_silence() -> None:
    # RFC 9000 §21.4. Here it proves that somebody else sends with our keys: no packet may say so.
    stage = Stage("moved")
    skipped = stage.state.numbers.skipped
    assert skipped
    stage.send(frame(f.ACK, skipped[-2], 0, 0, 0))
    assert stage.state.closed
    assert stage.answers() == []


# --- odd, and legal -------------------------------------------------------------------------------

LEGAL: dict[str, list[bytes]] = {
    "PATH_RESPONSE that nobody asked for (19.18)": [frame(f.PATH_RESPONSE, rest=bytes(8))],
    "limits that fall (4.1)": [
        frame(f.MAX_DATA, 0) + frame(f.MAX_STREAMS_BIDI, 0) + frame(f.MAX_STREAMS_UNI, 0)
    ],
    "limits that cannot be higher (19.9, 19.11)": [
        frame(f.MAX_DATA, BIG) + frame(f.MAX_STREAMS_BIDI, 1 << 60)
    ],
    "blocked at a limit that is none (19.12, 19.14)": [
        frame(f.DATA_BLOCKED, BIG) + frame(f.STREAMS_BLOCKED_UNI, 1 << 60)
    ],
    "ECN counts that shrink (13.4.2.1)": [
        frame(f.ACK_ECN, 0, 0, 0, 0, 9, 9, 9),
        frame(f.ACK_ECN, 0, 0, 0, 0, 1, 2, 3),
    ],
    "the same ACK again and again (13.2)": [frame(f.ACK, 0, 0, 0, 0)] * 9,
    "an ACK Delay without sense (13.2.5)": [frame(f.ACK, 0, BIG, 0, 0)],
    "bytes that came before, and others instead of them (2.2)": [
        stream(UNOPENED, 0, b"abc"),
        stream(UNOPENED, 1, b"XYZ"),
    ],
    "an end twice (4.5)": [stream(UNOPENED, 0, fin=True)] * 2,
    "a reset twice (4.5)": [frame(f.RESET_STREAM, UNOPENED, 0, 9)] * 2,
    "STOP_SENDING twice (3.5)": [frame(f.STOP_SENDING, UNOPENED, 9)] * 2,
    "NEW_CONNECTION_ID twice (19.15)": [new_id(20, 20, 1)] * 2,
    "NEW_CONNECTION_ID that is retired already (5.1.2)": [new_id(21, 21, 2), new_id(20, 0, 1)],
    "PADDING and PING (19.1, 19.2)": [bytes(900) + b"\x01" * 200],
    "an empty DATAGRAM (RFC 9221 4)": [frame(f.DATAGRAM), frame(f.DATAGRAM_LEN, 0)],
    "integers in more bytes than they need (16)": [
        b"\x10\xc0" + bytes(7),
        b"\x0a\x40\x14\x40\x01x",
    ],
    "a stream with no bytes, in each form (19.8)": [
        frame(0x08, UNOPENED),
        frame(0x0A, UNOPENED, 0),
        frame(0x0C, UNOPENED, 0),
        frame(0x0F, UNOPENED, 0, 0),
    ],
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_odd_but_legal_ends_nothing(name: str) -> None:
    for situation in SITUATIONS:
        stage = Stage(situation)
        stage.send(*LEGAL[name])
        assert stage.state.closing is None, (situation, stage.state.closing)
        stage.send(stream(UNOPENED + 4, 0, b"still here", fin=True))
        assert any(getattr(event, "data", b"") == b"still here" for event in stage.events())


# --- a connection that ends -----------------------------------------------------------------------


def _closing(stage: Stage) -> None:
    stage.victim.close(error_code=7, reason_phrase="enough")
    assert len(stage.answers()) == 1


def _draining(stage: Stage) -> None:
    stage.send(frame(f.APPLICATION_CLOSE, 9, 0))


@pytest.mark.parametrize("name", [*ROWS, *LEGAL])
@pytest.mark.parametrize("end", [_closing, _draining], ids=["closing", "draining"])
def test_frames_mean_nothing_once_the_connection_ends(
    end: Callable[[Stage], Any], name: str
) -> None:
    # RFC 9000 §10.2: neither state processes frames; draining sends nothing at all (§10.2.2).
    stage = Stage("busy")
    end(stage)
    closing = stage.state.closing
    assert closing is not None
    before = (closing.error_code, closing.frame_type, closing.by_peer)
    stage.events()
    stage.send(*(ROWS[name].packets if name in ROWS else LEGAL[name]))
    assert (closing.error_code, closing.frame_type, closing.by_peer) == before
    assert stage.events() == []
    assert len(stage.answers()) <= (end is _closing)
    stage.pass_time(10)
    assert stage.state.closed
    stage.send(b"\x01")
    assert stage.answers() == []


@pytest.mark.parametrize("kind", [f.TRANSPORT_CLOSE, f.APPLICATION_CLOSE], ids=hex)
@pytest.mark.parametrize("code", [0, 0x0A, 0x1FF, BIG], ids=hex)
def test_a_peer_that_closes_is_answered_by_silence(kind: int, code: int) -> None:
    for situation in SITUATIONS:
        stage = Stage(situation)
        middle = (code, 6) if kind == f.TRANSPORT_CLOSE else (code,)
        stage.send(frame(kind, *middle, 3, rest=b"\xff\xfe\xfd"))
        closing = stage.state.closing
        assert closing is not None
        assert (closing.error_code, closing.by_peer) == (code, True)
        assert stage.answers() == []


def test_closing_answers_ever_more_rarely() -> None:
    # RFC 9000 §10.2.1: the rate at which packets are answered is limited.
    stage = Stage("busy")
    _closing(stage)
    answered = 0
    for _ in range(1000):
        stage.send(b"\x01")
        answered += len(stage.answers())
    assert 1 <= answered <= 10
