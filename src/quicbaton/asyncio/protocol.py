"""The application's side of a connection on asyncio: aioquic's protocol class, made to move.

A program written for `aioquic.asyncio.QuicConnectionProtocol` subclasses this one instead and
overrides `quic_event_received`. To let its connections move it adds `export_state` and
`import_state`; without them a connection is refused for handoff and stays where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

from aioquic.quic import events

from quicbaton.asyncio.access import WatchedRequests
from quicbaton.asyncio.requests import RequestCount
from quicbaton.asyncio.stream_adapter import StreamAdapter
from quicbaton.errors import QuicbatonError, RefusedError
from quicbaton.http3.connection import H3Connection
from quicbaton.http3.requests import first_path
from quicbaton.limits import MAX_HELD_EVENTS
from quicbaton.reasons import Reason
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable

#: It may be a coroutine function, or return a task: if that ends in an exception, the stream is
#: reset.
StreamHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]

#: The code of the reset when a stream's handler failed: H3_INTERNAL_ERROR (RFC 9114 §8.1). Most
#: other protocols have the same for it.
_H3_INTERNAL_ERROR: Final = 0x0102
_INTERNAL_ERROR: Final = 1


class Transmitter(Protocol):
    """The calls that a protocol makes to the runtime: send datagrams, route connection IDs."""

    def transmit(self) -> None: ...
    def transmit_soon(self) -> None: ...
    def add_route(self, cid: bytes) -> None: ...
    def remove_route(self, cid: bytes) -> None: ...
    def ids_retired(self) -> None: ...


class Relay(Protocol):
    """Takes the events of streams whose requests still run at the connection's last owner."""

    @property
    def is_open(self) -> bool: ...
    def divert(self, event: events.QuicEvent) -> events.QuicEvent | None: ...


