"""Both ends of a stream relay without a process between them: every byte once and in order, in any
order of events, with a bounded amount under way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import GivenAwayError, PeerError, StreamStateError
from quicbaton.handoff.messages import StreamBytes, StreamCredit
from quicbaton.http3.codes import ErrorCode
from quicbaton.limits import RELAY_WINDOW_BYTES
from tests.asyncio.relayed_stream import STREAM, Relayed

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
            relayed.application.pause_reading(STREAM)
        elif what == "resume":
            relayed.application.resume_reading(STREAM)
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
    relayed.application.resume_reading(STREAM)
    relayed.application.pause_reading(STREAM)
    relayed.open()
    relayed.application.resume_reading(STREAM)
    relayed.write_up(300_000, end=True)
    relayed.write_down(0, end=True)
    relayed.settle()
    assert relayed.got_up == relayed.sent_up


def test_who_writes_too_much_is_told_to_wait_and_then_to_go_on() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.write_down(2 << 20)
    assert relayed.application.is_congested(STREAM)
    assert relayed.under_way(relayed.to_new) == RELAY_WINDOW_BYTES
    relayed.write_down(0, end=True)
    relayed.write_up(0, end=True)
    relayed.settle()
    assert relayed.got_down == relayed.sent_down
    assert ("writable", 0) in relayed.codes


def test_an_application_that_pauses_stops_the_client() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.application.pause_reading(STREAM)
    relayed.write_up(4 << 20)
    for _ in range(50):
        relayed.run()
        relayed.deliver(relayed.to_old)
        relayed.take_application()
    received = len(relayed.got_up)
    assert received <= 1000 + RELAY_WINDOW_BYTES
    assert relayed.client.send_buffer_bytes(STREAM) > 0
    relayed.application.resume_reading(STREAM)
    relayed.client.send_stream_data(STREAM, b"", True)
    relayed.write_down(0, end=True)
    relayed.settle()
    assert relayed.got_up == relayed.sent_up


@pytest.mark.parametrize("opened_first", [True, False])
def test_what_the_application_breaks_off_reaches_the_client(opened_first: bool) -> None:
    relayed = Relayed()
    if opened_first:
        relayed.open()
    relayed.write_down(100)
    relayed.application.reset_stream(STREAM, 7)
    relayed.application.stop_stream(STREAM, 8)
    if not opened_first:
        relayed.open()
    with pytest.raises(StreamStateError):
        relayed.write_down(1)
    relayed.write_up(1000)
    relayed.settle()
    assert set(relayed.client_codes) == {("reset", 7), ("stop", 8)}
    assert not relayed.stand_in.stream_ids
    assert not relayed.new.is_open


@pytest.mark.parametrize("opened_first", [True, False])
def test_behind_a_complete_answer_the_client_may_send_on(opened_first: bool) -> None:
    """RFC 9114 §4.1. The old owner has no part in it."""
    relayed = Relayed()
    if opened_first:
        relayed.open()
    relayed.write_down(100, end=True)
    relayed.application.drain_stream(STREAM, ErrorCode.H3_NO_ERROR)
    if not opened_first:
        relayed.open()
    relayed.write_up(6 * RELAY_WINDOW_BYTES, end=True)
    relayed.settle()
    assert relayed.down_ended
    assert not relayed.stand_in.stream_ids
    assert relayed.client_codes == []
    assert relayed.owner.stream_is_finished(STREAM)
    assert relayed.client.stream_is_finished(STREAM)


def test_what_the_client_breaks_off_reaches_the_application() -> None:
    relayed = Relayed()
    relayed.open()
    relayed.client.reset_stream(STREAM, 7)
    relayed.client.stop_stream(STREAM, 8)
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
        relayed.client.reset_stream(STREAM, 7)
        relayed.run()
        relayed.deliver(relayed.to_old)
    else:
        relayed.application.stop_stream(STREAM, 7)
    relayed.application.resume_reading(STREAM)
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
    assert relayed.application.is_congested(STREAM)
    assert relayed.stand_in.congested_ids == [STREAM]
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
    assert not relayed.stand_in.stream_is_finished(STREAM)


def test_a_peer_that_breaks_the_rules_of_a_relay_is_refused() -> None:
    relayed = Relayed()
    relayed.open()
    name = relayed.owner.name
    too_much = StreamBytes(name, bytes(16), STREAM, bytes(RELAY_WINDOW_BYTES + 2), False)
    for side in (relayed.new, relayed.stand_in):
        with pytest.raises(PeerError):
            side.on_message(too_much)
        with pytest.raises(PeerError):
            side.on_message(StreamCredit(name, bytes(16), STREAM, 1))
        # Of another stream: it may have crossed with the end of that.
        side.on_message(StreamCredit(name, bytes(16), 4, 1))
