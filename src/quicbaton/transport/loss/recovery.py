"""Loss detection: which packets were acknowledged or lost, and when to probe (RFC 9002 §5, §6,
§7.6).

A train of equal packets is one record (`SentRun`), so an ACK that covers forty packets costs one
step. Records are cut where an ACK or a loss ends inside one. A packet's contents go back to their
part of the transport through a `Delivery`. An ACK costs as much as it newly acknowledges, and a
bisection for each of its ranges: one packet may hold hundreds of ACK frames without news.

Two rules come from the handoff. A packet that an earlier owner sent gives no RTT sample, since its
round trip includes the transit. And losses across a handoff are no persistent congestion: the
silence was ours, not the network's.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from typing import Final, Protocol

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton import limits
from quicbaton.errors import SecondSenderError, TransportError
from quicbaton.transport import frames as f
from quicbaton.transport import qlog
from quicbaton.transport.loss import reordering
from quicbaton.transport.loss.congestion import CongestionController
from quicbaton.transport.loss.pacing import INITIAL_RTT_US
from quicbaton.transport.loss.sent_runs import cut, first_number, first_reaching, is_mtu_probe
from quicbaton.transport.paths.ecn import Counts, EcnFeedback
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.state import (
    NEVER,
    NONE,
    ConnectionState,
    PathState,
    RecoveryState,
    SentFrame,
    SentRun,
)

#: RFC 9002 §6.1.2: timer granularity.
GRANULARITY_US: Final = 1_000
#: RFC 9002 §7.6.1.
PERSISTENT_CONGESTION_THRESHOLD: Final = 3
#: Doublings of the PTO: beyond, the idle timeout ends the connection first.
MAX_PTO_SHIFT: Final = 10
#: The oldest records, among which a PTO looks for something to send again, and for full-sized
#: packets: it may come every few milliseconds, and there may be thousands of records.
_PROBED_RUNS: Final = 64


class Delivery(Protocol):
    """Learns the fate of packets' contents."""

    def on_run_acked(self, stream_id: int, offset: int, length: int) -> None: ...
    def on_run_lost(self, stream_id: int, offset: int, length: int) -> None: ...
    def on_frame_acked(self, frame: SentFrame) -> None: ...
    def on_frame_lost(self, frame: SentFrame) -> None: ...


def initial(now_us: int) -> RecoveryState:
    """The state before the first packet."""
    return RecoveryState(
        sent=[],
        latest_rtt_us=0,
        smoothed_rtt_us=INITIAL_RTT_US,
        rtt_variation_us=INITIAL_RTT_US // 2,
        min_rtt_us=0,
        has_rtt=False,
        first_rtt_at_us=NEVER,
        pto_count=0,
        probes_due=0,
        loss_at_us=NEVER,
        last_eliciting_at_us=now_us,
        eliciting_in_flight=0,
        newest_acked_at_us=NEVER,
        reordering=None,
    )


