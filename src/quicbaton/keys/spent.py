"""Things that count once: address validation tokens, and the early data of a session ticket.

A token that works on every node of a cluster must be stopped from being used on every node.
`ReplayGuard` is the interface for that. `SpentTokens` remembers tokens in the memory of one
process; a guard for a cluster asks a store that all its processes share.
"""

from __future__ import annotations

from typing import Protocol

from quicbaton.limits import MAX_SPENT_TOKENS


class ReplayGuard(Protocol):
    """Decides for each id whether it counts: the first time, and never again until it expires."""

    #: The scope within which an id counts once, for reports: "this process", "the cluster".
    scope: str

    def spend(self, token_id: bytes, until: float, now: float) -> bool:
        """Whether `token_id` counts; it is then spent. Times are Unix times in seconds.

        False for an id that was spent before, and in case of doubt: then the client pays a round
        trip.
        """


class SpentTokens:
    """The tokens spent in this process. When it is full, no token counts until old ones expire."""

    scope = "this process"

    def __init__(self, limit: int = MAX_SPENT_TOKENS) -> None:
        self._limit = limit
        self._until: dict[bytes, float] = {}
        self._next_expiry = float("inf")

    def spend(self, token_id: bytes, until: float, now: float) -> bool:
        """Whether `token_id` counts. It is remembered until then."""
        if token_id in self._until:
            return False
        if len(self._until) >= self._limit:
            if now <= self._next_expiry:  # a flood must not make each token scan all others
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
