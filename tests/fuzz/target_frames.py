"""Frames: everything that an authentic peer may put into packets, in a connection in several
states.

An input is a byte that chooses a scene, then steps: a byte below 0xE0 is the length of a packet's
payload, which follows; 0xF0 is time that passes, 0xF1 the application's turn, 0xF2 a handoff.
"""

from __future__ import annotations

import functools
from itertools import count
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from quicbaton.testing import EndOptions, Pair
from quicbaton.testing.cluster import Cluster
from quicbaton.testing.entropy import Entropy
from quicbaton.transport import frames as f
from quicbaton.transport.connection import Connection
from quicbaton.transport.frames import encode_varint as v
from quicbaton.transport.state import Address, ConnectionState
from tests.fuzz.fuzzing import Reader, at_most
from tests.transport.forge import sealed, state_of

TIME, APPLICATION, HANDOFF = 0xF0, 0xF1, 0xF2
LONGEST: Final = 0xDF
#: Error codes that a peer's mistake may be answered with (RFC 9000 §20.1; 0x1XX are TLS alerts).
_CODES: Final = frozenset({*range(0x03, 0x11), 0x10A})
#: Calls that a step may make, and a byte of it: measured maxima are a third of it.
_CALLS_PER_STEP: Final = 6_000
_CALLS_PER_BYTE: Final = 120
#: Bytes that a connection may grow by, and for each byte that came.
_BYTES_PER_STEP: Final = 4_096
_BYTES_PER_BYTE: Final = 64
_SMALL: Final = {"max_data": 30_000, "max_stream_data": 20_000, "max_datagram_frame_size": 1000}


class Scene(msgspec.Struct):
    """A connection to begin with, as bytes, and its peer's address."""

    state: bytes
    remote: Address
    now: float
    cids: int


def _scene(victim: str, busy: str) -> Scene:
    options = EndOptions(configuration=_SMALL)
    pair = Pair(client=options, server=options)
    pair.connect()
    pair.run(seconds=1)
    end, other = getattr(pair, victim), pair.client if victim == "server" else pair.server
    if busy != "idle":
        own = 0 if victim == "client" else 1
        for stream_id in (own, own + 4, own + 2):
            end.connection.send_stream_data(stream_id, b"x" * 3000)
        other.connection.send_stream_data(1 - own, b"y" * 300)
        other.connection.send_stream_data(1 - own + 2, b"y" * 300, end_stream=True)
        pair.run(seconds=1)
        end.connection.send_stream_data(own, b"z" * 5000)
        pair.transmit()
    if busy == "closing":
        end.connection.close(error_code=7, reason_phrase="enough")
        pair.transmit()
    end.take_events()
    state = msgspec.msgpack.encode(state_of(end))
    return Scene(state, other.address, pair.now, len(state_of(end).ids.local))


@functools.cache
def scenes() -> list[Scene]:
    """Clients and servers, with nothing to do, at work, and closing."""
    return [
        _scene(victim, busy)
        for victim in ("server", "client")
        for busy in ("idle", "busy", "closing")
    ]