class Recovery:
    """Loss detection over `state.recovery`; tells congestion control and `delivery`."""

    def __init__(
        self,
        state: ConnectionState,
        congestion: CongestionController,
        delivery: Delivery,
        trace: QuicLoggerTrace | None = None,
    ) -> None:
        self._trace = trace
        self._connection = state
        self._state = state.recovery
        self._numbers = state.numbers
        self._congestion = congestion
        self._delivery = delivery
        self._ecn = EcnFeedback(state)
        #: Packets declared lost, since somebody last took their number.
        self.packets_lost = 0
        self._held_until_us = NEVER  # derived, as the next
        self._due_since_us = NEVER

    # --- getters --------------------------------------------------------------------------------

    def pto_us(self) -> int:
        """The probe timeout without backoff (RFC 9002 §6.2.1)."""
        state = self._state
        return (
            state.smoothed_rtt_us
            + max(4 * state.rtt_variation_us, GRANULARITY_US)
            + self._connection.remote.max_ack_delay_ms * 1000
        )

    def deadline_us(self) -> int:
        """When `on_timer` must be called: time-threshold loss, else PTO. NEVER: not at all."""
        state = self._state
        if state.loss_at_us != NEVER:
            deadline_us = state.loss_at_us
        elif not state.eliciting_in_flight or state.probes_due:
            return NEVER
        else:
            backoff = min(state.pto_count, MAX_PTO_SHIFT)
            deadline_us = state.last_eliciting_at_us + (self.pto_us() << backoff)
        held_until_us = self._held_until_us
        return deadline_us if deadline_us >= held_until_us else held_until_us

    def hold(self, now_us: int) -> bool:
        """Put off a deadline that has passed, since ACKs may have come that were not processed yet.
        Returns False where none has passed, and where that has gone on for too long."""
        deadline_us = self.deadline_us()
        if deadline_us == NEVER or deadline_us > now_us:
            return False
        if deadline_us != self._held_until_us:
            self._due_since_us = deadline_us
        overdue_us = now_us - self._due_since_us
        if overdue_us > limits.MAX_HOLD_US:
            return False
        # Longer each time: hundreds of connections that look every few milliseconds cost more
        # than their probes.
        self._held_until_us = now_us + max(overdue_us, limits.HOLD_US)
        return True

    # --- handle_* -------------------------------------------------------------------------------

    def on_sent(self, run: SentRun) -> None:
        """Record a run; `run.eliciting` says whether it counts as in flight."""
        state = self._state
        if run.eliciting:
            state.sent.append(run)
            state.eliciting_in_flight += run.count
            state.last_eliciting_at_us = run.at_us
            self._congestion.on_sent(run)

    def on_ack(
        self,
        ranges: list[tuple[int, int]],
        ack_delay_us: int,
        now_us: int,
        counts: Counts | None = None,
    ) -> bool:
        """Process an ACK's ranges, half open, highest first; True when something that is in flight
        was acknowledged.

        Raises TransportError for a number not sent yet (RFC 9000 §13.1), and SecondSenderError
        for one skipped on purpose: another process sends with our keys, or the peer lies.
        """
        numbers = self._numbers
        largest = ranges[0][1] - 1
        if largest >= numbers.next_number:
            raise TransportError(f.PROTOCOL_VIOLATION, "ACK for a packet that was not sent", f.ACK)
        self._refuse_skipped(ranges)
        state = self._state
        sent = state.sent
        self._note_late(ranges, now_us)
        grown = largest > numbers.largest_acked
        if grown:
            numbers.largest_acked = largest
        acked = self._take_acked(ranges) if sent and largest >= sent[0].first else []
        congested = grown and self._ecn.on_ack(acked, counts)
        if not acked:
            if grown:
                # RFC 9002 §6.1, §6.2.1: packets that are not ack-eliciting count, too. We keep no
                # record of them, but a larger number says that there is one.
                state.pto_count = 0
                if congested:
                    self._congestion.on_congestion_marked(state.newest_acked_at_us, now_us)
                self._detect_lost(now_us, [])
            return False

        newest = acked[-1]
        sample_us = 0
        if newest.first + newest.count - 1 == largest and largest >= numbers.owner_first_number:
            sample_us = max(1, now_us - newest.at_us)
            self._sample_rtt(sample_us, ack_delay_us, now_us)
        active = self._connection.measured_path
        acked_bytes = 0
        for run in acked:
            state.eliciting_in_flight -= run.count
            if run.path == active:
                acked_bytes += run.count * run.size
            else:
                self._congestion.on_discarded(run.count * run.size)
        # RFC 9002 §6.2.1: progress resets the backoff.
        state.pto_count = 0
        state.probes_due = 0
        if congested:
            self._congestion.on_congestion_marked(newest.at_us, now_us)
        # RFC 9002 §A.7: losses first, so that the window does not grow just before it is cut.
        self._detect_lost(now_us, acked)
        if acked_bytes:
            self._congestion.on_acked(
                acked_bytes,
                newest,
                largest,
                numbers.next_number,
                sample_us,
                state.smoothed_rtt_us,
                state.min_rtt_us,
                now_us,
            )
            path = self._connection.paths[0]
            if path.mtu_losses:
                sizes = (run.size for run in acked if run.path == active)
                MtuSearch(path).on_packets_acked(max(sizes))
        self._deliver_acked(acked)
        state.newest_acked_at_us = max(state.newest_acked_at_us, newest.at_us)
        return True

    def on_timer(self, now_us: int) -> None:
        """The deadline passed: declare losses by time, or ask for probes (RFC 9002 §6.2.4)."""
        state = self._state
        if state.loss_at_us != NEVER:
            if now_us >= state.loss_at_us:
                self._detect_lost(now_us, [])
            return
        deadline = self.deadline_us()
        if deadline != NEVER and now_us >= deadline:
            state.pto_count += 1
            state.probes_due = 2
            self._ecn.on_timeout()
            path = self._connection.paths[0]
            sizes = (
                run.size
                for run in state.sent[:_PROBED_RUNS]
                if run.path == path.serial and not is_mtu_probe(run)
            )
            MtuSearch(path).on_timeouts(state.pto_count, max(sizes, default=0), now_us)

    def on_refused(self, path: PathState, now_us: int) -> None:
        """Datagrams that were to be sent there just now, larger than the path's present MTU, never
        left: that is no sign of congestion, and needs no waiting."""
        state = self._state
        refused: list[SentRun] = []
        kept: list[SentRun] = []
        for run in state.sent:
            never_left = run.at_us == now_us and run.path == path.serial
            (refused if never_left and run.size > path.mtu_bytes else kept).append(run)
        state.sent[:] = kept
        for run in refused:
            state.eliciting_in_flight -= run.count
            self._congestion.on_discarded(run.count * run.size)
            self._deliver_lost(run)

    def queue_probe_data(self) -> None:
        """Queue the oldest outstanding contents again, for a probe that has nothing new to carry.

        The packet stays in flight: a probe is no verdict on it (RFC 9002 §6.2.4).
        """
        for run in self._state.sent[:_PROBED_RUNS]:
            if run.stream_id != NONE:
                self._delivery.on_run_lost(run.stream_id, run.offset, run.chunk * min(run.count, 2))
                return
            carried = [frame for frame in run.frames if frame[0] not in _NOT_REPEATED]
            if carried:
                for frame in carried:
                    self._delivery.on_frame_lost(frame)
                return

    def on_resumed(self, now_us: int) -> None:
        """A new owner took over: a deadline that passed in transit is armed again from now.

        One that lies ahead stays: handoffs more frequent than the PTO must not put it off for
        ever. So does the backoff, which is about the network.
        """
        state = self._state
        if state.loss_at_us != NEVER:
            state.loss_at_us = max(state.loss_at_us, now_us + GRANULARITY_US)
        elif NEVER < self.deadline_us() <= now_us:
            state.last_eliciting_at_us = now_us

    def on_path_change(self, now_us: int) -> None:
        """RFC 9000 §9.4: the measured round trip belongs to the old path."""
        state = self._state
        state.latest_rtt_us = 0
        state.smoothed_rtt_us = INITIAL_RTT_US
        state.rtt_variation_us = INITIAL_RTT_US // 2
        state.min_rtt_us = 0
        state.has_rtt = False
        state.first_rtt_at_us = NEVER
        state.reordering = None
        state.pto_count = 0
        path = self._connection.paths[0]
        # Else a peer that alternates between two addresses, and acknowledges nothing, would draw
        # a fresh window each time.
        under_way = [run.count * run.size for run in state.sent if run.path == path.serial]
        self._congestion.on_path_change(path.mtu_bytes, now_us, sum(under_way))
        # Packets of the old path give no sample for the new one.
        self._numbers.owner_first_number = self._numbers.next_number

    # --- helpers, in reading order --------------------------------------------------------------

    def _refuse_skipped(self, ranges: list[tuple[int, int]]) -> None:
        """RFC 9000 §21.4: no peer can have received a packet that was never sent."""
        skipped = self._numbers.skipped
        if not skipped or ranges[0][1] <= skipped[0]:
            return
        for start, stop in ranges:
            index = bisect_right(skipped, start)
            if index & 1 or (index < len(skipped) and skipped[index] < stop):
                raise SecondSenderError(
                    "a packet number that this owner skipped was acknowledged: "
                    "another process sends with the same keys, or the peer lies"
                )
            if stop <= skipped[0]:
                return

    def _note_late(self, ranges: list[tuple[int, int]], now_us: int) -> None:
        """Some of what counts as lost may be acknowledged by `ranges`."""
        known = self._state.reordering
        if known is None or not known.lost:
            return
        numbers = self._numbers
        for run in reordering.take_late(
            self._state, known, ranges, numbers.largest_acked, numbers.owner_first_number, now_us
        ):
            late_bytes = (run.stop - run.first) * run.size
            self._congestion.on_late(late_bytes, run.declared_at_us, now_us)

    def _take_acked(self, ranges: list[tuple[int, int]]) -> list[SentRun]:
        """Cut what `ranges` covers out of the sent runs; ascending."""
        sent = self._state.sent
        oldest = sent[0].first
        acked: list[SentRun] = []
        kept: list[SentRun] = []  # of those from `begin` to `index`
        begin = index = 0
        count = len(sent)
        for start, stop in reversed(ranges):
            if stop <= oldest:
                continue
            run = sent[index]
            if run.first + run.count <= start:  # before the range, perhaps with many others
                before = index
                index = first_reaching(sent, index, start)
                if acked:
                    kept += sent[before:index]
            if not acked:
                begin = index
            while index < count and sent[index].first < stop:
                run = sent[index]
                first = run.first
                end = first + run.count
                if first < start:
                    kept.append(cut(run, first, start))
                    run = cut(run, start, end)
                if end > stop:
                    acked.append(cut(run, run.first, stop))
                    sent[index] = cut(run, stop, end)
                    break
                acked.append(run)
                index += 1
            if index == count:
                break
        if acked:
            sent[begin:index] = kept
        return acked

    def _sample_rtt(self, latest_us: int, ack_delay_us: int, now_us: int) -> None:
        """RFC 9002 §5.3."""
        state = self._state
        state.latest_rtt_us = latest_us
        if not state.has_rtt:
            state.has_rtt = True
            state.first_rtt_at_us = now_us
            state.min_rtt_us = state.smoothed_rtt_us = latest_us
            state.rtt_variation_us = latest_us // 2
            return
        minimum = state.min_rtt_us
        if latest_us < minimum:
            state.min_rtt_us = minimum = latest_us
        ack_delay_us = min(ack_delay_us, self._connection.remote.max_ack_delay_ms * 1000)
        if latest_us >= minimum + ack_delay_us:
            latest_us -= ack_delay_us
        smoothed = state.smoothed_rtt_us
        state.rtt_variation_us = (3 * state.rtt_variation_us + abs(smoothed - latest_us)) // 4
        state.smoothed_rtt_us = (7 * smoothed + latest_us) // 8

    def _deliver_acked(self, acked: list[SentRun]) -> None:
        """Tell the parts; neighbouring runs of one stream become one call."""
        delivery = self._delivery
        stream_id = NONE
        start = stop = 0
        for run in acked:
            if run.stream_id != NONE:
                if run.stream_id == stream_id and run.offset == stop:
                    stop += run.chunk * run.count
                    continue
                if stream_id != NONE:
                    delivery.on_run_acked(stream_id, start, stop - start)
                stream_id = run.stream_id
                start = run.offset
                stop = start + run.chunk * run.count
            else:
                for frame in run.frames:
                    delivery.on_frame_acked(frame)
        if stream_id != NONE:
            delivery.on_run_acked(stream_id, start, stop - start)

    def _detect_lost(self, now_us: int, acked: list[SentRun]) -> None:
        """RFC 9002 §6.1: by packet threshold and by time threshold."""
        state = self._state
        sent = state.sent
        state.loss_at_us = NEVER
        largest = self._numbers.largest_acked
        if not sent or sent[0].first > largest:
            return
        wait_us = max(reordering.time_threshold_us(state), GRANULARITY_US)
        lost_before = now_us - wait_us
        # Numbers below are lost.
        threshold = largest - reordering.packet_threshold(state) + 1
        # All that end below the threshold are lost, without a look at each.
        index = max(0, bisect_right(sent, threshold - 1, key=first_number) - 1)
        lost = sent[:index]
        kept: list[SentRun] = []
        for run in islice(sent, index, None):
            if run.first > largest:
                break
            index += 1
            end = run.first + run.count
            if end <= threshold or run.at_us <= lost_before:
                lost.append(run)
                continue
            if run.first < threshold:
                lost.append(cut(run, run.first, threshold))
                run = cut(run, threshold, end)  # noqa: PLW2901 - the rest is what we go on with
            kept.append(run)
            due = run.at_us + wait_us
            if state.loss_at_us == NEVER or due < state.loss_at_us:
                state.loss_at_us = due
        if lost:
            sent[:index] = kept
            self._on_lost(lost, acked, now_us)

    def _on_lost(self, lost: list[SentRun], acked: list[SentRun], now_us: int) -> None:
        congestion = self._congestion
        if self._trace is not None:
            qlog.log_lost(self._trace, lost)
        active = self._connection.measured_path
        counted: list[SentRun] = []
        lost_bytes = 0
        largest_size = 0
        for run in lost:
            size = run.count * run.size
            self.packets_lost += run.count
            self._state.eliciting_in_flight -= run.count
            if run.path != active or is_mtu_probe(run):
                # RFC 9000 §14.4: a lost MTU probe says nothing of congestion.
                congestion.on_discarded(size)
            else:
                lost_bytes += size
                counted.append(run)
                largest_size = max(largest_size, run.size)
            if run.marked:
                self._ecn.on_lost(run)
            self._deliver_lost(run)
        if lost_bytes:
            congestion.on_lost(counted, lost_bytes, now_us)
            reordering.note_lost(self._state, counted, now_us)
            MtuSearch(self._connection.paths[0]).on_packets_lost(largest_size, now_us)
            if self._is_persistent(lost, acked):
                congestion.on_persistent_congestion(now_us)
                # RFC 9002 §5.2: the path may be another one now.
                self._state.min_rtt_us = self._state.latest_rtt_us

    def _deliver_lost(self, run: SentRun) -> None:
        if run.stream_id != NONE:
            self._delivery.on_run_lost(run.stream_id, run.offset, run.chunk * run.count)
        for frame in run.frames:
            self._delivery.on_frame_lost(frame)

    def _is_persistent(self, lost: list[SentRun], acked: list[SentRun]) -> bool:
        """RFC 9002 §7.6.2: nothing acknowledged over three PTOs' worth of sending."""
        state = self._state
        if not state.has_rtt:
            return False
        # max_ack_delay is part of the period whatever the space (§7.6.1).
        period_us = self.pto_us() * PERSISTENT_CONGESTION_THRESHOLD
        if lost[-1].at_us - lost[0].at_us <= period_us:
            return False
        since = max(state.first_rtt_at_us, state.newest_acked_at_us)
        owner_first = self._numbers.owner_first_number
        times = [(r.at_us, 0) for r in lost if r.at_us > since and r.first >= owner_first]
        times += [(r.at_us, 1) for r in acked]
        times.sort()
        begin = NEVER
        for at_us, was_acked in times:
            if was_acked:
                begin = NEVER
            elif begin == NEVER:
                begin = at_us
            elif at_us - begin > period_us:
                return True
        return False


#: Contents that no probe repeats: an ACK is made anew, a probe of the MTU is not data, and a PING
#: of the application's must be reported once, though both copies arrive.
_NOT_REPEATED: Final = frozenset({f.ACK, f.MTU_PROBE, f.PING})
