"""How often a peer may do what costs us more than it costs the peer.

A budget is one number, the connection time at which it is whole again (the generic cell rate
algorithm of ITU-T I.371): an event moves that on by its share, and one that would move it further
ahead than the burst allows is too much. It is in `Http3State`, so it moves along.
"""

from __future__ import annotations

from msgspec import Struct


class Rate(Struct, frozen=True):
    """A budget's size."""

    per_s: int
    burst: int

    def spend(self, whole_at_us: int, now_us: int) -> int:
        """When the budget is whole again after one more event at `now_us`; -1: it is exhausted."""
        share_us = 1_000_000 // self.per_s
        whole_at_us = max(whole_at_us, now_us) + share_us
        return -1 if whole_at_us - now_us > self.burst * share_us else whole_at_us
