"""Losses that were none: a path that reorders teaches how long to wait (RFC 9002 §6.1).

A packet that is acknowledged after it was declared lost was only late. Then the thresholds were too
small, and they are raised so that it would not have been lost: §6.1.1 and §6.1.2 allow larger ones
than 3 packets and 9/8 of a round trip. A congestion controller hears of it, too, and takes back
what it did for nothing.

What was declared lost is remembered for a few round trips, and for so many runs of packets at most.
Without reordering for a while the thresholds come down again: on another way to the same client a
large one would only make losses known later.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter
from typing import Final

from quicbaton import limits
from quicbaton.transport.loss.late import LostRun, ReorderingState
from quicbaton.transport.state import RecoveryState, SentRun

_first: Final = attrgetter("first")
#: RFC 9002 §6.1.1: packets acknowledged after a packet before it counts as lost.
PACKET_THRESHOLD: Final = 3
#: RFC 9002 §6.1.2: eighths of a round trip, after which it counts as lost, too.
TIME_THRESHOLD_EIGHTHS: Final = 9
#: Two round trips: by then the probe timeout asks anyway.
MAX_TIME_THRESHOLD_EIGHTHS: Final = 16
#: Round trips with losses and without reordering, after which the thresholds come half the way
#: down.
_QUIET_LOSSES: Final = 16
#: How long after it was declared lost a packet may be acknowledged and still count as late. Beyond
#: it the ACK itself was lost, more likely.
_REMEMBERED_RTTS: Final = 4


def packet_threshold(state: RecoveryState) -> int:
    reordering = state.reordering
    return PACKET_THRESHOLD if reordering is None else reordering.packet_threshold


def time_threshold_us(state: RecoveryState) -> int:
    """How long after its sending an unacknowledged packet counts as lost, if a later one is
    acknowledged."""
    reordering = state.reordering
    eighths = TIME_THRESHOLD_EIGHTHS if reordering is None else reordering.time_eighths
    return eighths * _rtt_us(state) // 8


def note_lost(state: RecoveryState, lost: list[SentRun], now_us: int) -> None:
    """Remember what was declared lost just now."""
    reordering = state.reordering
    if reordering is None:
        reordering = state.reordering = ReorderingState(
            packet_threshold=PACKET_THRESHOLD,
            time_eighths=TIME_THRESHOLD_EIGHTHS,
            lost=[],
            quiet_losses=0,
        )
    remembered = reordering.lost
    if not remembered or now_us - remembered[-1].declared_at_us > state.smoothed_rtt_us:
        _relax(reordering)
    _forget_old(state, reordering, now_us)
    remembered += [
        LostRun(run.first, run.first + run.count, run.size, run.at_us, now_us) for run in lost
    ]
    del remembered[: -limits.MAX_LOST_RUNS]


def take_late(
    state: RecoveryState,
    reordering: ReorderingState,
    ranges: list[tuple[int, int]],
    largest_acked: int,
    owner_first: int,
    now_us: int,
) -> list[LostRun]:
    """Take out what `ranges`, highest first, acknowledge of what counts as lost, and learn from
    it. `largest_acked` is that of the ACKs before. Packets below `owner_first` teach nothing: a
    handoff's transit and the numbers that it skipped are no reordering."""
    _forget_old(state, reordering, now_us)
    lost = reordering.lost
    late: list[LostRun] = []
    index = len(lost)
    for start, stop in ranges:
        # A packet may hold hundreds of ACK frames: a bisection for each range, and no walk.
        index = bisect_left(lost, stop, 0, index, key=_first) - 1
        while index >= 0 and lost[index].stop > start:
            run = lost[index]
            first, end = max(run.first, start), min(run.stop, stop)
            late.append(_part(run, first, end))
            rest = (_part(run, run.first, first), _part(run, end, run.stop))
            lost[index : index + 1] = [part for part in rest if part.first < part.stop]
            if first == run.first:
                index -= 1  # else what is left below this range may be in the next one
        if index < 0:
            break
        index += 1
    # An acknowledged half of a run leaves two.
    del lost[: -limits.MAX_LOST_RUNS]
    for run in late:
        if run.first >= owner_first:
            _learn(state, reordering, largest_acked - run.first, now_us - run.at_us)
    return late


def _part(run: LostRun, first: int, stop: int) -> LostRun:
    return LostRun(first, stop, run.size, run.at_us, run.declared_at_us)


def _learn(state: RecoveryState, reordering: ReorderingState, packets: int, waited_us: int) -> None:
    """A packet came so late: after so many that were sent later, and so long after its sending."""
    reordering.quiet_losses = 0
    wanted = min(packets + 1, limits.MAX_PACKET_THRESHOLD)
    reordering.packet_threshold = max(reordering.packet_threshold, wanted)
    eighths = min(-(-8 * waited_us // _rtt_us(state)), MAX_TIME_THRESHOLD_EIGHTHS)
    reordering.time_eighths = max(reordering.time_eighths, eighths)


def _relax(reordering: ReorderingState) -> None:
    reordering.quiet_losses += 1
    if reordering.quiet_losses < _QUIET_LOSSES:
        return
    reordering.quiet_losses = 0
    reordering.packet_threshold -= (reordering.packet_threshold - PACKET_THRESHOLD + 1) // 2
    reordering.time_eighths -= (reordering.time_eighths - TIME_THRESHOLD_EIGHTHS + 1) // 2


def _forget_old(state: RecoveryState, reordering: ReorderingState, now_us: int) -> None:
    since_us = now_us - _REMEMBERED_RTTS * state.smoothed_rtt_us
    lost = reordering.lost
    count = 0
    while count < len(lost) and lost[count].declared_at_us < since_us:
        count += 1
    if count:
        del lost[:count]


def _rtt_us(state: RecoveryState) -> int:
    """RFC 9002 §6.1.2."""
    return max(state.smoothed_rtt_us, state.latest_rtt_us, 1)
