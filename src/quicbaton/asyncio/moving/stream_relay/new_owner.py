"""Relayed streams at the process that owns their connection now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aioquic.quic import events

from quicbaton.asyncio.moving.stream_relay.ended import EndedStreams
from quicbaton.asyncio.moving.stream_relay.wire import Wire, stop
from quicbaton.baton.snapshot import RelayedStream
from quicbaton.errors import RefusedError
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
from quicbaton.limits import MAX_RELAY_HOPS
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable
from quicbaton.transport.state import ConnectionState
from quicbaton.transport.view import open_directions

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
    that direction was over before the handoff, or never was."""

    def __init__(
        self, to_left: Sending | None, from_left: Receiving | None, *, paused: bool, hops: int
    ) -> None:
        self.to_left = to_left
        self.from_left = from_left
        self.paused = paused
        self.hops = hops

    @classmethod
    def of(cls, state: ConnectionState, relayed: RelayedStream) -> _Owned:
        """One that was open at the handoff."""
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
        return (self.to_left is None or self.to_left.drained) and (
            self.from_left is None or self.from_left.ended
        )


class NewOwner:
    """Diverts a connection's relayed streams from its protocol to the link, and back.

    It is made of the `state` that was frozen, before any stray is processed. Until `start` it only
    keeps the events that come. `http` is what the connection's other streams belong to: it says
    which are new, since those of a relayed WebTransport session are the old owner's, too.
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
        #: What has come of new streams, as long as that does not say whether a session has them.
        self._nameless: dict[int, bytes] = {}
        self._early: list[events.QuicEvent] | None = []
        #: What comes from the old owner while the connection moves on.
        self._held: list[RelayMessage] | None = None
        self._transmit_soon: Callable[[], None] = lambda: None
        self._on_over: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<NewOwner {self._connection!r} relayed={sorted(self._streams)}>"

    @property
    def is_open(self) -> bool:
        """Streams are relayed still, or bytes are here of which nobody knows whose they are."""
        return bool(self._streams or self._nameless)

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    def attach(
        self, wire: Wire, transmit_soon: Callable[[], None], on_over: Callable[[], None]
    ) -> None:
        """The connection is ours. `transmit_soon` has it send what is due; `on_over` is called when
        nothing is relayed any more."""
        self.wire = wire
        self._transmit_soon = transmit_soon
        self._on_over = on_over

    def start(self) -> None:
        """The old owner knows that the connection is ours, or will before it hears of this."""
        for stream_id, stream in self._streams.items():
            if stream.to_left is not None:
                # What the owner before this one had kept goes first.
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
        """What the next owner needs; the streams of this relay pass through this process then.

        RefusedError: it has yet to begin, a stream's header is half here, or there are too many
        processes between already.
        """
        if self._early is not None or self._nameless:
            raise RefusedError(
                "streams of the connection are about to be relayed: try again",
                code="streams_relayed",
            )
        if any(stream.hops >= MAX_RELAY_HOPS for stream in self._streams.values()):
            raise RefusedError(
                f"requests of the connection run {MAX_RELAY_HOPS} moves away: try again when they "
                "have ended",
                code="streams_relayed",
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
        """The connection is frozen, with what was exported: keep what comes from now on."""
        self._held = []

    def take_held(self) -> list[RelayMessage]:
        """What came since, for whoever passes it on."""
        held, self._held = self._held or [], None
        return held

    def release(
        self,
        connection: Connection,
        http: H3Connection | None,
        transmit_soon: Callable[[], None],
    ) -> int:
        """The connection stays: go on with it. How many streams were cut meanwhile."""
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
                self.wire.send_cut("closed")
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
        if event.stream_id not in self._streams and event.stream_id not in self._ended:
            mine = self._assign(event)
            if mine is None or mine.stream_id not in self._streams:
                return mine
            event = mine
        if self._early is not None:
            self._early.append(event)
            return None
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            self._pass_on(stream, event)
            self._forget_if_over(event.stream_id)
        return None

    def _assign(self, event: _StreamEvent) -> _StreamEvent | None:
        """Adopt a new stream if a relayed session has it. None as long as nobody can tell; then its
        first bytes come with the event that says it."""
        stream_id = event.stream_id
        if isinstance(event, events.StopSendingReceived | StreamWritable):
            return event  # it says nothing of what the client sends
        held = self._nameless.pop(stream_id, b"")
        if not isinstance(event, events.StreamDataReceived) or not (
            held or self._is_new(stream_id)
        ):
            return event
        if held:
            event = events.StreamDataReceived(
                data=held + event.data, end_stream=event.end_stream, stream_id=stream_id
            )
        session = session_of_stream(stream_id, event.data)
        if session is None and not event.end_stream:
            self._nameless[stream_id] = event.data
            return None
        if session in self._sessions:
            if self._early is None and self.wire.link.is_crowded:
                self._tear_off(session)
            self._adopt(stream_id, sends=not stream_id & 2, receives=True)
        return event

    def _tear_off(self, session_id: int) -> None:
        """Streams that come whole in one packet give no hold to flow control, and the old owner
        does not take them as fast as the client sends them: this session pays, before the link is
        cut and all that passes over it."""
        self._connection.reset_stream(session_id, ErrorCode.H3_EXCESSIVE_LOAD)
        self._connection.stop_stream(session_id, ErrorCode.H3_EXCESSIVE_LOAD)
        session = self._streams[session_id]
        self._pass_on(session, events.StreamReset(ErrorCode.H3_EXCESSIVE_LOAD, session_id))
        self._pass_on(session, events.StopSendingReceived(ErrorCode.H3_EXCESSIVE_LOAD, session_id))
        self._forget_if_over(session_id)

    def _is_new(self, stream_id: int) -> bool:
        is_peers = stream_id & 1 == self._connection.is_client
        return (
            bool(self._sessions)
            and is_peers
            and self._http is not None
            and not self._http.knows(stream_id)
        )

    def _adopt(self, stream_id: int, *, sends: bool, receives: bool) -> None:
        to_left, from_left = Sending() if receives else None, Receiving() if sends else None
        hops = max((stream.hops for stream in self._streams.values()), default=0)
        stream = _Owned(to_left, from_left, paused=False, hops=hops)
        self._streams[stream_id] = stream
        if self._early is None and stream.to_left is not None:
            stream.to_left.open()

    def _pass_on(self, stream: _Owned, event: events.QuicEvent) -> None:
        to_left, from_left = stream.to_left, stream.from_left
        if isinstance(event, events.StreamDataReceived):
            if to_left is not None and not to_left.ended:
                pieces = to_left.write(event.data, event.end_stream)
                if to_left.is_full and not stream.paused:
                    # RFC 9000 §4.1: who gets no credit waits.
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
        """What the old owner's application does. PeerError for what it may not send."""
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
        stream_id = self._connection.get_next_available_stream_id(message.unidirectional)
        # The ID counts as used from the first write on; an empty one opens the stream.
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
        self._forget_if_over(stream_id)

    def cut(self, error_code: int) -> int:
        """The old owner is gone, or its request is: reset what is open. How many streams it was."""
        if self._held is not None:
            wire = self.wire
            self._held.append(StreamsCut(wire.connection_id, wire.handoff_id, "lost"))
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
        # owner may go: the transport has the bytes, however full it is.
        if from_left.ended or not connection.is_congested(stream_id):
            self.wire.send_credit(stream_id, from_left.release_all())

    def _let_client_send(self, stream_id: int, stream: _Owned, to_left: Sending) -> None:
        if stream.paused and to_left.has_room:
            self._read_on(stream_id, stream)

    def _read_on(self, stream_id: int, stream: _Owned) -> None:
        stream.paused = False
        self._connection.resume_reading(stream_id)

    def _forget_if_over(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream.over:
            if stream.paused:
                # Its last bytes count as read, or the stream would never be over.
                self._read_on(stream_id, stream)
            del self._streams[stream_id]
            self._ended.add(stream_id)
            self._sessions.discard(stream_id)
            if self._http is not None:
                # The next owner will not know it.
                self._http.ignore(stream_id)
            if not self._streams:
                self._on_over()

    def _forget_all(self) -> None:
        for stream_id in self._streams:
            self._ended.add(stream_id)
            if self._http is not None and not self._connection.closed:
                self._http.ignore(stream_id)
        self._streams.clear()
        self._sessions.clear()
        self._on_over()
