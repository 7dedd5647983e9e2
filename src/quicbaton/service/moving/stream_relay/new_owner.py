"""Relayed streams at the process that owns their connection now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aioquic.quic import events

from quicbaton.baton.snapshot import RelayedStream
from quicbaton.errors import PeerError, RefusedError
from quicbaton.handoff.messages import (
    OpenStream,
    RelayedDatagram,
    RelayMessage,
    StreamBytes,
    StreamCredit,
    StreamMessage,
    StreamReset,
    StreamsCut,
    StreamStop,
)
from quicbaton.handoff.stream_relay import Receiving, Sending
from quicbaton.http3 import H3Connection
from quicbaton.http3.codes import ErrorCode
from quicbaton.http3.webtransport import session_of_datagram, session_of_stream
from quicbaton.limits import (
    MAX_RELAY_HOPS,
    MAX_RELAYED_STREAMS,
    MAX_WAITING_SESSION_BYTES,
    MAX_WAITING_SESSION_NEWS,
    RELAY_SHARE_BYTES,
)
from quicbaton.reasons import Reason
from quicbaton.service.moving.stream_relay.ended import EndedStreams
from quicbaton.service.moving.stream_relay.wire import Wire, stop
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable
from quicbaton.transport.state import ConnectionState
from quicbaton.transport.streams.table import open_directions

_OF_A_STREAM: Final = (
    events.StreamDataReceived,
    events.StreamReset,
    events.StopSendingReceived,
    StreamWritable,
)
_StreamEvent = (
    events.StreamDataReceived | events.StreamReset | events.StopSendingReceived | StreamWritable
)


class _Owned:
    """One stream. `to_left` has the client's bytes, `from_left` gets the application's; None where
    that direction was over before the handoff, or never existed."""

    def __init__(
        self, to_left: Sending | None, from_left: Receiving | None, *, paused: bool, hops: int
    ) -> None:
        self.to_left = to_left
        self.from_left = from_left
        self.paused = paused
        self.hops = hops

    @classmethod
    def of(cls, state: ConnectionState, relayed: RelayedStream) -> _Owned:
        """A stream that was open at the handoff."""
        stream = state.streams.get(relayed.stream_id)
        half = None if stream is None else stream.receive
        paused = half is not None and half.paused
        if relayed.hops:
            to_left, from_left = relayed.to_left, relayed.from_left
            return cls(
                None if to_left is None else Sending.restore(to_left),
                None if from_left is None else Receiving.restore(from_left),
                paused=paused,
                hops=relayed.hops,
            )
        assert stream is not None, "a snapshot without it is refused"
        sends, receives = open_directions(stream)
        return cls(
            Sending(relayed.withheld_bytes) if receives else None,
            Receiving() if sends else None,
            paused=paused,
            hops=0,
        )

    @property
    def over(self) -> bool:
        """Whether both directions have ended, and the old owner has everything. If the connection
        moves on, this process must not end before."""
        return (self.to_left is None or self.to_left.settled) and (
            self.from_left is None or self.from_left.ended
        )

    @property
    def tail_bytes(self) -> int:
        """Bytes under way of a stream that the client has ended, which credit can no longer hold
        up."""
        return 0 if self.to_left is None or not self.to_left.ended else self.to_left.unsettled_bytes


class _Tails:
    """Streams of one relay that their client has ended and that the old owner has not taken."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._total_bytes = 0

    def note(self, stream_id: int, size_bytes: int) -> None:
        """Note the bytes under way of a stream that has ended; 0 for one that has not, or is
        over."""
        self._total_bytes += size_bytes - self._sizes.pop(stream_id, 0)
        if size_bytes:
            self._sizes[stream_id] = size_bytes

    def fit(self, *, is_crowded: bool) -> bool:
        """Whether there may be more of them. On a crowded link, a relay with a small share of it
        goes on."""
        most_bytes = RELAY_SHARE_BYTES if is_crowded else MAX_WAITING_SESSION_BYTES
        return self._total_bytes <= most_bytes and len(self._sizes) <= MAX_WAITING_SESSION_NEWS


