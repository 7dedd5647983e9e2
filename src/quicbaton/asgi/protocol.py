"""An ASGI program as a protocol of `quicbaton.asyncio`: events in, tasks beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from aioquic.h3.events import (
    DatagramReceived,
    DataReceived,
    H3Event,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic import events

from quicbaton.asgi import disk as files
from quicbaton.asgi.exchange import CLIENT_GONE, Exchange, Fields, dated
from quicbaton.asgi.http import HttpExchange
from quicbaton.asgi.lifespan import Lifespan
from quicbaton.asgi.scope import Application, ClientCertificate, client_certificate, request_scope
from quicbaton.asgi.state import AsgiState, UnbegunRequest, decode, encode
from quicbaton.asgi.websocket import WebSocketExchange
from quicbaton.asgi.webtransport import WebTransportExchange
from quicbaton.asyncio import QuicConnectionProtocol, StreamWritable
from quicbaton.asyncio.protocol import Transmitter
from quicbaton.asyncio.requests import RequestCount
from quicbaton.errors import GivenAwayError, StreamStateError
from quicbaton.files import Folder
from quicbaton.files.downloads import Download, Downloads
from quicbaton.http3 import H3Connection
from quicbaton.http3.codes import ErrorCode
from quicbaton.http3.events import StreamFailed, WebTransportSessionClosed
from quicbaton.http3.webtransport import PROTOCOLS as WEBTRANSPORT
from quicbaton.transport.connection import Connection

#: Protocols of Extended CONNECT (RFC 9220) that ASGI knows.
_PROTOCOLS: Final = WEBTRANSPORT | {b"websocket"}


class AsgiProtocol(QuicConnectionProtocol):
    """Runs `application` for each request of a client.

    `disk`: shared by all protocols of a process, so that each file has one descriptor. `requests`
    counts those of all of them.
    """

    def __init__(
        self,
        quic: Any,
        stream_handler: Any = None,
        *,
        application: Application,
        lifespan: Lifespan,
        root_path: str = "",
        disk: Folder | None = None,
        requests: RequestCount | None = None,
    ) -> None:
        super().__init__(quic, stream_handler)
        self.requests = RequestCount() if requests is None else requests
        self._application = application
        self._lifespan = lifespan
        self._root_path = root_path
        #: By stream. All streams of a WebTransport session have the same exchange.
        self._exchanges: dict[int, Exchange] = {}
        self._disk = files.whole_disk() if disk is None else disk
        #: Responses whose program has named a file, and has no further part in them.
        self._downloads = Downloads(self._disk)
        #: Requests with which the program has not begun, by stream.
        self._unbegun: dict[int, HeadersReceived] = {}
        #: Requests that came with the state of the connection, until the connection is ours.
        self._brought: list[UnbegunRequest] = []
        #: Read when the first request comes.
        self._client_certificate: ClientCertificate | None = None
        self._is_whole = True
        #: Bytes that exchanges hold for their programs.
        self._kept_bytes = 0

    def count_requests(self, count: RequestCount) -> None:
        self.requests = count

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, StreamWritable):
            exchange = self._exchanges.get(event.stream_id)
            if exchange is not None:
                exchange.has_room()
            elif self._http is not None:
                self._downloads.fill(event.stream_id, self._quic, self._http)
            return
        if isinstance(event, events.ProtocolNegotiated):
            self._http = H3Connection(self._quic, enable_webtransport=True)
        elif isinstance(event, events.StreamReset | events.StopSendingReceived):
            self._break_off(event)
        elif isinstance(event, events.ConnectionTerminated):
            for stream_id in list(self._exchanges):
                self._disconnect(stream_id)
            self._downloads.connection_left()
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(http_event)

    def handler_failed(self, event: events.QuicEvent, error: Exception) -> None:
        """A handler of ours failed, not the program. The program hears that its client is gone."""
        stream_id = getattr(event, "stream_id", None)
        if stream_id is not None:
            self._disconnect(stream_id)
        super().handler_failed(event, error)

    # --- moving ---------------------------------------------------------------------------------

    def running_streams(self) -> Collection[int]:
        """The streams of requests that the program still works on."""
        finished, unbegun = self._quic.stream_is_finished, self._unbegun
        mine = [one for one in self._exchanges if one not in unbegun and not finished(one)]
        return [*super().running_streams(), *mine]

    def export_state(self) -> bytes:
        """All that is no task: downloads of files, and requests with which the program has not
        begun."""
        requests = [
            UnbegunRequest(stream_id, event.headers, *self._exchanges[stream_id].arrived())
            for stream_id, event in self._unbegun.items()
        ]
        return encode(AsgiState(self._downloads.promises(), requests))

    def export_descriptors(self) -> Sequence[int]:
        return self._downloads.export_descriptors()

    def import_descriptors(self, descriptors: Sequence[int]) -> None:
        self._downloads.import_descriptors(descriptors)

    def import_state(self, data: bytes) -> None:
        state = decode(data)
        self._downloads.go_on(state.downloads, self._quic)
        self._brought = state.requests

    def connection_made(self, transport: Transmitter) -> None:
        """The connection is ours: begin with the requests that came along."""
        super().connection_made(transport)
        brought, self._brought = self._brought, []
        for stream_id, headers, body, ended in map(msgspec.structs.astuple, brought):
            self._begin(HeadersReceived(headers, stream_id, stream_ended=False))
            exchange = self._exchanges.get(stream_id)
            if exchange is None:
                continue  # it is answered
            # One after the other: if a body has to wait here, reading is paused.
            if body:
                exchange.feed(body, ended=False)
            if ended:
                exchange.feed(b"", ended=True)

    def use_connection(self, quic: Any) -> None:
        """A stand-in has no streams of requests with which the program has not begun: they are in
        the state that moves. If the handoff fails, they come back and begin here."""
        super().use_connection(quic)
        self._is_whole = isinstance(quic, Connection)
        quic.note_kept(self._kept_bytes)
        for stream_id in self._unbegun if self._is_whole else ():
            self._exchanges[stream_id].start(self._application)

    def rest_moved(self) -> None:
        super().rest_moved()
        self._downloads.rest_moved(self._quic)

    def connection_left(self) -> None:
        super().connection_left()
        self._downloads.connection_left()

    # --- from HTTP/3 ----------------------------------------------------------------------------

    def _http_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            exchange = self._exchanges.get(event.stream_id)
            if exchange is None:
                self._begin(event)
            elif event.stream_ended:
                exchange.feed(b"", ended=True)  # trailers, of which ASGI has no notion
        elif isinstance(event, DataReceived):
            exchange = self._exchanges.get(event.stream_id)
            if exchange is not None:
                exchange.feed(event.data, ended=event.stream_ended)
                self.answers_soon = True
        elif isinstance(event, StreamFailed):
            self._disconnect(event.stream_id)
        else:
            self._session_event_received(event)

    def _session_event_received(self, event: H3Event) -> None:
        if isinstance(event, WebTransportStreamDataReceived):
            session = self._exchanges.get(event.session_id)
            if isinstance(session, WebTransportExchange):
                session.feed_stream(event.stream_id, event.data, ended=event.stream_ended)
        elif isinstance(event, DatagramReceived):
            session = self._exchanges.get(event.stream_id)
            if isinstance(session, WebTransportExchange):
                session.feed_datagram(event.data)
        elif isinstance(event, WebTransportSessionClosed):
            session = self._exchanges.get(event.session_id)
            if isinstance(session, WebTransportExchange):
                session.session_closed(event.code, event.reason)

    def _begin(self, event: HeadersReceived) -> None:
        pseudo = {name: value for name, value in event.headers if name[:1] == b":"}
        if b":method" not in pseudo:
            return  # the trailers of a request that has been answered
        protocol = pseudo.get(b":protocol")
        if pseudo[b":method"] == b"CONNECT" and protocol not in _PROTOCOLS:
            # RFC 9220 §3, for a protocol that we do not know; and a tunnel is no program's.
            self.send_headers(event.stream_id, [(b":status", b"501")], ended=True)
            self.requests.answered["3", 501] += 1
            return
        if self._client_certificate is None:
            self._client_certificate = client_certificate(self._quic.peer_certificates)
        scope = request_scope(
            event.headers,
            client=self._quic.peer_address,
            server=self._quic.local_address,
            root_path=self._root_path,
            state=self._lifespan.state,
            cipher_suite=self._quic.cipher_suite,
            max_datagram_bytes=self._largest_datagram(event.stream_id) if protocol else 0,
            client_certificate=self._client_certificate,
        )
        exchange: Exchange
        if protocol is None:
            exchange = HttpExchange(self, event.stream_id, scope, ended=event.stream_ended)
        elif protocol in WEBTRANSPORT:
            exchange = WebTransportExchange(self, event.stream_id, scope)
        else:
            exchange = WebSocketExchange(self, event.stream_id, scope)
        self._exchanges[event.stream_id] = exchange
        if exchange.can_begin_elsewhere:
            self._unbegun[event.stream_id] = event
        exchange.start(self._application)
        self.answers_soon = True
        if protocol is not None and event.stream_ended:
            exchange.feed(b"", ended=True)

    def _largest_datagram(self, stream_id: int) -> int:
        return 0 if self._http is None else self._http.max_datagram_bytes(stream_id)

    def _break_off(self, event: events.StreamReset | events.StopSendingReceived) -> None:
        self._unbegun.pop(event.stream_id, None)
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None:
            self._disconnect(event.stream_id)
        elif isinstance(event, events.StreamReset):
            exchange.stream_reset(event.stream_id, event.error_code)
        else:
            exchange.stream_stopped(event.stream_id, event.error_code)

    def _disconnect(self, stream_id: int) -> None:
        self._unbegun.pop(stream_id, None)
        exchange = self._exchanges.get(stream_id)
        if exchange is not None:
            exchange.disconnect()
        elif self._downloads.drop(stream_id):
            self._end_stream(stream_id)

    def may_begin(self, stream_id: int) -> bool:
        """Whether the program may begin with a request here. It begins once, whatever becomes of
        the connection: a connection that was given away took its unbegun requests along."""
        if stream_id in self._unbegun:
            if not self._is_whole or self._quic.is_given_away:
                return False
            del self._unbegun[stream_id]
        return True

    # --- for exchanges --------------------------------------------------------------------------

    def send_headers(self, stream_id: int, fields: Fields, *, ended: bool) -> None:
        assert self._http is not None, "an HTTP/3 event came out of it"
        self._http.send_headers(stream_id, dated(fields), ended)
        self.transmit_soon()

    def send_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        assert self._http is not None, "an HTTP/3 event came out of it"
        self._http.send_data(stream_id, data, ended)
        self.transmit_soon()

    def room_bytes(self, stream_id: int) -> int:
        """Bytes that the stream's buffer takes now; 0: wait for `has_room`."""
        if self._quic.is_congested(stream_id):
            return 0
        return int(self._quic.send_room_bytes(stream_id))

    def pause_reading(self, stream_id: int) -> None:
        self._quic.pause_reading(stream_id)

    def resume_reading(self, stream_id: int) -> None:
        with contextlib.suppress(*CLIENT_GONE):
            self._quic.resume_reading(stream_id)
            self.transmit_soon()

    def keep(self, grown_bytes: int) -> None:
        """Count bytes that exchanges hold for their programs; negative when they let go of some."""
        self._kept_bytes += grown_bytes
        # A connection that was given away tells its next owner of all that is kept.
        with contextlib.suppress(GivenAwayError):
            self._quic.note_kept(self._kept_bytes)

    def abort(self, stream_id: int) -> None:
        """Reset the stream: the response ends here and is not whole."""
        with contextlib.suppress(*CLIENT_GONE):
            self._quic.reset_stream(stream_id, ErrorCode.H3_INTERNAL_ERROR)
            self._quic.stop_stream(stream_id, ErrorCode.H3_INTERNAL_ERROR)
            self.transmit_soon()

    def open_file(self, stream_id: int, path: str) -> Download:
        return files.open_file(self._disk, stream_id, path)

    def open_part(
        self, stream_id: int, descriptor: int, offset: int, count: int | None
    ) -> Download:
        return files.open_part(self._disk, stream_id, descriptor, offset, count)

    def send_file(self, download: Download) -> None:
        """Send a file as the rest of a response. No exchange has it any more, and it moves as
        data."""
        assert self._http is not None, "an HTTP/3 event came out of it"
        stream_id = download.promise.stream_id
        self._exchanges.pop(stream_id, None)
        self._downloads.add(download)
        self._downloads.fill(stream_id, self._quic, self._http)
        self.transmit_soon()

    def over(self, stream_id: int) -> None:
        """The program is done with the request. Both directions that are still open end here."""
        exchange = self._exchanges.pop(stream_id, None)
        if isinstance(exchange, WebTransportExchange):
            for member in exchange.stream_ids:
                self._exchanges.pop(member, None)
        if exchange is not None:
            self._end_stream(stream_id)

    def connection_name(self) -> str:
        """The connection's name in the access log."""
        name: bytes = self._quic.name
        return name.hex()

    # --- for WebTransport sessions --------------------------------------------------------------

    def join(self, stream_id: int, session_id: int) -> None:
        """Make a stream part of a session."""
        self._exchanges[stream_id] = self._exchanges[session_id]

    def part(self, stream_id: int) -> None:
        """The program is done with both directions of a session's stream."""
        self._exchanges.pop(stream_id, None)

    def stop_code(self, stream_id: int) -> int | None:
        """The code with which the client has stopped a stream that the program has not ended; None
        while the client takes what we send."""
        if self._quic.can_send(stream_id):
            return None
        code: int | None = self._quic.reset_code(stream_id)
        return ErrorCode.H3_NO_ERROR if code is None else code

    async def open_stream(self, session_id: int, *, unidirectional: bool) -> int:
        assert self._http is not None, "an HTTP/3 event came out of it"
        stream_id = await self.reserve_stream(unidirectional)
        try:
            self._http.begin_webtransport_stream(session_id, stream_id)
        except StreamStateError:
            # The session has ended meanwhile. Without an owner the stream would stay for ever.
            self.abandon_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            raise
        self.transmit_soon()
        return stream_id

    def send_on_stream(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        self._quic.send_stream_data(stream_id, data, ended)
        self.transmit_soon()

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self._quic.reset_stream(stream_id, error_code)
        self.transmit_soon()

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        self._quic.stop_stream(stream_id, error_code)
        self.transmit_soon()

    def send_datagram(self, session_id: int, data: bytes) -> None:
        """Send a datagram. One that is too large for the path by now is lost as others are."""
        assert self._http is not None, "an HTTP/3 event came out of it"
        if len(data) <= self._http.max_datagram_bytes(session_id):
            self._http.send_datagram(session_id, data)
            self.transmit_soon()

    def close_session(self, session_id: int, code: int, reason: str) -> None:
        assert self._http is not None, "an HTTP/3 event came out of it"
        self._http.close_webtransport_session(session_id, code, reason)
        self.transmit_soon()

    def abort_session(self, session_id: int) -> None:
        assert self._http is not None, "an HTTP/3 event came out of it"
        self._http.abort_webtransport_session(session_id)
        self.transmit_soon()

    # --- helpers --------------------------------------------------------------------------------

    def _end_stream(self, stream_id: int) -> None:
        with contextlib.suppress(*CLIENT_GONE):
            if not self._is_whole:
                # The stream is relayed, and this process lives until both directions are over: a
                # client that does not end its own would keep the process.
                self._quic.drain_stream(stream_id, ErrorCode.H3_NO_ERROR)
            if self._quic.can_send(stream_id):
                self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
                self.transmit_soon()
