"""The latest streams of a relay that have ended, whose messages may still be under way."""

from __future__ import annotations

from quicbaton.limits import MAX_ENDED_RELAYED_STREAMS


class EndedStreams:
    """Remembers a bounded number of IDs: a session may have any number of streams."""

    def __init__(self) -> None:
        self._ids: dict[int, None] = {}
        #: Whether IDs of ended streams were dropped, because there were too many.
        self.forgot = False

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._ids

    def add(self, stream_id: int) -> None:
        self._ids[stream_id] = None
        if len(self._ids) > MAX_ENDED_RELAYED_STREAMS:
            del self._ids[next(iter(self._ids))]
            self.forgot = True
