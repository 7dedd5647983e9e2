"""Things that count once: address validation tokens, and the early data of a session ticket.

Whoever gives out something that works on every node of a cluster must stop it from being used on
every node. `ReplayGuard` is the seam: `SpentTokens` remembers in the memory of one process, and
whoever has a store that all processes share writes one that asks it.
"""

from __future__ import annotations

from typing import Protocol

from quicbaton.limits import MAX_SPENT_TOKENS


class ReplayGuard(Protocol):
    """Says of each id whether it counts: the first time, and never again until it expires."""

    #: Where an id counts once, as a report names it: "this process", "the cluster".
    scope: str

    def spend(self, token_id: bytes, until: float, now: float) -> bool:
        """Say whether `token_id` counts, and remember it; times are Unix times in seconds.

        False for what was spent before, and in case of doubt: then the client pays a round trip.
        """


class SpentTokens:
    """What was spent in this process. Bounded: when full, nothing counts until old ones expire."""

    scope = "this process"

    def __init__(self, limit: int = MAX_SPENT_TOKENS) -> None:
        self._limit = limit
        self._until: dict[bytes, float] = {}
        self._next_expiry = float("inf")

    def spend(self, token_id: bytes, until: float, now: float) -> bool:
        """Say whether `token_id` counts, and remember it until then."""
        if token_id in self._until:
            return False
        if len(self._until) >= self._limit:
            if now <= self._next_expiry:  # a flood must not make each of us look at all
                return False
            self._until = {key: until for key, until in self._until.items() if until >= now}
            self._next_expiry = min(self._until.values(), default=float("inf"))
            if len(self._until) >= self._limit:
                return False
        self._until[token_id] = until
        self._next_expiry = min(self._next_expiry, until)
        return True

    def __len__(self) -> int:
        return len(self._until)
