"""Network paths: which addresses we may send to, how much, and whether they can hear us (RFC 9000
§8, §9).

`state.paths[0]` is the active path, the one that data goes to; the others follow, most recently
active first, so the path to go back to is the first of them that qualifies. A path is born when an
authenticated packet comes from a new address, because an address is all that a spoofer can change.
What then happens to it:

* A PATH_CHALLENGE on it is answered on it, and answered with a challenge of our own.
* A newer non-probing packet makes it active. Both it and the path before it are challenged
  (§9.3.3).
* No answer within three times the PTO: an active path gives way to the last validated one
  (§9.3.2), an idle one is forgotten.
* A new address always gets a place. If none is left, the path that has been silent for longest
  loses its own, the active one and the one to go back to excepted.

A challenge is never sent again as it was: every try carries fresh data, and the answer to any try
counts, since the path may be slower than the timer.

Copies. An attacker that sees the peer's packets can send copies of them from elsewhere, ahead of
the genuine ones, which then are duplicates. So while the active path is not validated, a duplicate
is a sign (§9.3.3). If it comes from a validated address, that path is alive and becomes active
again. Another address is challenged, and becomes active if it answers first. Nothing else depends
on an unproved address: RTT and the congestion window stay with the path on which they were measured
until the new one is validated (§9.4), and programs are told the address of the last validated path.

IDs. A path uses the same ID of the peer's as another one if the peer's packets name the same ID of
ours on both (§9.5): the peer does not know that its address changed, a NAT did that. So neither
rebindings nor copies use up IDs. A peer that moves on purpose names another ID of ours, and gets a
fresh one of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from quicbaton.limits import (
    MAX_PATHS,
    MAX_PENDING_PATH_RESPONSES,
    MIN_DATAGRAM_BYTES,
)
from quicbaton.transport.closing import Closing
from quicbaton.transport.frames import (
    NO_VIABLE_PATH,
    PATH_CHALLENGE,
    PATH_RESPONSE,
    PING,
    PacketPlan,
    encode_varint,
)
from quicbaton.transport.paths import ecn
from quicbaton.transport.paths.ids import ConnectionIds
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.paths.path import fallback_path, new_path, same_host, same_local
from quicbaton.transport.state import (
    NEVER,
    NONE,
    Address,
    ConnectionState,
    PathState,
    PeerId,
)

#: `allowance_bytes` of a validated path.
UNLIMITED: Final = 1 << 62
#: PTO of a path without an RTT sample: kInitialRtt + 4 * kInitialRtt / 2 (RFC 9002 §6.2.2). A
#: challenge must not be repeated sooner than an Initial packet would be (RFC 9000 §8.2.1).
INITIAL_PTO_US: Final = 999_000
#: An address that has been proved is not asked anew sooner than this.
CHALLENGE_INTERVAL_US: Final = INITIAL_PTO_US
#: Tries of one validation: sent at 0 and 1 PTO, given up after 3 (RFC 9000 §8.2.4).
MAX_TRIES: Final = 2
#: The smallest packet worth building: header, one path frame and the AEAD tag.
_SMALLEST_PROBE_BYTES: Final = 64
_CHALLENGE_BYTES: Final = 8


class Paths:
    """Finds, validates, switches and forgets paths; everything that lasts is in the state."""

    __slots__ = ("_closing", "_entropy", "_ids", "_latest", "_state")

    def __init__(
        self,
        state: ConnectionState,
        ids: ConnectionIds,
        closing: Closing,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._state = state
        self._ids = ids
        self._closing = closing
        self._entropy = entropy
        self._latest: PathState | None = None  # derived: from where the latest datagram came

    @property
    def active(self) -> PathState:
        return self._state.paths[0]

    # --- receiving ----------------------------------------------------------------------------

    def on_datagram(self, remote: Address, local: Address, size: int) -> PathState | None:
        """The path of a datagram that authenticated; None: do not process it.

        Must not be called for datagrams that failed to authenticate.
        """
        paths = self._state.paths
        path = paths[0]
        if path.remote != remote or not same_local(path.local, local):
            known = self._find_or_add(remote, local)
            if known is None:
                return None
            path = known
        if not path.validated:
            path.received_bytes += size
        if path is not self._latest:
            self._latest = path
            path.heard = 1 + max([other.heard for other in paths])
        return path

    def on_local_id(self, path: PathState, cid: bytes) -> None:
        """A packet on `path` names this ID of ours; call it when that has changed."""
        sequence = self._ids.sequence_of(cid)
        if sequence != NONE:
            path.local_sequence = sequence

    def on_non_probing(self, path: PathState, number: int, *, is_newest: bool) -> bool:
        """A packet with other than probing frames came on `path` (§9.3).

        `is_newest`: its number is the highest among non-probing packets so far. Returns True
        when the active path now leads to another host, so that congestion control, RTT and MTU
        must start anew (§9.4).
        """
        if path is self._state.paths[0] or self._state.is_client:
            return False
        path.used = True
        if not is_newest:
            return False
        self._migrate_to(path, number)
        return self._settle()

    def on_duplicate(
        self, remote: Address, local: Address, cid: bytes, size: int, number: int
    ) -> bool:
        """A non-probing packet came again. True when it led back to a validated path: packets that
        were sent on the other since may not have reached the peer."""
        state = self._state
        if state.is_client or not NONE < state.unproved_from <= number:
            return False
        path = self.on_datagram(remote, local, size)
        if path is None or path is state.paths[0]:
            return False
        self.on_local_id(path, cid)
        path.used = True
        if not path.validated:
            self._start_validation(path)
            return False
        # The window and the RTT are still this path's: none was measured on the other.
        self._migrate_to(path, number)
        self._settle()
        return True

    def on_challenge(self, path: PathState, data: bytes) -> None:
        """PATH_CHALLENGE came on `path`: the answer goes the same way (§8.2.2)."""
        if len(path.responses) < MAX_PENDING_PATH_RESPONSES:
            path.responses.append(data)
        # The client is about to move there: to challenge it along with the answer spares it the
        # anti-amplification limit afterwards.
        if not path.validated and not self._state.is_client:
            self._start_validation(path)

    def on_response(self, data: bytes) -> bool:
        """PATH_RESPONSE came, on whatever path (§8.2.3). Returns True when the active path now
        leads to another host (see `on_non_probing`).

        Unknown data is ignored (§19.18 permits it): it may answer a validation given up since.
        """
        for path in self._state.paths:
            for challenge, padded in path.challenges:
                if challenge == data:
                    self._answered(path, padded)
                    return self._settle()
        return False

    # --- sending ------------------------------------------------------------------------------

    def peer_id(self, path: PathState) -> PeerId | None:
        """The peer's ID for packets that go there; None: the peer must issue one first (§5.1.2)."""
        ids = self._ids
        known = ids.id_of_path(path.serial)
        if known is not None:
            return known
        others = [other for other in self._state.paths if ids.id_of_path(other.serial)]
        for other in others:
            if other.local_sequence == path.local_sequence:
                return ids.share(other.serial, path.serial)
        known = ids.take_spare_for_path(path.serial)
        if known is None:
            # It named another ID of ours because we had asked for that, or only its port changed:
            # the paths need not be told apart.
            for other in others:
                if self._ids.is_asked_back(other.local_sequence) or same_host(other, path):
                    return ids.share(other.serial, path.serial)
        return known

    def allowance_bytes(self, path: PathState) -> int:
        """How many bytes may go there now: three times those received, until validated (§8.1)."""
        if path.validated:
            return UNLIMITED
        return max(0, 3 * path.received_bytes - path.sent_bytes)

    def has_due(self) -> bool:
        """Whether a challenge or a response waits that can be sent now."""
        for path in self._state.paths:  # one path, nothing due: nearly always
            if path.challenge_due or path.responses:
                return bool(self.probes_due())
        return False

    def probes_due(self) -> list[PathState]:
        """Paths with path frames to send that may be sent to now; the active one comes first.

        Each needs a packet of its own: fill it by `probes`, and count it in `sent_bytes`.
        """
        due = []
        for index, path in enumerate(self._state.paths):
            if index == 0:
                # The active path picks its connection ID before probes can take the last one.
                self.peer_id(path)
            if (
                (path.challenge_due or path.responses)
                and self.allowance_bytes(path) >= _SMALLEST_PROBE_BYTES
                and self.peer_id(path) is not None
            ):
                due.append(path)
        return due

    def probes(self, path: PathState, plan: PacketPlan, now_us: int) -> bool:
        """Add the path's frames to a packet that goes there; whether to pad it to 1200 bytes.

        §8.2.1, §8.2.2: datagrams with these frames are padded if the anti-amplification limit
        permits. When it does not, the answer proves the address, and a padded challenge follows.
        """
        padded = self.allowance_bytes(path) >= MIN_DATAGRAM_BYTES
        before = plan.room
        responded = False
        while path.responses:
            if not plan.add(encode_varint(PATH_RESPONSE) + path.responses[0]):
                break
            path.responses.pop(0)  # §8.2.2: one response per challenge, so it is never repeated
            responded = True
        if responded and path is self._state.paths[0]:
            # §9.3.3: challenged on the active path, answer with a non-probing packet.
            plan.add(encode_varint(PING), (PING, 0, 0, 0, 0))
        if path.challenge_due and plan.room > _CHALLENGE_BYTES:
            data = self._entropy(_CHALLENGE_BYTES)
            plan.add(encode_varint(PATH_CHALLENGE) + data)
            path.challenges.append((data, padded))
            path.challenge_due = False
            path.challenge_at_us = now_us + self._try_us(path.challenge_tries)
        return padded and plan.room < before

    # --- time ---------------------------------------------------------------------------------

    def next_timer_us(self) -> int:
        """When `on_timer` is due; NEVER while nothing is being validated."""
        times = [path.challenge_at_us for path in self._state.paths]
        return min([at_us for at_us in times if at_us != NEVER], default=NEVER)

    def on_timer(self, now_us: int) -> bool:
        """Challenge again, or give up. Returns True when the active path now leads to another
        host (see `on_non_probing`). With no path to go back to the connection is over, silently
        (§9.3.2): `state.closed` is set."""
        other_host = False
        # A copy, oldest paths first: an active path that fails goes back to one that is current.
        for path in reversed(list(self._state.paths)):
            if path.challenge_at_us == NEVER or path.challenge_at_us > now_us:
                continue
            if path not in self._state.paths:
                continue  # another's failure was its end, too
            if path.challenge_tries < MAX_TRIES:
                if not path.challenge_tries:
                    path.challenged_us = now_us
                path.challenge_tries += 1
                path.challenge_due = True
                path.challenge_at_us = now_us + self._try_us(path.challenge_tries)
            else:
                other_host |= self._fail(path, now_us)
        return other_host

    def rearm(self, now_us: int) -> None:
        """Grant a try whose time passed in a handoff its full time again. One that lies ahead
        stays: frequent handoffs must not put it off for ever."""
        for path in self._state.paths:
            if NEVER < path.challenge_at_us <= now_us:
                path.challenge_at_us = now_us + self._try_us(path.challenge_tries)

    def on_other_host(self, now_us: int) -> None:
        """Datagrams leave from another host now: it is unknown which size gets through, and whether
        ECN marks do."""
        for path in self._state.paths:
            MtuSearch(path).reset(path.mtu_ceiling_bytes, now_us)
            ecn.begin(path)
        for run in self._state.recovery.sent:
            run.marked = False  # the fate of these tells nothing about the way from here

    # --- inside -------------------------------------------------------------------------------

    def _find_or_add(self, remote: Address, local: Address) -> PathState | None:
        state = self._state
        for path in state.paths:
            # A client's own address may change under it; the server's may not (§9).
            if path.remote == remote and (state.is_client or same_local(path.local, local)):
                return path
        if state.is_client:
            return None
        if len(state.paths) >= MAX_PATHS:
            self._forget(self._victim())
        path = new_path(
            state.next_path_serial,
            remote,
            local,
            validated=False,
            max_payload_bytes=state.remote.max_udp_payload_bytes,
        )
        state.next_path_serial += 1
        state.paths.append(path)
        return path

    def _victim(self) -> PathState:
        """The path to forget for a new one: never the active one, nor the one to go back to.

        First those to which data never went; then the one that has been silent for longest. The
        peer's own address is heard again with each of its packets, also behind copies from
        elsewhere: addresses from which a packet came once go first.
        """
        state = self._state
        fallback = fallback_path(state)
        others = [path for path in state.paths[1:] if path is not fallback]
        idle = [path for path in others if self._is_idle(path)]
        unused = [path for path in idle if not path.used]
        return min(unused or idle or others, key=lambda path: path.heard)

    def _is_idle(self, path: PathState) -> bool:
        """Whether it is not being validated. The last try has failed, although its timer may not
        have fired yet."""
        at_us = path.challenge_at_us
        overdue = path.challenge_tries >= MAX_TRIES and at_us <= self._state.clock_us
        return at_us == NEVER or overdue

    def _migrate_to(self, path: PathState, number: int) -> None:
        state = self._state
        paths = state.paths
        previous = paths[0]
        paths.remove(path)
        paths.insert(0, path)
        self.peer_id(path)  # before a probe can take the last one
        if previous.validated and not path.validated:
            state.unproved_from = number
        if path.validated and path.full_size_validated:
            self._end_validation(path)  # §9.3: back on a known address
        else:
            self._start_validation(path)
        # §9.3.3: the path before must be asked too. It stays validated meanwhile.
        self._start_validation(previous)
        if same_host(previous, path) and path.mtu_bytes < previous.mtu_bytes:
            # §9.4: most likely a NAT that changed the port; the route is the same.
            path.mtu_bytes = previous.mtu_bytes
            path.mtu_limit_bytes = previous.mtu_limit_bytes
            path.mtu_at_us = previous.mtu_at_us
            if previous.ecn in (ecn.CAPABLE, ecn.FAILED):
                path.ecn = previous.ecn

    def _settle(self) -> bool:
        """The active path may be another one, or validated now. True when RTT and congestion
        control must start anew for it: only "on confirming a peer's ownership of its new address",
        and not where only the port has changed (§9.4)."""
        state = self._state
        active = state.paths[0]
        if active.validated:
            state.unproved_from = NONE
            self._free_an_id()
        if active.serial == state.measured_path:
            return False
        measured = [path for path in state.paths if path.serial == state.measured_path]
        nearby = bool(measured) and same_host(measured[0], active)
        if not nearby and not active.validated:
            return False
        state.measured_path = active.serial
        return not nearby

    def _free_an_id(self) -> None:
        """Keep a spare ID for the next move: the path heard least recently gives its own back, for
        which the peer issues another. The active path is proved, so none is needed to go back to.
        """
        state = self._state
        active = state.paths[0]
        if self._ids.has_spare or self._ids.id_of_path(active.serial) is None:
            return
        others = [path for path in state.paths[1:] if self._ids.has_own(path.serial)]
        if others:
            self._forget(min(others, key=lambda path: path.heard))

    def _start_validation(self, path: PathState) -> None:
        if path.challenge_at_us != NEVER:
            return
        now_us = self._state.clock_us
        again_us = path.challenged_us + CHALLENGE_INTERVAL_US
        if path.validated and path.challenged_us > NEVER and now_us < again_us:
            # Its answer is a packet of which a copy may come from elsewhere, and so on for ever.
            path.challenge_at_us = again_us
            return
        path.challenged_us = now_us
        path.challenge_due = True
        path.challenge_tries = 1
        path.challenge_at_us = now_us + self._try_us(1)

    def _end_validation(self, path: PathState) -> None:
        path.challenges.clear()
        path.challenge_due = False
        path.challenge_tries = 0
        path.challenge_at_us = NEVER

    def _answered(self, path: PathState, padded: bool) -> None:
        """Settle the validation of a path whose challenge was answered."""
        state = self._state
        newly = not path.validated
        path.validated = True
        path.full_size_validated = path.full_size_validated or padded
        if path.full_size_validated:
            self._end_validation(path)
        else:
            # §8.2.3: the address is proved, its MTU is not: ask again in a datagram of 1200 bytes.
            path.challenges = [challenge for challenge in path.challenges if challenge[1]]
            path.challenge_due = not path.challenges
            path.challenge_tries = 1
            path.challenge_at_us = state.clock_us + self._try_us(1)
        if newly and path.used and not state.paths[0].validated and path is not state.paths[0]:
            # A duplicate from there was behind a copy from the active path, and it answers first.
            self._migrate_to(path, state.unproved_from)

    def _fail(self, path: PathState, now_us: int) -> bool:
        self._end_validation(path)
        state = self._state
        active = state.paths[0]
        if path is not active:
            # A path validated once is all there is to go back to while the active one is not.
            if active.validated or not path.validated:
                self._forget(path)
            return False
        fallback = fallback_path(state)
        if fallback is None:
            if path.validated:
                # The peer is there (§8.2.3), only no answer to a full-sized challenge came. Two
                # losses are no reason to give up the one address that is proved: ask again.
                self._start_validation(path)
            else:
                self._closing.end(NO_VIABLE_PATH, NONE, "no validated path to the peer is left")
            return False
        state.paths.remove(fallback)
        state.paths.insert(0, fallback)
        self._end_validation(fallback)
        if not fallback.full_size_validated:
            self._start_validation(fallback)
        self.peer_id(fallback)
        other_host = self._settle()
        if path in state.paths:
            self._forget(path)
        return other_host

    def _forget(self, path: PathState) -> None:
        state = self._state
        state.paths.remove(path)
        # Without an ID nothing can be sent on the active path, not even that one is retired: this
        # one, which has led nowhere, must do.
        mute = self._ids.id_of_path(state.paths[0].serial) is None
        self._ids.release_path(path.serial, keep=mute and not self._ids.has_spare)

    def _try_us(self, tries: int) -> int:
        """How long the given try may take: the PTO, doubled with each (§9.4, RFC 9002 §6.2.1);
        at least that of an unknown path, which the new one is (RFC 9000 §8.2.4)."""
        recovery = self._state.recovery
        pto_us = INITIAL_PTO_US
        if recovery.has_rtt:
            variation_us = max(4 * recovery.rtt_variation_us, 1000)
            max_ack_delay_us = 1000 * self._state.remote.max_ack_delay_ms
            pto_us = max(pto_us, recovery.smoothed_rtt_us + variation_us + max_ack_delay_us)
        return pto_us << (tries - 1)
