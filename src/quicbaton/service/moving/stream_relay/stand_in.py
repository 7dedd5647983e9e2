"""The object that a protocol has in place of a connection that has moved on without some streams.

It has the part of `Connection` that is about a stream, for these streams. Between the freeze and
the commit it keeps the application's calls: a coroutine does not know of the handoff. After the
commit they go out over the link. If the handoff fails, they go to the connection that is here
again.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

from aioquic.quic import events

from quicbaton.baton.snapshot import RelayedStream
from quicbaton.errors import GivenAwayError, PeerError, StreamStateError
from quicbaton.handoff.messages import (
    OpenStream,
    RelayedDatagram,
    StreamBytes,
    StreamCredit,
    StreamMessage,
    StreamOpened,
    StreamReset,
    StreamStop,
)
from quicbaton.handoff.stream_relay import Receiving, Sending
from quicbaton.http3.codes import ErrorCode
from quicbaton.http3.webtransport import session_of_stream
from quicbaton.limits import MAX_WAITING_SESSION_DATAGRAMS
from quicbaton.reasons import Reason
from quicbaton.service.moving.stream_relay.ended import EndedStreams
from quicbaton.service.moving.stream_relay.wire import Wire, stop
from quicbaton.transport import datagrams
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable
from quicbaton.transport.log import ConnectionLog
from quicbaton.transport.state import NONE, ConnectionState
from quicbaton.transport.streams.table import open_directions

#: Bytes of a random number that no other request has.
_REQUEST_BYTES: Final = 7


class _Left:
    """One stream. `sending` and `receiving` are None where that direction was over before, or never
    existed."""

    def __init__(
        self,
        *,
        sends: bool,
        receives: bool,
        withheld_bytes: int = 0,
        paused: bool = False,
        congested: bool = False,
    ) -> None:
        self.sending = Sending() if sends else None
        self.receiving = Receiving(withheld_bytes) if receives else None
        self.withheld_bytes = withheld_bytes
        self.paused = paused
        #: Credit that waits for the link.
        self.credit_bytes = 0
        #: The application was told to wait for StreamWritable.
        self.congested = congested
        #: The application's reset and stop, perhaps from before there was a link, or the client's.
        self.reset_code: int | None = None
        self.stop_code: int | None = None

    @classmethod
    def of(cls, state: ConnectionState, relayed: RelayedStream) -> _Left:
        """A stream that was open at the handoff."""
        stream = state.streams[relayed.stream_id]
        sends, receives = open_directions(stream)
        return cls(
            sends=sends,
            receives=receives,
            withheld_bytes=relayed.withheld_bytes,
            paused=stream.receive is not None and stream.receive.paused,
            congested=stream.send is not None and stream.send.congested,
        )

    @property
    def over(self) -> bool:
        return (self.sending is None or self.sending.settled) and (
            self.receiving is None or self.receiving.ended
        )


class StandIn:
    """Stands in for `connection`, which is spent, with the streams `relayed` of its `state`."""

    def __init__(
        self, connection: Connection, state: ConnectionState, relayed: list[RelayedStream]
    ) -> None:
        self.configuration = connection.configuration
        self.is_client = connection.is_client
        self.name = connection.name
        self.alpn = connection.alpn
        self.server_name = connection.server_name
        self.peer_address = connection.peer_address
        self.local_address = connection.local_address
        self.original_destination_connection_id = connection.original_destination_connection_id
        self.closed = False
        #: HTTP/3 counts per second where there is a clock; nothing new comes here.
        self.clock_us = NONE
        self._sessions = {stream.stream_id for stream in relayed if stream.is_session}
        #: DATAGRAMs belong to a session, not to a stream: without a session none can be sent from
        #: here.
        self.max_datagram_bytes = datagrams.largest_payload(state) if self._sessions else 0
        # HTTP/3 looks for these.
        self._quic_logger = None
        self._remote_max_datagram_frame_size = self.max_datagram_bytes or None
        self._logger = ConnectionLog(connection.original_destination_connection_id)
        self._ended = EndedStreams()
        self._streams = {stream.stream_id: _Left.of(state, stream) for stream in relayed}
        #: Tasks that wait for a stream that they asked for, and whether it is a unidirectional one;
        #: by the number of the request.
        self._opening: dict[int, tuple[asyncio.Future[int], bool]] = {}
        #: From before there was a link.
        self._datagrams: deque[bytes] = deque(maxlen=MAX_WAITING_SESSION_DATAGRAMS)
        self._events: deque[events.QuicEvent] = deque()
        self._wire: Wire | None = None
        #: Called when nothing is relayed any more, perhaps by a call of the application.
        self.on_over: Callable[[], None] = lambda: None
        self._memory = connection.budget.open(connection.name, lambda: None)
        self._withheld_bytes = sum(stream.withheld_bytes for stream in self._streams.values())
        self._memory.note(self._withheld_bytes, 0)
        self._close: tuple[int, int | None, str] | None = None

    def __repr__(self) -> str:
        return f"<StandIn {self.name.hex()} streams={sorted(self._streams)}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._moved(name)

    @property
    def stream_ids(self) -> list[int]:
        """The streams that are still relayed."""
        return list(self._streams)

    @property
    def congested_ids(self) -> list[int]:
        """The streams for which the application was told to wait."""
        return [stream_id for stream_id, stream in self._streams.items() if stream.congested]

    # --- for the application: as `Connection` has them ------------------------------------------

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        stream = self._streams.get(stream_id)
        if stream is None and not data and not end_stream:
            return  # HTTP/3 writes what it has for the QPACK streams, which is nothing.
        stream = self._find_if_open(stream_id, "send_stream_data")
        sending = None if stream is None else stream.sending
        if stream is None or sending is None or sending.ended:
            raise StreamStateError(f"stream {stream_id} was ended or reset: nothing can be written")
        pieces = sending.write(bytes(data), end_stream)
        stream.congested |= sending.is_full
        if self._wire is not None:
            self._wire.send_pieces(stream_id, pieces)

    def note_kept(self, size_bytes: int) -> None:
        self._memory.keep(size_bytes)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        stream = self._find_if_open(stream_id, "reset_stream")
        if stream is None or stream.sending is None or stream.reset_code is not None:
            return
        stream.reset_code = error_code
        stream.sending.reset()
        if self._wire is not None:
            self._wire.send_reset(stream_id, error_code)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        stream = self._find_if_open(stream_id, "stop_stream")
        if stream is None or stream.receiving is None or stream.receiving.ended:
            return
        stream.stop_code = error_code
        stream.receiving.abandon()
        if self._wire is not None:
            self._wire.send_stop(stream_id, error_code)
            self._forget_if_over(stream_id)

    def drain_stream(self, stream_id: int, error_code: int) -> None:
        """The owner of the connection drains a stream that it is to stop behind a complete
        answer."""
        self.stop_stream(stream_id, error_code)

    def pause_reading(self, stream_id: int) -> None:
        stream = self._find_if_open(stream_id, "pause_reading")
        if stream is not None:
            stream.paused = True

    def resume_reading(self, stream_id: int) -> None:
        stream = self._find_if_open(stream_id, "resume_reading")
        if stream is not None and stream.paused:
            stream.paused = False
            self._release(stream_id, stream, stream.withheld_bytes)
            self._withhold(stream, -stream.withheld_bytes)

    async def reserve_stream(self, is_unidirectional: bool) -> int:
        """The ID of a new stream, which is relayed. StreamStateError when nothing is relayed any
        more."""
        if self.closed or not self._sessions:
            raise StreamStateError("no more streams can be opened: the connection is elsewhere")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        request = int.from_bytes(os.urandom(_REQUEST_BYTES), "big")
        self._opening[request] = future, is_unidirectional
        if self._wire is not None:
            self._wire.send_open(request, unidirectional=is_unidirectional)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                # It came just now, and no task will ever end it.
                self._give_up(future.result())
            raise

    def send_datagram_frame(self, data: bytes) -> None:
        if self._wire is not None:
            self._wire.send_datagram(data)
        else:
            self._datagrams.append(data)

    def set_priority(self, stream_id: int, urgency: int, incremental: bool) -> None:
        """No effect: the client tells the new owner, which serves these streams among others."""
        self._find_if_open(stream_id, "set_priority")

    def is_congested(self, stream_id: int) -> bool:
        stream = self._streams.get(stream_id)
        return stream is not None and stream.congested

    def send_room_bytes(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        if stream is None or stream.sending is None:
            return 1  # a write fails, and says why
        return stream.sending.room_bytes

    def can_send(self, stream_id: int) -> bool:
        stream = self._streams.get(stream_id)
        return stream is not None and stream.sending is not None and not stream.sending.ended

    def reset_code(self, stream_id: int) -> int | None:
        stream = self._streams.get(stream_id)
        return None if stream is None else stream.reset_code

    def stream_is_finished(self, stream_id: int) -> bool:
        return stream_id not in self._streams

    def get_peer_address(self) -> Any:
        return self.peer_address

    def close(
        self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        """End all relayed streams; the connection itself is another process's."""
        if self._wire is None:
            self._close = (error_code, frame_type, reason_phrase)
            return
        for stream_id in self.stream_ids:
            self.reset_stream(stream_id, error_code)
            self.stop_stream(stream_id, error_code)

    def next_event(self) -> events.QuicEvent | None:
        if not self._events:
            return None
        event = self._events.popleft()
        if isinstance(event, events.StreamDataReceived):
            stream = self._streams.get(event.stream_id)
            size = len(event.data) + event.end_stream
            if stream is not None and stream.paused:
                self._withhold(stream, size)
            elif stream is not None:
                self._release(event.stream_id, stream, size)
            self._forget_if_over(event.stream_id)
        return event

    # --- for the relay --------------------------------------------------------------------------

    def when_memory_is_short(self, end: Callable[[], None]) -> None:
        """Have `end` called when these streams hold most of the process's memory budget."""
        self._memory.shed = end

    def open(self, wire: Wire) -> None:
        """The connection is given away: from here on everything goes over the link."""
        self._wire = wire
        for stream_id, stream in list(self._streams.items()):
            if stream.stop_code is not None:
                wire.send_stop(stream_id, stream.stop_code)
            else:
                wire.send_credit(stream_id, stream.credit_bytes)
            sending = stream.sending
            if sending is None:
                continue
            wire.send_pieces(stream_id, sending.open())
            if stream.reset_code is not None:
                wire.send_reset(stream_id, stream.reset_code)
            else:
                self._note_room(stream_id, stream)
        for request, (_, is_unidirectional) in self._opening.items():
            wire.send_open(request, unidirectional=is_unidirectional)
        while self._datagrams:
            wire.send_datagram(self._datagrams.popleft())
        if self._close is not None:
            self.close(*self._close)
        for stream_id in self.stream_ids:
            self._forget_if_over(stream_id)

    def restore(self, connection: Connection) -> None:
        """The handoff failed: repeat the application's calls on the connection."""
        self._memory.close()
        for stream_id, stream in self._streams.items():
            if stream.sending is not None:
                for data, end in stream.sending.unsent():
                    connection.send_stream_data(stream_id, data, end)
            if stream.reset_code is not None:
                connection.reset_stream(stream_id, stream.reset_code)
            if stream.stop_code is not None:
                stop(connection, stream_id, stream.stop_code)
            elif stream.receiving is not None and stream.paused:
                connection.pause_reading(stream_id)
            elif stream.receiving is not None:
                connection.resume_reading(stream_id)
        for future, is_unidirectional in self._opening.values():
            if not future.cancelled():
                stream_id = connection.get_next_available_stream_id(is_unidirectional)
                connection.send_stream_data(stream_id, b"")
                future.set_result(stream_id)
        for data in self._datagrams:
            connection.send_datagram_frame(data)
        if self._close is not None:
            connection.close(*self._close)

    def on_message(self, message: StreamMessage | OpenStream | RelayedDatagram) -> None:
        """Take a message of the new owner. Its events then wait to be taken.

        PeerError for a message that it may not send.
        """
        if isinstance(message, RelayedDatagram):
            if self._sessions:
                self._events.append(events.DatagramFrameReceived(data=message.data))
        elif isinstance(message, StreamOpened):
            self._on_opened(message)
        elif isinstance(message, OpenStream):
            raise PeerError("the owner opens its streams itself", code=Reason.UNEXPECTED_MESSAGE)
        else:
            self._on_stream_message(message)

    def _on_opened(self, message: StreamOpened) -> None:
        stream_id = message.stream_id
        future, _ = self._opening.pop(message.request, (None, False))
        self._adopt(stream_id, sends=True, receives=not stream_id & 2)
        if future is None or future.done():
            # The task that asked has gone; or another process had asked, for which this one passed
            # it on.
            self._give_up(stream_id)
        else:
            future.set_result(stream_id)

    def _give_up(self, stream_id: int) -> None:
        self.reset_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        self.stop_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)

    def _adopt(self, stream_id: int, *, sends: bool, receives: bool) -> _Left:
        stream = self._streams[stream_id] = _Left(sends=sends, receives=receives)
        if stream.sending is not None:
            stream.sending.open()
        return stream

    def _on_stream_message(self, message: StreamMessage) -> None:
        stream_id = message.stream_id
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id in self._ended or not isinstance(message, StreamBytes):
                return  # crossed with its end
            if session_of_stream(stream_id, message.data) not in self._sessions:
                # Of a session that is over; or of a relay that was passed on here, and is over.
                self._refuse(stream_id)
                return
            stream = self._adopt(stream_id, sends=not stream_id & 2, receives=True)
        sending, receiving = stream.sending, stream.receiving
        if isinstance(message, StreamCredit):
            if sending is not None and self._wire is not None:
                self._wire.send_pieces(stream_id, sending.credit(message.size_bytes))
                self._note_room(stream_id, stream)
        elif isinstance(message, StreamBytes):
            if receiving is not None and receiving.receive(len(message.data), message.end_stream):
                self._events.append(
                    events.StreamDataReceived(
                        data=message.data, end_stream=message.end_stream, stream_id=stream_id
                    )
                )
                return  # over when the event is taken
        elif isinstance(message, StreamReset):
            if receiving is not None and receiving.receive(0, True):
                self._credit(stream_id, stream, receiving.release_all())
                receiving.abandon()
                self._events.append(
                    events.StreamReset(error_code=message.error_code, stream_id=stream_id)
                )
        elif isinstance(message, StreamStop) and sending is not None:
            # The transport has answered with a reset; no more can be written.
            if not sending.drained:
                self._events.append(
                    events.StopSendingReceived(error_code=message.error_code, stream_id=stream_id)
                )
            sending.abandon()
            stream.reset_code = message.error_code
        self._forget_if_over(stream_id)

    def cut(self, error_code: int, reason: str) -> None:
        """No stream is relayed any more: the application learns that the connection is over."""
        self._wire = None
        for stream_id in self._streams:
            self._ended.add(stream_id)
        self._streams.clear()
        self._memory.close()
        self.closed = True
        self._open_no_more(reason)
        self._events.append(
            events.ConnectionTerminated(
                error_code=error_code, frame_type=None, reason_phrase=reason
            )
        )

    # --- helpers --------------------------------------------------------------------------------

    def _find_if_open(self, stream_id: int, what: str) -> _Left | None:
        """None for a relayed stream that is over."""
        stream = self._streams.get(stream_id)
        if stream is None and stream_id not in self._ended and not self._ended.forgot:
            raise self._moved(f"{what} of stream {stream_id}")
        return stream

    def _moved(self, what: str) -> GivenAwayError:
        return GivenAwayError(
            f"{what}: the connection is another process's now, and only its streams "
            f"{sorted(self._streams)} are still served here"
        )

    def _refuse(self, stream_id: int) -> None:
        """Refuse a stream that no program here reads or writes."""
        self._ended.add(stream_id)
        if self._wire is not None:
            self._wire.send_stop(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            if not stream_id & 2:
                self._wire.send_reset(stream_id, ErrorCode.H3_REQUEST_CANCELLED)

    def _open_no_more(self, reason: str) -> None:
        """Raise in all tasks that wait for a new stream."""
        for future, _ in self._opening.values():
            if not future.done():
                future.set_exception(StreamStateError(f"no stream can be opened: {reason}"))
                future.exception()  # a task that waits gets it; without one asyncio must not log it
        self._opening.clear()

    def _withhold(self, stream: _Left, size_bytes: int) -> None:
        stream.withheld_bytes += size_bytes
        self._withheld_bytes += size_bytes
        self._memory.note(self._withheld_bytes, 0)

    def _release(self, stream_id: int, stream: _Left, size_bytes: int) -> None:
        """That many bytes were consumed."""
        if stream.receiving is not None:
            self._credit(stream_id, stream, stream.receiving.release(size_bytes))

    def _credit(self, stream_id: int, stream: _Left, size_bytes: int) -> None:
        """Give credit. Before there is a link, `open` will do it."""
        if self._wire is None:
            stream.credit_bytes += size_bytes
        else:
            self._wire.send_credit(stream_id, size_bytes)

    def _note_room(self, stream_id: int, stream: _Left) -> None:
        if stream.congested and stream.sending is not None and stream.sending.has_room:
            stream.congested = False
            self._events.append(StreamWritable(stream_id=stream_id))

    def _forget_if_over(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and self._wire is not None and stream.over:
            if stream.receiving is not None:
                # Bytes that no program will read any more are here: processes in between need not
                # wait.
                self._wire.send_credit(stream_id, stream.receiving.release_all())
            self._withhold(stream, -stream.withheld_bytes)
            del self._streams[stream_id]
            self._ended.add(stream_id)
            if stream_id in self._sessions:
                self._sessions.remove(stream_id)
                if not self._sessions:
                    self._open_no_more("the session is over")
            if not self._streams:
                self._memory.close()
                self.on_over()
