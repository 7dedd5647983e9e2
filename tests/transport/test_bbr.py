"""BBR over a narrow link, against the draft's examples (draft-ietf-ccwg-bbr §10)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.structs import replace

from quicbaton.testing import move, run_together
from quicbaton.transport.loss.bbr import model, phases
from quicbaton.transport.loss.bbr.state import NONE, Phase
from quicbaton.transport.state import NEVER
from tests.depth import deep
from tests.transport.bottleneck import RATE, Narrow

#: A datagram of the path, and its least window.
DATAGRAM = 1452
BDP = RATE * 0.05


def started(**conditions: float) -> Narrow:
    narrow = Narrow(**conditions)  # type: ignore[arg-type]
    narrow.write()
    return narrow


def cruising(**conditions: float) -> Narrow:
    narrow = started(**conditions)
    narrow.until_phase("cruise")
    return narrow


# --- startup and drain --------------------------------------------------------------------------


@pytest.mark.parametrize("rtt_s", [0.005, 0.05, 0.2])
def test_startup_ends_when_three_rounds_bring_no_more(rtt_s: float) -> None:
    narrow = started(rtt_s=rtt_s, queue_s=1.0)
    narrow.until_phase("drain")
    bbr = narrow.bbr
    assert bbr.full_reached
    assert bbr.full_now
    assert bbr.full_rounds == phases.FULL_ROUNDS
    assert model.max_rate(bbr) * 1e6 == pytest.approx(RATE, rel=0.02)
    assert bbr.inflight_longterm == NONE


def test_startup_doubles_its_rate_each_round() -> None:
    narrow = started(rtt_s=0.4, queue_s=1.0, rate=RATE / 2)
    narrow.until_phase("drain")
    # From ten datagrams to 170 are four doublings, and then there are three rounds to be sure.
    assert narrow.bbr.round_count <= 10


def test_drain_leaves_no_queue_and_the_phases_keep_their_order() -> None:
    narrow = started(queue_s=1.0, rate=RATE / 2)
    narrow.until_phase("drain")
    assert narrow.queued_s() > 0.02
    narrow.until_phase("down", "cruise")
    # The pacer lets ten datagrams out at once, which take 23 ms.
    assert narrow.queued_s() < 0.026
    seen = narrow.phases(6)
    follows = {
        "down": {"cruise", "refill", "probe_rtt"},
        "cruise": {"refill", "probe_rtt"},
        "refill": {"up", "probe_rtt"},
        "up": {"down", "probe_rtt"},
        "probe_rtt": {"cruise"},
    }
    assert all(after in follows[before] for before, after in pairwise(seen))
    assert {"down", "cruise", "refill", "up", "probe_rtt"} <= set(seen)


def test_drain_ends_after_three_rounds_though_the_queue_is_not_gone() -> None:
    narrow = started(queue_s=2.0)
    narrow.until_phase("drain")
    began = narrow.bbr.round_count
    narrow.change(rate=RATE / 10)
    narrow.until_phase("down")
    assert narrow.bbr.round_count - began == phases.DRAIN_ROUNDS + 1


def test_startup_ends_by_losses_though_the_application_is_the_limit() -> None:
    narrow = Narrow(loss=0.1, seed=3)
    while not narrow.bbr.full_reached:
        narrow.write(bytes(40_000))
        narrow.run(0.06)
        assert narrow.pair.now < 1030
    assert narrow.bbr.inflight_longterm != NONE
    assert narrow.bbr.app_limited_until


def test_startup_goes_on_for_an_application_that_sends_little() -> None:
    narrow = Narrow()
    for _ in range(60):
        narrow.write(bytes(8_000))
        narrow.run(0.07)
        assert narrow.bbr.phase == "startup"
    assert narrow.bbr.round_count >= 50
    assert narrow.bbr.app_limited_until


# --- the cycle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["startup", "drain", "down", "cruise", "refill", "up"])
def test_each_phase_paces_by_its_gain(phase: Phase) -> None:
    narrow = started(rate=RATE / 4)
    narrow.until_phase(phase)
    if phase == "startup":
        narrow.run(0.2)
    bbr = narrow.bbr
    assert bbr.phase == phase
    expected = phases.PACING_GAINS[phase] * 0.99 * model.rate(bbr)
    assert bbr.pacing_rate == pytest.approx(expected, rel=0.001)
    assert narrow.congestion.window_bytes >= model.MIN_PIPE_DATAGRAMS * DATAGRAM


def test_up_ends_when_more_pace_brings_no_more() -> None:
    narrow = cruising(queue_s=1.0, rate=RATE / 2)
    narrow.until_phase("up")
    narrow.until_phase("down")
    assert narrow.bbr.full_now
    assert not narrow.bbr.probe_too_high
    assert narrow.bbr.inflight_longterm == NONE


def test_up_ends_when_it_loses_too_much_and_the_bound_is_remembered() -> None:
    narrow = cruising(queue_s=0.02)
    narrow.pair.run(lambda: narrow.bbr.probe_too_high, seconds=20)
    assert narrow.bbr.phase == "down"
    bound = narrow.bbr.inflight_longterm
    assert 0.7 * BDP < bound < 1.8 * BDP
    narrow.until_phase("cruise")
    window = narrow.congestion.window_bytes
    assert window <= (1 - model.HEADROOM) * bound + DATAGRAM


def test_down_leaves_room_before_it_cruises() -> None:
    narrow = cruising(rate=RATE / 2)
    narrow.until_phase("down")
    narrow.until_phase("cruise", "refill")
    assert narrow.bbr.phase == "cruise"
    in_flight = narrow.congestion.in_flight_bytes
    bound = model.with_headroom_bytes(narrow.congestion, narrow.bbr)
    assert bound in (NONE, max(bound, in_flight))
    limit = model.target_bytes(narrow.congestion, narrow.bbr, model.max_rate(narrow.bbr))
    assert in_flight <= limit


def test_probes_are_three_seconds_apart_at_most_and_not_in_step() -> None:
    waits = set()
    for rtt_s in (0.05, 0.051, 0.052):
        narrow = cruising(rtt_s=rtt_s, rate=RATE / 4)
        waits.add(narrow.bbr.probe_wait_us)
    assert all(2_000_000 <= wait_us < 3_000_000 for wait_us in waits)
    assert len(waits) == 3


def test_a_short_way_is_probed_as_often_as_reno_would_fill_it() -> None:
    rtt_s = 0.03
    narrow = cruising(rtt_s=rtt_s, queue_s=0.5)
    narrow.until_phase("up")
    narrow.until_phase("down")
    began = narrow.pair.now
    narrow.until_phase("refill")
    rounds = RATE * rtt_s / DATAGRAM
    assert 0.8 * rounds * rtt_s <= narrow.pair.now - began <= 2 * rounds * rtt_s


def test_ten_times_the_bandwidth_is_found() -> None:
    narrow = cruising(rate=RATE / 20)
    narrow.change(rate=RATE / 2)
    narrow.run(4)
    assert narrow.run(1) > 0.8 * RATE / 2


def test_a_tenth_of_the_bandwidth_is_found() -> None:
    narrow = cruising()
    narrow.change(rate=RATE / 10)
    # The short-term bound learns of it before the filter forgets what there was.
    narrow.pair.run(lambda: narrow.bbr.rate_shortterm != NONE, seconds=2)
    assert model.max_rate(narrow.bbr) * 1e6 > RATE / 2
    narrow.pair.run(lambda: model.rate(narrow.bbr) * 1e6 < RATE / 2, seconds=2)
    narrow.run(12)
    assert model.max_rate(narrow.bbr) * 1e6 < RATE / 8
    assert narrow.run(5) > 0.8 * RATE / 10


def test_a_bandwidth_delay_product_of_less_than_a_packet_holds_four_in_flight() -> None:
    narrow = started(rate=50_000, rtt_s=0.01, queue_s=2.0)
    narrow.run(3)
    assert narrow.run(5) > 45_000
    # Four packets, and what the pacer lets out at once.
    assert narrow.congestion.window_bytes <= 12 * DATAGRAM
    assert narrow.congestion.window_bytes >= 4 * DATAGRAM


# --- probing for the round trip -----------------------------------------------------------------


def test_a_busy_sender_empties_the_queue_every_five_seconds() -> None:
    narrow = cruising(queue_s=1.0, rate=RATE / 4)
    entered: list[float] = []
    left: list[float] = []
    smallest: list[int] = []
    for _ in range(2):
        narrow.until_phase("probe_rtt")
        entered.append(narrow.pair.now)
        narrow.until_phase("cruise")
        left.append(narrow.pair.now)
        smallest.append(narrow.congestion.window_bytes)
    assert all(0.2 <= out - into < 0.4 for into, out in zip(entered, left, strict=True))
    assert all(
        5 <= later - earlier < 5.5 for earlier, later in zip(left, entered[1:], strict=False)
    )
    # And a datagram's own time on the link.
    assert narrow.bbr.min_rtt_us == pytest.approx(50_000 + DATAGRAM / narrow.rate * 1e6, rel=0.05)


def test_a_probe_of_the_round_trip_halves_what_is_in_flight() -> None:
    narrow = cruising(rate=RATE / 2)
    narrow.until_phase("probe_rtt")
    window = narrow.bbr.prior_window
    narrow.pair.run(lambda: narrow.bbr.probe_rtt_done_us != NEVER, seconds=1)
    assert narrow.congestion.in_flight_bytes <= 0.5 * BDP / 2 * 1.05
    narrow.until_phase("cruise")
    assert narrow.congestion.window_bytes > 0.9 * window
    assert narrow.bbr.rate_shortterm == NONE


def test_an_idle_sender_need_not_probe_the_round_trip() -> None:
    narrow = Narrow(rate=RATE / 2)
    narrow.write(bytes(RATE))
    narrow.until_phase("cruise")
    narrow.run(10)
    assert narrow.congestion.in_flight_bytes == 0
    narrow.write(bytes(RATE))
    narrow.pair.transmit()
    assert narrow.bbr.idle_restart
    assert "probe_rtt" not in narrow.phases(1.5)
    assert not narrow.bbr.idle_restart


def test_a_probe_of_the_round_trip_in_startup_leads_back_to_startup() -> None:
    narrow = Narrow()
    narrow.change(rtt_s=0.06)  # no sample will be as short as the first ones
    seen: list[str] = []
    for _ in range(150):
        narrow.write(bytes(9_000))
        narrow.run(0.05)
        seen.append(narrow.bbr.phase)
    at = seen.index("probe_rtt")
    assert "startup" in seen[at:]
    assert set(seen) == {"startup", "probe_rtt"}


def test_a_longer_way_is_known_after_the_old_one_is_forgotten() -> None:
    narrow = cruising(rate=RATE / 4)
    narrow.change(rtt_s=0.15)
    narrow.run(13)
    assert narrow.bbr.min_rtt_us == pytest.approx(150_000, rel=0.1)
    assert narrow.run(2) > 0.85 * narrow.rate


# --- losses and queues --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "rtt_s", "share", "times"),
    [
        (0.001, 0.05, 0.85, 1.1),
        (0.01, 0.05, 0.7, 2.5),
        (0.01, 0.2, 0.45, 3),
        (0.03, 0.01, 0.5, 1.2),
    ],
)
def test_random_losses_slow_it_down_less_than_cubic(
    loss: float, rtt_s: float, share: float, times: float
) -> None:
    goodput = {}
    for algorithm in ("cubic", "bbr"):
        narrow = Narrow(algorithm, loss=loss, rtt_s=rtt_s, seed=1)
        narrow.write()
        goodput[algorithm] = narrow.run(deep(2.5, 5.0)) / RATE
    assert goodput["bbr"] > share
    assert goodput["bbr"] > times * goodput["cubic"]


def test_a_tenth_of_all_packets_lost_leaves_a_connection_that_works() -> None:
    narrow = started(loss=0.1, seed=2)
    narrow.run(2)
    assert narrow.run(deep(4, 10)) > 0.03 * RATE
    assert narrow.congestion.window_bytes >= 4 * DATAGRAM


def test_a_deep_buffer_stays_nearly_empty() -> None:
    narrow = cruising(queue_s=2.0)
    narrow.run(1)
    queued = []
    for _ in range(300):
        narrow.run(0.01)
        queued.append(narrow.queued_s())
    queued.sort()
    assert queued[150] < 0.015
    assert queued[-1] < 1.3 * 0.05, "at most what up sends more in its rounds"
    assert narrow.bbr.lost_bytes == 0


def test_a_shallow_buffer_is_no_reason_to_crawl() -> None:
    narrow = started(queue_s=0.02)
    narrow.run(1.5)
    lost = narrow.bbr.lost_bytes
    assert narrow.run(3) > 0.75 * RATE
    assert narrow.bbr.lost_bytes - lost < 0.03 * 3 * RATE


def test_lumps_of_acks_do_not_stop_it() -> None:
    """ACKs come every 40 ms, all at once."""
    narrow = started(rtt_s=0.02)
    held: list[bytes] = []

    def hold(direction: str, data: bytes, now: float) -> bytes | None:
        if direction == "client" and not lumps_pass:
            held.append(data)
            return None
        return data

    lumps_pass = True
    narrow.pair.link.intercept = hold
    before = 0
    for index in range(100):
        if index == 50:
            before = narrow.received
        lumps_pass = False
        narrow.pair.run(seconds=0.04)
        lumps_pass = True
        for data in held:
            narrow.pair.link.send(
                "client",
                data,
                narrow.pair.client.address,
                narrow.pair.server.address,
                narrow.pair.now,
            )
        held.clear()
    assert narrow.bbr.extra_acked[0] > RATE * 0.02
    assert narrow.received - before > 0.85 * RATE * 2


def marking(narrow: Narrow) -> None:
    """From now on every datagram of the server's meets congestion, by its mark."""
    narrow.pair.link.change(
        narrow.towards_server(), replace(narrow.towards_client(), ecn="congested")
    )


