"""The timelines of a process's handoffs: written while they run, kept for a while, logged."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic, monotonic_ns
from typing import Any

import msgspec

from quicbaton.asyncio.endpoint.endpoint import Endpoint
from quicbaton.asyncio.qlog_folder import QlogFolder, QlogTrace
from quicbaton.handoff import Outcome
from quicbaton.handoff.timeline import Phase, Seen, Timeline
from quicbaton.limits import MAX_KEPT_TIMELINES
from quicbaton.reasons import Reason
from quicbaton.service.timing import ANSWER_S
from quicbaton.transport.connection import Connection


class TimelineRecorder:
    """Writes the timeline of one handoff. `on_news` is called when it may be complete."""

    def __init__(self, timeline: Timeline, on_news: Callable[[TimelineRecorder], None]) -> None:
        self.timeline = timeline
        #: The name of the connection's qlog file; empty as long as it is not known.
        self.original_id = b""
        #: Another process sends for the destination: there is no cutover to wait for.
        self.is_proxied = False
        self._began_us = monotonic_ns() // 1000
        self._on_news = on_news

    @property
    def is_settled(self) -> bool:
        """Whether only the end of a connection's life would add anything."""
        timeline = self.timeline
        return timeline.is_over or (self.is_proxied and timeline.blackout_us is not None)

    def is_between(self, source: str, destination: str) -> None:
        """The two processes' names."""
        self.timeline.source, self.timeline.destination = source, destination

    def is_about(self, connection: Connection) -> None:
        """The connection, whose qlog file is to have the timeline."""
        self.original_id = connection.original_destination_connection_id

    def mark(self, phase: Phase, at_us: int | None = None) -> None:
        """The phase begins now, or at that time of the monotonic clock. A phase begins once."""
        at = self.timeline.at_us
        if phase not in at and Phase.END not in at:
            at[phase] = (monotonic_ns() // 1000 if at_us is None else at_us) - self._began_us

    def mark_again(self, phase: Phase) -> None:
        """The phase's last moment so far is now."""
        at = self.timeline.at_us
        if Phase.END not in at:
            at.pop(phase, None)
            at[phase] = monotonic_ns() // 1000 - self._began_us

    def forwarded(self, datagrams: int) -> None:
        """So many more of the client's datagrams went to the destination."""
        self.timeline.forwards += datagrams
        self.mark_again(Phase.LAST_FORWARD)

    def sealed(self, size_bytes: int) -> None:
        """The baton is ready to be sent, or stored."""
        self.timeline.baton_bytes = size_bytes

    def waited(self, blackout_us: int) -> None:
        """The destination has measured how long its client waited."""
        timeline = self.timeline
        snapshot_us = timeline.at_us.get(Phase.SNAPSHOT)
        if timeline.blackout_us is not None or timeline.is_over:
            return
        timeline.blackout_us = blackout_us
        if snapshot_us is not None:
            self.mark(Phase.FIRST_DATAGRAM, self._began_us + snapshot_us + blackout_us)
        self._on_news(self)

    def report(self, outcome: Outcome, code: Reason, message: str) -> None:
        """The handoff's result is known; a later one replaces it."""
        timeline = self.timeline
        timeline.outcome, timeline.code, timeline.message = outcome.value, code.value, message

    def end(self) -> None:
        """This process's part is over."""
        if not self.timeline.is_over:
            self.mark(Phase.END)
            self._on_news(self)


class Timelines:
    """The last `MAX_KEPT_TIMELINES` timelines of a process."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._kept: deque[TimelineRecorder] = deque(maxlen=MAX_KEPT_TIMELINES)
        self._begun = 0
        self._news = asyncio.Event()

    def begin(self, connection_id: bytes, seen_by: Seen) -> TimelineRecorder:
        """The timeline of a handoff that begins now, kept from here on."""
        self._begun += 1
        recorder = TimelineRecorder(self._make(connection_id, seen_by), self._on_news)
        self._kept.append(recorder)
        return recorder

    def unkept(self, connection_id: bytes, seen_by: Seen) -> TimelineRecorder:
        """A timeline that is of no interest to anybody."""
        return TimelineRecorder(self._make(connection_id, seen_by), lambda _recorder: None)

    async def read(self, connection: str, wait_s: float) -> list[Timeline]:
        """Timelines of connections whose name begins with `connection`, oldest first. Open ones get
        `wait_s` to settle, a minute at most."""
        until = monotonic() + min(wait_s, ANSWER_S)
        while True:
            news = self._news
            found = self._find(connection)
            left_s = until - monotonic()
            if not left_s > 0 or all(one.is_settled for one in found):
                return [one.timeline.in_order() for one in found]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await news.wait()

    # --- helpers --------------------------------------------------------------------------------

    def _make(self, connection_id: bytes, seen_by: Seen) -> Timeline:
        return Timeline(
            number=self._begun,
            pid=os.getpid(),
            connection=connection_id.hex(),
            seen_by=seen_by,
            source="",
            destination="",
            began=datetime.now(UTC),
            at_us={},
        )

    def _find(self, connection: str) -> list[TimelineRecorder]:
        prefix = connection.lower()
        return [one for one in self._kept if one.timeline.connection.startswith(prefix)]

    def _on_news(self, recorder: TimelineRecorder) -> None:
        if recorder.is_settled:
            self._news.set()
            self._news = asyncio.Event()
        if recorder.timeline.is_over and recorder.original_id:
            self._log(recorder)

    def _log(self, recorder: TimelineRecorder) -> None:
        """Write the timeline into the connection's qlog, which another process may have open."""
        if isinstance(self._endpoint.configuration.quic_logger, QlogFolder):
            trace = self._endpoint.start_trace(recorder.original_id)
            if isinstance(trace, QlogTrace):
                _log(trace, recorder.timeline.in_order())
                trace.close()


def _log(trace: QlogTrace, timeline: Timeline) -> None:
    """One event for each phase, at its time, and one of the whole timeline at the last."""
    began_s = timeline.began.timestamp()
    at_s = began_s
    for phase, at_us in timeline.at_us.items():
        at_s = began_s + at_us / 1e6
        data = {
            "connection": timeline.connection,
            "seen_by": timeline.seen_by.value,
            "phase": phase,
        }
        trace.log_event_at(at_s, category="quicbaton", event="handoff_phase", data=data)
    whole: dict[str, Any] = msgspec.to_builtins(timeline)
    trace.log_event_at(at_s, category="quicbaton", event="handoff_ended", data=whole)
