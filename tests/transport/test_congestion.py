"""Congestion control against the numbers of RFC 9002, RFC 9438 and RFC 9406."""

from dataclasses import dataclass, field
from math import cbrt

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import ConfigurationError, InternalError
from quicbaton.limits import MAX_TRAIN_BYTES
from quicbaton.transport.loss import congestion, pacing
from quicbaton.transport.loss.algorithms import controller
from quicbaton.transport.state import NEVER, NONE, CongestionState, SentRun

DATAGRAM = 1_200
RTT_US = 100_000
BOTH = pytest.mark.parametrize("algorithm", ["reno", "cubic"])
ALL = pytest.mark.parametrize("algorithm", ["reno", "cubic", "bbr"])


def packet(number: int, at_us: int, size: int) -> SentRun:
    return SentRun(
        first=number,
        count=1,
        at_us=at_us,
        size=size,
        eliciting=True,
        path=0,
        marked=False,
        stream_id=NONE,
        offset=0,
        chunk=0,
        frames=[],
        delivery=None,
    )


@dataclass
class Flow:
    """A connection's worth of sending and acknowledging, in datagrams of one size."""

    algorithm: str = "reno"
    datagram: int = DATAGRAM
    now: int = 0
    rtt: int = RTT_US
    number: int = 0
    outstanding: list[SentRun] = field(default_factory=list)

    def __post_init__(self):
        self.state = congestion.initial(self.algorithm, self.datagram, self.now)
        self.control = controller(self.state)

    @property
    def window(self) -> int:
        return self.state.window_bytes

    def send(self, count: int) -> None:
        for _ in range(count):
            run = packet(self.number, self.now, self.datagram)
            self.outstanding.append(run)
            self.number += 1
            self.control.on_sent(run)

    def fill(self) -> int:
        count = self.control.room_bytes() // self.datagram
        self.send(count)
        return count

    def ack(self, count: int, rtt: int | None = None) -> None:
        """One ACK frame for the oldest `count` datagrams."""
        acked, self.outstanding = self.outstanding[:count], self.outstanding[count:]
        self.control.on_acked(
            count * self.datagram,
            acked[-1],
            acked[-1].first,
            self.number,
            self.rtt if rtt is None else rtt,
            self.rtt,
            self.rtt,
            self.now,
        )

    def limit(self, limited: bool) -> None:
        """Whether the sender ends its turns with nothing to send."""
        self.control.on_turn_ended(limited, limited)

    def lose(self, count: int) -> None:
        lost, self.outstanding = self.outstanding[:count], self.outstanding[count:]
        self.control.on_lost(lost, count * self.datagram, self.now)

    def round(self, *, acks: int | None = None, rtt: int | None = None) -> None:
        """Fill the window and have it acknowledged a round trip later, in `acks` ACK frames."""
        self.fill()
        self.now += self.rtt if rtt is None else rtt
        count = len(self.outstanding)
        step = 2 if acks is None else -(-count // acks)
        while self.outstanding:
            self.ack(min(step, len(self.outstanding)), rtt)

    def into_avoidance(self, window: int) -> None:
        """Lose one datagram at `window`, and let everything sent before it leave the flight."""
        self.state.window_bytes = window
        self.fill()
        self.now += self.rtt
        self.lose(1)
        self.now += 1
        self.ack(len(self.outstanding))


# --- the window ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datagram", "window"), [(1_200, 12_000), (1_472, 14_720), (1_500, 14_720), (9_000, 18_000)]
)
def test_initial_window_is_that_of_rfc_9002_section_7_2(datagram, window):
    assert congestion.initial("cubic", datagram, 0).window_bytes == window


def test_an_unknown_algorithm_is_the_callers_mistake():
    with pytest.raises(ConfigurationError, match="vegas"):
        congestion.initial("vegas", DATAGRAM, 0)


@ALL
def test_an_unknown_algorithm_does_not_decode(algorithm):
    encoded = msgspec.msgpack.encode(congestion.initial(algorithm, DATAGRAM, 0))
    other = encoded.replace(algorithm.encode(), b"x" * len(algorithm))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(other, type=CongestionState)


