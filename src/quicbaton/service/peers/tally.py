"""The figures of a process at one moment, and sums of several: what `top` and metrics show.

Counters only grow. They begin with the process; those of a process that has ended are added to the
service's, so a sum never falls. Names and kinds are open: a release that counts something new
writes it into the same frames, and another one passes it on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from quicbaton.service.peers.frame import CommandFrame

#: The number of a tally that is the supervisor's own.
SUPERVISOR: Final = -1

#: The gauge of a certificate's end, as Unix time. The certificate's name follows after a space.
CERTIFICATE_END: Final = "certificate_not_after_timestamp_seconds"
#: Gauges of which two processes of one worker number have the larger; others add up.
_NOT_ADDED: Final = frozenset({"draining", "memory_pressure", CERTIFICATE_END})


class Histogram(CommandFrame):
    """How many values were at most as large as each of `bounds`; the last of `counts` is for larger
    ones. Values are whole microseconds."""

    bounds: list[int]
    counts: list[int]
    sum: int

    @classmethod
    def within(cls, bounds: Sequence[int]) -> Histogram:
        """An empty one."""
        return cls(list(bounds), [0] * (len(bounds) + 1), 0)

    def copy(self) -> Histogram:
        return Histogram(list(self.bounds), list(self.counts), self.sum)

    def note(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Count the values of another one, too. Those of a release with other bounds go where the
        bound that they are below belongs."""
        self.sum += other.sum
        if other.bounds == self.bounds:
            self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
            return
        for bound, count in zip(other.bounds, other.counts, strict=False):
            self.counts[bisect_left(self.bounds, bound)] += count
        self.counts[-1] += sum(other.counts[len(other.bounds) :])


class Tally(CommandFrame, tag="tally"):
    """The figures of one worker number: of one process, or the sum of several."""

    node: int
    worker: int  # or SUPERVISOR
    builds: list[str]  # "VERSION PYTHON FORM" of its living processes
    gauges: dict[str, int]  # by name, or by name and what follows: CERTIFICATE_END
    counters: dict[str, int]
    kinds: dict[str, dict[str, int]]  # counters by kind: {"handoffs": {"given ok": 3}}
    histograms: dict[str, Histogram]

    @classmethod
    def nothing(cls, node: int, worker: int) -> Tally:
        """The sum of no process."""
        return cls(node, worker, [], {}, {}, {}, {})

    def when_ended(self) -> Tally:
        """What of it outlives the process: everything that only grows."""
        return Tally(self.node, self.worker, [], {}, self.counters, self.kinds, self.histograms)


class ReadTallies(CommandFrame, tag="read_tallies"):
    """Answered with `Tallies`."""


class Tallies(CommandFrame, tag="tallies"):
    """A server's tally. Of a service one for each worker number, with what its ended processes
    have counted, and the supervisor's own."""

    tallies: list[Tally]


def sum_up(tallies: Iterable[Tally], node: int, worker: int) -> Tally:
    """The sum of the tallies of one worker number."""
    total = Tally.nothing(node, worker)
    for one in tallies:
        total.builds += [build for build in one.builds if build not in total.builds]
        for name, value in one.gauges.items():
            before = total.gauges.get(name, 0)
            is_level = name.partition(" ")[0] in _NOT_ADDED
            total.gauges[name] = max(before, value) if is_level else before + value
        _add_to(total.counters, one.counters)
        for kind, counts in one.kinds.items():
            _add_to(total.kinds.setdefault(kind, {}), counts)
        for name, histogram in one.histograms.items():
            total.histograms.setdefault(name, Histogram.within(histogram.bounds)).add(histogram)
    return total


def sum_by_worker(tallies: Iterable[Tally]) -> list[Tally]:
    """One tally for each worker number of each node, in their order."""
    found: dict[tuple[int, int], list[Tally]] = {}
    for one in tallies:
        found.setdefault((one.node, one.worker), []).append(one)
    return [sum_up(parts, node, worker) for (node, worker), parts in sorted(found.items())]


def _add_to(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        total[name] = total.get(name, 0) + count
