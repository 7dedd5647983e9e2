"""The figures of a whole service: of its living processes, of those that have ended, and the
supervisor's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from quicbaton.errors import QuicbatonError
from quicbaton.service.node.figures import build, tally_of
from quicbaton.service.peers import commands as c
from quicbaton.service.peers.asking import ask
from quicbaton.service.peers.tally import SUPERVISOR, Tally, sum_by_worker, sum_up
from quicbaton.service.supervisor.tally_file import ENDED, Record, TallyFile, TallyPlace
from quicbaton.service.timing import GATHER_S, LOOK_S


class Counting(Protocol):
    """A process of the service that counts."""

    pid: int
    control: Path
    place: TallyPlace | None
    is_written_for: bool
    exited: asyncio.Event


class ServiceFigures:
    """Keeps what ended processes have counted. `node` is the number in our connection IDs, and
    `lost` counts what this process could not write."""

    def __init__(self, file: TallyFile, node: int, lost: Mapping[str, int]) -> None:
        self.file = file
        self._node = node
        self._lost = lost
        self._kinds: dict[str, dict[str, int]] = {}
        #: Those of the sums of ended processes, by worker number.
        self._ended: dict[int, TallyPlace] = {}
        self._own: TallyPlace | None = None
        #: Those of workers that a former supervisor has started, by pid.
        self._found: dict[int, TallyPlace] = {}

    def go_on(self, living: Collection[int]) -> None:
        """Go on with a former supervisor's file: add the processes that have ended since it last
        looked. `living` are the pids of those that have not."""
        records = [(place, place.read()) for place in self.file.places()]
        added = set()
        for place, record in records:
            if record is not None and place.use == ENDED:
                self._ended[record.tally.worker] = place
                added.add(record.added)
        for place, record in records:
            if record is not None and place.use != ENDED and record.pid in living:
                self._found[record.pid] = place
            elif record is None or place.use in added:
                place.free()
            elif place.use != ENDED:
                self.end(place)

    def place_of(self, pid: int) -> TallyPlace:
        """The place of a worker that a former supervisor has started; a new one if that gave it
        none."""
        return self._found.pop(pid, None) or self.file.take_place()

    def count(self, kind: str, name: str, times: int = 1) -> None:
        """Count something that the supervisor did, or saw. Zero times: it may happen, and a first
        time is to be seen as an increase."""
        counts = self._kinds.setdefault(kind, {})
        counts[name] = counts.get(name, 0) + times

    def end(self, place: TallyPlace) -> None:
        """The process that wrote there has ended: keep what it has counted."""
        record = place.read()
        if record is not None:
            self._add(record.tally, place.use)
        place.free()

    async def read(self, processes: Iterable[Counting]) -> list[Tally]:
        """The tally of each worker number, and the supervisor's own. Living processes write theirs
        anew for it; those that do not in time are as they last were."""
        await asyncio.gather(*(self._refresh(process) for process in processes))
        self.write_own()
        records = (place.read() for place in self.file.places())
        return sum_by_worker(record.tally for record in records if record is not None)

    async def keep_own(self) -> None:
        """Write what this process has counted every second, for ever."""
        while True:
            self.write_own()
            await asyncio.sleep(LOOK_S)

    def write_own(self) -> None:
        """Write what this process has counted, so that it outlives it."""
        tally = Tally(
            self._node,
            SUPERVISOR,
            [build()],
            {},
            {"lines_lost": self._lost.get("lines", 0)},
            self._kinds,
            {},
        )
        if self._own is None:
            self._own = self.file.take_place()
        with contextlib.suppress(OSError):
            self._own.write(Record(os.getpid(), 0, tally))

    # --- helpers --------------------------------------------------------------------------------

    async def _refresh(self, process: Counting) -> None:
        place = process.place
        if place is None:
            return
        try:
            answer = await ask(process.control, c.ReadFigures(), c.Figures, GATHER_S)
        except QuicbatonError:
            return
        # A release that does not know of places writes nothing there.
        is_ours = answer.pid == process.pid and not process.exited.is_set()
        if is_ours and (process.is_written_for or place.read() is None):
            process.is_written_for = True
            with contextlib.suppress(OSError):
                place.write(Record(process.pid, 0, tally_of(answer)))

    def _add(self, tally: Tally, use: int) -> None:
        worker = tally.worker
        place = self._ended.get(worker)
        if place is None:
            place = self._ended[worker] = self.file.take_place(ENDED)
        before = place.read()
        parts = [tally.when_ended()] if before is None else [before.tally, tally.when_ended()]
        with contextlib.suppress(OSError):
            place.write(Record(0, use, sum_up(parts, tally.node, worker)))
