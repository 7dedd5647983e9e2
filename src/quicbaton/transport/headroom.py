"""How much may be sent now, and which limit stops the rest: all limits on a sender, in one place.

| limited by    | because                                                     | until             |
|---------------|-------------------------------------------------------------|-------------------|
| turn          | others of the process want their turn                       | the next turn     |
| pacing        | the window is let out over a round trip (RFC 9002 §7.7)     | `until_us`        |
| peer_ids      | no ID to send to: the peer must issue one (RFC 9000 §5.1.2) | NEW_CONNECTION_ID |
| amplification | the address is not proved (RFC 9000 §8.1)                   | it sends more     |
| congestion    | the window is full (RFC 9002 §7)                            | an ACK, a loss    |
| memory        | we keep no more in flight than `limits` say                 | an ACK, a loss    |
| handoff       | the rest of the window is for the trains to part with       | it is over        |
| flow_control  | what waits needs the peer's credit (RFC 9000 §4)            | the peer gives it |
| application   | nothing waits                                               | it writes         |

A `Headroom` names the first one that applies. The sender computes it once, at the end of its turn.
Timers, congestion control, sleep and a trace read it and decide nothing again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from quicbaton import limits
from quicbaton.transport.budget import Account, Pressure
from quicbaton.transport.loss.congestion import CongestionController
from quicbaton.transport.loss.pacing import INITIAL_RTT_US
from quicbaton.transport.paths.paths import UNLIMITED, Paths
from quicbaton.transport.state import NEVER, ConnectionState, PathState
from quicbaton.transport.value import Value

#: Less than this is not worth a packet; anti-amplification may leave so little. An ACK of one range
#: fits, so an ACK that is due can be sent whenever anything can.
SMALLEST_PACKET_BYTES: Final = 96
#: Below this many bytes a train of bulk data waits for more room instead of going out in dribbles:
#: for the pacer, or for ACKs if most of the window is on its way.
_SMALLEST_BULK_BYTES: Final = 32 * limits.MIN_DATAGRAM_BYTES


class LimitedBy(StrEnum):
    """The limit that stops the rest; the module's head has them with their reasons, in this
    order."""

    TURN = "turn"
    PACING = "pacing"
    PEER_IDS = "peer_ids"
    AMPLIFICATION = "amplification"
    CONGESTION = "congestion"
    MEMORY = "memory"
    HANDOFF = "handoff"
    FLOW_CONTROL = "flow_control"
    APPLICATION = "application"


# Nearly every turn ends with it: a global is read faster than a member of an enumeration.
_TURN: Final = LimitedBy.TURN
_PACING: Final = LimitedBy.PACING
_FLOW_CONTROL: Final = LimitedBy.FLOW_CONTROL
_APPLICATION: Final = LimitedBy.APPLICATION
_ENOUGH: Final = Pressure.ENOUGH


class Headroom(Value, frozen=True):
    """The rest that a turn of sending has left: the window and the address would bear `bytes` more.
    `until_us` is when pacing lets more go; NEVER: pacing is not the limit.

    `waits_for_peer`: not even an ACK may be sent until the peer sends something. `is_app_limited`
    is that of RFC 9002 §7.8: there is room in the window for another datagram, and neither the
    pacer nor the end of the turn kept it from being used.
    """

    limited_by: LimitedBy
    bytes: int
    until_us: int
    waits_for_peer: bool
    is_app_limited: bool


#: Nothing was tried yet, or nothing was there to try.
UNTRIED: Final = Headroom(LimitedBy.APPLICATION, 0, NEVER, False, False)
#: There is no ID to send to.
MUTE: Final = Headroom(LimitedBy.PEER_IDS, 0, NEVER, True, False)


class Gate:
    """Applies the limits that count bytes."""

    __slots__ = ("_congestion", "_memory", "_paths", "_state", "kept_trains")

    def __init__(
        self,
        state: ConnectionState,
        congestion: CongestionController,
        paths: Paths,
        memory: Account,
    ) -> None:
        self._state = state
        self._congestion = congestion
        self._paths = paths
        self._memory = memory
        #: The number of quick trains for which the window must keep room: a handoff is near.
        self.kept_trains = 0

    def address_bytes(self, path: PathState) -> int:
        """The bytes that anti-amplification allows, probes and ACKs included (RFC 9000 §8.1, §9.3).
        While the address is being validated, enough is kept for another challenge."""
        if path.validated:
            return UNLIMITED
        return self._paths.allowance_bytes(path) - SMALLEST_PACKET_BYTES

    def window_bytes(self, path: PathState) -> int:
        """The bytes of the window, without those that are kept. A small window keeps none."""
        if len(self._state.recovery.sent) >= limits.MAX_SENT_RUNS:
            return 0
        congestion = self._state.congestion
        window = congestion.window_bytes
        most = limits.MAX_FLIGHT_BYTES
        if self._memory.budget.pressure is not _ENOUGH:
            most = limits.MIN_FLIGHT_BYTES
        room = (window if window < most else most) - congestion.in_flight_bytes
        if self.kept_trains:
            kept = self.kept_trains * limits.QUICK_TRAIN_PACKETS * path.mtu_bytes
            room -= min(kept, window // 3)
        return room if room > 0 else 0

    def unpaced_bytes(self, path: PathState) -> int:
        """The bytes that all limits but the pacer allow now for one train."""
        budget = min(self.window_bytes(path), limits.MAX_TRAIN_BYTES)
        return budget if path.validated else min(budget, self.address_bytes(path))

    def waits_for_acks(self, budget: int, unsent_bytes: int) -> bool:
        """Whether bulk data, which `budget` cannot end, should wait for ACKs to add to it. They are
        certain to come, since 16 times as much is on its way, and the part of the window that is
        not used is small. Not just before a handoff, which ACKs would have to wait for."""
        return (
            budget < _SMALLEST_BULK_BYTES
            and not self.kept_trains
            and budget < unsent_bytes
            and budget <= self._state.congestion.in_flight_bytes >> 4
        )

    def paced_bytes(
        self, path: PathState, budget: int, now_us: int, late_us: int, *, quick: bool
    ) -> tuple[int, int]:
        """Of `budget`, the bytes that the pacer allows; and until when a train that can wait should
        wait, NEVER if it should not. It waits to be worth its cost instead of going packet by
        packet; a quick one must not wait. The end of a wait is noticed `late_us` too late."""
        recovery = self._state.recovery
        # A round trip that has doubled is one through a queue, or in ours: a process with hundreds
        # of busy connections is late for each. To let out the window over all of it would cost
        # three turns where ACKs allow one, and the queue would be as long.
        rtt_us = min(recovery.smoothed_rtt_us, 2 * recovery.min_rtt_us or INITIAL_RTT_US)
        paced = self._congestion.pacing_budget_bytes(rtt_us, now_us, late_us)
        if paced >= budget:
            return budget, NEVER
        want = min(budget, path.mtu_bytes if quick else _SMALLEST_BULK_BYTES)
        ready_at_us = self._congestion.pacing_ready_at_us(rtt_us, want, now_us)
        return paced, ready_at_us if ready_at_us > now_us else NEVER

    def headroom(
        self,
        path: PathState,
        turn_is_over: bool,
        paced_until_us: int,
        unsent_bytes: int,
        *,
        waits_for_acks: bool,
    ) -> Headroom:
        """The headroom after a turn. `turn_is_over`: there was more to send. `unsent_bytes` of
        streams wait, and are not due. `waits_for_acks`: the rest of the window was too little."""
        window = self.window_bytes(path)
        address = self.address_bytes(path)
        mtu = path.mtu_bytes
        app_limited = False
        if turn_is_over:
            limit = _TURN
        elif paced_until_us != NEVER:
            limit = _PACING
        elif waits_for_acks:
            limit = LimitedBy.CONGESTION
        else:
            app_limited = window >= mtu
            if address < mtu:
                limit = LimitedBy.AMPLIFICATION
            elif app_limited:
                limit = _FLOW_CONTROL if unsent_bytes else _APPLICATION
            else:
                limit = self._what_fills_the_window(mtu)
        return Headroom(
            limit,
            window if window < address else address,
            paced_until_us,
            address < SMALLEST_PACKET_BYTES,
            app_limited,
        )

    # --- helpers --------------------------------------------------------------------------------

    def _what_fills_the_window(self, mtu: int) -> LimitedBy:
        congestion = self._state.congestion
        least = congestion.in_flight_bytes + mtu
        if congestion.window_bytes < least:
            return LimitedBy.CONGESTION
        most = limits.MIN_FLIGHT_BYTES if self._memory.is_tight else limits.MAX_FLIGHT_BYTES
        too_many = len(self._state.recovery.sent) >= limits.MAX_SENT_RUNS
        return LimitedBy.MEMORY if too_many or most < least else LimitedBy.HANDOFF
