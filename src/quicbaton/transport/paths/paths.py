"""Network paths: whom we may send to, how much, and whether they can hear us (RFC 9000 §8, §9).

`state.paths[0]` is the active path, the one that data goes to; the others follow, most recently
active first, so the path to go back to is the first of them that qualifies. A path is born when
an authenticated packet comes from a new address, because an address is all that a spoofer can
change. What then happens to it:

* A PATH_CHALLENGE on it is answered on it, and answered with a challenge of our own.
* A newer non-probing packet makes it active. Both it and the path before it are challenged
  (§9.3.3): whoever forwards copies of genuine packets from elsewhere wins only for as long as the
  genuine path is silent.
* No answer within three times the PTO: an active path gives way to the last validated one
  (§9.3.2), an idle one is forgotten and its connection ID retired.

A challenge is never sent again as it was: every try carries fresh data, and the answer to any
try counts, since the path may be slower than the timer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from quicbaton.limits import (
    MAX_DATAGRAM_BYTES,
    MAX_PATHS,
    MAX_PENDING_PATH_RESPONSES,
    MIN_DATAGRAM_BYTES,
)
from quicbaton.transport import closing
from quicbaton.transport.frames import (
    NO_VIABLE_PATH,
    PATH_CHALLENGE,
    PATH_RESPONSE,
    PING,
    PacketPlan,
    encode_varint,
)
from quicbaton.transport.paths.ids import ConnectionIds
from quicbaton.transport.paths.mtu import MtuSearch
from quicbaton.transport.state import (
    NEVER,
    NONE,
    Address,
    ConnectionState,
    PathState,
)

#: What `allowance_bytes` says of a validated path.
UNLIMITED: Final = 1 << 62
#: PTO of a path without an RTT sample: kInitialRtt + 4 * kInitialRtt / 2 (RFC 9002 §6.2.2). A
#: challenge must not be repeated sooner than an Initial packet would be (RFC 9000 §8.2.1).
INITIAL_PTO_US: Final = 999_000
#: Tries of one validation: sent at 0 and 1 PTO, given up after 3 (RFC 9000 §8.2.4).
MAX_TRIES: Final = 2
#: The smallest packet worth building: header, one path frame and the AEAD tag.
_SMALLEST_PROBE_BYTES: Final = 64
_CHALLENGE_BYTES: Final = 8


def new_path(
    serial: int, remote: Address, local: Address, *, validated: bool, max_payload_bytes: int
) -> PathState:
    """A path at rest. `validated`: the handshake proved the address, in full-sized datagrams."""
    ceiling = max(MIN_DATAGRAM_BYTES, min(max_payload_bytes, MAX_DATAGRAM_BYTES))
    return PathState(
        serial=serial,
        remote=remote,
        local=local,
        used=validated,
        validated=validated,
        full_size_validated=validated,
        received_bytes=0,
        sent_bytes=0,
        challenges=[],
        challenge_due=False,
        challenge_tries=0,
        challenge_at_us=NEVER,
        responses=[],
        mtu_bytes=MIN_DATAGRAM_BYTES,
        mtu_ceiling_bytes=ceiling,
        mtu_limit_bytes=ceiling,
        mtu_probe_bytes=0,
        mtu_probe_number=NONE,
        mtu_failures=0,
        mtu_losses=0,
        mtu_at_us=0 if ceiling > MIN_DATAGRAM_BYTES else NEVER,
    )


class Paths:
    """Finds, validates, switches and forgets paths; all that lasts is in the state."""

    __slots__ = ("_entropy", "_ids", "_state")

    def __init__(
        self, state: ConnectionState, ids: ConnectionIds, entropy: Callable[[int], bytes]
    ) -> None:
        self._state = state
        self._ids = ids
        self._entropy = entropy

    @property
    def active(self) -> PathState:
        return self._state.paths[0]

    # --- receiving ----------------------------------------------------------------------------

    def on_datagram(
        self, remote: Address, local: Address, size: int, now_us: int
    ) -> PathState | None:
        """The path of a datagram that authenticated; None: do not process it.

        Must not be called for datagrams that failed to authenticate.
        """
        path = self._state.paths[0]
        if path.remote != remote or not _same_local(path.local, local):
            known = self._find_or_add(remote, local, now_us)
            if known is None:
                return None
            path = known
        if not path.validated:
            path.received_bytes += size
        return path

    def on_non_probing(self, path: PathState, is_newest: bool) -> bool:
        """A packet with other than probing frames came on `path` (§9.3).

        `is_newest`: its number is the highest among non-probing packets so far. Returns True
        when the active path now leads to another host, so that congestion control, RTT and MTU
        must start anew (§9.4).
        """
        if path is self._state.paths[0] or self._state.is_client:
            return False
        path.used = True
        return self._migrate_to(path) if is_newest else False

    def on_challenge(self, path: PathState, data: bytes) -> None:
        """PATH_CHALLENGE came on `path`: the answer goes the same way (§8.2.2)."""
        if len(path.responses) < MAX_PENDING_PATH_RESPONSES:
            path.responses.append(data)
        # The client is about to move there: to challenge it along with the answer spares it the
        # anti-amplification limit afterwards.
        if not path.validated and not self._state.is_client:
            self._start_validation(path)

    def on_response(self, data: bytes) -> PathState | None:
        """PATH_RESPONSE came, on whatever path (§8.2.3). Returns the path that it validated just
        now: its owner deserves a fresh address validation token (§9.3).

        Unknown data is ignored (§19.18 permits it): it may answer a validation given up since.
        """
        for path in self._state.paths:
            for challenge, padded in path.challenges:
                if challenge == data:
                    return path if self._answered(path, padded) else None
        return None

    # --- sending ------------------------------------------------------------------------------

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
                self._ids.id_for_path(path.serial)
            if (
                (path.challenge_due or path.responses)
                and self.allowance_bytes(path) >= _SMALLEST_PROBE_BYTES
                and self._ids.id_for_path(path.serial) is not None
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
            if path.challenge_tries < MAX_TRIES:
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
        """Datagrams leave from another host now: what size gets through is not known."""
        for path in self._state.paths:
            MtuSearch(path).reset(path.mtu_ceiling_bytes, now_us)

    # --- inside -------------------------------------------------------------------------------

    def _find_or_add(self, remote: Address, local: Address, now_us: int) -> PathState | None:
        state = self._state
        for path in state.paths:
            # A client's own address may change under it; the server's may not (§9).
            if path.remote == remote and (state.is_client or _same_local(path.local, local)):
                return path
        if state.is_client:
            return None
        if len(state.paths) >= MAX_PATHS:
            victim = self._victim(now_us)
            if victim is None:
                return None
            self._forget(victim)
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

    def _victim(self, now_us: int) -> PathState | None:
        """Which path to forget for a new one: never the active one, nor the one to go back to,
        nor one being validated. The last rule slows a flood of spoofed addresses to a few paths
        per validation, so that it cannot use up the peer's connection IDs."""
        fallback = self._fallback()
        idle = [
            path
            for path in self._state.paths[1:]
            if path is not fallback and (path.challenge_at_us == NEVER or _is_overdue(path, now_us))
        ]
        unused = [path for path in idle if not path.used]
        if unused:
            return unused[0]  # these stand in the order of their coming
        return idle[-1] if idle else None

    def _fallback(self) -> PathState | None:
        """The path to go back to: validated, and the peer chose it once (§9: no data goes where
        no non-probing packet came from)."""
        for path in self._state.paths[1:]:
            if path.validated and path.used:
                return path
        return None

    def _migrate_to(self, path: PathState) -> bool:
        paths = self._state.paths
        previous = paths[0]
        same_host = _same_host(previous, path)
        paths.remove(path)
        paths.insert(0, path)
        self._take_id(path, previous)
        if path.validated and path.full_size_validated:
            self._end_validation(path)  # §9.3: back on a known address
        else:
            self._start_validation(path)
        # §9.3.3: the path before must be asked too. It stays validated meanwhile.
        self._start_validation(previous)
        if same_host and path.mtu_bytes < previous.mtu_bytes:
            # §9.4: most likely a NAT that changed the port; the route is the same.
            path.mtu_bytes = previous.mtu_bytes
            path.mtu_limit_bytes = previous.mtu_limit_bytes
            path.mtu_at_us = previous.mtu_at_us
        return not same_host

    def _take_id(self, path: PathState, previous: PathState) -> None:
        """Give a path that became active an ID: its own (§9.5), or, when the peer supplied none
        and only its port changed, the one that the path before used."""
        if self._ids.id_for_path(path.serial) is None and _same_host(previous, path):
            self._ids.hand_over(previous.serial, path.serial)

    def _start_validation(self, path: PathState) -> None:
        if path.challenge_at_us != NEVER:
            return
        path.challenge_due = True
        path.challenge_tries = 1
        path.challenge_at_us = self._state.clock_us + self._try_us(1)

    def _end_validation(self, path: PathState) -> None:
        path.challenges.clear()
        path.challenge_due = False
        path.challenge_tries = 0
        path.challenge_at_us = NEVER

    def _answered(self, path: PathState, padded: bool) -> bool:
        """Settle the validation; True when the path was not validated before."""
        newly = not path.validated
        path.validated = True
        path.full_size_validated = path.full_size_validated or padded
        if path.full_size_validated:
            self._end_validation(path)
            return newly
        # §8.2.3: the address is proved, its MTU is not: ask again in a datagram of 1200 bytes.
        path.challenges = [challenge for challenge in path.challenges if challenge[1]]
        path.challenge_due = not path.challenges
        path.challenge_tries = 1
        path.challenge_at_us = self._state.clock_us + self._try_us(1)
        return newly

    def _fail(self, path: PathState, now_us: int) -> bool:
        self._end_validation(path)
        active = self._state.paths[0]
        if path is not active:
            # A path validated once is all there is to go back to while the active one is not.
            if active.validated or not path.validated:
                self._forget(path)
            return False
        fallback = self._fallback()
        if fallback is None:
            if path.validated:
                # The peer is there (§8.2.3), only no answer to a full-sized challenge came. Two
                # losses are no reason to give up the one address that is proved: ask again.
                self._start_validation(path)
            else:
                closing.end(
                    self._state, NO_VIABLE_PATH, NONE, "no validated path to the peer is left"
                )
            return False
        paths = self._state.paths
        paths.remove(fallback)
        paths.insert(0, fallback)
        self._end_validation(fallback)
        if not fallback.full_size_validated:
            self._start_validation(fallback)
        self._take_id(fallback, path)
        self._forget(path)
        return not _same_host(fallback, path)

    def _forget(self, path: PathState) -> None:
        self._state.paths.remove(path)
        self._ids.release_path(path.serial)

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


def _is_overdue(path: PathState, now_us: int) -> bool:
    # Its last try has failed; only the timer has not come round yet.
    return path.challenge_tries >= MAX_TRIES and path.challenge_at_us <= now_us


def _same_local(known: Address, local: Address) -> bool:
    # Empty: that socket did not tell, as on a socket bound to one address.
    return known == local or not known or not local


def _same_host(one: PathState, other: PathState) -> bool:
    """True when the paths differ in the peer's port at most."""
    return one.remote[0] == other.remote[0] and _same_local(one.local, other.local)
