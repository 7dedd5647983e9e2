"""One path, and which of a connection's paths is which (RFC 9000 §9)."""

from __future__ import annotations

from quicbaton.limits import MAX_DATAGRAM_BYTES, MIN_DATAGRAM_BYTES
from quicbaton.transport.paths import ecn
from quicbaton.transport.state import NEVER, NONE, Address, ConnectionState, PathState


def new_path(
    serial: int, remote: Address, local: Address, *, validated: bool, max_payload_bytes: int
) -> PathState:
    """A path at rest. `validated`: the handshake proved the address, in full-sized datagrams, and
    the peer uses our first ID."""
    ceiling = max(MIN_DATAGRAM_BYTES, min(max_payload_bytes, MAX_DATAGRAM_BYTES))
    return PathState(
        serial=serial,
        remote=remote,
        local=local,
        used=validated,
        validated=validated,
        full_size_validated=validated,
        local_sequence=0 if validated else NONE,
        heard=0,
        received_bytes=0,
        sent_bytes=0,
        challenges=[],
        challenge_due=False,
        challenge_tries=0,
        challenge_at_us=NEVER,
        challenged_us=NEVER,
        responses=[],
        mtu_bytes=MIN_DATAGRAM_BYTES,
        mtu_ceiling_bytes=ceiling,
        mtu_limit_bytes=ceiling,
        mtu_probe_bytes=0,
        mtu_probe_number=NONE,
        mtu_failures=0,
        mtu_losses=0,
        mtu_at_us=0 if ceiling > MIN_DATAGRAM_BYTES else NEVER,
        ecn=ecn.TESTING,
        ecn_unproved=0,
    )


def validated_path(state: ConnectionState) -> PathState:
    """The active path if it is validated, else the one to go back to: its address is the peer's.
    The handshake has proved one."""
    return state.paths[0] if state.paths[0].validated else fallback_path(state) or state.paths[0]


def fallback_path(state: ConnectionState) -> PathState | None:
    """The path to go back to: validated, and the peer chose it once (§9: no data goes where no
    non-probing packet came from)."""
    for path in state.paths[1:]:
        if path.validated and path.used:
            return path
    return None


def same_local(known: Address, local: Address) -> bool:
    # Empty: that socket did not tell, as on a socket bound to one address.
    return known == local or not known or not local


def same_host(one: PathState, other: PathState) -> bool:
    """True when the paths differ in the peer's port at most."""
    return one.remote[0] == other.remote[0] and same_local(one.local, other.local)
