"""Both ends of a stream relay without a process between them: every byte once and in order,
whatever crosses, with a bounded amount under way."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any, cast

import pytest
from aioquic.quic import events
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.asyncio.moving.stream_relay.new_owner import NewOwner
from quicbaton.asyncio.moving.stream_relay.stand_in import StandIn
from quicbaton.asyncio.moving.stream_relay.wire import Wire
from quicbaton.asyncio.peers.link import Link
from quicbaton.baton.snapshot import RelayedStream
from quicbaton.errors import GivenAwayError, PeerError, StreamStateError
from quicbaton.handoff.messages import Message, StreamBytes, StreamCredit, StreamMessage
from quicbaton.limits import RELAY_WINDOW_BYTES
from quicbaton.testing import Pair
from quicbaton.transport.connection import Connection
from quicbaton.transport.events import StreamWritable

_STREAM = 0
_FILLER = Random(5).randbytes(4 << 20)


class OneWay:
    """A link that keeps what is sent until somebody delivers it."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()

    def send(self, message: Message) -> None:
        self.messages.append(message)


class Relayed:
    """A client, the connection's new owner, and the old one's stand-in with an application that
    reads and writes one stream."""

    def __init__(self, *, before: int = 1000, paused: bool = False) -> None:
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
            old.pause_reading(_STREAM)
        self.take_application()
        self.write_down(before)
        self.pair.run(seconds=0.5)
        if paused:
            self.write_up(3 * RELAY_WINDOW_BYTES)
            self.pair.run(seconds=0.5)
            self.take_application()
        self._hand_over(old)

    def _hand_over(self, old: Connection) -> None:
        state = old.freeze(self.pair.now)
        half = state.streams[_STREAM].receive
        assert half is not None
        relayed = [RelayedStream(_STREAM, half.taken - half.consumed, False, 0, None, None)]
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
        self.new = NewOwner(self.owner, state, relayed)
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
        self.client.send_stream_data(_STREAM, data, end)
        self.sent_up += data

    def take_client(self) -> None:
        while (event := self.client.next_event()) is not None:
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
        self.application.send_stream_data(_STREAM, data, end)
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
            if self.new.divert(event) is not None:
                self.other_events.append(event)

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


_SIZES = st.sampled_from([1, 1000, 100_000, 300_000])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["up", "down"]), _SIZES),
        st.tuples(
            st.sampled_from(["run", "take", "client", "to_new", "to_old", "pause", "resume"]),
            st.just(0),
        ),
    ),
    max_size=15,
)


@given(_STEPS, st.integers(0, 15), st.booleans())
@settings(max_examples=15, deadline=None)
def test_every_byte_passes_once_and_in_order(
    steps: list[tuple[str, int]], opened_at: int, paused: bool
) -> None:
    relayed = Relayed(paused=paused)
    for place, (what, size) in enumerate([*steps, ("resume", 0)]):
        if place == opened_at:
            relayed.open()
        if what == "up":
            relayed.write_up(size)
        elif what == "down":
            relayed.write_down(size)
        elif what == "take":
            relayed.take_application()
        elif what == "client":
            relayed.take_client()
        elif what == "pause":
            relayed.application.pause_reading(_STREAM)
        elif what == "resume":
            relayed.application.resume_reading(_STREAM)
        elif what == "run":
            relayed.run()
        elif what == "to_new":
            relayed.deliver(relayed.to_new)
        elif what == "to_old":
            relayed.deliver(relayed.to_old)
        relayed.check()
    if opened_at > len(steps):
        relayed.open()
    relayed.write_up(10, end=True)
    relayed.write_down(10, end=True)
    relayed.settle()
    assert relayed.got_up == relayed.sent_up
    assert relayed.got_down == relayed.sent_down
    assert relayed.up_ended
    assert relayed.down_ended
    # Nothing is left on either side, and nobody else heard of the stream.
    assert not relayed.stand_in.stream_ids
    assert not relayed.new.is_open
    assert relayed.overs == 1
    assert not any(hasattr(event, "stream_id") for event in relayed.other_events)


def test_a_pause_that_ends_and_begins_again_before_the_commit_gives_its_credit() -> None:
    relayed = Relayed(paused=True)
    relayed.application.resume_reading(_STREAM)
    relayed.application.pause_reading(_STREAM)
    relayed.open()
    relayed.application.resume_reading(_STREAM)
    relayed.write_up(300_000, end=True)
    relayed.write_down(0, end=True)
    relayed.settle()
    assert relayed.got_up == relayed.sent_up


def test_who_writes_too_much_is_told_to_wait_and_then_to_go_on() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.write_down(2 << 20)
    assert relayed.application.is_congested(_STREAM)
    assert relayed.under_way(relayed.to_new) == RELAY_WINDOW_BYTES
    relayed.write_down(0, end=True)
    relayed.write_up(0, end=True)
    relayed.settle()
    assert relayed.got_down == relayed.sent_down
    assert ("writable", 0) in relayed.codes


