"""Messages of one end of a stream relay that cross the end of their stream at the other: they cost
that stream, and neither the link nor other streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from aioquic.quic import events

from quicbaton.asgi import AsgiProtocol, Lifespan
from quicbaton.asyncio.endpoint.memory import Memory
from quicbaton.asyncio.protocol import QuicConnectionProtocol
from quicbaton.baton.snapshot import RelayedReceiving, RelayedSending, RelayedStream
from quicbaton.errors import StreamStateError
from quicbaton.handoff.messages import (
    OpenStream,
    StreamBytes,
    StreamCredit,
    StreamOpened,
    StreamReset,
    StreamsCut,
    StreamStop,
)
from quicbaton.http3.transfer import export_state, restore
from quicbaton.limits import MAX_ENDED_RELAYED_STREAMS, RELAY_WINDOW_BYTES
from quicbaton.service.moving.stream_relay.relays import LeftBehind, PassedOn, StreamRelays
from quicbaton.service.peers.link import Link
from quicbaton.transport.state import NONE
from tests.asyncio.relayed_stream import STREAM, OneWay, Relayed

_ATTEMPT = bytes(16)
_NEXT = bytes(15) + b"\x01"
#: Of a unidirectional stream of the session on stream 0.
_UNI_HEADER = b"\x40\x54\x00"


def end_session(relayed: Relayed) -> None:
    """The client breaks the session off in both directions."""
    relayed.client.reset_stream(STREAM, 7)
    relayed.client.stop_stream(STREAM, 8)
    relayed.run()


def ended(link: OneWay) -> list[tuple[type, int]]:
    """Streams that were broken off over a link."""
    ends = (StreamReset, StreamStop)
    return [(type(one), one.stream_id) for one in link.take() if isinstance(one, ends)]


async def test_a_stream_asked_for_while_its_session_ends_is_refused_to_who_waits() -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    asking = asyncio.create_task(relayed.stand_in.reserve_stream(False))
    await asyncio.sleep(0)
    end_session(relayed)
    (asked,) = (one for one in relayed.to_new.take() if isinstance(one, OpenStream))
    relayed.new.on_message(asked)
    while relayed.to_old.messages:
        relayed.deliver(relayed.to_old)
    relayed.take_application()
    with pytest.raises(StreamStateError, match="the session is over"):
        await asking
    with pytest.raises(StreamStateError):
        await relayed.stand_in.reserve_stream(False)


async def test_a_stream_that_comes_for_somebody_who_was_cancelled_is_given_up() -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    asking = asyncio.create_task(relayed.stand_in.reserve_stream(False))
    await asyncio.sleep(0)
    (asked,) = (one for one in relayed.to_new.take() if isinstance(one, OpenStream))
    relayed.new.on_message(asked)
    (opened,) = (one for one in relayed.to_old.take() if isinstance(one, StreamOpened))
    relayed.stand_in.on_message(opened)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    mine = opened.stream_id
    assert ended(relayed.to_new) == [(StreamReset, mine), (StreamStop, mine)]


def test_a_stream_that_nobody_here_asked_for_is_given_up() -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    relayed.stand_in.on_message(StreamOpened(relayed.owner.name, _ATTEMPT, 1, 5))
    assert ended(relayed.to_new) == [(StreamReset, 1), (StreamStop, 1)]


@pytest.mark.parametrize("is_session", [False, True])
def test_bytes_of_a_stream_that_is_nobodys_end_that_stream(is_session: bool) -> None:
    relayed = Relayed(is_session=is_session)
    relayed.open()
    relayed.to_new.take()
    for data in (b"\x40\x41\x08", b"what was under way"):
        relayed.stand_in.on_message(StreamBytes(relayed.owner.name, _ATTEMPT, 4, data, False))
    assert ended(relayed.to_new) == [(StreamStop, 4), (StreamReset, 4)]
    assert relayed.stand_in.stream_ids == [STREAM]
    assert relayed.stand_in.next_event() is None or is_session


@pytest.mark.parametrize(
    ("stream_id", "first", "rest"),
    [(2, b"\x40", b"\x54\x00more"), (2, b"\x40\x54", b"\x00more"), (4, b"\x40", b"\x41\x00more")],
)
def test_half_a_header_moves_with_http3_until_it_says_whose_the_stream_is(
    stream_id: int, first: bytes, rest: bytes
) -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    relayed.to_old.take()
    relayed.client.send_stream_data(stream_id, first)
    relayed.run()
    assert not relayed.to_old.messages
    (exported,) = relayed.new.export()
    assert exported.stream_id == STREAM
    assert relayed.http is not None
    # The next owner's relay finds it there.
    relayed.new._http = relayed.http = restore(relayed.owner, export_state(relayed.http))
    relayed.client.send_stream_data(stream_id, rest)
    relayed.run()
    (message,) = relayed.to_old.take()
    assert isinstance(message, StreamBytes)
    assert (message.stream_id, message.data) == (stream_id, first + rest)
    assert relayed.http.begun(stream_id) == b""


def test_half_a_header_is_nobodys_once_its_session_has_ended() -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    relayed.client.send_stream_data(4, b"\x40")
    relayed.run()
    end_session(relayed)
    for link in (relayed.to_old, relayed.to_new) * 2:
        while link.messages:
            relayed.deliver(link)
        relayed.take_application()
    assert not relayed.new.is_open
    relayed.client.send_stream_data(4, b"\x41\x00", True)
    relayed.run()
    assert relayed.other_events[-1] == events.StreamDataReceived(b"\x41\x00", True, 4)
    assert relayed.owner.reset_code(4) is not None


@pytest.mark.parametrize("opened_first", [True, False])
def test_a_stop_before_the_first_byte_reaches_the_session(opened_first: bool) -> None:
    relayed = Relayed(is_session=True)
    if opened_first:
        relayed.open()
    relayed.client.send_stream_data(4, b"")
    relayed.client.stop_stream(4, 9)
    relayed.run()
    relayed.client.send_stream_data(4, b"\x40\x41\x00hello", True)
    relayed.run()
    if not opened_first:
        relayed.open()
    while relayed.to_old.messages:
        relayed.deliver(relayed.to_old)
    seen = []
    while (event := relayed.stand_in.next_event()) is not None:
        seen.append(event)
    assert seen == [
        events.StreamDataReceived(b"\x40\x41\x00hello", True, 4),
        events.StopSendingReceived(9, 4),
    ]
    assert not relayed.stand_in.can_send(4)


def test_a_stop_before_the_first_byte_of_a_request_is_the_new_owners() -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    relayed.client.send_stream_data(4, b"")
    relayed.client.stop_stream(4, 9)
    relayed.run()
    relayed.client.send_stream_data(4, b"\x01")
    relayed.run()
    assert relayed.other_events[-2:] == [
        events.StopSendingReceived(9, 4),
        events.StreamDataReceived(b"\x01", False, 4),
    ]


def test_the_tail_of_an_upload_is_relayed_until_the_program_has_it() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.write_down(0, end=True)
    relayed.write_up(1000, end=True)
    relayed.run()
    while relayed.to_new.messages:
        relayed.deliver(relayed.to_new)
    # Both directions have ended, and the client knows that its bytes are here.
    assert relayed.new.is_open
    (exported,) = relayed.new.export()
    assert exported.to_left is not None
    assert exported.to_left.ended
    assert exported.to_left.uncredited_bytes
    relayed.settle()
    assert relayed.got_up == relayed.sent_up
    assert not relayed.new.is_open


def test_what_a_program_never_reads_is_let_go_of_when_it_has_answered() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.application.pause_reading(STREAM)
    relayed.write_up(1000, end=True)
    relayed.write_down(1000, end=True)
    relayed.settle()
    assert not relayed.stand_in.stream_ids
    assert not relayed.new.is_open


def test_what_comes_of_an_ended_stream_is_no_request_to_a_later_owner() -> None:
    relayed = Relayed(is_session=True)
    assert relayed.http is not None
    relayed.open()
    relayed.write_down(1000, end=True)
    relayed.application.stop_stream(STREAM, 7)
    while relayed.to_new.messages:
        relayed.deliver(relayed.to_new)
    assert not relayed.new.is_open
    later = restore(relayed.owner, export_state(relayed.http))
    # The client's answer to STOP_SENDING.
    assert later.handle_event(events.StreamReset(7, STREAM)) == []
    half = relayed.owner.streams[STREAM].send
    assert half is not None
    assert half.reset_code == NONE
    relayed.run()
    relayed.take_client()
    assert relayed.got_down == relayed.sent_down
    assert relayed.down_ended


def test_streams_that_have_ended_are_remembered_within_bounds() -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    count = 2 * MAX_ENDED_RELAYED_STREAMS
    for number in range(count):
        data = _UNI_HEADER + b"x"
        message = StreamBytes(relayed.owner.name, _ATTEMPT, 2 + 4 * number, data, True)
        relayed.stand_in.on_message(message)
        relayed.take_application()
    assert relayed.stand_in.stream_ids == [STREAM]
    for number in (0, count - 1):  # one that is remembered, and one that is not
        relayed.application.resume_reading(2 + 4 * number)
        assert not relayed.application.can_send(2 + 4 * number)


class Between:
    """A process with a program of its own on stream 0, which passes a session on stream 4, and a
    request on stream 8, on to another one before it."""

    def __init__(self) -> None:
        self.relayed = Relayed()
        self.relays = StreamRelays(lambda: None)
        self.to_left, self.to_owner = OneWay(), OneWay()
        self.link = cast(Link, self.to_owner)
        relay = self.relayed.new
        relay.wire.link = cast(Link, self.to_left)
        relay.hold()
        streams = [
            RelayedStream(
                stream_id,
                0,
                stream_id == 4,
                1,
                RelayedSending(0, b"", False, False, False),
                RelayedReceiving(0, 0, False, False),
            )
            for stream_id in (4, 8)
        ]
        stand_in = self.relayed.stand_in
        protocol = QuicConnectionProtocol(cast(Any, stand_in))
        self.name = self.relayed.owner.name
        self.relays.pass_on(PassedOn(relay, streams), self.link, _NEXT)
        self.relays.leave(LeftBehind(protocol, stand_in), self.link, self.name, _NEXT)

    def say(self, *messages: Any) -> None:
        """Before it the program says something, or behind it the owner does."""
        for message in messages:
            is_left = message.handoff_id == _ATTEMPT
            self.relays.on_message(cast(Link, self.to_left) if is_left else self.link, message)

    def end(self, stream_id: int) -> None:
        """Both ends break a stream off."""
        self.say(*(StreamStop(self.name, attempt, stream_id, 7) for attempt in (_NEXT, _ATTEMPT)))


async def test_a_stream_of_a_session_that_has_ended_costs_no_other_stream_that_passes() -> None:
    between = Between()
    await asyncio.sleep(0)
    between.end(4)
    between.to_owner.take()
    between.say(StreamBytes(between.name, _NEXT, 14, b"\x40\x54\x04late", False))
    assert ended(between.to_owner) == [(StreamStop, 14)]
    assert "streams 8 are relayed through" in between.relays.describe_left()[1]


async def test_what_crosses_with_the_end_of_a_passing_relay_is_not_the_programs_here() -> None:
    between = Between()
    await asyncio.sleep(0)
    between.end(4)
    between.end(8)
    between.to_owner.take()
    assert len(between.relays.describe_left()) == 1
    between.say(
        StreamBytes(between.name, _NEXT, 8, b"crossed", False),
        StreamOpened(between.name, _NEXT, 5, 1),
    )
    sent = between.to_owner.take()
    assert not any(isinstance(one, StreamsCut) for one in sent)
    # The program that is here goes on.
    between.say(StreamBytes(between.name, _NEXT, STREAM, b"more", True))
    assert between.relays.left == 1


async def test_a_stream_that_comes_after_its_session_has_ended_is_given_up() -> None:
    relayed = Relayed(is_session=True)
    relayed.open()
    relayed.to_new.take()
    protocol = AsgiProtocol(
        cast(Any, relayed.stand_in),
        application=cast(Any, None),
        lifespan=Lifespan(cast(Any, None), "none"),
    )
    protocol._http = relayed.http  # which knows of no session
    opening = asyncio.create_task(protocol.open_stream(STREAM, unidirectional=False))
    await asyncio.sleep(0)
    (asked,) = (one for one in relayed.to_new.take() if isinstance(one, OpenStream))
    relayed.stand_in.on_message(StreamOpened(asked.connection_id, _ATTEMPT, 1, asked.request))
    with pytest.raises(StreamStateError):
        await opening
    assert ended(relayed.to_new) == [(StreamReset, 1), (StreamStop, 1)]


async def test_a_relay_ends_with_what_the_application_does_last() -> None:
    between = Between()
    await asyncio.sleep(0)
    between.end(4)
    between.end(8)
    assert between.relays.left == 1
    relayed = between.relayed
    relayed.write_down(0, end=True)
    sent = sum(
        len(one.data) + one.end_stream
        for one in between.to_owner.take()
        if isinstance(one, StreamBytes)
    )
    between.say(StreamCredit(between.name, _NEXT, STREAM, sent))
    assert relayed.stand_in.stream_ids == [STREAM]
    # It has read enough; the owner will have nothing more to say.
    relayed.application.stop_stream(STREAM, 7)
    await asyncio.sleep(0)
    assert between.relays.left == 0


async def test_a_relay_that_says_what_it_may_not_ends_alone() -> None:
    between = Between()
    await asyncio.sleep(0)
    between.to_owner.take()
    # Of what was never sent; neither the link nor what else passes over it is closed.
    between.say(StreamCredit(between.name, _NEXT, STREAM, 1 << 30))
    assert ended(between.to_owner) == [(StreamReset, STREAM), (StreamStop, STREAM)]
    assert between.relayed.stand_in.closed
    (passes,) = between.relays.describe_left()
    assert "streams 4, 8 are relayed through" in passes
    between.say(StreamBytes(between.name, _NEXT, 8, b"more", False))
    between.say(StreamCredit(between.name, _ATTEMPT, 8, 5))
    assert (StreamReset, 8) in ended(between.to_owner)
    assert between.relays.left == 0


async def test_an_old_owner_that_sends_too_much_ends_its_relay_alone() -> None:
    relayed = Relayed()
    relays = StreamRelays(lambda: None)
    link = cast(Link, relayed.to_old)
    session = cast(Any, SimpleNamespace(connection=relayed.owner, protocol=Mock()))
    relays.adopt(relayed.new, session, link, _ATTEMPT)
    await asyncio.sleep(0)
    too_much = bytes(RELAY_WINDOW_BYTES + 2)
    relays.on_message(link, StreamBytes(relayed.owner.name, _ATTEMPT, STREAM, too_much, False))
    relayed.run()
    relayed.take_client()
    assert set(relayed.client_codes) == {("reset", 0x102), ("stop", 0x102)}
    cut = relayed.to_old.take()[-1]
    assert isinstance(cut, StreamsCut)
    assert cut.code == "relay_window"
    assert relays.cut == 1


async def test_a_process_between_waits_until_the_program_has_the_tail_of_an_upload() -> None:
    between = Between()
    await asyncio.sleep(0)
    between.end(4)
    between.say(
        StreamBytes(between.name, _ATTEMPT, 8, b"answer", True),
        StreamCredit(between.name, _NEXT, 8, 7),
        StreamBytes(between.name, _NEXT, 8, b"tail", True),
    )
    assert "streams 8 are relayed through" in between.relays.describe_left()[1]
    between.say(StreamCredit(between.name, _ATTEMPT, 8, 5))
    assert len(between.relays.describe_left()) == 1


async def test_requests_that_hold_most_of_an_old_process_end_and_nothing_else() -> None:
    between = Between()
    await asyncio.sleep(0)
    between.to_owner.take()
    budget = between.relayed.memory
    between.relayed.stand_in.note_kept(budget.total_bytes)
    memory = Memory(budget.total_bytes, {}, Counter())
    memory.budget = budget
    memory.relieve()
    assert budget.held_bytes == 0
    assert ended(between.to_owner) == [(StreamReset, STREAM), (StreamStop, STREAM)]
    assert between.relayed.stand_in.closed
    assert len(between.relays.describe_left()) == 1  # what passes through