class QuicConnectionProtocol:
    """One connection's application. Created at promotion, and again wherever the connection is
    resumed."""

    #: Set while an event is handled by a protocol whose tasks answer it. They run first, and their
    #: answer leaves together with the ACK, in one train and one turn of the event loop.
    answers_soon = False

    def __init__(self, quic: Connection, stream_handler: StreamHandler | None = None) -> None:
        self._quic = quic
        #: Set this to the HTTP/3 connection, if there is one: it moves along.
        self._http: H3Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._stream_handler = stream_handler
        self._streams: dict[int, StreamAdapter] = {}
        self._ping_waiters: dict[int, asyncio.Future[None]] = {}
        #: Made by the first handler that is waited for.
        self._handlers: set[asyncio.Future[Any]] | None = None
        self._is_closed = False
        #: Made by the first `wait_closed`: it would be most of an idle protocol's memory.
        self._closed: asyncio.Event | None = None
        self._transmitter: Transmitter | None = None
        self._relay: Relay | None = None
        #: Set by the runtime: called once with the path of the first HTTP/3 request, before the
        #: program gets that. If it returns True, requests wait until `let_requests_in`.
        self.on_first_request: Callable[[str], bool] | None = None
        self._holds_requests = False
        self._uncounted: RequestCount | None = None

    # --- for the application --------------------------------------------------------------------

    def change_connection_id(self) -> None:
        """Use another of the peer's connection IDs."""
        self._quic.change_connection_id()
        self.transmit()

    def close(self, error_code: int = 0, reason_phrase: str = "") -> None:
        """Close the connection with an application's error code (RFC 9000 §19.19)."""
        self._quic.close(error_code=error_code, reason_phrase=reason_phrase)
        self.transmit()

    async def create_stream(
        self, is_unidirectional: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream; `await writer.drain()` waits while its buffer is full."""
        self._check_open()
        return self._create_stream(await self.reserve_stream(is_unidirectional))

    def request_key_update(self) -> None:
        """Update the encryption keys; raises CallerError when it is too soon (RFC 9001 §6.1)."""
        self._quic.request_key_update()
        self.transmit()

    async def reserve_stream(self, is_unidirectional: bool = False) -> int:
        """The ID of a new stream. If another process owns the connection by now, the stream is
        relayed.

        Raises StreamStateError when the connection is over.
        """
        reserve = getattr(self._quic, "reserve_stream", None)
        if reserve is not None:
            reserved: int = await reserve(is_unidirectional)
            return reserved
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=is_unidirectional)
        # The ID counts as used from the first write on. An empty write opens the stream.
        self._quic.send_stream_data(stream_id, b"")
        return stream_id

    async def ping(self) -> None:
        """Return when the peer has acknowledged a PING. ConnectionError when the connection is
        over, or has moved: then its next owner gets the acknowledgement."""
        self._check_open()
        uid = self._quic.next_ping_uid()
        waiter = self._loop.create_future()
        self._ping_waiters[uid] = waiter
        self._quic.send_ping(uid)
        self.transmit()
        await asyncio.shield(waiter)

    def abandon_stream(self, stream_id: int, error_code: int | None = None) -> None:
        """Reset a stream and refuse the peer's further bytes on it, as far as it is open. The
        default code says "internal error"."""
        if error_code is None:
            error_code = _INTERNAL_ERROR if self._http is None else _H3_INTERNAL_ERROR
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.abandon(error_code)
            return
        with contextlib.suppress(QuicbatonError):  # it is another process's now
            if self._quic.can_send(stream_id):
                self._quic.reset_stream(stream_id, error_code)
        with contextlib.suppress(QuicbatonError):  # or can only be written
            self._quic.stop_stream(stream_id, error_code)
        self.transmit_soon()

    def transmit(self) -> None:
        """Send what is due. Call it after using `_quic` outside of `quic_event_received`."""
        if self._transmitter is not None:
            self._transmitter.transmit()

    async def wait_closed(self) -> None:
        """Return when the connection is closed, or is no longer this object's."""
        if self._is_closed:
            return
        if self._closed is None:
            self._closed = asyncio.Event()
        await self._closed.wait()

    async def wait_connected(self) -> None:
        """Return at once: a protocol exists only once its handshake is confirmed."""

    # --- to override ----------------------------------------------------------------------------

    def quic_event_received(self, event: events.QuicEvent) -> None:
        """Called with every event. The default feeds asyncio streams."""
        if isinstance(event, events.StreamDataReceived):
            stream = self._streams.get(event.stream_id)
            if stream is None:
                if self._stream_handler is None:
                    return
                reader, writer = self._create_stream(event.stream_id)
                stream = self._streams[event.stream_id]
                self._watch(stream, self._stream_handler(reader, writer))
            stream.feed(event.data, event.end_stream)
        elif isinstance(event, events.StreamReset):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.fail_reading(event.error_code)
        elif isinstance(event, events.StopSendingReceived):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.fail_writing(event.error_code)

    def handler_failed(self, event: events.QuicEvent, error: Exception) -> None:
        """`quic_event_received` raised `error` at that event; the error has been reported.

        Override it to answer in another way, with status 500 for instance. The default resets the
        event's stream in both directions, so that no one waits for an answer that will not come.
        Streams that one HTTP/3 side opens for itself belong to no request and stay.
        """
        stream_id = getattr(event, "stream_id", None)
        if stream_id is not None and not (self._http is not None and stream_id & 2):
            self.abandon_stream(stream_id)

    def running_streams(self) -> Collection[int]:
        """Streams whose work cannot be exported, a coroutine's for instance.

        When the connection moves these streams stay with this very object, and `export_state` omits
        them. Their bytes, and nothing else, pass between the two processes until both of their
        directions have ended. Until then `_quic`, which is another object then, and `_http` can be
        used as before, but for these streams only.

        The default names the open asyncio streams. HTTP/3 requests may be named, and WebTransport
        sessions: all streams and datagrams of a session stay with it, later ones too.
        """
        return tuple(self._streams)

    def export_state(self) -> bytes:
        """The state with which `import_state` goes on elsewhere. Raise RefusedError when the state
        cannot be expressed.

        The default refuses, since it cannot know what a subclass holds; a plain protocol without
        waiting pings has no state and moves.
        """
        if type(self) is not QuicConnectionProtocol or self._ping_waiters:
            raise RefusedError(
                f"{type(self).__name__} has running work and no export_state(); "
                "wait until it is done, or define export_state and import_state",
                code=Reason.NOT_EXPORTABLE,
            )
        return b""

    def export_descriptors(self) -> Sequence[int]:
        """Open files that should go along with the state that `export_state` has just returned.
        They stay this object's, which closes them in `connection_left`.

        They reach `import_descriptors` of the next owner if that is a process of this host and has
        room for them (250 at most). None come to another host, out of a file, or after a sleep:
        `import_state` must be able to do without.
        """
        return ()

    def import_descriptors(self, descriptors: list[int]) -> None:
        """Take over open files; this object has to close them. Called before `import_state`, with
        all files that `export_descriptors` named, or not at all. Their numbers are different."""
        for descriptor in descriptors:
            os.close(descriptor)

    def import_state(self, data: bytes) -> None:
        """Go on from the state of `export_state`. Called before any event, after `_http` is set.

        The connection is not this process's yet, and this object may be dropped again, by
        `connection_left`: begin nothing here that would outlive it. If this raises, the connection
        stays with its source.
        """

    def rest_moved(self) -> None:
        """Close the files that `export_descriptors` has named. Called when another process has the
        connection while this object goes on with its running streams: `connection_left` comes when
        they have ended, which may take long. An override must call this one."""
        self.fail_pings("the connection has moved on, and so will the answer")

    def connection_left(self) -> None:
        """Close the files that `export_descriptors` would name. Called when this object is done:
        its connection is over, asleep, or another object's. An override must call this one.

        It breaks the reference cycles that otherwise only the garbage collector would find.
        """
        self.let_requests_in()
        self.fail_pings("the connection is no longer this object's: it moved, sleeps or is over")
        self._note_closed()
        self._transmitter = None

    # --- for the runtime ------------------------------------------------------------------------

    def count_requests(self, count: RequestCount) -> None:
        """Count HTTP/3 requests, and write their lines of the access log: for a program that does
        not do so itself."""
        self._uncounted = count

    def connection_made(self, transport: Transmitter) -> None:
        self._transmitter = transport

    @property
    def open_relay(self) -> Relay | None:
        """The relay that takes the events of streams whose requests run at an earlier owner; None
        if there are none."""
        return self._relay if self._relay is not None and self._relay.is_open else None

    def check_exportable(self, left: Collection[int], *, passes_on: bool = False) -> None:
        """RefusedError unless everything can be exported but the streams `left`, which stay with
        this object. `passes_on`: streams that are relayed to here do not prevent it."""
        if self.open_relay is not None and not passes_on:
            raise RefusedError(
                "requests of the connection still run at its last owner, which relays their "
                "streams: try again when they have ended",
                code=Reason.STREAMS_RELAYED,
            )
        running = set(self.running_streams()).difference(left)
        if running:
            raise RefusedError(
                f"{len(running)} streams have running work that cannot be exported, and cannot be "
                "relayed from here: wait until they have ended",
                code=Reason.NOT_EXPORTABLE,
            )

    def transmit_soon(self) -> None:
        """Send what is due at the next turn of the event loop."""
        if self._transmitter is not None:
            self._transmitter.transmit_soon()

    def relay(self, relay: Relay | None) -> None:
        """Let `relay` have the events of some streams from now on, before this object."""
        self._relay = relay

    def let_requests_in(self) -> None:
        """Stop holding requests back: this process answers them. Process events afterwards."""
        self.on_first_request = None
        self._holds_requests = False

    def use_connection(self, quic: Any) -> None:
        """Go on with another connection object: a stand-in for the streams that stayed behind, or
        the successor of the present one."""
        self.let_requests_in()
        self._quic = quic
        if self._http is not None:
            self._http.use_quic(quic)

    def fail_pings(self, reason: str) -> None:
        """Raise ConnectionError in all waiting pings: no acknowledgement will come here."""
        for waiter in self._ping_waiters.values():
            if not waiter.done():
                waiter.set_exception(ConnectionError(reason))
                waiter.exception()  # a task that waits gets it; without one asyncio must not log it
        self._ping_waiters.clear()

    def process_events(self) -> None:
        """Deliver all waiting events."""
        # An observer may begin the next cutover when IDs have been retired: the IDs that this
        # issues must have their routes before the client hears of them.
        while self._deliver_events() and self._transmitter is not None:
            self._transmitter.ids_retired()

    # --- helpers --------------------------------------------------------------------------------

    def _deliver_events(self) -> bool:
        """Deliver the events that wait. True when connection IDs were retired: observers hear of
        all that one packet retires at once."""
        next_event = self._quic.next_event
        if self.on_first_request is not None and self._must_wait(self.on_first_request):
            next_event = self._quic.next_event_but_requests
        relay = self._relay
        retired = False
        while (event := next_event()) is not None:
            if relay is not None:
                mine = relay.divert(event)
                if mine is None:
                    continue
                event = mine
            # Nearly all events are stream data, which none of this concerns.
            if not isinstance(event, events.StreamDataReceived):
                self._process_event(event)
                retired |= isinstance(event, events.ConnectionIdRetired)
            try:
                self.quic_event_received(event)
            except Exception as error:
                # The boundary to the application: an error in one connection must not keep other
                # connections of the same batch from their datagrams.
                self._on_handler_failed(event, error)
            if self._uncounted is not None and self._http is not None:
                self._http.watch = WatchedRequests(lambda: self._quic, self._uncounted)
                self._uncounted = None
        return retired

    def _on_handler_failed(self, event: events.QuicEvent, error: Exception) -> None:
        name = type(self).__name__
        self._report(f"{name}.quic_event_received failed", error)
        try:
            self.handler_failed(event, error)
        except Exception as second:
            # Still the boundary to the application.
            self._report(f"{name}.handler_failed failed", second)
            QuicConnectionProtocol.handler_failed(self, event, error)

    def _watch(self, stream: StreamAdapter, handler: Any) -> None:
        """Reset the stream if the stream handler's coroutine or task fails later."""
        if asyncio.iscoroutine(handler):
            handler = self._loop.create_task(handler)
        if not isinstance(handler, asyncio.Future):
            return

        handlers = self._handlers
        if handlers is None:
            handlers = self._handlers = set()

        def on_done(done: asyncio.Future[Any]) -> None:
            handlers.discard(done)
            error = None if done.cancelled() else done.exception()
            if error is not None:
                self._report("a stream handler failed", error)
            if done.cancelled() or error is not None:
                with contextlib.suppress(QuicbatonError):  # the connection is another process's
                    stream.abandon(_INTERNAL_ERROR)

        handlers.add(handler)  # the event loop itself holds on to no task
        handler.add_done_callback(on_done)

    def _report(self, what: str, error: BaseException) -> None:
        self._loop.call_exception_handler({"message": what, "exception": error, "protocol": self})

    def _process_event(self, event: events.QuicEvent) -> None:
        """Do what an event asks of the runtime, and of calls that wait for it."""
        if isinstance(event, events.ConnectionIdIssued):
            if self._transmitter is not None:
                self._transmitter.add_route(event.connection_id)
        elif isinstance(event, events.ConnectionIdRetired):
            if self._transmitter is not None:
                self._transmitter.remove_route(event.connection_id)
        elif isinstance(event, events.PingAcknowledged):
            waiter = self._ping_waiters.pop(event.uid, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        elif isinstance(event, StreamWritable):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.resume_writing()
        elif isinstance(event, events.ConnectionTerminated):
            self._on_terminated(event)

    def _note_closed(self) -> None:
        self._is_closed = True
        if self._closed is not None:
            self._closed.set()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConnectionError("the connection is closed")

    def _must_wait(self, decide: Callable[[str], bool]) -> bool:
        """Whether requests must still wait: the first one is incomplete, or another process is to
        answer it."""
        if self._quic.is_closing:
            # No other process will answer, and events before the end must not be overtaken.
            self.let_requests_in()
            return False
        waiting = self._quic.waiting_events
        if len(waiting) > MAX_HELD_EVENTS:
            self.let_requests_in()
        elif not self._holds_requests:
            path = first_path(waiting)
            if path is None:
                return True
            self._holds_requests = decide(path)
            if not self._holds_requests:
                self.on_first_request = None
        return self._holds_requests

    def _create_stream(self, stream_id: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader()
        stream_protocol = asyncio.StreamReaderProtocol(reader)
        stream = StreamAdapter(self, stream_id, reader, stream_protocol)
        reader.set_transport(stream)
        self._streams[stream_id] = stream
        return reader, asyncio.StreamWriter(stream, stream_protocol, reader, self._loop)

    def _on_terminated(self, event: events.ConnectionTerminated) -> None:
        reason = event.reason_phrase or f"error {event.error_code:#x}"
        self.fail_pings(reason)
        for stream in list(self._streams.values()):
            stream.end(event.error_code, reason)
        self._streams.clear()
        self._note_closed()