def test_a_mark_of_congestion_ends_startup() -> None:
    narrow = started(queue_s=1.0)
    narrow.pair.run(lambda: narrow.bbr.round_count == 4, seconds=2)
    marking(narrow)
    narrow.until_phase("drain")
    assert narrow.bbr.round_count <= 7
    assert narrow.bbr.full_rounds < phases.FULL_ROUNDS
    assert narrow.bbr.inflight_longterm != NONE


def test_marks_of_congestion_slow_it_down_as_losses_do() -> None:
    narrow = cruising()
    marking(narrow)
    narrow.run(1)
    assert narrow.bbr.rate_shortterm != NONE
    assert model.rate(narrow.bbr) < 0.75 * RATE / 1e6
    assert narrow.bbr.lost_bytes == 0


def test_after_a_blackout_it_begins_small_and_is_soon_back() -> None:
    narrow = cruising(rate=RATE / 2)
    before = narrow.congestion.window_bytes
    narrow.pair.link.intercept = lambda direction, data, now: None
    narrow.run(2)
    narrow.pair.link.intercept = None
    # Two datagrams, and what had arrived before and is acknowledged now.
    narrow.pair.run(lambda: narrow.congestion.window_bytes < before / 2, seconds=10)
    narrow.run(1)
    assert narrow.run(2) > 0.8 * narrow.rate