def test_room_is_the_window_less_what_is_in_flight_and_never_negative():
    flow = Flow()
    assert flow.control.room_bytes() == 12_000
    flow.send(4)
    assert flow.control.room_bytes() == 12_000 - 4 * DATAGRAM
    flow.send(7)  # a PTO probe may exceed the window
    assert flow.control.room_bytes() == 0
    assert flow.state.in_flight_bytes == 11 * DATAGRAM


@BOTH
@pytest.mark.parametrize("acks", [None, 1])
def test_slow_start_doubles_the_window_each_round_trip(algorithm, acks):
    flow = Flow(algorithm)
    for doubled in (24_000, 48_000, 96_000, 192_000):
        flow.round(acks=acks)
        assert flow.window == doubled


@BOTH
def test_slow_start_stops_at_the_threshold_even_inside_one_ack(algorithm):
    flow = Flow(algorithm)
    flow.state.threshold_bytes = 15_000
    flow.round(acks=1)
    # 3,000 of 12,000 bytes reach the threshold; the other 9,000 count in avoidance.
    assert 15_000 <= flow.window < 15_000 + DATAGRAM
    if algorithm == "reno":
        assert (flow.window, flow.state.acked_bytes) == (15_000, 9_000)


def test_reno_adds_one_datagram_per_window_acknowledged():
    flow = Flow()
    flow.into_avoidance(24_000)
    assert flow.window == 12_000
    for windows in range(1, 6):
        flow.round()
        assert flow.window == 12_000 + windows * DATAGRAM


@pytest.mark.parametrize(("algorithm", "left"), [("reno", 24_000), ("cubic", 33_600)])
def test_loss_cuts_the_window_once_per_recovery_period(algorithm, left):
    flow = Flow(algorithm)
    flow.state.window_bytes = 48_000
    flow.fill()
    flow.now += RTT_US
    flow.lose(1)
    assert (flow.window, flow.state.threshold_bytes) == (left, left)
    flow.now += 5_000
    flow.lose(3)
    assert flow.window == left
    flow.ack(len(flow.outstanding))
    assert flow.window == left, "what was sent before the loss must not grow the window"

    flow.send(5)
    flow.now += RTT_US
    flow.lose(1)
    assert flow.window < left, "a packet sent in the recovery period was lost: a new one begins"


def test_packets_sent_in_the_instant_of_the_cut_belong_to_the_new_period():
    flow = Flow()
    flow.state.window_bytes = 48_000
    flow.send(20)
    flow.now += RTT_US
    flow.lose(10)
    flow.send(5)  # same turn, same clock
    flow.now += RTT_US
    flow.ack(10)
    assert flow.window == 24_000
    flow.lose(1)
    assert flow.window == 12_000


def test_one_ack_for_old_and_new_bytes_grows_by_the_new_ones_only():
    flow = Flow()
    flow.state.window_bytes = 48_000
    flow.send(40)
    flow.now += RTT_US
    flow.lose(21)
    assert flow.window == 24_000
    flow.now += 1_000
    flow.send(1)
    flow.now += RTT_US
    flow.ack(20)
    assert flow.state.acked_bytes == DATAGRAM
    assert flow.state.in_flight_bytes == 0


@BOTH
def test_ecn_marks_cut_the_window_without_a_loss(algorithm):
    flow = Flow(algorithm)
    flow.send(10)
    flow.now += RTT_US
    flow.control.on_congestion_marked(0, flow.now)
    assert flow.window == (6_000 if algorithm == "reno" else 8_400)
    assert flow.state.in_flight_bytes == 12_000


@BOTH
def test_the_window_never_falls_below_two_datagrams(algorithm):
    flow = Flow(algorithm)
    for _ in range(20):
        flow.send(1)
        flow.now += RTT_US
        flow.lose(1)
    assert flow.window == flow.state.threshold_bytes == 2 * DATAGRAM


@BOTH
def test_persistent_congestion_collapses_to_two_datagrams_and_slow_start(algorithm):
    flow = Flow(algorithm)
    flow.state.window_bytes = 48_000
    flow.fill()
    flow.now += 2_000_000
    flow.lose(len(flow.outstanding))
    threshold = flow.state.threshold_bytes
    flow.control.on_persistent_congestion(flow.now)
    assert flow.window == 2 * DATAGRAM
    flow.round()
    assert flow.window == 4 * DATAGRAM
    while flow.window < threshold:
        flow.round()
    assert flow.window < threshold + 2 * DATAGRAM


