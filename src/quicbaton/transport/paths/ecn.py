"""ECN on the packets that we send (RFC 9000 §13.4.2, Appendix A.4; RFC 9002 §7.1).

A path is tried with a few packets marked ECT(0), and what the peer's ACKs then say of the marks
decides:

    TESTING   marked, until enough are out or a probe timeout passes   ► UNKNOWN
    UNKNOWN   not marked: an ACK or a loss decides
                 marks acknowledged, and the counts agree               ► CAPABLE
                 all that were marked are lost: ECT does not pass       ► FAILED
    CAPABLE   marked
    FAILED    not marked. From any state, when an ACK of marked packets has no counts, or fewer or
              other ones than were sent: the path, or the peer, bleaches or rewrites marks

A path to which the client moves is tried anew, and all are when another host sends. Counts are of
the connection's packet number space, over all paths.
"""

from __future__ import annotations

from typing import Final

from quicbaton.transport.state import ConnectionState, PathState, SentRun

TESTING: Final = 0
UNKNOWN: Final = 1
CAPABLE: Final = 2
FAILED: Final = 3

#: ECT(0) in the IP header (RFC 3168 §5).
ECT_0: Final = 2
#: Packets that a path is tried with (Appendix A.4).
TESTED_PACKETS: Final = 10

#: An ACK frame's counts of ECT(0), ECT(1) and CE.
Counts = tuple[int, int, int]


def begin(path: PathState) -> None:
    """Nothing is known of marks on this path."""
    path.ecn = TESTING
    path.ecn_unproved = 0


def mark(path: PathState) -> int:
    """The ECN bits that the next train there is to have."""
    return ECT_0 if path.ecn in (CAPABLE, TESTING) else 0


class EcnFeedback:
    """Counts marked packets, and checks the counts in ACKs."""

    __slots__ = ("_state",)

    def __init__(self, state: ConnectionState) -> None:
        self._state = state

    def on_sent(self, run: SentRun) -> None:
        """A run of marked packets left."""
        self._state.numbers.ecn_sent += run.count
        path = self._path(run.path)
        if run.eliciting and path is not None and path.ecn == TESTING:
            path.ecn_unproved += run.count
            if path.ecn_unproved >= TESTED_PACKETS:
                path.ecn = UNKNOWN

    def on_timeout(self) -> None:
        """A probe timeout passed: the marks may be what keeps probes from arriving, so they have
        none."""
        path = self._state.paths[0]
        if path.ecn == TESTING and path.ecn_unproved:
            path.ecn = UNKNOWN

    def on_lost(self, run: SentRun) -> None:
        """A run of marked packets counts as lost."""
        path = self._path(run.path)
        if path is not None and path.ecn in (TESTING, UNKNOWN):
            path.ecn_unproved -= run.count
            if path.ecn == UNKNOWN and path.ecn_unproved <= 0:
                path.ecn = FAILED

    def on_ack(self, acked: list[SentRun], counts: Counts | None) -> bool:
        """An ACK raised the largest number acknowledged, and newly acknowledged these runs: others
        say nothing about marks (§13.4.2.1). True when more packets than before have met
        congestion on their way."""
        numbers = self._state.numbers
        marked = 0
        for run in acked:
            if run.marked:
                marked += run.count
        if counts is None:
            if marked:
                self._conclude(acked, FAILED)
            return False
        ect_0, ect_1, met = counts
        ect_0_before, ect_1_before, met_before = numbers.ecn_acked
        agrees = (
            ect_0 >= ect_0_before
            and met >= met_before
            and ect_0 - ect_0_before + met - met_before >= marked
            and ect_0 <= numbers.ecn_sent
            and not ect_1  # never sent
        )
        numbers.ecn_acked = [
            max(ect_0, ect_0_before),
            max(ect_1, ect_1_before),
            max(met, met_before),
        ]
        if not agrees:
            self._conclude(acked, FAILED)
            return False
        if marked:
            self._conclude(acked, CAPABLE)
        return met > met_before

    # --- helpers, in reading order --------------------------------------------------------------

    def _conclude(self, acked: list[SentRun], verdict: int) -> None:
        """On the paths that the marked ones took; where there are none, on the one in use."""
        paths = self._state.paths
        if len(paths) == 1 and paths[0].ecn == verdict:
            return
        serials = {run.path for run in acked if run.marked} or {paths[0].serial}
        for path in paths:
            if path.serial in serials and path.ecn != FAILED:
                path.ecn = verdict

    def _path(self, serial: int) -> PathState | None:
        for path in self._state.paths:
            if path.serial == serial:
                return path
        return None
