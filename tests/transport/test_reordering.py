"""Packets that count as lost and were only late: what is learnt, and what is taken back
(RFC 9002 §6.1, RFC 9438 §4.9, draft-ietf-ccwg-bbr §5.5.11)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton import limits
from quicbaton.testing import move
from quicbaton.transport.loss import recovery, reordering
from quicbaton.transport.loss.algorithms import controller
from quicbaton.transport.loss.bbr import model
from quicbaton.transport.state import NONE, RecoveryState
from tests.transport.bottleneck import RATE, Narrow
from tests.transport.test_congestion import BOTH, DATAGRAM, RTT_US, Flow, packet

ALL = pytest.mark.parametrize("algorithm", ["reno", "cubic", "bbr"])


# --- the record ---------------------------------------------------------------------------------


def losing(*numbers: int, at_us: int = 100_000) -> RecoveryState:
    state = recovery.initial(0)
    state.smoothed_rtt_us = state.latest_rtt_us = 40_000
    lost = [packet(number, at_us - 45_000, DATAGRAM) for number in numbers]
    reordering.note_lost(state, lost, at_us)
    return state


def late(
    state: RecoveryState,
    *ranges: tuple[int, int],
    largest: int,
    at_us: int,
    owner_first: int = 0,
) -> list[Any]:
    known = state.reordering
    assert known is not None
    found = reordering.take_late(state, known, list(ranges), largest, owner_first, at_us)
    return [(run.first, run.stop) for run in found]


def test_a_late_packet_raises_both_thresholds_to_what_would_have_kept_it() -> None:
    state = losing(10)
    assert reordering.packet_threshold(state) == 3
    assert reordering.time_threshold_us(state) == 45_000
    assert late(state, (8, 21), largest=18, at_us=101_000) == [(10, 11)]
    # Numbers up to 18 - 9 = 9 are lost from here on.
    assert reordering.packet_threshold(state) == 9
    assert reordering.time_threshold_us(state) == 50_000  # ten eighths: 46 of 40 ms


def test_a_packet_is_late_once() -> None:
    state = losing(10)
    assert late(state, (8, 21), largest=18, at_us=101_000) == [(10, 11)]
    assert late(state, (8, 22), largest=20, at_us=102_000) == []


def test_a_packet_of_an_earlier_owner_teaches_nothing() -> None:
    """Numbers were skipped, and nobody could send for a while."""
    state = losing(10)
    assert late(state, (8, 400), largest=399, at_us=190_000, owner_first=300) == [(10, 11)]
    assert reordering.packet_threshold(state) == 3
    assert reordering.time_threshold_us(state) == 45_000


def test_runs_that_are_halved_are_no_more_than_are_remembered() -> None:
    state = recovery.initial(0)
    state.smoothed_rtt_us = state.latest_rtt_us = 40_000
    trains = [packet(44 * index, 55_000, DATAGRAM) for index in range(limits.MAX_LOST_RUNS)]
    for train in trains:
        train.count = 44
    reordering.note_lost(state, trains, 100_000)
    ranges = [(number, number + 1) for number in range(44 * len(trains) - 2, 0, -2)]
    late(state, *ranges, largest=44 * len(trains), at_us=101_000)
    assert state.reordering is not None
    assert len(state.reordering.lost) <= limits.MAX_LOST_RUNS


class Counting(list[Any]):
    """Counts how many runs are looked at one by one."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        Counting.looks += not isinstance(index, slice)
        return super().__getitem__(index)


def test_an_ack_without_late_packets_looks_at_few_runs() -> None:
    state = losing(*range(10, 10 + 2 * limits.MAX_LOST_RUNS, 2))
    assert state.reordering is not None
    state.reordering.lost = Counting(state.reordering.lost)
    Counting.looks = 0
    assert late(state, (5_000, 5_001), (0, 5), largest=5_001, at_us=101_000) == []
    # A bisection for each range: seven steps of 128, and the run below.
    assert Counting.looks <= 2 * 9


def test_thresholds_have_their_limits() -> None:
    state = losing(10)
    late(state, (8, 5_001), largest=5_000, at_us=190_000)
    assert reordering.packet_threshold(state) == limits.MAX_PACKET_THRESHOLD
    assert reordering.time_threshold_us(state) == 80_000


def test_thresholds_come_down_when_nothing_is_late_any_more() -> None:
    state = losing(10)
    late(state, (8, 101), largest=100, at_us=101_000)
    assert reordering.packet_threshold(state) == 91
    now_us = 200_000
    for _ in range(200):
        now_us += 100_000
        reordering.note_lost(state, [packet(now_us, now_us, DATAGRAM)], now_us)
    assert reordering.packet_threshold(state) == 3
    assert reordering.time_threshold_us(state) == 45_000