@BOTH
def test_an_app_limited_sender_does_not_grow_its_window(algorithm):
    flow = Flow(algorithm)
    flow.limit(True)
    flow.send(4)
    flow.now += RTT_US
    flow.ack(4)
    assert flow.window == 12_000
    flow.into_avoidance(48_000)
    cut = flow.window
    for _ in range(10):
        flow.round()
    assert flow.window == cut
    flow.limit(False)
    flow.round()
    flow.round()
    assert flow.window > cut


def test_more_bytes_leaving_than_were_sent_is_an_error_of_ours():
    flow = Flow()
    flow.send(1)
    with pytest.raises(InternalError):
        flow.control.on_acked(2_400, flow.outstanding[0], 0, 1, RTT_US, RTT_US, RTT_US, RTT_US)
    with pytest.raises(InternalError):
        flow.control.on_lost(flow.outstanding, 2_400, RTT_US)
    with pytest.raises(InternalError):
        flow.control.on_discarded(2_400)
    assert flow.state.in_flight_bytes == DATAGRAM


def test_discarded_bytes_leave_the_flight_without_a_verdict():
    flow = Flow()
    flow.send(3)
    flow.control.on_discarded(2 * DATAGRAM)
    assert flow.state.in_flight_bytes == DATAGRAM
    assert flow.window == 12_000


@BOTH
def test_another_path_starts_over_and_owes_the_old_one_nothing(algorithm):
    flow = Flow(algorithm)
    flow.into_avoidance(96_000)
    flow.fill()
    old = len(flow.outstanding)
    flow.now += 1_000
    flow.control.on_path_change(DATAGRAM, flow.now)
    fresh = congestion.initial(algorithm, DATAGRAM, flow.now)
    fresh.abandoned_bytes = old * DATAGRAM
    fresh.recovery_started_us = flow.now
    assert flow.state == fresh
    assert flow.control.room_bytes() == 12_000, "the old flight takes no room on the new path"

    flow.send(10)
    flow.control.on_discarded(old * DATAGRAM)
    assert (flow.state.abandoned_bytes, flow.state.in_flight_bytes) == (0, 12_000)
    assert flow.window == 12_000


def test_returning_to_a_path_settles_what_was_in_flight_there():
    flow = Flow()
    flow.send(8)
    flow.now += 1_000
    flow.control.on_path_change(DATAGRAM, flow.now)
    flow.now += 1_000
    flow.control.on_path_change(DATAGRAM, flow.now)
    flow.lose(3)
    flow.ack(5)
    assert (flow.state.abandoned_bytes, flow.state.in_flight_bytes) == (0, 0)
    assert flow.window == 12_000, "neither growth nor a cut from before the change"


def test_a_larger_datagram_raises_the_minimum_window():
    flow = Flow()
    flow.control.on_persistent_congestion(0)
    flow.control.set_datagram_bytes(1_452)
    assert flow.window == 2 * 1_452
    assert flow.state.threshold_bytes == NONE


# --- CUBIC -----------------------------------------------------------------------------------


def test_cubic_window_follows_the_curve_of_rfc_9438():
    """1,000 segments lost at, 700 left: K = cbrt(300 / 0.4), and W(K) is the old window."""
    flow = Flow("cubic")
    flow.into_avoidance(1_000 * DATAGRAM)
    assert flow.window == 700 * DATAGRAM
    k_s = cbrt(300 / 0.4)
    assert k_s == pytest.approx(9.086, abs=0.001)
    flow.round()
    began = flow.now
    assert flow.state.cubic_k_s == pytest.approx(k_s)
    for seconds in (2, 5, 9, 12, 15):
        while flow.now < began + seconds * 1_000_000:
            flow.round()
        t_s = (flow.now - began) / 1e6
        expected = 0.4 * (t_s - k_s) ** 3 + 1_000
        assert flow.window / DATAGRAM == pytest.approx(expected, rel=0.01)
    assert flow.window > 1_000 * DATAGRAM, "the convex region probes beyond the old window"


