"""Every fuzz target with its corpus, its seeds, and some hundred inputs, the same in each run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzzing

each_target = pytest.mark.parametrize("name", fuzzing.names())
_EXAMPLES = 150


@each_target
def test_what_is_known_is_no_fault(name: str) -> None:
    module = fuzzing.load(name)
    for path in fuzzing.corpus(name):
        module.target(path.read_bytes())
    seeds = module.seeds()
    assert seeds
    for data in seeds:
        module.target(data)
        module.target(data[:-1])


@each_target
def test_what_hypothesis_makes_is_no_fault(name: str) -> None:
    module = fuzzing.load(name)

    @settings(
        max_examples=_EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzzing.inputs(module, name))
    def try_it(data: bytes) -> None:
        module.target(data)

    try_it()


def test_a_reader_never_runs_dry() -> None:
    reader = fuzzing.Reader(b"ab")
    assert (reader.take(1), reader.byte(), reader.byte(), reader.more) == (b"a", 0x62, 0, False)


def test_work_without_end_is_a_fault() -> None:
    def for_ever() -> None:
        while True:
            len(b"")

    with pytest.raises(fuzzing.TooMuchWorkError), fuzzing.at_most(1000):
        for_ever()


@given(st.data())
@settings(max_examples=10, derandomize=True, database=None)
def test_changed_inputs_are_bytes(data: st.DataObject) -> None:
    assert isinstance(data.draw(fuzzing._changed([b"known"])), bytes)
