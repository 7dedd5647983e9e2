"""Both ends of a stream relay in one process, and the link between them."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any, cast

from aioquic.quic import events

from quicbaton.baton.snapshot import RelayedStream
from quicbaton.handoff.messages import Message, StreamBytes, StreamMessage
from quicbaton.http3 import H3Connection
from quicbaton.limits import RELAY_WINDOW_BYTES
from quicbaton.service.moving.stream_relay.new_owner import NewOwner
from quicbaton.service.moving.stream_relay.stand_in import StandIn
from quicbaton.service.moving.stream_relay.wire import Wire
from quicbaton.service.peers.link import Link
from quicbaton.testing import Pair
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable

STREAM = 0
_FILLER = Random(5).randbytes(4 << 20)


class OneWay:
    """A link that keeps what is sent until somebody delivers it."""

    is_full = is_crowded = False

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def take(self) -> list[Message]:
        taken = list(self.messages)
        self.messages.clear()
        return taken


class Relayed:
    """A client, the connection's new owner, and the old one's stand-in with an application that
    reads and writes one stream."""

    def __init__(
        self, *, before: int = 1000, paused: bool = False, is_session: bool = False
    ) -> None:
        self.pair = Pair(seed=3)
        self.pair.connect()
        self.client = cast(Connection, self.pair.client.connection)
        self.sent_up = self.sent_down = self.got_up = self.got_down = b""
        self.up_ended = self.down_ended = False
        self.codes: list[tuple[str, int]] = []
        self.client_codes: list[tuple[str, int]] = []
        self.write_up(before)
        self.pair.run(seconds=0.5)
        old = cast(Connection, self.pair.server.connection)
        self.application: Any = old
        if paused:
            old.pause_reading(STREAM)
        self.take_application()
        self.write_down(before)
        self.pair.run(seconds=0.5)
        if paused:
            self.write_up(3 * RELAY_WINDOW_BYTES)
            self.pair.run(seconds=0.5)
            self.take_application()
        self._hand_over(old, is_session=is_session)

    def _hand_over(self, old: Connection, *, is_session: bool) -> None:
        self.memory = old.budget
        state = old.freeze(self.pair.now)
        half = state.streams[STREAM].receive
        assert half is not None
        withheld = half.taken - half.consumed
        relayed = [RelayedStream(STREAM, withheld, is_session, 0, None, None)]
        self.stand_in = StandIn(old, state, relayed)
        self.application = self.stand_in
        end = self.pair.server
        self.owner = Connection.resume(
            state,
            now=self.pair.now,
            transit_us=0,
            issuer=end.issuer,
            entropy=end.entropy,
            configuration=old.configuration,
        )
        self.http = H3Connection(self.owner, enable_webtransport=True) if is_session else None
        self.new = NewOwner(self.owner, state, relayed, self.http)
        self.other_events: list[events.QuicEvent] = []
        self.to_new, self.to_old = OneWay(), OneWay()
        name, attempt = self.owner.name, bytes(16)
        self.overs = 0
        end.resume(self.owner, None, b"")
        self.new.attach(
            Wire(cast(Link, self.to_old), name, attempt), lambda: None, self._count_over
        )
        self.wire_to_new = Wire(cast(Link, self.to_new), name, attempt)

    def open(self) -> None:
        self.stand_in.open(self.wire_to_new)
        self.new.start()

    def _count_over(self) -> None:
        self.overs += 1

    # --- the client -----------------------------------------------------------------------------

    def write_up(self, size: int, *, end: bool = False) -> None:
        data = _FILLER[len(self.sent_up) :][:size]
        self.client.send_stream_data(STREAM, data, end)
        self.sent_up += data

    def take_client(self) -> None:
        while (event := self.client.next_event()) is not None:
            if getattr(event, "stream_id", STREAM) != STREAM:
                continue  # of HTTP/3
            if isinstance(event, events.StreamDataReceived):
                self.got_down += event.data
                self.down_ended |= event.end_stream
            elif isinstance(event, events.StreamReset):
                self.client_codes.append(("reset", event.error_code))
            elif isinstance(event, events.StopSendingReceived):
                self.client_codes.append(("stop", event.error_code))

    # --- the application ------------------------------------------------------------------------

    def write_down(self, size: int, *, end: bool = False) -> None:
        data = _FILLER[len(self.sent_down) :][:size]
        self.application.send_stream_data(STREAM, data, end)
        self.sent_down += data

    def take_application(self) -> None:
        while (event := self.application.next_event()) is not None:
            if isinstance(event, events.StreamDataReceived):
                self.got_up += event.data
                self.up_ended |= event.end_stream
            elif isinstance(event, events.StreamReset):
                self.codes.append(("reset", event.error_code))
            elif isinstance(event, events.StopSendingReceived):
                self.codes.append(("stop", event.error_code))
            elif isinstance(event, StreamWritable):
                self.codes.append(("writable", 0))
            elif isinstance(event, events.ConnectionTerminated):
                self.codes.append(("terminated", event.error_code))

    # --- what connects them ---------------------------------------------------------------------

    def run(self) -> None:
        self.pair.run(seconds=0.05)
        while (event := self.owner.next_event()) is not None:
            mine = self.new.divert(event)
            if mine is not None:
                self.other_events.append(mine)
                if self.http is not None:
                    self.http.handle_event(mine)

    def deliver(self, link: OneWay) -> None:
        if link.messages:
            message = link.messages.popleft()
            assert isinstance(message, StreamMessage)
            (self.new if link is self.to_new else self.stand_in).on_message(message)

    def under_way(self, link: OneWay) -> int:
        return sum(len(m.data) for m in link.messages if isinstance(m, StreamBytes))

    def settle(self) -> None:
        """Let everything pass that can."""
        for _ in range(400):
            self.run()
            self.take_client()
            self.take_application()
            while self.to_new.messages or self.to_old.messages:
                self.deliver(self.to_new)
                self.deliver(self.to_old)
                self.take_application()
            if self.up_ended and self.down_ended:
                return

    def check(self) -> None:
        assert self.sent_up.startswith(self.got_up)
        assert self.sent_down.startswith(self.got_down)
        assert self.under_way(self.to_new) <= RELAY_WINDOW_BYTES
        assert self.under_way(self.to_old) <= RELAY_WINDOW_BYTES