def test_cubic_grows_no_faster_than_half_the_window_per_round_trip():
    flow = Flow("cubic", rtt=1_000_000)
    flow.into_avoidance(40 * DATAGRAM)
    flow.state.cubic_window_max = 0.0
    for _ in range(12):
        before = flow.window
        flow.round()
        assert flow.window <= 1.5 * before


def test_cubic_is_reno_friendly_where_reno_is_faster():
    """Short path, small window: alpha = 9/17 up to the window before the loss, then 1."""
    flow = Flow("cubic", rtt=5_000)
    flow.into_avoidance(20 * DATAGRAM)
    assert flow.window == 14 * DATAGRAM
    rounds = 0
    while flow.window < 20 * DATAGRAM:
        flow.round(acks=1)
        rounds += 1
    assert rounds == pytest.approx(6 / (9 / 17), abs=2)
    at_prior = flow.window
    for _ in range(10):
        flow.round(acks=1)
    assert (flow.window - at_prior) / DATAGRAM == pytest.approx(10, abs=1)


def test_fast_convergence_gives_up_part_of_a_window_that_did_not_recover():
    flow = Flow("cubic")
    flow.into_avoidance(100 * DATAGRAM)
    assert flow.state.cubic_window_max == 100 * DATAGRAM
    flow.round()
    before = flow.window
    assert before < 100 * DATAGRAM
    flow.send(1)
    flow.now += RTT_US
    flow.lose(1)
    assert flow.state.cubic_window_max == pytest.approx(0.85 * before)
    assert flow.window == int(0.7 * before)


def test_a_window_beyond_its_maximum_keeps_it_whole():
    flow = Flow("cubic")
    flow.into_avoidance(100 * DATAGRAM)
    flow.state.window_bytes = 120 * DATAGRAM
    flow.send(1)
    flow.now += RTT_US
    flow.lose(1)
    assert flow.state.cubic_window_max == 120 * DATAGRAM


def test_after_persistent_congestion_cubic_starts_with_k_zero():
    flow = Flow("cubic")
    flow.into_avoidance(100 * DATAGRAM)
    flow.control.on_persistent_congestion(flow.now)
    while flow.state.cubic_updated_us == NEVER:
        flow.round()
    assert flow.state.cubic_k_s == 0.0
    assert flow.state.cubic_window_max == 70 * DATAGRAM


@pytest.mark.parametrize("idle_flagged", [True, False])
def test_an_idle_minute_does_not_jump_along_the_cubic_curve(idle_flagged):
    flow = Flow("cubic")
    flow.into_avoidance(1_000 * DATAGRAM)
    for _ in range(5):
        flow.round()
    elapsed = flow.state.cubic_elapsed_us
    if idle_flagged:
        flow.send(1)
        flow.limit(True)
        flow.now += RTT_US
        flow.ack(1)
        flow.limit(False)
    flow.now += 60_000_000
    flow.round()
    assert flow.state.cubic_elapsed_us <= elapsed + 2 * RTT_US


@pytest.mark.parametrize("window", [30, 2_000])
def test_one_aggregated_ack_grows_cubic_as_many_small_ones(window):
    flows = [Flow("cubic"), Flow("cubic")]
    for flow, acks in zip(flows, (None, 1), strict=True):
        flow.into_avoidance(window * DATAGRAM)
        for _ in range(30):
            flow.round(acks=acks)
    assert flows[0].window > 0.7 * window * DATAGRAM
    assert flows[1].window == pytest.approx(flows[0].window, rel=0.01)


def test_a_growing_datagram_does_not_shrink_the_cubic_window():
    flow = Flow("cubic")
    flow.into_avoidance(500 * DATAGRAM)
    for _ in range(20):
        flow.round()
    before = flow.window
    flow.datagram = 1_452
    flow.control.set_datagram_bytes(1_452)
    flow.round()
    assert flow.window >= before
    assert flow.state.cubic_window_max == 500 * DATAGRAM


# --- HyStart++ -------------------------------------------------------------------------------


def grown(flow: Flow, rtt: int, acks: int = 10) -> float:
    before = flow.window
    flow.round(acks=acks, rtt=rtt)
    return flow.window / before


