from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quicbaton.transport import rangeset

SPANS = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 12)), max_size=30)


@given(SPANS)
def test_ranges_hold_what_a_set_of_integers_holds(operations):
    ranges: list[int] = []
    model: set[int] = set()
    for adding, start, length in operations:
        if adding:
            rangeset.add(ranges, start, start + length)
            model |= set(range(start, start + length))
        else:
            rangeset.subtract(ranges, start, start + length)
            model -= set(range(start, start + length))
        assert {n for a, b in rangeset.pairs(ranges) for n in range(a, b)} == model
        # Canonical: ascending, never empty, never adjoining.
        assert all(a < b for a, b in pairwise(ranges))
        assert rangeset.total(ranges) == len(model)
        for value in range(75):
            assert rangeset.contains(ranges, value) == (value in model)
        assert rangeset.covers(ranges, start, start + length + 1) == (
            set(range(start, start + length + 1)) <= model
        )