class Victim:
    """A connection under test, and its peer."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._issuer = Cluster(Entropy(0)).new_worker()
        self._entropy = Entropy(1)
        self.state = msgspec.msgpack.decode(scene.state, type=ConnectionState)
        self.now = scene.now
        self.connection = self._connect()
        self._numbers = count(self.state.numbers.largest_received + 1)
        self._start_bytes = len(scene.state)
        self._paid_bytes = 0

    def _connect(self) -> Connection:
        return Connection(
            self.state,
            origin_s=self.now - self.state.clock_us / 1e6,
            issuer=self._issuer,
            entropy=self._entropy,
            on_crypto=(lambda _data: None) if self.state.is_client else None,
        )

    def receive(self, payload: bytes) -> None:
        """An authentic packet."""
        self.receive_raw(sealed(self.state, next(self._numbers), payload))

    def receive_behind(self, start: bytes, payload: bytes) -> None:
        """One in a datagram that begins with something else."""
        self.receive_raw(start + sealed(self.state, next(self._numbers), payload))

    def receive_raw(self, datagram: bytes) -> None:
        self._paid_bytes += len(datagram)
        self.connection.receive_datagram(datagram, self._scene.remote, self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.connection.handle_timer(self.now)
        self.send()

    def send(self) -> None:
        sent = self.connection.trains_to_send(self.now)
        assert sum(len(train.data) for train in sent) < 1 << 18

    def let_application_work(self) -> None:
        while self.connection.next_event() is not None:
            pass
        for stream_id in list(self.state.streams):
            if self.connection.can_send(stream_id):
                self.connection.send_stream_data(stream_id, b"answer")

    def hand_over(self) -> None:
        if self.state.closing is None and not self.state.closed:
            frozen = self.connection.freeze(self.now)
            encoded = msgspec.msgpack.encode(frozen)
            self.state = msgspec.msgpack.decode(encoded, type=ConnectionState)
            assert self.state == frozen
            self.connection = Connection.resume(
                self.state,
                now=self.now,
                transit_us=1000,
                issuer=self._issuer,
                entropy=self._entropy,
                on_crypto=(lambda _data: None) if self.state.is_client else None,
            )

    def check(self) -> None:
        state = self.state
        closing = state.closing
        told = closing is not None and not closing.by_peer and closing.frame_type >= 0
        if told and closing is not None and closing.reason != "Idle timeout":
            assert closing.error_code in _CODES, closing
        timer = self.connection.get_timer()
        assert timer is None or timer == timer  # noqa: PLR0124 - not a number is not a time
        size = len(msgspec.msgpack.encode(state))
        limit = self._start_bytes + _BYTES_PER_STEP + _BYTES_PER_BYTE * self._paid_bytes
        assert size < limit, f"{size} bytes kept for {self._paid_bytes}"


def target(data: bytes) -> None:
    reader = Reader(data)
    known = scenes()
    victim = Victim(known[reader.byte() % len(known)])
    while reader.more:
        step = reader.byte()
        payload = reader.take(step) if step <= LONGEST else b""
        with at_most(_CALLS_PER_STEP + _CALLS_PER_BYTE * len(payload)):
            if step <= LONGEST:
                victim.receive(payload)
                victim.send()
            elif step == TIME:
                victim.pass_time(reader.byte() / 64)
            elif step == APPLICATION:
                victim.let_application_work()
            elif step == HANDOFF:
                victim.hand_over()
        victim.check()


# --- inputs -----------------------------------------------------------------------------------


def packet(*frames: bytes) -> bytes:
    payload = b"".join(frames)[:LONGEST]
    return bytes([len(payload)]) + payload


def frame(kind: int, *values: int, rest: bytes = b"") -> bytes:
    return b"".join(map(v, (kind, *values))) + rest


#: The integers of each frame, in the order of RFC 9000 §19; what follows them is random bytes.
_FIELDS: Final = {
    **{f.PADDING: 0, f.PING: 0, f.ACK: 5, f.ACK_ECN: 7, f.RESET_STREAM: 3, f.STOP_SENDING: 2},
    **{f.CRYPTO: 2, f.NEW_TOKEN: 1, f.MAX_DATA: 1, f.MAX_STREAM_DATA: 2, f.DATA_BLOCKED: 1},
    **{f.MAX_STREAMS_BIDI: 1, f.MAX_STREAMS_UNI: 1, f.STREAM_DATA_BLOCKED: 2},
    **{f.STREAMS_BLOCKED_BIDI: 1, f.STREAMS_BLOCKED_UNI: 1, f.NEW_CONNECTION_ID: 2},
    **{f.RETIRE_CONNECTION_ID: 1, f.PATH_CHALLENGE: 0, f.PATH_RESPONSE: 0},
    **{f.TRANSPORT_CLOSE: 3, f.APPLICATION_CLOSE: 2, f.HANDSHAKE_DONE: 0},
    **{f.DATAGRAM: 0, f.DATAGRAM_LEN: 1},
    **{f.STREAM | bits: 3 for bits in range(8)},
}


def seeds() -> list[bytes]:
    cid = bytes([12]) + bytes(range(12)) + bytes(16)
    lines: list[list[bytes]] = [
        [packet(frame(f.STREAM | 6, 0, 0, 3, rest=b"abc"), frame(f.PING))],
        [packet(frame(f.STREAM | 6, 0, 100 * n, 3, rest=b"abc")) for n in range(9, 0, -1)],
        [packet(frame(f.STREAM | 7, 4, 0, 1, rest=b"a")), packet(frame(f.RESET_STREAM, 4, 7, 1))],
        [packet(frame(f.ACK, 3, 0, 1, 0, 0, 0)), bytes([TIME, 9])],
        [packet(frame(f.NEW_CONNECTION_ID, 20, 20, rest=cid)), bytes([TIME, 64])],
        [packet(frame(f.RETIRE_CONNECTION_ID, 1)), bytes([HANDOFF]), bytes([TIME, 255])],
        [packet(frame(f.PATH_CHALLENGE, rest=bytes(8))) for _ in range(4)],
        [packet(frame(f.STOP_SENDING, 0, 9)), bytes([APPLICATION])],
        [packet(frame(f.CRYPTO, 4, 3, rest=b"abc"), frame(f.CRYPTO, 0, 2, rest=b"ab"))],
        [packet(frame(f.MAX_DATA, f.MAX_VARINT), frame(f.MAX_STREAMS_BIDI, 1 << 60))],
        [packet(frame(f.DATAGRAM_LEN, 2, rest=b"ab"), frame(f.DATAGRAM, rest=b"abc"))],
        [packet(frame(f.APPLICATION_CLOSE, 1, 2, rest=b"no")), bytes([TIME, 255])],
    ]
    return [bytes([scene]) + b"".join(line) for line in lines for scene in range(3)]


def inputs() -> st.SearchStrategy[bytes]:
    """Frames as the RFC forms them, with all kinds of values."""
    values = st.one_of(st.integers(0, 20), st.sampled_from([63, 64, 20_000, 1 << 30, 1 << 61]))
    rest = st.one_of(st.just(b""), st.binary(max_size=40))

    def one(kind: int) -> st.SearchStrategy[bytes]:
        fields: Any = st.lists(values, min_size=_FIELDS[kind], max_size=_FIELDS[kind])
        return st.builds(lambda numbers, rest: frame(kind, *numbers, rest=rest), fields, rest)

    frames = st.sampled_from(sorted(_FIELDS)).flatmap(one)
    steps = st.one_of(
        st.lists(frames, min_size=1, max_size=4).map(lambda chosen: packet(*chosen)),
        st.integers(0, 255).map(lambda ticks: bytes([TIME, ticks])),
        st.sampled_from([bytes([APPLICATION]), bytes([HANDOFF])]),
    )
    return st.builds(
        lambda scene, chosen: bytes([scene]) + b"".join(chosen),
        st.integers(0, 5),
        st.lists(steps, max_size=12),
    )
