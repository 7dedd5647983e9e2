"""Limits on how often a peer may do something that costs us more than the peer.

A budget is one number, the connection time at which it is full again (the generic cell rate
algorithm of ITU-T I.371). Each event moves that time on by its share. An event that would move it
further ahead than the burst allows is too much. The number is in `Http3State`, so it moves along.
"""

from __future__ import annotations

from msgspec import Struct


class Rate(Struct, frozen=True):
    share_us: int  # what one event takes of it
    burst_us: int

    def spend(self, whole_at_us: int, now_us: int) -> int:
        """When the budget is full again after one more event at `now_us`; -1: it is exhausted."""
        whole_at_us = (whole_at_us if whole_at_us > now_us else now_us) + self.share_us
        return -1 if whole_at_us - now_us > self.burst_us else whole_at_us


def rate(*, per_s: int, burst: int) -> Rate:
    """A budget of `per_s` events a second and `burst` at once."""
    share_us = 1_000_000 // per_s
    return Rate(share_us, burst * share_us)