class NewOwner:
    """Diverts a connection's relayed streams from its protocol to the link, and back.

    It is made of the `state` that was frozen, before any stray is processed. Until `start` it only
    keeps the events. `http` has the connection's other streams: it tells which streams are new,
    since those of a relayed WebTransport session are the old owner's, too.
    """

    wire: Wire

    def __init__(
        self,
        connection: Connection,
        state: ConnectionState,
        relayed: list[RelayedStream],
        http: H3Connection | None = None,
    ) -> None:
        self._connection = connection
        self._http = http
        self._ended = EndedStreams()
        self._streams = {stream.stream_id: _Owned.of(state, stream) for stream in relayed}
        self._sessions = {stream.stream_id for stream in relayed if stream.is_session}
        #: For streams that may be a session's. HTTP/3 has their other events, so that these move
        #: with the rest.
        self._stops: dict[int, events.StopSendingReceived] = {}
        self._tails = _Tails()
        for stream_id, stream in self._streams.items():
            self._tails.note(stream_id, stream.tail_bytes)
        self._early: list[events.QuicEvent] | None = []
        #: Messages of the old owner while the connection moves on.
        self._held: list[RelayMessage] | None = None
        self._transmit_soon: Callable[[], None] = lambda: None
        self._on_over: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<NewOwner {self._connection!r} relayed={sorted(self._streams)}>"

    @property
    def is_open(self) -> bool:
        """Whether streams are still relayed."""
        return bool(self._streams)

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    def attach(
        self, wire: Wire, transmit_soon: Callable[[], None], on_over: Callable[[], None]
    ) -> None:
        """The connection is ours. `transmit_soon` has it send what is due. `on_over` is called when
        no stream is relayed any more."""
        self.wire = wire
        self._transmit_soon = transmit_soon
        self._on_over = on_over

    def start(self) -> None:
        """The old owner knows that the connection is ours, or will before our messages arrive."""
        for stream_id, stream in self._streams.items():
            if stream.to_left is not None:
                # Bytes that the owner before this one had kept go first.
                self.wire.send_pieces(stream_id, stream.to_left.open())
                self._let_client_send(stream_id, stream, stream.to_left)
            elif stream.paused:
                self._read_on(stream_id, stream)
        early, self._early = self._early or [], None
        for event in early:
            self.divert(event)
        self._transmit_soon()

    # --- moving on ------------------------------------------------------------------------------

    def export(self) -> list[RelayedStream]:
        """The state for the next owner. The streams of this relay pass through this process then.

        RefusedError: it has yet to begin, or there are too many processes between already.
        """
        if self._early is not None:
            raise RefusedError(
                "streams of the connection are about to be relayed: try again",
                code=Reason.STREAMS_RELAYED,
            )
        if any(stream.hops >= MAX_RELAY_HOPS for stream in self._streams.values()):
            raise RefusedError(
                f"requests of the connection run {MAX_RELAY_HOPS} moves away: try again when they "
                "have ended",
                code=Reason.STREAMS_RELAYED,
            )
        return [
            RelayedStream(
                stream_id=stream_id,
                withheld_bytes=0,
                is_session=stream_id in self._sessions,
                hops=stream.hops + 1,
                to_left=None if stream.to_left is None else stream.to_left.export(),
                from_left=None if stream.from_left is None else stream.from_left.export(),
            )
            for stream_id, stream in self._streams.items()
        ]

    def hold(self) -> None:
        """The connection is frozen, with the exported state: keep messages from now on."""
        self._held = []

    def take_held(self) -> list[RelayMessage]:
        """The kept messages, for the hop that passes them on."""
        held, self._held = self._held or [], None
        return held

    def release(
        self,
        connection: Connection,
        http: H3Connection | None,
        transmit_soon: Callable[[], None],
    ) -> int:
        """The connection stays: go on with it. Returns how many streams were cut meanwhile."""
        self._connection, self._http = connection, http
        self._transmit_soon = transmit_soon
        cut = 0
        for message in self.take_held():
            if isinstance(message, StreamsCut):
                cut += self.cut(ErrorCode.H3_REQUEST_CANCELLED)
            else:
                self.on_message(message)
        return cut

    # --- from the connection --------------------------------------------------------------------

    def divert(self, event: events.QuicEvent) -> events.QuicEvent | None:
        """Pass an event on to the old owner; else return it, for it is the protocol's."""
        if isinstance(event, events.ConnectionTerminated):
            if self._early is not None:
                self._early.append(event)
            elif self._streams:
                self.wire.send_cut(Reason.CLOSED)
                self._forget_all()
            return event
        if isinstance(event, events.DatagramFrameReceived):
            return self._divert_datagram(event)
        return self._divert_of_stream(event) if isinstance(event, _OF_A_STREAM) else event

    def _divert_datagram(
        self, event: events.DatagramFrameReceived
    ) -> events.DatagramFrameReceived | None:
        if session_of_datagram(event.data) not in self._sessions:
            return event
        if self._early is not None:
            self._early.append(event)
        else:
            self.wire.send_datagram(event.data)
        return None

    def _divert_of_stream(self, event: _StreamEvent) -> _StreamEvent | None:
        stream_id = event.stream_id
        mine: list[_StreamEvent] = [event]
        if stream_id not in self._streams and stream_id not in self._ended:
            mine = self._claim(event)
            if not mine:
                return event
        if self._early is not None:
            self._early += mine
            return None
        for one in mine:
            stream = self._streams.get(stream_id)
            if stream is not None:
                self._pass_on(stream, one)
                self._review(stream_id, stream)
        return None

    def _claim(self, event: _StreamEvent) -> list[_StreamEvent]:
        """Adopt a new stream if its header names a relayed session. Returns the events for the old
        owner; none if it is not adopted. While the header is incomplete HTTP/3 has the bytes, so
        that they move with the rest."""
        stream_id, http = event.stream_id, self._http
        begun = None if http is None or not self._sessions else http.begun(stream_id)
        stop = self._stops.pop(stream_id, None)
        if http is None or begun is None or isinstance(event, events.StreamReset | StreamWritable):
            return []
        if isinstance(event, events.StopSendingReceived):
            self._stops[stream_id] = event
            return []
        data = begun + event.data
        session_id = session_of_stream(stream_id, data)
        if session_id is None and stop is not None:
            self._stops[stream_id] = stop
        if session_id is None or not self._admits(session_id):
            return []
        http.forget_begun(stream_id)
        self._adopt(stream_id, sends=not stream_id & 2, receives=True)
        mine: list[_StreamEvent] = [events.StreamDataReceived(data, event.end_stream, stream_id)]
        if not stream_id & 2 and not self._connection.can_send(stream_id):
            # The client's STOP_SENDING came before its session was known, perhaps to an earlier
            # owner: then the transport has its code, as long as it has the stream.
            code = self._connection.reset_code(stream_id)
            code = ErrorCode.H3_REQUEST_CANCELLED if code is None else code
            mine.append(stop or events.StopSendingReceived(code, stream_id))
        return mine

    def _admits(self, session_id: int) -> bool:
        """Whether a session is relayed and may have one more stream of its client's. Flow control
        does not hold back streams that come whole in one packet: a session whose old owner does not
        take them as fast as they come is broken off here, before others pay for it."""
        if session_id not in self._sessions:
            return False
        if self._early is not None or self._tails.fit(is_crowded=self.wire.link.is_crowded):
            return True
        self._connection.reset_stream(session_id, ErrorCode.H3_EXCESSIVE_LOAD)
        self._connection.stop_stream(session_id, ErrorCode.H3_EXCESSIVE_LOAD)
        session = self._streams[session_id]
        self._pass_on(session, events.StreamReset(ErrorCode.H3_EXCESSIVE_LOAD, session_id))
        self._pass_on(session, events.StopSendingReceived(ErrorCode.H3_EXCESSIVE_LOAD, session_id))
        self._forget(session_id, session)
        return False

    def _adopt(self, stream_id: int, *, sends: bool, receives: bool) -> None:
        to_left, from_left = Sending() if receives else None, Receiving() if sends else None
        hops = max(self._streams[session_id].hops for session_id in self._sessions)
        self._streams[stream_id] = _Owned(to_left, from_left, paused=False, hops=hops)
        if self._early is None and to_left is not None:
            to_left.open()

    def _pass_on(self, stream: _Owned, event: events.QuicEvent) -> None:
        to_left, from_left = stream.to_left, stream.from_left
        if isinstance(event, events.StreamDataReceived):
            if to_left is not None and not to_left.ended:
                pieces = to_left.write(event.data, event.end_stream)
                if to_left.is_full and not stream.paused:
                    # RFC 9000 §4.1: without credit the client waits.
                    stream.paused = True
                    self._connection.pause_reading(event.stream_id)
                self.wire.send_pieces(event.stream_id, pieces)
        elif isinstance(event, events.StreamReset):
            if to_left is not None and not to_left.ended:
                to_left.reset()
                self.wire.send_reset(event.stream_id, event.error_code)
        elif isinstance(event, events.StopSendingReceived):
            if from_left is not None and not from_left.ended:
                from_left.abandon()
                self.wire.send_stop(event.stream_id, event.error_code)
        elif isinstance(event, StreamWritable) and from_left is not None:
            self.wire.send_credit(event.stream_id, from_left.release_all())

    # --- from the link --------------------------------------------------------------------------

    def on_message(self, message: StreamMessage | OpenStream | RelayedDatagram) -> None:
        """Take a message of the old owner's application. PeerError for one that it may not send."""
        if self._held is not None:
            self._held.append(message)
            return
        if isinstance(message, RelayedDatagram):
            if len(message.data) <= self._connection.max_datagram_bytes:
                self._connection.send_datagram_frame(message.data)
        elif isinstance(message, OpenStream):
            self._open(message)
        else:
            self._on_stream_message(message)
        self._transmit_soon()

    def _open(self, message: OpenStream) -> None:
        if not self._sessions:
            return  # crossed with the session's end
        if len(self._streams) >= MAX_RELAYED_STREAMS:
            raise PeerError(
                f"more than {MAX_RELAYED_STREAMS} streams of one connection are relayed",
                code=Reason.RELAY_STREAMS,
            )
        stream_id = self._connection.get_next_available_stream_id(message.unidirectional)
        # The ID counts as used from the first write on. An empty write opens the stream.
        self._connection.send_stream_data(stream_id, b"")
        self._adopt(stream_id, sends=True, receives=not message.unidirectional)
        self.wire.send_opened(stream_id, message.request)

    def _on_stream_message(self, message: StreamMessage) -> None:
        stream_id = message.stream_id
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # crossed with its end
        to_left, from_left = stream.to_left, stream.from_left
        if isinstance(message, StreamBytes):
            if from_left is not None and from_left.receive(len(message.data), message.end_stream):
                self._write(from_left, message)
        elif isinstance(message, StreamReset):
            if from_left is not None and (from_left.ended or from_left.receive(0, True)):
                self._connection.reset_stream(stream_id, message.error_code)
                self.wire.send_credit(stream_id, from_left.release_all())
        elif isinstance(message, StreamStop):
            if to_left is not None:
                to_left.abandon()
                stop(self._connection, stream_id, message.error_code)
        elif isinstance(message, StreamCredit) and to_left is not None:
            self.wire.send_pieces(stream_id, to_left.credit(message.size_bytes))
            self._let_client_send(stream_id, stream, to_left)
        self._review(stream_id, stream)

    def cut(self, error_code: int) -> int:
        """The old owner is gone, or its request is: reset open streams. Returns how many."""
        if self._held is not None:
            wire = self.wire
            self._held.append(StreamsCut(wire.connection_id, wire.handoff_id, Reason.LOST))
            return 0
        count = len(self._streams)
        for stream_id, stream in self._streams.items():
            if stream.from_left is not None and not stream.from_left.ended:
                self._connection.reset_stream(stream_id, error_code)
            if stream.to_left is not None and not stream.to_left.drained:
                self._connection.stop_stream(stream_id, error_code)
        self._forget_all()
        self._transmit_soon()
        return count

    # --- helpers --------------------------------------------------------------------------------

    def _write(self, from_left: Receiving, message: StreamBytes) -> None:
        stream_id = message.stream_id
        connection = self._connection
        if connection.can_send(stream_id):
            connection.send_stream_data(stream_id, message.data, message.end_stream)
        # Otherwise the client has stopped it, and that event waits to be taken. At the end the old
        # owner may go: the transport has the bytes, even if it is over-full.
        if from_left.ended or not connection.is_congested(stream_id):
            self.wire.send_credit(stream_id, from_left.release_all())

    def _let_client_send(self, stream_id: int, stream: _Owned, to_left: Sending) -> None:
        if stream.paused and to_left.has_room:
            self._read_on(stream_id, stream)

    def _read_on(self, stream_id: int, stream: _Owned) -> None:
        stream.paused = False
        self._connection.resume_reading(stream_id)

    def _review(self, stream_id: int, stream: _Owned) -> None:
        """Check whether the stream is over, or ends, after one of its events."""
        if stream.over:
            self._forget(stream_id, stream)
        else:
            self._tails.note(stream_id, stream.tail_bytes)

    def _forget(self, stream_id: int, stream: _Owned) -> None:
        if stream.paused and not self._connection.closed:
            # Its last bytes count as read, or the stream would never be over.
            self._read_on(stream_id, stream)
        del self._streams[stream_id]
        self._ended.add(stream_id)
        self._sessions.discard(stream_id)
        self._tails.note(stream_id, 0)
        if self._http is not None and not self._connection.closed:
            # The next owner will not know it.
            self._http.ignore(stream_id)
        if not self._streams:
            self._on_over()

    def _forget_all(self) -> None:
        for stream_id, stream in list(self._streams.items()):
            self._forget(stream_id, stream)