@BOTH
def test_a_rising_round_trip_leads_to_conservative_slow_start_then_avoidance(algorithm):
    flow = Flow(algorithm)
    assert grown(flow, 100_000) == 2
    assert grown(flow, 100_000) == 2
    # 100 ms / 8 = 12.5 ms: a rise of 12 ms is noise, one of 13 is a queue.
    assert grown(flow, 112_000) == 2
    assert flow.state.hystart_css_rounds == NONE
    assert 1.25 < grown(flow, 112_000 + 14_000) < 2  # seen at the eighth sample
    assert flow.state.hystart_css_rounds == 0
    for full_rounds in range(1, 5):  # four full rounds: the partial one counts
        assert grown(flow, 126_000) == pytest.approx(1.25, rel=0.001)
        assert flow.state.hystart_css_rounds == full_rounds
        assert flow.state.threshold_bytes == NONE
    before = flow.window
    flow.round()
    assert flow.state.threshold_bytes == before
    flow.round()
    assert before < flow.window < before * 1.1


@BOTH
def test_slow_start_goes_on_when_the_rise_was_a_passing_one(algorithm):
    flow = Flow(algorithm)
    grown(flow, 100_000)
    grown(flow, 100_000)
    grown(flow, 130_000)
    assert flow.state.hystart_css_rounds == 0
    assert 1.25 < grown(flow, 105_000) < 2
    assert flow.state.hystart_css_rounds == NONE
    assert grown(flow, 105_000) == 2
    assert flow.state.threshold_bytes == NONE


@pytest.mark.parametrize(
    ("base_us", "enough_us"),
    [(10_000, 4_000), (80_000, 10_000), (400_000, 16_000)],  # the floor, an eighth, the ceiling
)
def test_the_rise_that_counts_is_an_eighth_between_4_and_16_ms(base_us, enough_us):
    for rise_us, noticed in ((enough_us - 1, False), (enough_us, True)):
        flow = Flow()
        grown(flow, base_us)
        grown(flow, base_us)
        grown(flow, base_us + rise_us)
        assert (flow.state.hystart_css_rounds != NONE) == noticed


def test_fewer_than_eight_samples_in_a_round_judge_nothing():
    flow = Flow()
    for rtt in (100_000, 100_000, 200_000, 200_000):
        assert grown(flow, rtt, acks=5) == 2
    assert flow.state.hystart_css_rounds == NONE


def test_an_ack_without_an_rtt_sample_is_not_counted():
    flow = Flow()
    flow.send(10)
    flow.now += RTT_US
    flow.ack(5, rtt=0)
    flow.ack(4, rtt=NONE)
    assert flow.state.hystart_samples == 0
    assert flow.state.hystart_round_min_rtt_us == NONE


def test_loss_in_conservative_slow_start_ends_it():
    flow = Flow()
    for rtt in (100_000, 100_000, 130_000):
        grown(flow, rtt)
    assert flow.state.hystart_css_rounds == 0
    flow.send(1)
    flow.now += RTT_US
    flow.lose(1)
    assert flow.state.hystart_css_rounds == NONE
    assert flow.state.threshold_bytes == flow.window


# --- pacing ----------------------------------------------------------------------------------


def send_paced(flow: Flow, until_us: int, *, want: int, late_us: int = 0) -> int:
    """Send what the pacer allows up to `until_us`, waking `late_us` after each of its times."""
    sent = 0
    while flow.now <= until_us:
        allowed = flow.control.pacing_budget_bytes(flow.rtt, flow.now) // flow.datagram
        for _ in range(allowed):
            flow.control.on_sent(packet(0, flow.now, flow.datagram))
        sent += allowed * flow.datagram
        at_us = flow.control.pacing_ready_at_us(flow.rtt, want, flow.now)
        assert at_us > flow.now
        flow.now = at_us + late_us
    return sent


@pytest.mark.parametrize("late_us", [0, 1, 700, 1_000])
@pytest.mark.parametrize("want_datagrams", [1, 10, 44])
@pytest.mark.parametrize("window", [120_000, 1_200_000, 6_000_000])
def test_pacing_integrates_to_its_rate_within_a_percent(window, want_datagrams, late_us):
    flow = Flow(rtt=100_000)
    flow.state.window_bytes = flow.state.threshold_bytes = window
    flow.state.pacing_tokens_bytes = 0.0
    sent = send_paced(flow, 1_000_000, want=want_datagrams * DATAGRAM, late_us=late_us)
    elapsed_us = flow.state.pacing_updated_us
    assert sent == pytest.approx(1.25 * window / flow.rtt * elapsed_us, rel=0.01)


