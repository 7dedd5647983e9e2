"""HTTP/3 streams and datagrams, in pieces as they come, at a server and at a client.

An input is a byte that chooses the end, then steps of two bytes: an event (the low four bits) with
its stream, and a length. That many bytes of the stream follow.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec
from aioquic.quic.events import (
    DatagramFrameReceived,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from hypothesis import strategies as st

from quicbaton.errors import QuicbatonError
from quicbaton.http3 import H3Connection, Http3State, export_state, restore
from quicbaton.http3.codes import ErrorCode, FrameType, StreamType
from quicbaton.http3.events import DataReceived, H3Event, HeadersReceived, StreamFailed
from quicbaton.http3.exceptions import InvalidStreamTypeError
from quicbaton.http3.frames import encode_frame, encode_settings
from quicbaton.http3.qpack import encode_fields
from quicbaton.limits import MAX_HELD_HTTP_BYTES
from quicbaton.transport.frames import encode_varint as v
from tests.fuzz.fuzzing import Reader, at_most, only
from tests.http3.http3_wire import Quic

DATA, END, RESET, STOP, DATAGRAM, ANSWER, MOVE = 0, 1, 2, 3, 4, 5, 6
#: The meaning of an input's step; most are bytes of a stream.
_STEPS: Final = (DATA, DATA, DATA, DATA, DATA, DATA, END, END, RESET, STOP, DATAGRAM, ANSWER, MOVE)
_CALLS_PER_STEP: Final = 3_000
_CALLS_PER_BYTE: Final = 60
#: State for each stream and each byte, and for what there is of every connection.
_STATE_BYTES: Final = 4_096
_STATE_PER_STREAM: Final = 256
_STATE_PER_BYTE: Final = 8
_CODES: Final = frozenset(int(code) for code in ErrorCode)


class Victim:
    """One end; what it is given it is given whole, or byte by byte."""

    def __init__(self, is_client: bool, webtransport: bool, piece: int) -> None:
        self.quic = Quic(is_client)
        self.h3 = H3Connection(self.quic, enable_webtransport=webtransport)
        self._piece = piece
        self._streams: set[int] = set()
        self._bytes = 0
        self._failed: set[int] = set()
        self.told: list[Any] = []
        if is_client:
            for _ in range(3):
                self._request()

    def handle(self, event: QuicEvent) -> None:
        """The events that the transport would hand on, and no others."""
        if not self._may_come(event) or not self.quic.receive(event):
            return
        self._streams.add(getattr(event, "stream_id", 0))
        for happened in self.h3.handle_event(event):
            self._note(happened)

    def data(self, stream_id: int, data: bytes, ended: bool) -> None:
        self._bytes += len(data)
        step = self._piece or max(1, len(data))
        pieces = [data[at : at + step] for at in range(0, len(data), step)] or [b""]
        for number, piece in enumerate(pieces, 1):
            self.handle(StreamDataReceived(piece, ended and number == len(pieces), stream_id))

    def answer(self, stream_id: int, choice: int) -> None:
        with only(QuicbatonError, InvalidStreamTypeError):
            if choice % 4 == 0:
                self.h3.send_headers(stream_id, [(b":status", b"200")], bool(choice & 4))
            elif choice % 4 == 1:
                self.h3.send_data(stream_id, b"body", bool(choice & 4))
            elif choice % 4 == 2:
                self.h3.send_headers(stream_id, [(b"trailer", b"x")], True)
            else:
                self.h3.send_datagram(stream_id, b"datagram")

    def move(self) -> None:
        state = export_state(self.h3)
        encoded = msgspec.msgpack.encode(state)
        decoded = msgspec.msgpack.decode(encoded, type=Http3State)
        assert decoded == state
        self.h3 = restore(self.quic, decoded)

    def of_good_streams(self) -> tuple[set[int], list[Any]]:
        """Streams that failed, and what the program was told of the others."""
        return self._failed, [told for told in self.told if told[0] not in self._failed]

    def check(self) -> None:
        if self.quic.closed is not None:
            assert self.quic.closed[0] in _CODES
            assert self.quic.closed[0] != ErrorCode.H3_INTERNAL_ERROR
        size = len(msgspec.msgpack.encode(self.h3._state))
        streams = len(self._streams)
        limit = _STATE_BYTES + _STATE_PER_STREAM * streams + _STATE_PER_BYTE * self._bytes
        assert size < min(limit, limit + 2 * MAX_HELD_HTTP_BYTES), (size, streams, self._bytes)

    def _may_come(self, event: QuicEvent) -> bool:
        """Anything else is an error of the transport's (RFC 9000 §19)."""
        if isinstance(event, DatagramFrameReceived):
            return True
        stream_id: int = event.stream_id  # type: ignore[attr-defined]
        is_uni = bool(stream_id & 2)
        is_own = bool(stream_id & 1) != self.quic.configuration.is_client
        if is_own and stream_id >= self.quic.get_next_available_stream_id(is_uni):
            return False
        return not is_uni or is_own is isinstance(event, StopSendingReceived)

    def _request(self) -> None:
        stream_id = self.quic.get_next_available_stream_id()
        fields = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"a"),
            (b":path", b"/"),
        ]
        self.h3.send_headers(stream_id, fields, True)

    def _note(self, event: H3Event) -> None:
        """The program's events, without the places where its data was cut."""
        told = self.told
        if isinstance(event, DataReceived):
            last = told[-1] if told else None
            if isinstance(last, list) and last[0] == event.stream_id and not last[2]:
                last[1] += event.data
                last[2] = event.stream_ended
            else:
                told.append([event.stream_id, event.data, event.stream_ended])
        elif isinstance(event, HeadersReceived):
            told.append((event.stream_id, tuple(event.headers), event.stream_ended))
        else:
            if isinstance(event, StreamFailed):
                self._failed.add(event.stream_id)
            told.append((getattr(event, "stream_id", -1), type(event).__name__))