# --- handoffs -----------------------------------------------------------------------------------

PHASES: list[Phase] = ["startup", "drain", "down", "cruise", "refill", "up", "probe_rtt"]


def moving(phase: Phase) -> Narrow:
    """A download in `phase`, with little enough to send that a baton holds it."""
    narrow = Narrow(rate=RATE / 4)
    narrow.write(bytes(3 << 20))
    narrow.until_phase(phase)
    if phase == "startup":
        narrow.run(0.12)
    assert narrow.bbr.phase == phase
    return narrow


@pytest.mark.parametrize("phase", PHASES)
def test_a_handoff_in_each_phase_changes_neither_phase_nor_rate(phase: Phase) -> None:
    narrow = moving(phase)
    before = narrow.bbr
    rates = model.max_rate(before)
    shortest = before.min_rtt_us
    move(narrow.pair.server, transit_s=0.002)
    bbr = narrow.bbr
    assert bbr is not before
    assert bbr.phase == phase
    assert model.max_rate(bbr) == rates
    narrow.run(0.5)
    assert narrow.bbr.min_rtt_us <= max(shortest, 50_500)
    assert model.max_rate(narrow.bbr) * 1e6 < 1.05 * narrow.rate
    assert narrow.run(2) > 0.85 * narrow.rate


