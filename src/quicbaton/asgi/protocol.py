"""An ASGI program as a protocol of `quicbaton.asyncio`: events in, tasks beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic import events

from quicbaton.asgi.exchange import CLIENT_GONE, Exchange, Fields
from quicbaton.asgi.http import HttpExchange
from quicbaton.asgi.lifespan import Lifespan
from quicbaton.asgi.scope import Application, request_scope
from quicbaton.asgi.websocket import WebSocketExchange
from quicbaton.asyncio import QuicConnectionProtocol, StreamWritable
from quicbaton.http3 import H3Connection
from quicbaton.http3.codes import ErrorCode
from quicbaton.http3.events import StreamFailed


class AsgiProtocol(QuicConnectionProtocol):
    """Runs `application` for each request of a client."""

    def __init__(
        self,
        quic: Any,
        stream_handler: Any = None,
        *,
        application: Application,
        lifespan: Lifespan,
        root_path: str = "",
    ) -> None:
        super().__init__(quic, stream_handler)
        self._application = application
        self._lifespan = lifespan
        self._root_path = root_path
        self._exchanges: dict[int, Exchange] = {}

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, StreamWritable):
            exchange = self._exchanges.get(event.stream_id)
            if exchange is not None:
                exchange.has_room()
            return
        if isinstance(event, events.ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        elif isinstance(event, events.StreamReset | events.StopSendingReceived):
            self._disconnect(event.stream_id)
        elif isinstance(event, events.ConnectionTerminated):
            for stream_id in list(self._exchanges):
                self._disconnect(stream_id)
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(http_event)

    def handler_failed(self, event: events.QuicEvent, error: Exception) -> None:
        """A mistake of ours, not of the program, which hears that its client is gone."""
        stream_id = getattr(event, "stream_id", None)
        if stream_id is not None:
            self._disconnect(stream_id)
        super().handler_failed(event, error)

    # --- moving ---------------------------------------------------------------------------------

    def running_streams(self) -> Collection[int]:
        """Those of requests that the program still works on."""
        finished = self._quic.stream_is_finished
        mine = [stream_id for stream_id in self._exchanges if not finished(stream_id)]
        return [*super().running_streams(), *mine]

    def export_state(self) -> bytes:
        """Nothing: what a program keeps of a connection, it keeps in tasks."""
        return b""

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
        elif isinstance(event, StreamFailed):
            self._disconnect(event.stream_id)

    def _begin(self, event: HeadersReceived) -> None:
        pseudo = {name: value for name, value in event.headers if name[:1] == b":"}
        if b":method" not in pseudo:
            return  # the trailers of a request that has been answered
        protocol = pseudo.get(b":protocol")
        if pseudo[b":method"] == b"CONNECT" and protocol != b"websocket":
            # RFC 9220 §3, for a protocol that we do not know; and a tunnel is no program's.
            self.send_headers(event.stream_id, [(b":status", b"501")], ended=True)
            return
        scope = request_scope(
            event.headers,
            client=self._quic.peer_address,
            server=self._quic.local_address,
            root_path=self._root_path,
            state=self._lifespan.state,
        )
        exchange: Exchange
        if protocol is None:
            exchange = HttpExchange(self, event.stream_id, scope, ended=event.stream_ended)
        else:
            exchange = WebSocketExchange(self, event.stream_id, scope)
        self._exchanges[event.stream_id] = exchange
        exchange.start(self._application)
        if protocol is not None and event.stream_ended:
            exchange.feed(b"", ended=True)

    def _disconnect(self, stream_id: int) -> None:
        exchange = self._exchanges.get(stream_id)
        if exchange is not None:
            exchange.disconnect()

    # --- for exchanges --------------------------------------------------------------------------

    def send_headers(self, stream_id: int, fields: Fields, *, ended: bool) -> None:
        assert self._http is not None, "an HTTP/3 event came out of it"
        self._http.send_headers(stream_id, fields, ended)
        self.transmit_soon()

    def send_data(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        assert self._http is not None, "an HTTP/3 event came out of it"
        self._http.send_data(stream_id, data, ended)
        self.transmit_soon()

    def room_bytes(self, stream_id: int) -> int:
        """How much the stream's buffer takes now; 0: wait for `has_room`."""
        if self._quic.is_congested(stream_id):
            return 0
        return int(self._quic.send_room_bytes(stream_id))

    def pause_reading(self, stream_id: int) -> None:
        self._quic.pause_reading(stream_id)

    def resume_reading(self, stream_id: int) -> None:
        with contextlib.suppress(*CLIENT_GONE):
            self._quic.resume_reading(stream_id)
            self.transmit_soon()

    def abort(self, stream_id: int) -> None:
        """The response ends here, and is not whole."""
        with contextlib.suppress(*CLIENT_GONE):
            self._quic.reset_stream(stream_id, ErrorCode.H3_INTERNAL_ERROR)
            self._quic.stop_stream(stream_id, ErrorCode.H3_INTERNAL_ERROR)
            self.transmit_soon()

    def over(self, stream_id: int) -> None:
        """The program is done with the request. What it has not ended ends here."""
        self._exchanges.pop(stream_id, None)
        with contextlib.suppress(*CLIENT_GONE):
            if self._quic.can_send(stream_id):
                self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
                self.transmit_soon()