def target(data: bytes) -> None:
    # Nothing may depend on where packets were cut, but which of two faults is named where a
    # critical stream ends in one, and what of a malformed message was told before its fault.
    whole, cut = _run(data, piece=0), _run(data, piece=1)
    codes = {end.quic.closed and end.quic.closed[0] for end in (whole, cut)}
    if codes == {None}:
        assert whole.of_good_streams() == cut.of_good_streams()
    else:
        assert None not in codes
        assert len(codes - {ErrorCode.H3_CLOSED_CRITICAL_STREAM}) <= 1, codes


def _run(data: bytes, piece: int) -> Victim:
    reader = Reader(data)
    scene = reader.byte()
    victim = Victim(bool(scene & 1), bool(scene & 2), piece)
    while reader.more:
        choice, length = reader.byte(), reader.byte()
        kind, stream_id = _STEPS[choice % len(_STEPS)], choice // len(_STEPS)
        payload = reader.take(length) if kind in (DATA, END, DATAGRAM) else b""
        pieces = len(payload) if piece else 1
        with at_most(_CALLS_PER_STEP * (1 + pieces // 8) + _CALLS_PER_BYTE * len(payload)):
            if kind in (DATA, END):
                victim.data(stream_id, payload, kind == END)
            elif kind == RESET:
                victim.handle(StreamReset(length, stream_id))
            elif kind == STOP:
                victim.handle(StopSendingReceived(length, stream_id))
            elif kind == DATAGRAM:
                victim.handle(DatagramFrameReceived(payload))
            elif kind == ANSWER:
                victim.answer(stream_id, length)
            else:
                victim.move()
        victim.check()
    return victim


# --- inputs -----------------------------------------------------------------------------------


def step(kind: int, stream_id: int, data: bytes = b"") -> bytes:
    """A step of an input: the first that means this."""
    choice = stream_id * len(_STEPS) + _STEPS.index(kind)
    return bytes([choice, len(data)]) + data


_GET: Final = (
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a.example"),
    (b":path", b"/index.html"),
)


@functools.cache
def _frames() -> list[bytes]:
    head = encode_frame(FrameType.HEADERS, encode_fields(list(_GET)))
    posted = [*_GET[1:], (b":method", b"POST"), (b"content-length", b"4")]
    connect = [(b":method", b"CONNECT"), (b":protocol", b"webtransport"), *_GET[1:]]
    return [
        head,
        encode_frame(FrameType.HEADERS, encode_fields(posted)),
        encode_frame(FrameType.HEADERS, encode_fields(connect)),
        encode_frame(FrameType.HEADERS, encode_fields([(b":status", b"200")])),
        encode_frame(FrameType.HEADERS, encode_fields([(b":status", b"103")])),
        encode_frame(FrameType.HEADERS, encode_fields([(b"trailer", b"x")])),
        encode_frame(FrameType.HEADERS, b"\0\0\xff"),
        encode_frame(FrameType.DATA, b"body"),
        encode_frame(FrameType.DATA, b""),
        encode_frame(FrameType.SETTINGS, encode_settings({6: 1000, 8: 1, 0x33: 1})),
        encode_frame(FrameType.GOAWAY, v(4)),
        encode_frame(FrameType.MAX_PUSH_ID, v(4)),
        encode_frame(FrameType.CANCEL_PUSH, v(4)),
        encode_frame(FrameType.PRIORITY_UPDATE, v(4) + b"u=1, i"),
        encode_frame(FrameType.PUSH_PROMISE, v(1) + encode_fields(list(_GET))),
        encode_frame(0x21, b"grease"),
        v(FrameType.HEADERS) + v(1 << 40),
        v(FrameType.WEBTRANSPORT_STREAM) + v(0) + b"stream",
        encode_frame(0x2843, b"\0\0\0\7over"),
    ]


def seeds() -> list[bytes]:
    request, posted, connect, answer, early, trailer, *_ = frames = _frames()
    settings = v(StreamType.CONTROL) + frames[9]
    made = [
        step(DATA, 2, settings) + step(END, 0, request) + step(ANSWER, 0, b""),
        step(DATA, 2, settings) + step(DATA, 0, posted) + step(END, 0, frames[7] + trailer),
        step(DATA, 2, settings) + step(DATA, 0, connect) + step(DATAGRAM, 0, b"\0hello"),
        step(DATA, 2, settings) + step(DATA, 3, settings) + step(MOVE, 0),
        step(DATA, 3, settings) + step(DATA, 0, early + answer) + step(END, 0, frames[7]),
        step(DATA, 2, v(StreamType.QPACK_ENCODER) + b"\x20") + step(DATA, 6, v(3) + b"\x40"),
        step(DATA, 2, v(StreamType.WEBTRANSPORT) + v(0) + b"early") + step(RESET, 2),
        *(step(DATA, 0, one) + step(MOVE, 0) + step(END, 0) for one in frames),
        *(step(DATA, 2, settings + one) for one in frames),
    ]
    return [bytes([scene]) + one for one in made for scene in range(4)]


def inputs() -> st.SearchStrategy[bytes]:
    """Frames on streams, some of them of the wrong kind."""
    contents = st.lists(st.sampled_from(_frames()), max_size=3).map(b"".join)
    stream_ids = st.integers(0, 18)
    typed = st.sampled_from([b"", *(v(kind) for kind in (0, 1, 2, 3, 0x54, 0x21))])
    data = st.builds(lambda start, rest: (start + rest)[:255], typed, contents)
    steps = st.one_of(
        st.builds(step, st.sampled_from([DATA, DATA, END, DATAGRAM]), stream_ids, data),
        st.builds(step, st.sampled_from([RESET, STOP, ANSWER, MOVE]), stream_ids),
    )
    return st.builds(
        lambda scene, chosen: bytes([scene]) + b"".join(chosen),
        st.integers(0, 3),
        st.lists(steps, max_size=10),
    )
