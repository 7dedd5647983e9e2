"""Stateless resets: how a client learns that its connection is gone (RFC 9000 §10.3).

`route` decides whether to reset at all. Here a reset is built, and their rate limited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from quicbaton.errors import CallerError
from quicbaton.keys.key_ring import KeyRing
from quicbaton.keys.reset_token import RESET_TOKEN_BYTES, reset_token
from quicbaton.limits import (
    MAX_RESET_ADDRESSES,
    RESET_BURST,
    RESET_BURST_PER_ADDRESS,
    RESETS_PER_ADDRESS_PER_S,
    RESETS_PER_S,
)
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import IdConfigs

#: RFC 9000 §10.3: two fixed bits, 38 unpredictable ones, the token.
MIN_RESET_BYTES: Final = 21
#: A trigger of this size or less is answered with one byte less (RFC 9000 §10.3).
_ONE_LESS_UP_TO: Final = 43
#: The sizes for larger triggers: at 41 bytes and above a reset does not stand out (§10.3.3).
_USUAL_SIZE: Final = 42
_SIZE_SPREAD: Final = 32


def build_reset(
    trigger_bytes: int,
    cid: bytes,
    ring: KeyRing,
    entropy: Callable[[int], bytes],
    configs: IdConfigs | None = None,
) -> bytes:
    """Return the datagram that resets the connection of `cid`.

    `trigger_bytes` is the size of the datagram that is answered. The reset is smaller, so that two
    endpoints that reset each other come to an end (RFC 9000 §10.3.3).

    The token must be the one that the client was given, made under the key that was active when the
    ID was issued. After a rotation that is not the active one. The config rotation bits of the ID
    tell which it was (`configs`; the draft's "Stateless Reset Oracle" suggests a key per
    codepoint), as long as no two keys of the ring share a series. The bits cannot tell it for a
    configuration that a load balancer dictates. Then the key is drawn among the ring's: a token of
    the wrong key is noise to the client, which sends again and is answered again. Two datagrams for
    one are no solution: two endpoints that reset each other would double them each time.

    Raises:
        CallerError: the trigger is too small to be answered.
    """
    if trigger_bytes <= MIN_RESET_BYTES:
        raise CallerError(
            f"a datagram of {trigger_bytes} bytes is not answered with a reset:"
            f" that has {MIN_RESET_BYTES} bytes and must be smaller",
            code=Reason.RESET_TOO_SMALL,
        )
    draw = entropy(2)
    size = trigger_bytes - 1
    if trigger_bytes > _ONE_LESS_UP_TO:
        size = min(size, _USUAL_SIZE + draw[0] % _SIZE_SPREAD)
    keys = list(ring) if configs is None else configs.keys_of(cid, ring)
    key = keys[draw[1] % len(keys)]
    return _datagram(size, reset_token(key, cid), entropy)


def announce_reset(token: bytes, entropy: Callable[[int], bytes]) -> bytes:
    """Return a datagram that resets the connection with this token, and that answers no datagram.

    For a process that knows that a connection is over, and its client's validated address: a client
    that waits for us sends nothing that could be answered. Send it once; it starts no loop.
    """
    return _datagram(_USUAL_SIZE + entropy(1)[0] % _SIZE_SPREAD, token, entropy)


def _datagram(size: int, token: bytes, entropy: Callable[[int], bytes]) -> bytes:
    noise = entropy(size - RESET_TOKEN_BYTES)
    # A short header's first two bits are 01.
    first = bytes((0x40 | noise[0] & 0x3F,))
    return first + noise[1:] + token


class TokenBucket(Struct):
    """`per_s` tokens a second, and `burst` at once. It starts full."""

    per_s: float
    burst: float
    level: float
    filled_at: float

    @classmethod
    def full(cls, per_s: float, burst: float, now: float) -> TokenBucket:
        """Make a full bucket at time `now`, seconds of a clock that never goes back."""
        return cls(per_s, burst, burst, now)

    def take(self, now: float) -> bool:
        """Take a token. Returns whether there was one."""
        elapsed = max(0.0, now - self.filled_at)
        self.level = min(self.burst, self.level + elapsed * self.per_s)
        self.filled_at = max(self.filled_at, now)
        if self.level < 1:
            return False
        self.level -= 1
        return True


class ResetLimiter:
    """Limits resets per address and in total (RFC 9000 §10.3.3 suggests both)."""

    def __init__(
        self,
        now: float,
        *,
        per_s: float = RESETS_PER_S,
        burst: float = RESET_BURST,
        per_address_per_s: float = RESETS_PER_ADDRESS_PER_S,
        burst_per_address: float = RESET_BURST_PER_ADDRESS,
        max_addresses: int = MAX_RESET_ADDRESSES,
    ) -> None:
        self._all = TokenBucket.full(per_s, burst, now)
        self._per_address_per_s = per_address_per_s
        self._burst_per_address = burst_per_address
        self._max_addresses = max_addresses
        self._by_host: dict[str, TokenBucket] = {}

    def allow(self, host: str, now: float) -> bool:
        """Whether a reset to the IP address `host` may go out now; if so it is counted."""
        bucket = self._by_host.pop(host, None)
        if bucket is None:
            bucket = TokenBucket.full(self._per_address_per_s, self._burst_per_address, now)
            if len(self._by_host) >= self._max_addresses:
                del self._by_host[next(iter(self._by_host))]
        # Put back at the end: the address in front is the one that was not reset for longest.
        self._by_host[host] = bucket
        # An address over its own limit takes nothing away from the others.
        return bucket.take(now) and self._all.take(now)
