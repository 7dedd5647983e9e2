"""What can be read of a connection without changing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton.errors import GivenAwayError
from quicbaton.transport import rangeset
from quicbaton.transport.log import ConnectionLog
from quicbaton.transport.paths.path import validated_path
from quicbaton.transport.state import NONE, Address, ConnectionState, Stream
from quicbaton.transport.streams.receive_half import is_discarding


class ConnectionView:
    """The getters of a `Connection`. After a freeze the methods raise GivenAwayError; what names
    the connection can still be read."""

    def __init__(
        self, state: ConnectionState, configuration: Any, trace: QuicLoggerTrace | None
    ) -> None:
        self._state = state
        self._configuration = configuration
        self._spent = False
        # HTTP/3 of aioquic looks for these two names.
        self._quic_logger = trace
        self._remote_max_datagram_frame_size = state.remote.max_datagram_frame_bytes or None

    def __repr__(self) -> str:
        state = self._state
        role = "client" if state.is_client else "server"
        return (
            f"<Connection {state.name.hex()} {self._phase()} {role} peer={self.peer_address} "
            f"streams={len(state.streams)} in_flight={state.congestion.in_flight_bytes}>"
        )

    @property
    def configuration(self) -> Any:
        """The configuration object given by the runtime; aioquic's HTTP/3 reads `is_client`."""
        return self._configuration if self._configuration is not None else self._state

    @property
    def _logger(self) -> ConnectionLog:
        # Made when asked for: most programs never do, and it would cost each connection memory.
        return ConnectionLog(self._state.original_id)

    @property
    def is_client(self) -> bool:
        return self._state.is_client

    @property
    def original_destination_connection_id(self) -> bytes:
        """The client's first destination ID: the connection's name, whoever owns it."""
        return self._state.original_id

    @property
    def name(self) -> bytes:
        """Our first connection ID: what commands and handoffs call this connection."""
        return self._state.name

    @property
    def trace(self) -> QuicLoggerTrace | None:
        """The qlog trace that this owner writes into."""
        return self._quic_logger

    @property
    def closed(self) -> bool:
        """True when nothing will be sent or accepted any more."""
        return self._state.closed

    @property
    def is_given_away(self) -> bool:
        """True once it was frozen for a handoff, or put to sleep: its state has moved on."""
        return self._spent

    @property
    def is_closing(self) -> bool:
        """True from a close, ours or the peer's, on."""
        return self._state.closing is not None or self._state.closed

    @property
    def alpn(self) -> str:
        return self._state.alpn

    @property
    def cipher_suite(self) -> int:
        """Its number (RFC 8446 §B.4)."""
        return self._state.protection.cipher

    @property
    def server_name(self) -> str:
        return self._state.server_name

    @property
    def peer_address(self) -> Address:
        """The peer's address, as a challenge or the handshake has proved it (RFC 9000 §8). Packets
        may come from another one, and go there, before that is proved, too."""
        return validated_path(self._state).remote

    @property
    def local_address(self) -> Address:
        """Ours, as the client at `peer_address` knows it; empty where the socket has only one."""
        return validated_path(self._state).local

    @property
    def sends_to(self) -> Address:
        """Where packets go now. Anybody may have made that up: no program is to be told."""
        return self._state.paths[0].remote

    @property
    def datagrams_dropped(self) -> int:
        """DATAGRAMs that were taken and never sent: too many waited, or the path's MTU shrank."""
        return self._state.datagrams_dropped

    @property
    def bytes_in_flight(self) -> int:
        return self._state.congestion.in_flight_bytes

    @property
    def smoothed_rtt_s(self) -> float:
        return self._state.recovery.smoothed_rtt_us / 1e6

    @property
    def clock_us(self) -> int:
        """Connection time of the newest call, µs since the handshake began."""
        return self._state.clock_us

    @property
    def age_s(self) -> float:
        """Seconds of connection time since the handshake began."""
        return self._state.clock_us / 1e6

    @property
    def stream_count(self) -> int:
        return len(self._state.streams)

    @property
    def has_open_requests(self) -> bool:
        """True while a bidirectional stream is not over for both sides."""
        return any(not stream_id & 2 for stream_id in self._state.streams)

    def next_peer_stream_id(self) -> int:
        """The lowest ID of a bidirectional stream that the peer has not opened yet."""
        self._check()
        return 4 * self._state.flow.peer_streams_seen[0] + self._state.is_client

    def get_peer_address(self) -> Address | None:
        """As `peer_address`: never one that is not proved."""
        self._check()
        return self.peer_address

    @property
    def stream_ids(self) -> list[int]:
        """Streams that the transport has not finished with."""
        return list(self._state.streams)

    def stream_is_finished(self, stream_id: int) -> bool:
        """True once both halves are over and the stream is forgotten; HTTP/3 forgets it then."""
        self._check()
        return rangeset.contains(self._state.finished[stream_id & 3], stream_id >> 2)

    def is_congested(self, stream_id: int) -> bool:
        """True while a stream's buffer is full; StreamWritable comes when there is room again."""
        self._check()
        stream = self._state.streams.get(stream_id)
        return stream is not None and stream.send is not None and stream.send.congested

    def can_send(self, stream_id: int) -> bool:
        """True when the application may still write to the stream."""
        self._check()
        stream = self._state.streams.get(stream_id)
        half = stream.send if stream is not None else None
        return half is not None and not half.fin_written and half.reset_code == NONE

    def reset_code(self, stream_id: int) -> int | None:
        """With which code our direction of a stream was reset, by the program or in answer to
        STOP_SENDING (RFC 9000 §3.5); None: it was not."""
        self._check()
        stream = self._state.streams.get(stream_id)
        half = stream.send if stream is not None else None
        return None if half is None or half.reset_code == NONE else half.reset_code

    def buffered_bytes(self) -> int:
        """Stream bytes that a snapshot would carry: unacknowledged, unsent and undelivered."""
        self._check()
        total = 0
        for stream in self._state.streams.values():
            if stream.send is not None:
                total += stream.send.end - stream.send.base
            if stream.receive is not None:
                total += sum(len(data) for _, data in stream.receive.segments)
        return total

    @property
    def streams(self) -> Mapping[int, Stream]:
        """What streams keep, by ID. To be read at once: it changes with the connection."""
        self._check()
        return self._state.streams

    def _phase(self) -> str:
        if self._spent:
            return "spent"
        if self._state.closed:
            return "closed"
        return "open" if self._state.closing is None else "closing"

    def _check(self) -> None:
        if self._spent:
            raise GivenAwayError(
                "this connection was frozen for a handoff, or put to sleep: its state moved on"
            )


def open_directions(stream: Stream) -> tuple[bool, bool]:
    """Whether the application can still write to a stream, and whether more may come from it."""
    send, receive = stream.send, stream.receive
    return (
        send is not None and not send.fin_written and send.reset_code == NONE,
        receive is not None and not is_discarding(receive),
    )
