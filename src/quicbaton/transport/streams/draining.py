"""Drained streams: their bytes are dropped and credited, and the peer may send on for a while.

RFC 9000 §3.5 allows asking a peer to stop at once, and RFC 9114 §4.1 allows it after an early
answer. But some clients read an answer only when they have sent their request to its end, and
forget it when they are told not to (Chromium). Others end an upload silently once they see that it
is refused, and then wait to be told (libcurl, after an error status). So a peer may send on up to a
limit. It is asked to stop beyond that, or when it sends nothing for a while although everything
that we sent has arrived.
"""

from __future__ import annotations

from quicbaton import limits
from quicbaton.transport.state import NEVER, ConnectionState, Drain, ReceiveHalf

_IDLE_US = round(limits.DRAIN_IDLE_S * 1_000_000)
#: A peer whose packet is lost sends it again after about this many round trips (RFC 9002 §6.2.1).
_IDLE_ROUND_TRIPS = 3


class Draining:
    """The drained streams of a connection, and when to look for those that have fallen silent."""

    __slots__ = ("_drains", "_recovery", "next_us")

    def __init__(self, state: ConnectionState) -> None:
        self._drains = state.drains
        self._recovery = state.recovery
        #: When one of them may have been silent for long enough; NEVER: no clock runs. It is not
        #: moved when bytes come, so that they cost nothing.
        self.next_us = NEVER
        self._arm()

    def begin(self, stream_id: int, half: ReceiveHalf, code: int) -> None:
        """Count from here on. The clock runs from `all_arrived` on."""
        limit = half.highest + limits.MAX_DRAINED_BYTES
        self._drains[stream_id] = Drain(code, limit, NEVER)

    def all_arrived(self, stream_id: int, now_us: int) -> None:
        """The peer has everything that we sent on a stream. No effect on one that is not drained,
        and on a second call."""
        drain = self._drains.get(stream_id)
        if drain is not None and drain.heard_us == NEVER:
            drain.heard_us = now_us
            self._arm()

    def on_bytes(self, stream_id: int, half: ReceiveHalf, now_us: int) -> bool:
        """Bytes came on a stream. True when they exceed its limit."""
        drain = self._drains.get(stream_id)
        if drain is None:
            return False
        if drain.heard_us != NEVER:
            drain.heard_us = now_us
        return half.highest >= drain.limit

    def silent(self, now_us: int) -> list[int]:
        """Streams that have been silent for too long. The next look is at those that are left."""
        if not NEVER < self.next_us <= now_us:
            return []
        heard_before_us = now_us - self._idle_us()
        found = [
            stream_id
            for stream_id, drain in self._drains.items()
            if NEVER < drain.heard_us <= heard_before_us
        ]
        self._arm(without=found)
        return found

    def end(self, stream_id: int) -> int | None:
        """A stream is drained no more. Returns the code for the peer, None if it was not
        drained."""
        drain = self._drains.pop(stream_id, None)
        if not self._drains:
            self.next_us = NEVER
        return None if drain is None else drain.code

    def _arm(self, without: list[int] | tuple[()] = ()) -> None:
        heard_us = [
            drain.heard_us
            for stream_id, drain in self._drains.items()
            if drain.heard_us != NEVER and stream_id not in without
        ]
        self.next_us = min(heard_us) + self._idle_us() if heard_us else NEVER

    def _idle_us(self) -> int:
        recovery = self._recovery
        rtt_us = recovery.smoothed_rtt_us if recovery.has_rtt else 0
        return max(_IDLE_US, _IDLE_ROUND_TRIPS * rtt_us)
