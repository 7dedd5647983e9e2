"""The timelines of handoffs that a command has caused, read from the processes that took part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from quicbaton.cli.control import Server
from quicbaton.cli.fleet import TIMEOUT_S, ask_all
from quicbaton.cli.reporter import Reporter
from quicbaton.errors import QuicbatonError
from quicbaton.handoff.timeline import Seen, Timeline
from quicbaton.service.peers import commands as c

#: For the last connections' clients to cut over, before the timelines of many are read.
SETTLE_S: Final = 2.0


class TimelineWatch:
    """Finds the timeline of the handoff that a command is about to cause, if it is `wanted`:
    `begin` before each try, `end` after the last one."""

    def __init__(self, connection: str, seen_by: Seen, *, wanted: bool) -> None:
        self._connection = connection
        self._seen_by = seen_by
        self._wanted = wanted
        self._server: Server | None = None
        self._known: list[Timeline] = []

    def begin(self, server: Server) -> None:
        """The command goes to this server next."""
        if self._wanted:
            self._server = server
            self._known = self._read(server, 0)

    def end(self, wait_s: float) -> Timeline | None:
        """The timeline, up to now or to its end, for which it waits for `wait_s`. None if there is
        none, or if the server is of a release without them."""
        if self._server is None:
            return None
        new = without(self._known, self._read(self._server, wait_s))
        return new[-1] if new else None

    def _read(self, server: Server, wait_s: float) -> list[Timeline]:
        found = read_timelines(server, self._connection, wait_s)
        return [timeline for timeline in found if timeline.seen_by is self._seen_by]


def read_timelines(server: Server, connection: str, wait_s: float) -> list[Timeline]:
    """The timelines that a server remembers of connections whose name begins so; none of a server
    that does not know the command."""
    try:
        return server.ask(c.ReadTimelines(connection, wait_s), c.Timelines).timelines
    except QuicbatonError:
        return []


async def read_all_timelines(servers: Sequence[Server], wait_s: float = 0) -> list[Timeline]:
    """As `read_timelines`, of all connections of several servers, asked side by side."""
    command = c.ReadTimelines("", wait_s)
    answers = await ask_all(servers, command, c.Timelines, wait_s + TIMEOUT_S)
    return [timeline for _, answer in answers for timeline in answer.timelines]


def tell_timelines(timelines: Iterable[Timeline], seen_by: Seen, reporter: Reporter) -> None:
    """Print those that processes of one side have made, one a line."""
    for timeline in timelines:
        if timeline.seen_by is seen_by:
            reporter.event("timeline", timeline.message, timeline=timeline)


def without(known: Sequence[Timeline], found: Sequence[Timeline]) -> list[Timeline]:
    """Those of the found timelines that were not known before."""
    keys = {_key(timeline) for timeline in known}
    return [timeline for timeline in found if _key(timeline) not in keys]


def _key(timeline: Timeline) -> tuple[int, int]:
    return timeline.pid, timeline.number