def test_an_application_that_pauses_stops_the_client() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.application.pause_reading(_STREAM)
    relayed.write_up(4 << 20)
    for _ in range(50):
        relayed.run()
        relayed.deliver(relayed.to_old)
        relayed.take_application()
    received = len(relayed.got_up)
    assert received <= 1000 + RELAY_WINDOW_BYTES
    assert relayed.client.send_buffer_bytes(_STREAM) > 0
    relayed.application.resume_reading(_STREAM)
    relayed.client.send_stream_data(_STREAM, b"", True)
    relayed.write_down(0, end=True)
    relayed.settle()
    assert relayed.got_up == relayed.sent_up


@pytest.mark.parametrize("opened_first", [True, False])
def test_what_the_application_breaks_off_reaches_the_client(opened_first: bool) -> None:
    relayed = Relayed()
    if opened_first:
        relayed.open()
    relayed.write_down(100)
    relayed.application.reset_stream(_STREAM, 7)
    relayed.application.stop_stream(_STREAM, 8)
    if not opened_first:
        relayed.open()
    with pytest.raises(StreamStateError):
        relayed.write_down(1)
    relayed.write_up(1000)
    relayed.settle()
    assert set(relayed.client_codes) == {("reset", 7), ("stop", 8)}
    assert not relayed.stand_in.stream_ids
    assert not relayed.new.is_open


def test_what_the_client_breaks_off_reaches_the_application() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.client.reset_stream(_STREAM, 7)
    relayed.client.stop_stream(_STREAM, 8)
    relayed.write_down(RELAY_WINDOW_BYTES)  # crosses with the stop
    relayed.settle()
    assert set(relayed.codes) >= {("reset", 7), ("stop", 8)}
    with pytest.raises(StreamStateError):
        relayed.write_down(1)
    assert not relayed.stand_in.stream_ids
    assert not relayed.new.is_open


@pytest.mark.parametrize("who", ["client", "application"])
def test_a_reader_that_was_held_back_may_go_on_after_the_end(who: str) -> None:
    relayed = Relayed(paused=True)
    relayed.open()
    relayed.write_up(RELAY_WINDOW_BYTES)
    relayed.deliver(relayed.to_old)
    if who == "client":
        relayed.client.reset_stream(_STREAM, 7)
        relayed.run()
        relayed.deliver(relayed.to_old)
    else:
        relayed.application.stop_stream(_STREAM, 7)
    relayed.application.resume_reading(_STREAM)
    relayed.write_down(0, end=True)
    relayed.settle()
    assert relayed.down_ended
    assert not relayed.stand_in.stream_ids


def test_closing_what_is_left_ends_the_streams_and_not_the_connection() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.application.close(error_code=0x101, reason_phrase="enough")
    relayed.settle()
    assert set(relayed.client_codes) == {("reset", 0x101), ("stop", 0x101)}
    assert not relayed.owner.closed
    assert not relayed.client.closed


def test_a_relay_that_is_cut_resets_what_is_open() -> None:
    relayed = Relayed()
    relayed.open()
    assert relayed.new.cut(0x10C) == 1
    assert relayed.new.cut(0x10C) == 0
    relayed.stand_in.cut(0x10C, "cut")
    relayed.settle()
    assert set(relayed.client_codes) == {("reset", 0x10C), ("stop", 0x10C)}
    assert ("terminated", 0x10C) in relayed.codes


def test_a_handoff_that_fails_gives_the_connection_what_was_written_meanwhile() -> None:
    relayed = Relayed()
    relayed.write_down(600_000)
    assert relayed.application.is_congested(_STREAM)
    assert relayed.stand_in.congested_ids == [_STREAM]
    relayed.write_down(10, end=True)
    relayed.stand_in.restore(relayed.owner)
    relayed.pair.run(seconds=5)
    relayed.take_client()
    relayed.pair.run(seconds=5)
    relayed.take_client()
    assert relayed.got_down == relayed.sent_down
    assert relayed.down_ended


def test_everything_but_the_streams_left_is_another_processes() -> None:
    relayed = Relayed()
    for use in (
        lambda: relayed.stand_in.send_stream_data(4, b"x"),
        lambda: relayed.stand_in.reset_stream(4, 0),
        lambda: relayed.stand_in.send_ping(1),
        lambda: relayed.stand_in.get_next_available_stream_id(is_unidirectional=True),
    ):
        with pytest.raises(GivenAwayError, match="another process's"):
            use()
    # HTTP/3 writes nothing on its instruction streams, which is allowed.
    relayed.stand_in.send_stream_data(7, b"")
    assert relayed.stand_in.stream_is_finished(7)
    assert not relayed.stand_in.stream_is_finished(_STREAM)


def test_a_peer_that_breaks_the_rules_of_a_relay_is_refused() -> None:
    relayed = Relayed()
    relayed.open()
    name = relayed.owner.name
    too_much = StreamBytes(name, bytes(16), _STREAM, bytes(RELAY_WINDOW_BYTES + 2), False)
    for side in (relayed.new, relayed.stand_in):
        with pytest.raises(PeerError):
            side.on_message(too_much)
        with pytest.raises(PeerError):
            side.on_message(StreamCredit(name, bytes(16), _STREAM, 1))
        # Of another stream: it may have crossed with the end of that.
        side.on_message(StreamCredit(name, bytes(16), 4, 1))
