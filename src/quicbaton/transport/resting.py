"""Whether a connection has nothing to do: then its state alone is enough.

A connection may sleep when only the peer or a distant deadline can give it something to do. It is
then put away as plain data and woken by its next datagram or deadline, by the same owner in the
same process: nothing is handed over, so no packet number is skipped, no ID replaced and no RTT
sample refused. To the peer there is no difference.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from quicbaton.limits import MIN_SLEEP_S
from quicbaton.reasons import Reason
from quicbaton.transport.paths.ids import cutover_is_pending
from quicbaton.transport.paths.path import validated_path
from quicbaton.transport.sender import Sender
from quicbaton.transport.state import NEVER, ConnectionState
from quicbaton.transport.timers import Timers


class Resting(NamedTuple):
    """A connection while it sleeps. `origin_s` is the caller's clock at connection time zero,
    `wake_at_s` the next deadline on it; None: only a datagram wakes it."""

    state: ConnectionState
    origin_s: float
    wake_at_s: float | None


def why_awake(  # noqa: PLR0911 - a list of reasons, one return each
    state: ConnectionState, sender: Sender, timers: Timers, now_us: int
) -> Reason | None:
    """The reason why the connection cannot sleep; None when it can."""
    if state.closing is not None or state.closed:
        return Reason.CLOSED
    if state.events:
        return Reason.UNDELIVERED_EVENTS
    if state.recovery.sent:
        return Reason.IN_FLIGHT
    if state.numbers.ack_at_us != NEVER:
        return Reason.ACK_OWED
    if sender.headroom.waits_for_peer or sender.has_due():
        return Reason.UNSENT
    if _is_buffering(state):
        return Reason.BUFFERED_BYTES
    if cutover_is_pending(state.ids):
        return Reason.CUTOVER_PENDING
    if any(path.challenge_at_us != NEVER or path.responses for path in state.paths):
        return Reason.PATH_VALIDATION
    return timer_reason(timers.next_us(), now_us)


def timer_reason(deadline_us: int, now_us: int) -> Reason | None:
    """As `why_awake`, of a connection that has nothing to do until `deadline_us`."""
    return Reason.TIMER if NEVER < deadline_us < now_us + MIN_SLEEP_S * 1_000_000 else None


class Dozing:
    """All that is left of a connection's transport while it dozes: the bytes of its state, a tenth
    of its size, and what is asked of thousands of them. The bytes hold keys, and never leave the
    process.

    `until_us` is the first deadline; the others are as the state and its validated path have them.
    """

    __slots__ = (
        "_packed",
        "clock_us",
        "has_rtt",
        "local_address",
        "quiet_from_us",
        "smoothed_rtt_us",
        "until_us",
    )

    def __init__(self, state: ConnectionState, until_us: int) -> None:
        self._packed = _ENCODER.encode(state)
        self.until_us = until_us
        self.quiet_from_us = quiet_from_us(state)
        self.clock_us = state.clock_us
        self.local_address = validated_path(state).local
        self.has_rtt = state.recovery.has_rtt
        self.smoothed_rtt_us = state.recovery.smoothed_rtt_us

    def unpack(self) -> ConnectionState:
        """The state, for the connection to go on with."""
        return _DECODER.decode(self._packed)

    def look(self) -> ConnectionState:
        """A copy of the state, only to be looked at."""
        return _look(self._packed)


def look_away() -> None:
    """Forget the state that was looked at: it holds keys."""
    _look.cache_clear()


def quiet_us(state: ConnectionState, now_us: int) -> int:
    """Time since anything was received, or sent that asks for an answer."""
    return now_us - quiet_from_us(state)


def quiet_from_us(state: ConnectionState) -> int:
    """When something was received, or sent that asks for an answer, for the last time."""
    return max(state.idle_from_us, state.recovery.last_eliciting_at_us)


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(ConnectionState)


@lru_cache(maxsize=1)
def _look(packed: bytes) -> ConnectionState:
    # One question is often followed by others.
    return _DECODER.decode(packed)


def _is_buffering(state: ConnectionState) -> bool:
    for stream in state.streams.values():
        if stream.send is not None and stream.send.end > stream.send.base:
            return True
        if stream.receive is not None and stream.receive.segments:
            return True
    return False
