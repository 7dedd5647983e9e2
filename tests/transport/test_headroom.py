"""The limit on sending is determined once, at the end of a turn, and all readers use that."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.quic.logger import QuicLogger

from quicbaton import limits
from quicbaton.reasons import Reason
from quicbaton.testing import Conditions, Pair
from quicbaton.transport.connection import Connection
from quicbaton.transport.headroom import LimitedBy
from quicbaton.transport.state import NEVER
from tests.transport.forge import state_of


def resting_pair(**conditions: float) -> Pair:
    """Connected, and everything acknowledged."""
    pair = Pair(Conditions(**conditions))
    pair.connect()
    pair.run(seconds=1)
    return pair


def turn(pair: Pair) -> Connection:
    """A turn of sending whose datagrams nobody gets."""
    connection: Connection = pair.server.connection
    connection.trains_to_send(pair.now)
    return connection


def turns(pair: Pair) -> Connection:
    """As many as there are to have at this moment."""
    connection = turn(pair)
    while connection.has_more:
        turn(pair)
    return connection


def open_wide(pair: Pair, *, window_bytes: int, paced: bool = False) -> None:
    """Give the server a window of that size, and a pacer that lets all of it go, or nothing."""
    turns(pair)  # connection time is now: the pacer counts nothing from before
    congestion = state_of(pair.server).congestion
    congestion.window_bytes = congestion.threshold_bytes = window_bytes
    congestion.pacing_tokens_bytes = 0 if paced else 1 << 40
    congestion.pacing_updated_us = state_of(pair.server).clock_us


def test_a_sender_without_anything_to_send_is_limited_by_the_application() -> None:
    pair = resting_pair()
    connection = turns(pair)
    assert connection.headroom.limited_by is LimitedBy.APPLICATION
    assert connection.headroom.bytes == state_of(pair.server).congestion.window_bytes
    assert state_of(pair.server).congestion.app_limited


def test_what_waits_for_credit_is_limited_by_flow_control_which_is_the_application_too() -> None:
    pair = resting_pair()
    state = state_of(pair.server)
    credit = state.remote.stream_data_uni
    open_wide(pair, window_bytes=4 * credit)
    pair.server.connection.send_stream_data(3, bytes(credit + 1))
    connection = turns(pair)
    assert connection.headroom.limited_by is LimitedBy.FLOW_CONTROL
    assert state.congestion.app_limited


def test_a_full_window_is_congestion_and_not_the_application() -> None:
    pair = resting_pair()
    open_wide(pair, window_bytes=20_000)
    pair.server.connection.send_stream_data(3, bytes(100_000))
    connection = turns(pair)
    assert connection.headroom.limited_by is LimitedBy.CONGESTION
    assert connection.headroom.bytes < state_of(pair.server).paths[0].mtu_bytes
    assert not state_of(pair.server).congestion.app_limited


def test_a_turn_that_had_its_share_goes_on_at_once() -> None:
    pair = resting_pair()
    open_wide(pair, window_bytes=1 << 20)
    share = limits.MAX_TRAINS_PER_TURN * limits.MAX_TRAIN_BYTES
    pair.server.connection.send_stream_data(3, bytes(2 * share))
    connection = turn(pair)
    assert connection.headroom.limited_by is LimitedBy.TURN
    assert connection.has_more
    timer = connection.get_timer()
    assert timer is not None
    assert timer <= pair.now
    assert not state_of(pair.server).congestion.app_limited


def test_the_pacer_says_until_when() -> None:
    pair = resting_pair(delay_s=0.05)
    open_wide(pair, window_bytes=1 << 20, paced=True)
    pair.server.connection.send_stream_data(3, bytes(100_000))
    connection = turns(pair)
    assert connection.headroom.limited_by is LimitedBy.PACING
    until_us = connection.headroom.until_us
    assert connection.clock_us < until_us
    timer = connection.get_timer()
    assert timer is not None
    assert timer == pytest.approx(pair.now + (until_us - connection.clock_us) / 1e6, abs=1e-6)
    assert not state_of(pair.server).congestion.app_limited


def test_an_address_that_nobody_proved_lets_nothing_go_and_no_timer_fires_in_vain() -> None:
    pair = resting_pair()
    state = state_of(pair.server)
    path = state.paths[0]
    path.validated = False
    path.received_bytes = path.sent_bytes = 0
    pair.server.connection.send_stream_data(3, b"never sent")
    connection = turns(pair)
    assert connection.headroom.limited_by is LimitedBy.AMPLIFICATION
    assert connection.headroom.waits_for_peer
    pair.server.take_events()
    assert connection.why_awake(pair.now) is Reason.UNSENT
    state.numbers.ack_at_us = state.recovery.probes_due = 1
    timer = connection.get_timer()
    assert timer is None or timer > pair.now


def test_without_an_id_of_the_peers_nothing_goes() -> None:
    pair = resting_pair()
    state_of(pair.server).ids.peer.clear()
    pair.server.connection.send_stream_data(3, b"never sent")
    connection = turns(pair)
    assert connection.headroom.limited_by is LimitedBy.PEER_IDS
    assert connection.headroom.waits_for_peer


def test_more_than_we_keep_in_flight_is_limited_by_memory() -> None:
    pair = resting_pair()
    open_wide(pair, window_bytes=limits.MAX_FLIGHT_BYTES << 1)
    state_of(pair.server).congestion.in_flight_bytes = limits.MAX_FLIGHT_BYTES - 1_000
    pair.server.connection.send_stream_data(3, bytes(100_000))
    connection = turns(pair)
    assert connection.headroom.limited_by is LimitedBy.MEMORY
    assert not state_of(pair.server).congestion.app_limited


def test_what_is_kept_for_a_handoff_is_said_to_be() -> None:
    pair = resting_pair()
    open_wide(pair, window_bytes=60_000)
    pair.server.connection.prepare_to_part()
    pair.server.connection.send_stream_data(3, bytes(100_000))
    connection = turns(pair)
    assert connection.headroom.limited_by is LimitedBy.HANDOFF
    assert connection.parting_trains(pair.now)


def test_a_quick_turn_with_nothing_to_send_forgets_what_the_turn_before_waited_for() -> None:
    pair = resting_pair(delay_s=0.05)
    open_wide(pair, window_bytes=1 << 20, paced=True)
    pair.server.connection.send_ping(1)
    connection = turns(pair)
    assert connection.headroom.until_us != NEVER
    assert connection.trains_to_send(pair.now, quick=True) == []
    assert connection.headroom.until_us == NEVER


def test_a_trace_says_what_a_sender_waits_for_each_time_that_changes() -> None:
    pair = resting_pair()
    trace: Any = QuicLogger().start_trace(is_client=False, odcid=bytes(8))
    connection: Connection = pair.server.connection
    connection._engine.sender._trace = trace
    open_wide(pair, window_bytes=20_000)
    turns(pair)
    connection.send_stream_data(3, bytes(100_000))
    turns(pair)
    turns(pair)
    events = [
        event["data"]["limited_by"]
        for event in trace.to_dict()["events"]
        if event["name"] == "quicbaton:send_limited"
    ]
    assert events == ["congestion"]


def test_a_small_rest_of_a_large_window_waits_for_acks() -> None:
    pair = resting_pair()
    open_wide(pair, window_bytes=400_000)
    pair.server.connection.send_stream_data(3, bytes(376_000))
    connection = turns(pair)
    mtu = state_of(pair.server).paths[0].mtu_bytes
    rest = connection.headroom.bytes
    assert rest > 5 * mtu
    pair.server.connection.send_stream_data(3, bytes(200_000))
    assert turns(pair).headroom.bytes == rest
    assert connection.headroom.limited_by is LimitedBy.CONGESTION
    assert not state_of(pair.server).congestion.app_limited
    pair.run(seconds=1)
    assert state_of(pair.server).congestion.in_flight_bytes == 0
    assert not connection.has_stream_data_due


def test_what_streams_have_to_say_does_not_wait_for_acks() -> None:
    pair = resting_pair()
    open_wide(pair, window_bytes=400_000)
    connection = pair.server.connection
    connection.send_stream_data(7, b"is given up")
    connection.send_stream_data(3, bytes(376_000))
    assert turns(pair).headroom.limited_by is LimitedBy.APPLICATION
    connection.send_stream_data(3, bytes(200_000))
    assert turns(pair).headroom.limited_by is LimitedBy.CONGESTION
    connection.reset_stream(7, 1)
    turns(pair)
    half = state_of(pair.server).streams[7].send
    assert half is not None
    assert not half.reset_due


def test_the_end_of_a_stream_does_not_wait_for_acks() -> None:
    pair = resting_pair()
    open_wide(pair, window_bytes=400_000)
    pair.server.connection.send_stream_data(3, bytes(380_000), end_stream=True)
    assert turns(pair).headroom.limited_by is LimitedBy.APPLICATION


@pytest.mark.parametrize("smoothed_rtt_us", [20_000, 1_000_000])
def test_the_window_is_let_out_over_two_round_trips_without_a_queue_at_most(
    smoothed_rtt_us: int,
) -> None:
    pair = resting_pair()
    open_wide(pair, window_bytes=500_000, paced=True)
    state = state_of(pair.server)
    state.recovery.min_rtt_us = 10_000
    state.recovery.smoothed_rtt_us = smoothed_rtt_us
    pair.server.connection.send_stream_data(3, bytes(400_000))
    headroom = turns(pair).headroom
    assert headroom.limited_by is LimitedBy.PACING
    # 31 bytes per µs: a train of 32 packets takes 1.2 ms.
    assert 0 < headroom.until_us - state.clock_us < 1_500


def sent_after(pair: Pair, wait_s: float, late_s: float) -> int:
    """Bytes that the server sends in one moment, after a wait, its timers so late."""
    pair.now += wait_s
    trains = pair.server.connection.trains_to_send(pair.now, late_s=late_s)
    return sum(len(train.data) for train in trains)


def test_a_sender_whose_timers_come_late_has_lost_nothing_by_it() -> None:
    pair = resting_pair(delay_s=0.02)
    open_wide(pair, window_bytes=400_000, paced=True)
    connection = pair.server.connection
    connection.send_stream_data(3, bytes(400_000))
    assert turns(pair).headroom.limited_by is LimitedBy.PACING
    due_s = connection.get_timer()
    assert due_s is not None
    late_s = 0.003
    rate = 1.25 * 400_000 / state_of(pair.server).recovery.smoothed_rtt_us * 1e6
    sent = sent_after(pair, due_s - pair.now + late_s, late_s)
    assert sent > 0.9 * rate * late_s + 10 * limits.MIN_DATAGRAM_BYTES


def test_there_is_nothing_to_make_up_for_after_a_pause_of_the_program() -> None:
    pair = resting_pair(delay_s=0.05)
    open_wide(pair, window_bytes=400_000, paced=True)
    assert turns(pair).headroom.is_app_limited
    pair.server.connection.send_stream_data(3, bytes(400_000))
    mtu = state_of(pair.server).paths[0].mtu_bytes
    assert sent_after(pair, 3.0, late_s=0.1) <= 10 * mtu
