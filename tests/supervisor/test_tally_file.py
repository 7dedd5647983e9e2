"""The memory with a service's figures: written by processes that may be killed in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from quicbaton.limits import MAX_TALLY_BYTES
from quicbaton.service.peers.tally import (
    CERTIFICATE_END,
    SUPERVISOR,
    Histogram,
    Tally,
    sum_by_worker,
    sum_up,
)
from quicbaton.service.supervisor.service_figures import ServiceFigures
from quicbaton.service.supervisor.tally_file import ENDED, Record, TallyFile, TallyPlace


def tally(worker: int = 0, **counters: int) -> Tally:
    histogram = Histogram.within((10, 100))
    for value in counters.values():
        histogram.note(value)
    return Tally(
        0, worker, ["1 3"], {"connections": 1, "draining": 1}, counters, {"kind": counters},
        {"blackout": histogram},
    )  # fmt: skip


def record(one: Tally, pid: int = 1) -> Record:
    return Record(pid, 0, one)


@pytest.fixture
def file() -> Iterator[TallyFile]:
    made = TallyFile.make()
    yield made
    made.close()


def anew(file: TallyFile) -> ServiceFigures:
    """The next supervisor's figures, from the same memory."""
    return ServiceFigures(TallyFile.go_on_with(os.dup(file.descriptor)), 0, {})


def read(file: TallyFile, worker: int = 0) -> Tally | None:
    found = [place.read() for place in file.places()]
    sums = sum_by_worker(one.tally for one in found if one is not None)
    return next((one for one in sums if one.worker == worker), None)


def test_the_latest_record_counts(file: TallyFile) -> None:
    place = file.take_place()
    assert place.read() is None
    for number in range(5):
        assert place.write(record(tally(n=number)))
        found = place.read()
        assert found is not None
        assert found.tally.counters == {"n": number}


@pytest.mark.parametrize("written", [1, 5])
def test_a_record_that_was_written_in_part_leaves_the_one_before(
    written: int, file: TallyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = file.take_place()
    for number in range(written):
        place.write(record(tally(n=number)))
    whole = os.pwrite
    for cut in (1, 30, -1):
        # Killed in the middle of a write; its successor has the same place, and is killed, too.
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, data[:cut], at))  # noqa: B023
        TallyPlace(file.descriptor, place.number, place.use).write(record(tally(n=77)))
        monkeypatch.undo()
        found = place.read()
        assert found is not None
        assert found.tally.counters == {"n": written - 1}


def test_a_process_that_was_given_up_writes_nothing_into_its_successor_s_place(
    file: TallyFile,
) -> None:
    late = file.take_place()
    late.write(record(tally(n=1)))
    late.free()
    place = file.take_place()
    assert place.number == late.number
    assert not late.write(record(tally(n=2)))
    assert place.read() is None


def test_a_tally_that_is_too_long_leaves_the_one_before(file: TallyFile) -> None:
    place = file.take_place()
    place.write(record(tally(n=1)))
    assert not place.write(record(tally(**{"n" * MAX_TALLY_BYTES: 2})))
    found = place.read()
    assert found is not None
    assert found.tally.counters == {"n": 1}


def test_another_release_s_memory_is_left_alone() -> None:
    other = os.memfd_create("tallies")
    os.pwrite(other, b"tally 2\0", 0)
    file = TallyFile.go_on_with(other)
    assert file.places() == []
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(other) if file.descriptor != other else os.fstat(-1)
    file.close()


def test_what_grows_outlives_its_process_and_what_does_not_ends_with_it(file: TallyFile) -> None:
    figures = ServiceFigures(file, 0, {})
    for count in (5, 6):
        place = file.take_place()
        place.write(record(tally(n=count)))
        before = read(file)
        assert before is not None
        assert before.gauges["connections"] == 1
        figures.end(place)
        after = read(file)
        assert after is not None
        assert (after.counters, after.kinds) == (before.counters, before.kinds)
        assert after.histograms == before.histograms
        assert not after.gauges
        assert not after.builds
    assert after.counters == {"n": 11}
    assert after.histograms["blackout"].sum == 11


def test_a_supervisor_adds_what_ended_while_there_was_none(file: TallyFile) -> None:
    places = {pid: file.take_place() for pid in (10, 11, 12)}
    for pid, place in places.items():
        place.write(record(tally(worker=pid % 2, n=pid), pid))
    unwritten = file.take_place()
    figures = anew(file)
    figures.go_on({11})
    assert figures.place_of(11).number == places[11].number
    assert unwritten.number not in {place.number for place in file.places()}
    even, odd = read(file), read(file, 1)
    assert even is not None
    assert odd is not None
    assert (even.counters["n"], even.gauges) == (22, {})
    assert (odd.counters["n"], odd.gauges["connections"]) == (11, 1)
    figures.file.close()


def test_a_process_is_added_once_though_its_supervisor_ends_in_the_middle(
    file: TallyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = ServiceFigures(file, 0, {})
    first, second = file.take_place(), file.take_place()
    first.write(record(tally(n=1)))
    second.write(record(tally(n=2)))
    figures.end(first)
    with monkeypatch.context() as patch:
        patch.setattr(TallyPlace, "free", lambda _place: None)
        figures.end(second)
    assert second.use in {place.use for place in file.places()}
    for _ in range(2):
        successor = anew(file)
        successor.go_on(set())
        found = read(file)
        assert found is not None
        assert found.counters == {"n": 3}
        assert {place.use for place in file.places()} == {ENDED}
        successor.file.close()


def test_a_supervisor_s_own_count_goes_on_with_the_next(file: TallyFile) -> None:
    for lost in (3, 4):
        figures = ServiceFigures(TallyFile.go_on_with(os.dup(file.descriptor)), 0, {"lines": lost})
        figures.go_on(set())
        figures.count("reloads", "ok")
        figures.write_own()
        figures.file.close()
    found = read(file, SUPERVISOR)
    assert found is not None
    assert found.counters["lines_lost"] == 7
    assert found.kinds == {"reloads": {"ok": 2}}


def test_places_are_used_again(file: TallyFile) -> None:
    figures = ServiceFigures(file, 0, {})
    for _ in range(100):
        place = file.take_place()
        place.write(record(tally(n=1)))
        figures.end(place)
    assert os.fstat(file.descriptor).st_size < 4 * MAX_TALLY_BYTES * 2
    found = read(file)
    assert found is not None
    assert found.counters == {"n": 100}


def test_histograms_of_another_release_are_added_within_their_bounds() -> None:
    here, other = Histogram.within((10, 100)), Histogram.within((20, 100, 1000))
    for value in (5, 15, 150):
        here.note(value)
    for value in (15, 100, 500, 5000):
        other.note(value)
    here.add(other)
    assert (here.counts, here.sum) == ([1, 3, 3], 170 + 5615)
    parts = [Tally(0, 0, [], {}, {}, {}, {"h": one}) for one in (here, other)]
    assert sum(sum_up(parts, 0, 0).histograms["h"].counts) == 11


def test_ends_of_certificates_are_not_added() -> None:
    parts = [tally(), tally()]
    for part, end in zip(parts, (1_800_000_000, 1_900_000_000), strict=True):
        part.gauges[f"{CERTIFICATE_END} one.test"] = end
    assert sum_up(parts, 0, 0).gauges == {
        "connections": 2,
        "draining": 1,
        f"{CERTIFICATE_END} one.test": 1_900_000_000,
    }