@pytest.mark.parametrize("phase", ["startup", "cruise", "up", "probe_rtt"])
def test_a_long_transit_is_no_sample(phase: Phase) -> None:
    narrow = moving(phase)
    rates = max(model.max_rate(narrow.bbr) * 1e6, 0.3 * narrow.rate)
    move(narrow.pair.server, transit_s=7.0)
    narrow.run(0.3)
    bbr = narrow.bbr
    assert bbr.phase != "probe_rtt" or phase == "probe_rtt"
    assert model.max_rate(bbr) * 1e6 < 1.05 * narrow.rate
    assert model.rate(bbr) * 1e6 > 0.5 * rates
    assert bbr.min_rtt_us < 60_000
    assert narrow.run(2) > 0.85 * narrow.rate


def test_handoffs_every_100_ms_cost_little() -> None:
    received: dict[bool, int] = {}
    for handoffs in (False, True):
        narrow = moving("cruise")
        before = narrow.received
        for _ in range(20):
            narrow.run(0.1)
            if handoffs:
                move(narrow.pair.server, transit_s=0.001)
        received[handoffs] = narrow.received - before
    assert received[True] > 0.9 * received[False]


def test_another_path_is_learnt_anew() -> None:
    narrow = cruising()
    delivered = narrow.bbr.delivered_bytes
    narrow.pair.rebind(("198.51.100.9", 40_000))
    narrow.pair.client.connection.send_ping(1)
    narrow.pair.run(lambda: narrow.bbr.phase == "startup", seconds=1)
    assert narrow.bbr.delivered_bytes >= delivered
    narrow.until_phase("cruise")
    assert model.max_rate(narrow.bbr) * 1e6 == pytest.approx(RATE, rel=0.1)


