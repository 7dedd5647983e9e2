"""An application that checks every byte it gets, and moves with its connection."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from aioquic.quic import events
from aioquic.quic.connection import QuicConnection

from quicbaton.testing import Conditions, End, EndOptions, Kind, Pair

_BLOCK = Random("traffic").randbytes(1 << 21)
_MAX_OFFSET = 1 << 20
PERFECT = Conditions()


def content(stream_id: int, writer: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of what `writer` ("client" or "server") sends on a stream."""
    shift = (stream_id * 7919 + (writer == "server") * 104_729) % _MAX_OFFSET
    return _BLOCK[shift + start : shift + stop]


def reply_bytes(stream_id: int) -> int:
    """How much is answered to a bidirectional stream of the peer's that has ended."""
    return stream_id * 2741 % 30_000


class Seen(msgspec.Struct):
    """The bytes that arrived on one stream."""

    received: int = 0
    ended: bool = False
    reset_code: int | None = None


class Log(msgspec.Struct):
    """All that an application knows: exported as bytes."""

    streams: dict[int, Seen] = {}
    written: dict[int, int] = {}
    stopped: dict[int, int] = {}
    datagrams: list[bytes] = []
    pings: list[int] = []
    terminated: list[tuple[int, str]] = []
    replies: bool = True


class Traffic:
    """Made anew by each owner."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.log = Log()
        self.is_client = connection.configuration.is_client

    @property
    def side(self) -> str:
        return "client" if self.is_client else "server"

    @property
    def peer(self) -> str:
        return "server" if self.is_client else "client"

    # --- moving ---------------------------------------------------------------------------------

    def export_state(self) -> bytes:
        return msgspec.msgpack.encode(self.log)

    def import_state(self, data: bytes) -> None:
        self.log = msgspec.msgpack.decode(data, type=Log)

    # --- receiving ------------------------------------------------------------------------------

    def quic_event_received(self, event: events.QuicEvent) -> None:
        log = self.log
        if isinstance(event, events.StreamDataReceived):
            seen = log.streams.setdefault(event.stream_id, Seen())
            assert not seen.ended, f"stream {event.stream_id} goes on behind its end"
            assert seen.reset_code is None, f"stream {event.stream_id} goes on behind its reset"
            stop = seen.received + len(event.data)
            assert event.data == content(event.stream_id, self.peer, seen.received, stop)
            seen.received = stop
            seen.ended = event.end_stream
            if event.end_stream:
                self._reply(event.stream_id)
        elif isinstance(event, events.StreamReset):
            seen = log.streams.setdefault(event.stream_id, Seen())
            assert seen.reset_code is None
            assert not seen.ended
            seen.reset_code = event.error_code
        elif isinstance(event, events.StopSendingReceived):
            # aioquic reports every copy of the frame.
            again = event.stream_id in log.stopped
            assert not again or isinstance(self.connection, QuicConnection)
            log.stopped[event.stream_id] = event.error_code
        elif isinstance(event, events.DatagramFrameReceived):
            log.datagrams.append(event.data)
        elif isinstance(event, events.PingAcknowledged):
            if event.uid not in log.pings:
                log.pings.append(event.uid)
            else:
                assert isinstance(self.connection, QuicConnection)  # aioquic may say it twice
        elif isinstance(event, events.ConnectionTerminated):
            log.terminated.append((event.error_code, event.reason_phrase))

    def _reply(self, stream_id: int) -> None:
        theirs = bool(stream_id & 1) == self.is_client
        if theirs and not stream_id & 2 and self.log.replies and stream_id not in self.log.stopped:
            self.write(stream_id, reply_bytes(stream_id), end=True)

    # --- sending --------------------------------------------------------------------------------

    def open(self, size: int, *, unidirectional: bool = False, end: bool = True) -> int:
        stream_id = int(
            self.connection.get_next_available_stream_id(is_unidirectional=unidirectional)
        )
        self.write(stream_id, size, end=end)
        return stream_id

    def write(self, stream_id: int, size: int, *, end: bool) -> None:
        start = self.log.written.get(stream_id, 0)
        self.log.written[stream_id] = start + size
        self.connection.send_stream_data(
            stream_id, content(stream_id, self.side, start, start + size), end_stream=end
        )


def traffic(end: End) -> Traffic:
    application = end.application
    assert isinstance(application, Traffic)
    return application


def log(end: End) -> Log:
    return traffic(end).log


def alive(pair: Pair) -> bool:
    return not log(pair.client).terminated and not log(pair.server).terminated


def traffic_pair(
    client: Kind = "quicbaton",
    server: Kind = "quicbaton",
    conditions: Conditions = PERFECT,
    *,
    client_options: dict[str, Any] | None = None,
    server_options: dict[str, Any] | None = None,
    **options: Any,
) -> Pair:
    """A pair whose ends both run `Traffic`, connected."""
    pair = Pair(
        conditions,
        client=EndOptions(client, create=Traffic, **(client_options or {})),
        server=EndOptions(server, create=Traffic, **(server_options or {})),
        **options,
    )
    pair.connect()
    return pair


def arrived(end: End, sizes: dict[int, int]) -> bool:
    """All of these streams have ended at `end`, with so many bytes."""
    streams = log(end).streams
    return all(
        stream_id in streams and streams[stream_id].ended and streams[stream_id].received == size
        for stream_id, size in sizes.items()
    )