def test_pacing_runs_at_twice_the_window_per_round_trip_in_slow_start():
    flow = Flow()
    assert pacing.rate_bytes_per_us(flow.state, RTT_US) == pytest.approx(2 * 12_000 / RTT_US)
    flow.state.threshold_bytes = 12_000
    assert pacing.rate_bytes_per_us(flow.state, RTT_US) == pytest.approx(1.25 * 12_000 / RTT_US)


def test_the_first_flight_may_leave_at_once_and_idling_saves_up_no_more():
    flow = Flow()
    assert flow.control.pacing_budget_bytes(RTT_US, 0) == 12_000
    assert flow.control.pacing_budget_bytes(RTT_US, 60_000_000) == 12_000


def test_a_fast_path_gets_whole_trains():
    flow = Flow(rtt=10_000)
    flow.state.window_bytes = flow.state.threshold_bytes = 480_000  # 60 MB/s
    flow.state.pacing_tokens_bytes = 0.0
    train = 44 * DATAGRAM
    at_us = flow.control.pacing_ready_at_us(flow.rtt, train, 0)
    assert flow.control.pacing_budget_bytes(flow.rtt, at_us) >= train
    assert flow.control.pacing_budget_bytes(flow.rtt, 1_000_000) == 120_000  # 2 ms


def test_a_late_timer_spills_nothing_up_to_a_train():
    flow = Flow(rtt=40_000)
    flow.state.window_bytes = 40 * DATAGRAM  # 2 × that per round trip: 2.4 bytes per us
    flow.state.pacing_tokens_bytes = 0.0
    at_us = flow.control.pacing_ready_at_us(flow.rtt, 40 * DATAGRAM, 0)
    assert at_us < 5_000  # for the bucket alone
    late = 10_000
    assert flow.control.pacing_budget_bytes(flow.rtt, at_us + late, late) == pytest.approx(
        2.4 * (at_us + late), abs=2
    )
    assert flow.control.pacing_budget_bytes(flow.rtt, 60_000_000, 60_000_000) == MAX_TRAIN_BYTES
    assert flow.control.pacing_budget_bytes(flow.rtt, 60_000_001) == 10 * DATAGRAM


@given(
    window=st.integers(2_400, 50_000_000),
    rtt=st.integers(1, 2_000_000),
    want=st.integers(1, 60_000),
    tokens=st.floats(-20_000, 20_000),
)
@settings(max_examples=200, deadline=None)
def test_what_was_promised_is_there_at_the_time_promised(window, rtt, want, tokens):
    flow = Flow()
    flow.state.window_bytes = window
    flow.state.pacing_tokens_bytes = tokens
    at_us = flow.control.pacing_ready_at_us(rtt, want, 5)
    assert at_us >= 5
    budget = flow.control.pacing_budget_bytes(rtt, at_us)
    assert budget >= min(want, 6_000), "half a bucket is five datagrams at least"
    assert flow.control.pacing_ready_at_us(rtt, min(want, 6_000), at_us) == at_us


def test_a_wish_larger_than_the_bucket_is_granted_as_far_as_the_bucket_goes():
    flow = Flow()
    flow.state.pacing_tokens_bytes = 0.0
    at_us = flow.control.pacing_ready_at_us(RTT_US, 1_000_000, 0)
    assert 9 * DATAGRAM < flow.control.pacing_budget_bytes(RTT_US, at_us) < 10 * DATAGRAM
    assert flow.control.pacing_ready_at_us(RTT_US, 1_000_000, at_us) == at_us


def test_probes_may_overdraw_the_bucket_and_the_debt_is_paid():
    flow = Flow()
    flow.send(12)
    assert flow.control.pacing_budget_bytes(RTT_US, 0) == 0
    assert flow.control.pacing_ready_at_us(RTT_US, DATAGRAM, 0) == pytest.approx(15_000, abs=2)


# --- handoff ---------------------------------------------------------------------------------


