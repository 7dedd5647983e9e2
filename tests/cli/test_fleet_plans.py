from hypothesis import given
from hypothesis import strategies as st

from quicbaton.cli.drain import plan_rebalance
from quicbaton.cli.top import Look, lines_between
from quicbaton.cli.totals import percentile_us
from quicbaton.service.peers.commands import BLACKOUT_BUCKETS_US, Figures

NAMES = st.text("abcdef", min_size=1, max_size=4)


@given(st.dictionaries(NAMES, st.integers(0, 10_000), min_size=1, max_size=12))
def test_rebalancing_evens_out_with_the_fewest_moves(loads: dict[str, int]) -> None:
    moves = plan_rebalance(loads)
    after = dict(loads)
    for (giver, taker), count in moves.items():
        assert count > 0
        after[giver] -= count
        after[taker] += count
    assert max(after.values()) - min(after.values()) <= 1
    assert sum(after.values()) == sum(loads.values())
    share, rest = divmod(sum(loads.values()), len(loads))
    ranked = sorted(loads.values(), reverse=True)
    surplus = [max(0, load - share - (place < rest)) for place, load in enumerate(ranked)]
    assert sum(moves.values()) == sum(surplus)
    assert not {giver for giver, _ in moves} & {taker for _, taker in moves}


def test_a_percentile_is_its_bucket_s_upper_bound() -> None:
    counts = [0] * (len(BLACKOUT_BUCKETS_US) + 1)
    assert percentile_us(BLACKOUT_BUCKETS_US, counts, 0.5) is None
    counts[3] = 98
    counts[5] = 2
    assert percentile_us(BLACKOUT_BUCKETS_US, counts, 0.5) == BLACKOUT_BUCKETS_US[3]
    assert percentile_us(BLACKOUT_BUCKETS_US, counts, 0.99) == BLACKOUT_BUCKETS_US[5]


def figures(pid: int, given_away: int, connections: int = 7) -> Figures:
    return Figures(
        name="a/0",
        pid=pid,
        node=1,
        worker=0,
        draining=False,
        gauges={"connections": connections},
        counters={"strays": given_away},
        handoffs={"given ok": given_away, "kept cutover_pending": 3},
        dropped={},
        placements={},
        refused_peers={},
        blackouts=[0] * len(BLACKOUT_BUCKETS_US) + [0],
        blackout_sum_us=0,
    )


def test_rates_are_differences_over_the_time_between_looks() -> None:
    before = Look(10.0, {"a/0": figures(1, 100)})
    after = Look(12.0, {"a/0": figures(1, 150), "a/1": figures(2, 10)})
    first, second = lines_between(before, after)
    assert (first.given, first.kept, first.strays, first.connections) == (25.0, 0.0, 25.0, 7)
    assert second.given == 5.0


def test_a_new_process_in_a_slot_counts_from_zero() -> None:
    before = Look(10.0, {"a/0": figures(1, 1000)})
    (line,) = lines_between(before, Look(11.0, {"a/0": figures(2, 20)}))
    assert line.given == 20.0
