"""The common parts of the tests of ownership stores."""

from collections.abc import Callable

from quicbaton.ownership.store import (
    Conflict,
    Done,
    Entry,
    EntryState,
    Found,
    Holder,
    Publish,
    Reading,
    Result,
    Store,
)
from tests.ownership.store_process import BATON, CID, DIGEST

SOURCE = Holder("S", b"s" * 16)
PUBLISH = Publish(CID, 1, SOURCE, BATON, DIGEST)
OFFERED = Entry(EntryState.OFFERED, 1, SOURCE, BATON, DIGEST)
NOW = 1_000_000_000.0
#: A store does this work before the clock strikes `NOW`, in every test that sweeps.
FAR = NOW + 1e9

Make = Callable[[], Store]


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def entry_of(answer: Result | Reading) -> Entry | None:
    assert isinstance(answer, (Done, Conflict, Found)), answer
    return answer.entry