def test_time_in_transit_fills_no_bucket_and_moves_no_curve():
    flow = Flow("cubic")
    flow.into_avoidance(1_000 * DATAGRAM)
    flow.round()
    flow.state.pacing_tokens_bytes = 0.0
    flow.control.pacing_budget_bytes(RTT_US, flow.now)
    tokens, elapsed = flow.state.pacing_tokens_bytes, flow.state.cubic_elapsed_us
    flow.now += 90_000
    flow.control.on_resumed(flow.now)
    assert flow.control.pacing_budget_bytes(RTT_US, flow.now) == int(tokens)
    flow.send(1)
    flow.ack(1)
    assert flow.state.cubic_elapsed_us == elapsed


def test_resuming_outside_avoidance_starts_no_epoch():
    flow = Flow("cubic")
    flow.control.on_resumed(50_000)
    assert flow.state.cubic_updated_us == NEVER


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 60)),
        st.tuples(st.just("ack"), st.integers(1, 60)),
        st.tuples(st.just("lose"), st.integers(1, 5)),
        st.tuples(st.just("discard"), st.integers(1, 2)),
        st.tuples(st.just("wait"), st.integers(1, 400_000)),
        st.tuples(st.just("pace"), st.integers(1, 200_000)),
        st.tuples(st.just("limit"), st.integers(0, 1)),
        st.tuples(st.just("persistent"), st.just(0)),
        st.tuples(st.just("path"), st.sampled_from([1_200, 1_452])),
        st.tuples(st.just("mtu"), st.sampled_from([1_200, 1_350, 1_452])),
        st.tuples(st.just("resume"), st.just(0)),
    ),
    max_size=80,
)


def take_step(flow: Flow, step: tuple[str, int]) -> None:
    """Apply one step, skipping what makes no sense. Datagrams keep the size 1,200."""
    name, amount = step
    control = flow.control
    available = min(amount, len(flow.outstanding))
    if name == "send":
        flow.send(amount)
    elif name == "wait":
        flow.now += amount
    elif name == "pace":
        control.pacing_budget_bytes(amount, flow.now)
    elif name == "limit":
        flow.limit(bool(amount))
    elif name == "persistent":
        control.on_persistent_congestion(flow.now)
    elif name == "path":
        control.on_path_change(amount, flow.now)
    elif name == "mtu":
        control.set_datagram_bytes(amount)
    elif name == "resume":
        control.on_resumed(flow.now)
    elif not available:
        return
    elif name == "ack":
        flow.ack(available)
    elif name == "lose":
        flow.lose(available)
    else:
        flow.outstanding = flow.outstanding[available:]
        control.on_discarded(available * DATAGRAM)


@ALL
@given(steps=STEPS)
@settings(max_examples=150, deadline=None)
def test_the_flight_is_accounted_for_and_the_window_never_below_its_minimum(algorithm, steps):
    flow = Flow(algorithm)
    for step in steps:
        take_step(flow, step)
        state = flow.state
        assert state.in_flight_bytes >= 0
        assert state.abandoned_bytes >= 0
        total = state.in_flight_bytes + state.abandoned_bytes
        assert total == len(flow.outstanding) * DATAGRAM
        assert 0 <= state.recovery_flight_bytes <= state.in_flight_bytes
        assert state.window_bytes >= 2 * state.datagram_bytes
        threshold = state.threshold_bytes
        assert threshold == NONE or threshold >= 2 * state.datagram_bytes


@ALL
@given(before=STEPS, after=STEPS)
@settings(max_examples=100, deadline=None)
def test_a_state_carried_elsewhere_goes_on_exactly_the_same(algorithm, before, after):
    flow = Flow(algorithm)
    for step in before:
        take_step(flow, step)
    moved = Flow(algorithm, now=flow.now, number=flow.number, outstanding=list(flow.outstanding))
    encoded = msgspec.msgpack.encode(flow.state)
    moved.state = msgspec.msgpack.decode(encoded, type=CongestionState)
    moved.control = controller(moved.state)
    for step in after:
        take_step(flow, step)
        take_step(moved, step)
    assert moved.state == flow.state
    assert msgspec.msgpack.encode(moved.state) == msgspec.msgpack.encode(flow.state)
