"""A peer that breaks one rule at a time, at the level of frames.

A `Stage` is a connection in one of `SITUATIONS`, rebuilt from bytes for each trial, and a peer
whose packets are made by hand. The broken rules are tables in `test_misbehaving_client.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import msgspec
from aioquic.quic.events import ConnectionTerminated

from quicbaton.testing import EndOptions, Pair, move
from quicbaton.testing.cluster import Cluster
from quicbaton.testing.end import End
from quicbaton.testing.entropy import Entropy
from quicbaton.transport import frames as f
from quicbaton.transport.connection import Connection
from quicbaton.transport.frames import encode_varint as v
from quicbaton.transport.state import Address, ConnectionState
from tests.transport.forge import sealed, state_of

#: Small, so that they are soon passed.
WINDOW: Final = 20_000
CONNECTION_WINDOW: Final = 60_000
STREAMS: Final = 128
DATAGRAM_BYTES: Final = 1000
_SETTINGS: Final = {
    "max_data": CONNECTION_WINDOW,
    "max_stream_data": WINDOW,
    "max_datagram_frame_size": DATAGRAM_BYTES,
}
_OPTIONS: Final = EndOptions(configuration=_SETTINGS)

#: A server's streams in the situation `busy`, by what has become of them.
OPEN, ENDED, RESET, STOPPED, FORGOTTEN, UNOPENED = 0, 4, 8, 12, 16, 20
OPEN_UNI, FORGOTTEN_UNI = 2, 6
OWN, OWN_ENDED, OWN_UNOPENED = 1, 5, 9
OWN_UNI, OWN_UNI_UNOPENED = 3, 7
TOO_MANY, TOO_MANY_UNI = 4 * 1000, 4 * 1000 + 2


def frame(kind: int, *values: int, rest: bytes = b"") -> bytes:
    """A frame of integers, and what follows them."""
    return b"".join(map(v, (kind, *values))) + rest


def stream(stream_id: int, offset: int, data: bytes = b"x", *, fin: bool = False) -> bytes:
    return frame(0x0E | fin, stream_id, offset, len(data), rest=data)


def new_id(sequence: int, prior: int, fill: int, *, size: int = 12, token: int = 0) -> bytes:
    cid = bytes([size]) + bytes([fill]) * size
    return frame(f.NEW_CONNECTION_ID, sequence, prior, rest=cid + bytes([token]) * 16)


# --- situations -------------------------------------------------------------------------------


def _fresh() -> Pair:
    pair = Pair(client=_OPTIONS, server=_OPTIONS)
    pair.connect()
    pair.run(seconds=1)
    return pair


def _with_empty_id() -> Pair:
    client = EndOptions(configuration={**_SETTINGS, "connection_id_length": 0})
    pair = Pair(client=client, server=_OPTIONS)
    pair.connect()
    pair.run(seconds=1)
    return pair


def _busy() -> Pair:
    pair = _fresh()
    client, server = pair.client.connection, pair.server.connection
    for stream_id in (OPEN, OPEN_UNI, RESET, STOPPED):
        client.send_stream_data(stream_id, b"some")
    for stream_id in (ENDED, FORGOTTEN, FORGOTTEN_UNI):
        client.send_stream_data(stream_id, b"all", end_stream=True)
    for stream_id in (OWN, OWN_UNI):
        server.send_stream_data(stream_id, b"some")
    server.send_stream_data(OWN_ENDED, b"all", end_stream=True)
    pair.run(seconds=1)
    pair.server.take_events()
    server.send_stream_data(FORGOTTEN, b"all", end_stream=True)
    client.reset_stream(RESET, 6)
    pair.run(seconds=1)
    return pair


def _moved() -> Pair:
    pair = _busy()
    pair.run(seconds=1)
    move(pair.server)
    pair.run(seconds=1)
    return pair


def _cutting_over() -> Pair:
    pair = _busy()
    server = move(pair.server)
    server.connection.begin_cutover()
    pair.transmit()
    return pair


def _rebound() -> Pair:
    pair = _busy()
    pair.rebind()
    pair.client.connection.send_stream_data(OPEN, b"from there")
    pair.run(seconds=1)
    return pair


def _updated() -> Pair:
    pair = _busy()
    pair.client.connection.request_key_update()
    pair.client.connection.send_stream_data(OPEN, b"with new keys")
    pair.run(seconds=1)
    return pair


_MAKERS: Final[dict[str, Callable[[], Pair]]] = {
    "fresh": _fresh,
    "busy": _busy,
    "moved": _moved,
    "cutting over": _cutting_over,
    "rebound": _rebound,
    "updated": _updated,
}
#: Each is a server's, right after it has handled all that came; the streams above exist in all but
#: the first.
SITUATIONS: Final = tuple(_MAKERS)
_MAKERS["with an empty ID"] = _with_empty_id
WITH_STREAMS: Final = SITUATIONS[1:]


class _Saved(msgspec.Struct):
    victim: bytes
    peer: bytes
    victim_address: Address
    peer_address: Address
    now: float


@functools.cache
def _saved(situation: str, side: str) -> _Saved:
    pair = _MAKERS[situation]()
    pair.run(seconds=0.2)
    ends: dict[str, End] = {"server": pair.server, "client": pair.client}
    victim, peer = ends[side], ends["client" if side == "server" else "server"]
    for end in (victim, peer):
        end.take_events()
    if side == "server" and situation in WITH_STREAMS:
        victim.connection.stop_stream(STOPPED, 5)
        # The peer would answer with RESET_STREAM at once: it does not hear of it.
        victim.datagrams_to_send(pair.now)
    encode = msgspec.msgpack.encode
    return _Saved(
        encode(state_of(victim)),
        encode(state_of(peer)),
        victim.address,
        peer.address,
        pair.now,
    )


class Stage:
    """`side` is the victim's."""

    def __init__(self, situation: str, side: str = "server") -> None:
        self._saved = saved = _saved(situation, side)
        self.now = saved.now
        self.victim, self.state = self._connection(saved.victim)
        self.peer, _ = self._connection(saved.peer)
        self._numbers = count(self.state.numbers.largest_received + 1)

    def send(self, *payloads: bytes) -> None:
        """Each is an authentic packet of the peer's."""
        for payload in payloads:
            packet = sealed(self.state, next(self._numbers), payload)
            self.victim.receive_datagram(packet, self._saved.peer_address, self.now)

    def answers(self) -> list[bytes]:
        """The victim's datagrams that are due."""
        return [data for data, _ in self.victim.datagrams_to_send(self.now)]

    def told(self) -> ConnectionTerminated:
        """The close that the peer gets."""
        for data in self.answers():
            self.peer.receive_datagram(data, self._saved.victim_address, self.now)
        ends = [event for event in _events(self.peer) if isinstance(event, ConnectionTerminated)]
        assert len(ends) == 1, ends
        return ends[0]

    def events(self) -> list[Any]:
        """The events of the victim's application."""
        return _events(self.victim)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.victim.handle_timer(self.now)

    def _connection(self, encoded: bytes) -> tuple[Connection, ConnectionState]:
        state = msgspec.msgpack.decode(encoded, type=ConnectionState)
        connection = Connection(
            state,
            origin_s=self.now - state.clock_us / 1e6,
            issuer=Cluster(Entropy(3)).new_worker(),
            entropy=Entropy(4),
        )
        return connection, state


def _events(connection: Connection) -> list[Any]:
    events = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events