def test_nothing_of_it_is_in_a_connection_under_another_algorithm() -> None:
    narrow = Narrow("cubic")
    narrow.write(bytes(1 << 20))
    narrow.run(0.2)
    assert narrow.congestion.bbr is None
    assert all(run.delivery is None for run in narrow.state.recovery.sent)


# --- with others --------------------------------------------------------------------------------


def shares(first: str, second: str, **conditions: float) -> tuple[float, float]:
    """The shares of the link that two downloads have of it, the second begun a second later."""
    seconds = deep(6, 16)
    one = Narrow(first, seed="one", **conditions)  # type: ignore[arg-type]
    two = Narrow(second, seed="two", share=one, **conditions)  # type: ignore[arg-type]
    pairs = [one.pair, two.pair]
    one.write()
    run_together(pairs, seconds=1)
    two.write()
    run_together(pairs, seconds=seconds / 2)
    begun = one.received, two.received
    run_together(pairs, seconds=seconds / 2)
    half = seconds / 2 * RATE
    return (one.received - begun[0]) / half, (two.received - begun[1]) / half


def test_two_of_them_share_a_link() -> None:
    first, second = shares("bbr", "bbr")
    assert first + second > 0.85
    assert min(first, second) > 0.3


@pytest.mark.parametrize("queue_s", [0.05, 0.2])
def test_it_neither_starves_cubic_nor_is_starved(queue_s: float) -> None:
    mine, cubic = shares("bbr", "cubic", queue_s=queue_s)
    assert mine + cubic > 0.85
    assert min(mine, cubic) > 0.15
