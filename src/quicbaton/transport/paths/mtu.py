"""Datagram size: how large a datagram the path carries (RFC 8899, RFC 9000 §14.3, §14.4).

Every path starts at 1200 bytes, which its validation proved. The search tries the ceiling first,
since most paths carry it, and halves the distance when that fails. One probe is out at a time and
goes along with stream data that fills a datagram: a connection with little to say needs no larger
ones, and a probe would cost it as much as its answer. A probe is a PING padded to the size under
test; its loss says nothing about congestion (§14.4).

`mtu_at_us` tells where the search stands: 0 while it runs, NEVER when there is nothing to find,
otherwise the time at which it begins again.
"""

from __future__ import annotations

from typing import Final

from quicbaton.limits import MIN_DATAGRAM_BYTES
from quicbaton.transport.state import NEVER, NONE, PathState

#: RFC 8899 §5.1.2 MAX_PROBES: losses of one size, or of full-sized packets, before it is given up.
MAX_FAILURES: Final = 3
#: The search ends when it could gain less than this: about one percent of a datagram.
STEP_BYTES: Final = 16
#: RFC 8899 §5.1.1 PMTU_RAISE_TIMER.
RAISE_US: Final = 600_000_000
#: Pause after a black hole: a route that has just changed may change again.
SETTLE_US: Final = 60_000_000


def begin(path: PathState, ceiling_bytes: int, at_us: int) -> None:
    """Put the path's size back to what every path carries, and search from `at_us` on."""
    path.mtu_bytes = MIN_DATAGRAM_BYTES
    path.mtu_ceiling_bytes = max(ceiling_bytes, MIN_DATAGRAM_BYTES)
    path.mtu_limit_bytes = path.mtu_ceiling_bytes
    path.mtu_probe_bytes = 0
    path.mtu_probe_number = NONE
    path.mtu_failures = 0
    path.mtu_losses = 0
    path.mtu_at_us = at_us


class MtuSearch:
    """The search on one path; it holds nothing but the path's state, so it costs nothing."""

    __slots__ = ("_path",)

    def __init__(self, path: PathState) -> None:
        self._path = path

    def probe_size(self, now_us: int) -> int:
        """Bytes of the datagram to probe with now; 0: none. Call `on_probe_sent` if it is sent."""
        path = self._path
        if path.mtu_at_us == NEVER or now_us < path.mtu_at_us or path.mtu_probe_bytes:
            return 0
        if not path.validated:
            return 0  # RFC 9000 §8.1: not what the anti-amplification allowance is for
        if path.mtu_at_us:
            path.mtu_at_us = 0
            path.mtu_limit_bytes = path.mtu_ceiling_bytes
            path.mtu_failures = 0
        return 0 if self._finished(now_us) else self._size_under_test()

    def on_probe_sent(self, number: int, now_us: int) -> None:
        """The size that `probe_size` gave left in the packet of that number."""
        self._path.mtu_probe_bytes = self.probe_size(now_us)
        self._path.mtu_probe_number = number

    def on_probe_acked(self, size: int, number: int = NONE) -> None:
        """The path carries that size. `number`, where known, tells a probe from one that was sent
        before the search began anew, perhaps by another host."""
        path = self._path
        if not self._is_outstanding(size, number):
            return
        self._end_probe()
        path.mtu_bytes = size
        path.mtu_failures = 0
        path.mtu_losses = 0

    def on_probe_lost(self, size: int, now_us: int, number: int = NONE) -> None:
        """A probe was lost; the third of a size rules it out."""
        path = self._path
        if not self._is_outstanding(size, number):
            return
        self._end_probe()
        path.mtu_failures += 1
        if path.mtu_failures >= MAX_FAILURES:
            path.mtu_failures = 0
            path.mtu_limit_bytes = size - 1
            self._finished(now_us)

    def on_packets_acked(self, largest_size: int) -> None:
        """Packets up to that size were acknowledged: a full-sized one ends the suspicion."""
        path = self._path
        if path.mtu_losses and self._is_full(largest_size):
            path.mtu_losses = 0

    def on_packets_lost(self, largest_size: int, now_us: int) -> bool:
        """One loss event, with packets up to that size (probes excluded).

        Returns True when it was the third in a row with full-sized packets and none of that size
        acknowledged in between: a black hole, and the size is back at 1200 (RFC 8899 §4.3). What
        is sent again must fit that.
        """
        path = self._path
        if not self._is_full(largest_size):
            return False
        path.mtu_losses += 1
        if path.mtu_losses < MAX_FAILURES:
            return False
        self.on_black_hole(now_us)
        return True

    def on_timeouts(self, in_a_row: int, largest_size: int, now_us: int) -> bool:
        """So many PTOs passed without an ACK, with packets up to that size outstanding (probes
        excluded). Returns True when that counts as a black hole.

        Where only full-sized packets are outstanding and none gets through, nothing is
        acknowledged and so nothing ever counts as lost: the timeouts are all there is to see.
        """
        if in_a_row < MAX_FAILURES or not self._is_full(largest_size):
            return False
        self.on_black_hole(now_us)
        return True

    def on_black_hole(self, now_us: int) -> None:
        """The path no longer carries its size: back to 1200, and search again in a while."""
        begin(self._path, self._path.mtu_ceiling_bytes, now_us + SETTLE_US)

    def on_refused(self, size: int) -> None:
        """Our own interface takes no datagrams of that size: no need to lose any more (RFC 8899
        §4.2.1 wants such news to be believed). The search goes on below."""
        path = self._path
        if size <= path.mtu_bytes:
            begin(path, path.mtu_ceiling_bytes, 0)
        path.mtu_limit_bytes = max(MIN_DATAGRAM_BYTES, min(path.mtu_limit_bytes, size - 1))
        path.mtu_failures = 0
        self._end_probe()

    def reset(self, ceiling_bytes: int, now_us: int) -> None:
        """Start anew: on another host, or through a relay that takes room of its own."""
        begin(self._path, ceiling_bytes, now_us)

    def next_timer_us(self) -> int:
        """When a finished search begins again; NEVER while one runs: probes go along, and while
        the path may not be probed."""
        at_us = self._path.mtu_at_us
        return at_us if at_us > 0 and self._path.validated else NEVER

    # --- inside -------------------------------------------------------------------------------

    def _finished(self, now_us: int) -> bool:
        """End the search when there is too little left to gain."""
        path = self._path
        if path.mtu_ceiling_bytes - path.mtu_bytes < STEP_BYTES:
            path.mtu_at_us = NEVER
        elif path.mtu_limit_bytes - path.mtu_bytes < STEP_BYTES:
            path.mtu_at_us = now_us + RAISE_US
        return path.mtu_at_us != 0

    def _size_under_test(self) -> int:
        path = self._path
        if path.mtu_limit_bytes == path.mtu_ceiling_bytes:
            return path.mtu_ceiling_bytes
        return (path.mtu_bytes + path.mtu_limit_bytes + 1) // 2

    def _is_outstanding(self, size: int, number: int) -> bool:
        path = self._path
        return size == path.mtu_probe_bytes and number in (NONE, path.mtu_probe_number)

    def _end_probe(self) -> None:
        self._path.mtu_probe_bytes = 0
        self._path.mtu_probe_number = NONE

    def _is_full(self, size: int) -> bool:
        # Packets of mixed frames stay a few bytes below the maximum.
        return size > MIN_DATAGRAM_BYTES and size + STEP_BYTES > self._path.mtu_bytes
