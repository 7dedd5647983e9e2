"""From what is due to datagrams, in trains (RFC 9000 §12, §13; RFC 9002 §7).

A train is consecutive packets of equal size to one address, the last one perhaps shorter: what
UDP segmentation offload sends with one system call. Bulk stream data fills a train from one
stream at a time, without any work per packet but its encryption; everything else shares mixed
packets. Work per train instead of per packet is most of our speed: trains of 1 / 4 / 16 / 48
packets cost 1.53 / 0.51 / 0.40 / 0.38 s of CPU per 90 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aioquic.quic.logger import QuicLoggerTrace

from quicbaton import limits
from quicbaton.transport import datagrams, qlog, rangeset
from quicbaton.transport import frames as f
from quicbaton.transport.headroom import (
    MUTE,
    SMALLEST_PACKET_BYTES,
    UNTRIED,
    Gate,
    LimitedBy,
)
from quicbaton.transport.loss.congestion import CongestionController
from quicbaton.transport.loss.recovery import Recovery
from quicbaton.transport.packets.acks import ReceivedNumbers
from quicbaton.transport.packets.protection import PacketProtection
from quicbaton.transport.paths import ecn
from quicbaton.transport.paths.ids import ConnectionIds
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.paths.paths import Paths
from quicbaton.transport.state import (
    NEVER,
    NONE,
    ConnectionState,
    PathState,
    PeerId,
    SentRun,
)
from quicbaton.transport.streams.crypto import CryptoStream
from quicbaton.transport.streams.streams import Streams
from quicbaton.transport.train import Train

_TAG_BYTES: Final = 16


class Sender:
    """Builds the datagrams of one connection."""

    def __init__(
        self,
        state: ConnectionState,
        protection: PacketProtection,
        received: ReceivedNumbers,
        recovery: Recovery,
        congestion: CongestionController,
        streams: Streams,
        ids: ConnectionIds,
        paths: Paths,
        crypto: CryptoStream,
        entropy: Callable[[int], bytes],
        gate: Gate,
        trace: QuicLoggerTrace | None,
    ) -> None:
        self._trace = trace
        self._state = state
        self._protection = protection
        self._received = received
        self._recovery = recovery
        self._congestion = congestion
        self._streams = streams
        self._ids = ids
        self._paths = paths
        self._crypto = crypto
        self._entropy = entropy
        self._gate = gate
        self._ecn = ecn.EcnFeedback(state)
        #: The rest that the last turn has left, and the limit that stopped it.
        self.headroom = UNTRIED
        self._paced_until_us = NEVER  # derived: when the pacer lets the turn under way go on
        self._late_us = 0  # of the turn: how late the end of a wait would be noticed
        self._waits_for_acks = False  # derived: the rest of the window is too little for a train
        self._mark = 0  # derived: ECN bits of the train under way

    # --- poll -----------------------------------------------------------------------------------

    def build(self, now_us: int, *, quick: bool = False, late_us: int = 0) -> list[Train]:
        """The trains to send now, `limits.MAX_TRAINS_PER_TURN` of bulk data at most, or a short
        one if it must be `quick`. Timers come `late_us` too late."""
        state = self._state
        self._mark = 0  # probes of paths and sizes have none
        self._paced_until_us = NEVER
        # Nothing is made up for where nothing has waited for the pacer (RFC 9002 §7.7).
        before = self.headroom
        self._late_us = 0 if before is UNTRIED or before.is_app_limited else late_us
        self._waits_for_acks = False
        trains: list[Train] = []
        if quick and not self._streams.has_due():
            if not self.headroom.waits_for_peer:
                self.headroom = UNTRIED
            return trains
        if self._paths.has_due():
            self._probe_paths(trains, now_us)
        path = state.paths[0]
        peer = self._paths.peer_id(path)
        if peer is None:
            self.headroom = MUTE
            return trains
        measured = path.serial == state.measured_path
        if measured and path.mtu_bytes != state.congestion.datagram_bytes:
            self._congestion.set_datagram_bytes(path.mtu_bytes)
        if path.mtu_at_us > 0 or (path.mtu_at_us == 0 and self._fills_datagrams(path)):
            self._probe_mtu(trains, path, peer, now_us)
        turn_is_over = False
        is_due = self._has_due()
        if is_due or state.recovery.probes_due:
            turn_is_over = self._fill_turn(trains, path, peer, now_us, is_due=is_due, quick=quick)
        elif NEVER < state.numbers.ack_at_us <= now_us:
            self._acknowledge(trains, path, peer, now_us)
        headroom = self._gate.headroom(
            path,
            turn_is_over,
            self._paced_until_us,
            self._streams.unsent_bytes,
            waits_for_acks=self._waits_for_acks,
        )
        if self._trace is not None and headroom.limited_by is not self.headroom.limited_by:
            qlog.log_headroom(self._trace, headroom)
        self.headroom = headroom
        out_of_data = headroom.limited_by is LimitedBy.APPLICATION
        self._congestion.on_turn_ended(headroom.is_app_limited, out_of_data)
        return trains

    def has_due(self) -> bool:
        """Whether anything waits to be sent, now or when it may."""
        return (
            self.headroom.limited_by is LimitedBy.TURN or self._has_due() or self._paths.has_due()
        )

    def close_datagram(self, now_us: int) -> list[Train]:
        """A packet with CONNECTION_CLOSE (RFC 9000 §10.2.3)."""
        state = self._state
        closing = state.closing
        path = state.paths[0]
        peer = self._paths.peer_id(path)
        if closing is None or peer is None:
            return []
        reason = closing.reason.encode()[:256].decode(errors="ignore").encode()
        head = bytes([f.APPLICATION_CLOSE if closing.frame_type == NONE else f.TRANSPORT_CLOSE])
        head += f.encode_varint(closing.error_code)
        if closing.frame_type != NONE:
            head += f.encode_varint(closing.frame_type)
        frame = head + f.encode_varint(len(reason)) + reason
        ack = self._received.encode(now_us)
        payload = ack + frame if len(ack) + len(frame) < 1100 else frame
        if self._paths.allowance_bytes(path) < 5 + len(peer.cid) + len(payload) + _TAG_BYTES:
            return []  # RFC 9000 §8.1 holds for the last packet, too
        first = self._take_numbers(1)
        data = self._protection.seal_packet(peer.cid, first, 4, payload, _spin(peer))
        path.sent_bytes += len(data)
        return [Train(data, len(data), path.remote, path.local)]

    # --- one train ------------------------------------------------------------------------------

    def _fill_turn(
        self,
        trains: list[Train],
        path: PathState,
        peer: PeerId,
        now_us: int,
        *,
        is_due: bool,
        quick: bool,
    ) -> bool:
        """Add a turn's trains. Returns whether more is due."""
        packets = limits.QUICK_TRAIN_PACKETS if quick else limits.MAX_TRAIN_PACKETS
        for _ in range(1 if quick else limits.MAX_TRAINS_PER_TURN):
            train = self._train(path, peer, packets, now_us, is_due=is_due)
            if train is None:
                return False
            trains.append(train)
            is_due = self._has_due()
            if not (is_due or self._must_speak(now_us)):
                # To find that out by building another would cost a quarter of a small turn.
                return False
        return is_due

    def _acknowledge(self, trains: list[Train], path: PathState, peer: PeerId, now_us: int) -> None:
        """Add an ACK, since nothing else is due, as in most turns of a receiver."""
        allowed = self._gate.address_bytes(path)
        if allowed < SMALLEST_PACKET_BYTES:
            return
        mark = self._mark = ecn.mark(path)
        data = self._mixed(path, peer, False, min(path.mtu_bytes, allowed), now_us)
        if data:
            path.sent_bytes += len(data)
            trains.append(Train(data, len(data), path.remote, path.local, mark))

    def _train(
        self, path: PathState, peer: PeerId, room: int, now_us: int, *, is_due: bool
    ) -> Train | None:
        """One train: mixed packets for what is small or due, then a run of bulk data, its tail.
        `is_due`: it is not for an ACK or a probe alone."""
        mark = self._mark = ecn.mark(path)
        budget = self._budget_bytes(path, room, now_us, is_due=is_due)
        allowed = self._gate.address_bytes(path)
        mtu = path.mtu_bytes
        segments: list[bytes] = []
        while room and allowed >= SMALLEST_PACKET_BYTES:
            may_elicit = budget >= mtu or self._state.recovery.probes_due > 0
            control = self._control_due(now_us)
            if may_elicit and not control:
                count = min(room, budget // mtu, self._numbers_before_skip())
                sealed = self._run(path, peer, count, now_us) if count > 1 else None
                if sealed is not None:
                    data, count = sealed
                    segments.append(data)
                    room -= count
                    budget -= len(data)
                    allowed -= len(data)
                    continue
                control = self._streams.has_due()
            if not control and not (may_elicit and self._state.recovery.probes_due):
                break
            data = self._mixed(path, peer, may_elicit, min(mtu, allowed), now_us)
            if not data:
                break
            segments.append(data)
            room -= 1
            budget -= len(data)
            allowed -= len(data)
            if len(data) != mtu:
                break  # only the last segment of a train may be shorter
        if not segments:
            return None
        data = segments[0] if len(segments) == 1 else b"".join(segments)
        path.sent_bytes += len(data)
        return Train(data, min(mtu, len(data)), path.remote, path.local, mark)

    def _run(
        self, path: PathState, peer: PeerId, max_packets: int, now_us: int
    ) -> tuple[bytes, int] | None:
        """A run of full packets of one stream, sealed into one buffer; and how many."""
        state = self._state
        number_length = self._number_length(max_packets)
        payload_bytes = path.mtu_bytes - 1 - len(peer.cid) - number_length - _TAG_BYTES
        taken = self._streams.take_run(payload_bytes, max_packets)
        if taken is None:
            return None
        stream_id, offset, chunk, payloads = taken
        count = len(payloads)
        first = self._take_numbers(count)
        data = self._protection.seal_train(peer.cid, first, number_length, payloads, _spin(peer))
        self._on_sent(
            SentRun(
                first=first,
                count=count,
                at_us=now_us,
                size=path.mtu_bytes,
                eliciting=True,
                path=path.serial,
                marked=self._mark != 0,
                stream_id=stream_id,
                offset=offset,
                chunk=chunk,
                frames=[],
                delivery=None,
            )
        )
        if state.recovery.probes_due:
            state.recovery.probes_due = max(0, state.recovery.probes_due - count)
        return data, count

    def _mixed(
        self, path: PathState, peer: PeerId, may_elicit: bool, size: int, now_us: int
    ) -> bytes:
        """One packet, of `size` bytes at most, of everything that is due, filled with stream
        data; empty if nothing is."""
        number_length = self._number_length(1)
        overhead = 1 + len(peer.cid) + number_length + _TAG_BYTES
        plan = f.PacketPlan(size - overhead)
        if self._state.numbers.ack_at_us != NEVER:
            ack = self._received.encode(now_us)
            if len(ack) > plan.room:
                # Anti-amplification leaves no more: the newest range is what the peer waits for.
                ack = self._received.encode(now_us, max_ranges=1)
            if ack and plan.add(
                ack, (f.ACK, self._state.numbers.largest_received, 0, 0, 0), eliciting=False
            ):
                self._received.on_ack_sent()
        if may_elicit:
            self._fill(plan)
        if not plan.parts:
            return b""
        if plan.eliciting and plan.room and self._streams.has_due():
            # What follows in this train must start a full segment later.
            plan.add(bytes(plan.room), eliciting=False)
        first = self._take_numbers(1)
        return self._seal_plan(plan, path, peer, number_length, first, now_us)

    def _fill(self, plan: f.PacketPlan) -> None:
        """Control frames first, then DATAGRAMs, then streams; a PING when a probe has nothing."""
        state = self._state
        if state.handshake_done_due and plan.add(
            bytes([f.HANDSHAKE_DONE]), (f.HANDSHAKE_DONE, 0, 0, 0, 0)
        ):
            state.handshake_done_due = False
        probing = state.recovery.probes_due > 0
        if probing:
            self._ids.queue_unacknowledged()
            if not self._has_due():
                self._recovery.queue_probe_data()
        self._ids.write_due(plan)
        self._crypto.write_due(plan)
        self._write_tokens(plan)
        while state.pings_due and plan.add(
            bytes([f.PING]), (f.PING, state.pings_due[0] + 1, 0, 0, 0)
        ):
            del state.pings_due[0]
        if state.datagrams:
            datagrams.write_due(state, plan)
        self._streams.write_due(plan)
        if probing:
            if not plan.eliciting:
                plan.add(bytes([f.PING]), (f.PING, 0, 0, 0, 0))
            state.recovery.probes_due -= 1

    def _seal_plan(
        self,
        plan: f.PacketPlan,
        path: PathState,
        peer: PeerId,
        number_length: int,
        first: int,
        now_us: int,
    ) -> bytes:
        data = self._protection.seal_packet(
            peer.cid, first, number_length, b"".join(plan.parts), _spin(peer)
        )
        if not plan.eliciting and self._trace is None:
            # Recovery keeps no record of it (RFC 9002 §2): only the peer's ECN counts include it.
            if self._mark:
                self._state.numbers.ecn_sent += 1
            return data
        self._on_sent(
            SentRun(
                first=first,
                count=1,
                at_us=now_us,
                size=len(data),
                eliciting=plan.eliciting,
                path=path.serial,
                marked=self._mark != 0,
                stream_id=NONE,
                offset=0,
                chunk=0,
                frames=plan.frames,
                delivery=None,
            )
        )
        return data

    # --- probes ---------------------------------------------------------------------------------

    def _probe_paths(self, trains: list[Train], now_us: int) -> None:
        """PATH_CHALLENGE and PATH_RESPONSE, each in a packet on its own path (RFC 9000 §8.2)."""
        for path in self._paths.probes_due():
            peer = self._paths.peer_id(path)
            if peer is None:
                continue
            if not path.challenge_due and not self._congestion.room_bytes():
                # §8.2.2: congestion control may delay an answer. A peer that asks and asks and
                # acknowledges nothing must not have us record an answer each time.
                continue
            number_length = self._number_length(1)
            overhead = 1 + len(peer.cid) + number_length + _TAG_BYTES
            size = min(limits.MIN_DATAGRAM_BYTES, self._paths.allowance_bytes(path))
            plan = f.PacketPlan(size - overhead)
            pad = self._paths.probes(path, plan, now_us)
            if not plan.parts:
                continue
            if pad:
                plan.add(bytes(plan.room), eliciting=False)
            first = self._take_numbers(1)
            data = self._seal_plan(plan, path, peer, number_length, first, now_us)
            path.sent_bytes += len(data)
            trains.append(Train(data, len(data), path.remote, path.local))

    def _fills_datagrams(self, path: PathState) -> bool:
        """Whether larger datagrams would help: stream data waits for more than one, or the program
        may send DATAGRAM frames, whose size it chooses by that of datagrams."""
        return (
            self._streams.unsent_bytes >= path.mtu_bytes
            or self._state.remote.max_datagram_frame_bytes > 0
        )

    def _probe_mtu(self, trains: list[Train], path: PathState, peer: PeerId, now_us: int) -> None:
        """A PING padded to the size under test (RFC 8899 §3; RFC 9000 §14.4)."""
        search = MtuSearch(path)
        size = search.probe_size(now_us)
        if not size or not path.validated or self._congestion.room_bytes() < size:
            return
        number_length = self._number_length(1)
        plan = f.PacketPlan(size - 1 - len(peer.cid) - number_length - _TAG_BYTES)
        first = self._take_numbers(1)
        plan.add(bytes([f.PING]), (f.MTU_PROBE, size, path.serial, first, 0))
        plan.add(bytes(plan.room), eliciting=False)
        search.on_probe_sent(first, now_us)
        data = self._seal_plan(plan, path, peer, number_length, first, now_us)
        path.sent_bytes += len(data)
        trains.append(Train(data, len(data), path.remote, path.local))

    # --- what may go, and what is due -----------------------------------------------------------

    def _budget_bytes(self, path: PathState, packets: int, now_us: int, *, is_due: bool) -> int:
        """Bytes that all limits let out now, for a train of so many packets at most."""
        budget = self._gate.unpaced_bytes(path)
        if budget < path.mtu_bytes or not is_due:
            return budget
        quick = packets <= limits.QUICK_TRAIN_PACKETS
        if not quick and self._gate.waits_for_acks(budget, self._streams.unsent_bytes):
            self._waits_for_acks = self._streams_only_due()
            if self._waits_for_acks:
                return 0
        paced, until_us = self._gate.paced_bytes(path, budget, now_us, self._late_us, quick=quick)
        if until_us != NEVER:
            self._paced_until_us = until_us
            if paced < path.mtu_bytes or self._streams_only_due():
                return 0
        return paced

    def _streams_only_due(self) -> bool:
        """True when nothing but streams' data waits: it can wait a little longer for a train."""
        state = self._state
        return not (
            state.handshake_done_due
            or state.tokens_due
            or state.pings_due
            or state.datagrams
            or state.crypto.due
            or self._ids.has_due()
            or self._streams.has_control_due()
        )

    def _control_due(self, now_us: int) -> bool:
        """True when a mixed packet must go before bulk data."""
        ack_at_us = self._state.numbers.ack_at_us
        return (
            ack_at_us != NEVER and (ack_at_us <= now_us or self._streams.has_due())
        ) or not self._streams_only_due()

    def _must_speak(self, now_us: int) -> bool:
        """Whether a packet must go though nothing waits to be sent."""
        state = self._state
        return NEVER < state.numbers.ack_at_us <= now_us or state.recovery.probes_due > 0

    def _has_due(self) -> bool:
        return self._streams.has_due() or not self._streams_only_due()

    def _write_tokens(self, plan: f.PacketPlan) -> None:
        state = self._state
        while state.tokens_due:
            token = state.tokens[state.tokens_due[0] - state.tokens_first]
            frame = bytes([f.NEW_TOKEN]) + f.encode_varint(len(token)) + token
            if not plan.add(frame, (f.NEW_TOKEN, state.tokens_due[0], 0, 0, 0)):
                return
            del state.tokens_due[0]

    # --- packet numbers -------------------------------------------------------------------------

    def _number_length(self, count: int) -> int:
        """RFC 9000 §17.1: twice the distance to the largest acknowledged must be representable."""
        numbers = self._state.numbers
        distance = 2 * (numbers.next_number + count - numbers.largest_acked)
        return 2 if distance < 1 << 16 else 3 if distance < 1 << 24 else 4

    def _numbers_before_skip(self) -> int:
        """Consecutive numbers that may be used; 1 at least, past a skip."""
        numbers = self._state.numbers
        if numbers.skip_at <= numbers.next_number:
            return limits.MAX_TRAIN_PACKETS
        return numbers.skip_at - numbers.next_number

    def _take_numbers(self, count: int) -> int:
        """Consume `count` consecutive packet numbers; leaves one out now and then (§21.4)."""
        numbers = self._state.numbers
        if numbers.skip_at <= numbers.next_number:
            skip_numbers(self._state, 1, self._entropy)
        first = numbers.next_number
        numbers.next_number = first + count
        return first

    def _on_sent(self, run: SentRun) -> None:
        self._recovery.on_sent(run)
        if run.marked:
            self._ecn.on_sent(run)
        if self._trace is not None:
            qlog.log_sent(self._trace, run)
        if run.eliciting:
            state = self._state
            if not state.idle_sent_since:
                # RFC 9000 §10.1: the first ack-eliciting packet since a receipt restarts it.
                state.idle_sent_since = True
                state.idle_from_us = run.at_us


def skip_numbers(state: ConnectionState, count: int, entropy: Callable[[int], bytes]) -> None:
    """Leave out `count` packet numbers and choose the place of the next gap (RFC 9000 §21.4)."""
    numbers = state.numbers
    first = numbers.next_number
    rangeset.add(numbers.skipped, first, first + count)
    del numbers.skipped[: -2 * limits.MAX_SKIPPED_RANGES]
    numbers.next_number = first + count
    distance = 1 + int.from_bytes(entropy(2), "big") % (2 * limits.SKIP_EVERY_PACKETS)
    numbers.skip_at = numbers.next_number + distance


def _spin(peer: PeerId) -> int:
    """RFC 9000 §17.4: spin bit off, its value random per connection ID (here: taken from it)."""
    return peer.cid[-1] & 1 if peer.cid else 0