def test_what_is_remembered_is_bounded_in_number_and_time() -> None:
    state = losing(*range(0, 3_000, 3))
    assert state.reordering is not None
    assert len(state.reordering.lost) == limits.MAX_LOST_RUNS
    assert late(state, (0, 3_000), largest=3_000, at_us=100_000 + 4 * 40_000 + 1) == []
    assert state.reordering.lost == []


@given(seed=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_what_is_late_is_what_was_lost_and_is_acknowledged(seed: Any) -> None:
    lost = set(seed.sample(range(60), seed.randint(1, 40)))
    acked = set(seed.sample(range(60), seed.randint(1, 50)))
    state = recovery.initial(0)
    runs = [packet(first, 1, DATAGRAM) for first in sorted(lost)]
    for before, run in pairwise(runs):
        if run.first == before.first + before.count and seed.random() < 0.7:
            run.first, run.count = before.first, before.count + 1
            before.count = 0
    reordering.note_lost(state, [run for run in runs if run.count], 10)
    ranges: list[tuple[int, int]] = []
    for number in sorted(acked, reverse=True):
        if ranges and ranges[-1][0] == number + 1:
            ranges[-1] = (number, ranges[-1][1])
        else:
            ranges.append((number, number + 1))
    found = late(state, *ranges, largest=60, at_us=11)
    assert {number for start, stop in found for number in range(start, stop)} == lost & acked
    assert state.reordering is not None
    left = {n for run in state.reordering.lost for n in range(run.first, run.stop)}
    assert left == lost - acked
    first = [run.first for run in state.reordering.lost]
    assert first == sorted(first)


# --- the cut ------------------------------------------------------------------------------------


def cut(algorithm: str, *, lost: int = 2, marked: bool = False) -> tuple[Flow, dict[str, Any]]:
    """A flow that has cut its window for `lost` datagrams, and its state before."""
    flow = Flow(algorithm)
    flow.into_avoidance(60 * DATAGRAM)
    for _ in range(10):
        flow.round()
    flow.fill()
    flow.now += RTT_US
    before = msgspec.structs.asdict(flow.state)
    if marked:
        flow.control.on_congestion_marked(flow.now, flow.now)
    flow.lose(lost)
    assert flow.window < before["window_bytes"]
    return flow, before


@BOTH
def test_a_cut_for_packets_that_were_all_late_is_taken_back(algorithm: str) -> None:
    flow, before = cut(algorithm)
    declared = flow.now
    flow.now += 3_000
    flow.control.on_late(DATAGRAM, declared, flow.now)
    assert flow.window < before["window_bytes"]
    flow.control.on_late(DATAGRAM, declared, flow.now)
    assert flow.window == before["window_bytes"]
    assert flow.state.threshold_bytes == before["threshold_bytes"]
    for name in ("cubic_window_max", "cubic_k_s", "cubic_elapsed_us", "cubic_prior_window"):
        assert getattr(flow.state, name) == before[name]
    flow.lose(1)
    assert flow.window < before["window_bytes"], "the next loss counts"


@BOTH
def test_slow_start_goes_on_after_a_loss_that_was_none(algorithm: str) -> None:
    flow = Flow(algorithm)
    flow.fill()
    flow.now += RTT_US
    flow.lose(1)
    flow.control.on_late(DATAGRAM, flow.now, flow.now + 1_000)
    assert flow.state.threshold_bytes == NONE
    flow.ack(len(flow.outstanding))
    assert flow.window == 12_000 + 9 * DATAGRAM


@BOTH
def test_a_cut_stays_if_one_packet_was_lost_indeed(algorithm: str) -> None:
    flow, _ = cut(algorithm, lost=3)
    window = flow.window
    flow.control.on_late(2 * DATAGRAM, flow.now, flow.now)
    assert flow.window == window


@BOTH
def test_a_cut_for_a_mark_stays(algorithm: str) -> None:
    flow, _ = cut(algorithm, marked=True)
    window = flow.window
    flow.control.on_late(2 * DATAGRAM, flow.now, flow.now)
    assert flow.window == window


@BOTH
def test_what_was_lost_before_this_recovery_period_takes_nothing_back(algorithm: str) -> None:
    flow, _ = cut(algorithm)
    window = flow.window
    flow.control.on_late(2 * DATAGRAM, flow.now - 1, flow.now)
    assert flow.window == window


def test_the_undo_moves_along() -> None:
    flow, before = cut("cubic")
    encoded = msgspec.msgpack.encode(flow.state)
    flow.state = msgspec.msgpack.decode(encoded, type=type(flow.state))
    flow.control = controller(flow.state)
    flow.control.on_late(2 * DATAGRAM, flow.now, flow.now)
    assert flow.window == before["window_bytes"]


def test_after_a_cut_a_paced_sender_is_silent_for_less_than_a_round_trip_and_sends_no_burst() -> (
    None
):
    """What PRR (RFC 9937) is for: it is not needed where the pacer spreads the window."""
    narrow = Narrow("cubic", queue_s=0.05)
    narrow.write()
    sent: list[tuple[float, int]] = []

    def watch(direction: str, data: bytes, now: float) -> bytes:
        if direction == "server":
            sent.append((now, len(data)))
        return data

    narrow.pair.run(lambda: narrow.state.recovery.has_rtt, seconds=1)
    narrow.pair.link.intercept = watch  # type: ignore[assignment]
    narrow.run(8)
    times = [at for at, _ in sent]
    silence = max(after - before for before, after in pairwise(times))
    assert silence < 0.1  # the round trip with its full queue
    burst = max(
        sum(size for at, size in sent[index : index + 60] if at - times[index] < 1e-4)
        for index in range(len(sent))
    )
    assert burst <= 10 * 1452


# --- BBR ----------------------------------------------------------------------------------------


def test_a_mark_confirms_what_losses_said() -> None:
    for algorithm in ("reno", "cubic"):
        flow = Flow(algorithm)
        flow.fill()
        flow.now += 1000
        flow.lose(1)
        assert flow.state.undo is not None
        cut = flow.state.window_bytes
        flow.control.on_congestion_marked(flow.state.recovery_started_us - 1, flow.now)
        flow.control.on_late(DATAGRAM, flow.now, flow.now)
        assert flow.state.window_bytes == cut


def test_losses_beside_a_mark_leave_bbr_nothing_to_take_back() -> None:
    narrow = Narrow(loss=0.0, queue_s=1.0)
    narrow.write()
    narrow.until_phase("startup")
    narrow.run(0.25)
    bbr, now_us = narrow.bbr, narrow.state.clock_us
    control = narrow.pair.server.connection._engine._congestion
    run = narrow.state.recovery.sent[0]
    control.on_congestion_marked(run.at_us, now_us)
    assert bbr.full_reached
    control.on_lost([run], run.count * run.size, now_us)
    control.on_late(run.count * run.size, now_us, now_us)
    assert bbr.full_reached


def test_bbr_goes_back_to_startup_when_its_losses_were_none() -> None:
    narrow = Narrow(loss=0.0, queue_s=1.0)
    narrow.write()
    narrow.until_phase("startup")
    narrow.run(0.25)
    bbr = narrow.bbr
    control = narrow.pair.server.connection._engine._congestion
    sent = narrow.state.recovery.sent
    control.on_lost(sent[:1], sent[0].count * sent[0].size, narrow.state.clock_us)
    assert bbr.undo_lost_bytes
    bbr.full_reached = True
    bbr.phase, bbr.undo_phase, bbr.inflight_longterm = "drain", "startup", 20_000
    size = sent[0].count * sent[0].size
    control.on_late(size, narrow.state.clock_us, narrow.state.clock_us)
    assert bbr.phase == "startup"
    assert not bbr.full_reached
    assert bbr.inflight_longterm == NONE


# --- a path that reorders -----------------------------------------------------------------------


@ALL
def test_jitter_without_losses_leaves_goodput_near_the_rate(algorithm: str) -> None:
    narrow = Narrow(algorithm, jitter_s=0.02, queue_s=0.3)
    narrow.write()
    narrow.run(3)
    assert narrow.run(4) > 0.85 * RATE
    assert reordering.packet_threshold(narrow.state.recovery) > 3


def test_the_thresholds_move_with_the_connection() -> None:
    narrow = Narrow("cubic", jitter_s=0.02)
    narrow.write(bytes(8 << 20))
    narrow.run(2)
    learnt = reordering.packet_threshold(narrow.state.recovery)
    assert learnt > 3
    move(narrow.pair.server)
    assert reordering.packet_threshold(narrow.state.recovery) == learnt
    narrow.run(0.5)
    assert narrow.state.closing is None


def test_losses_are_still_found_by_bbr_where_nothing_is_reordered() -> None:
    narrow = Narrow(loss=0.02, seed=4)
    narrow.write()
    narrow.run(3)
    assert reordering.packet_threshold(narrow.state.recovery) == 3
    assert model.max_rate(narrow.bbr) > 0
