"""The routing table of one worker: connection ID to what happens to its packets.

An ID is in at most one of four places:

* `owners`: the connection lives here.
* retired: the peer has retired it. One peer's datagrams come by several ways, from the network and
  forwarded, so a datagram that was sent before the retirement may arrive after it. It still finds
  its connection for a while. It is no sign of a lost connection: no reset answers it.
* forwards: it is another process's, of which we only know the ID (a predecessor's, or a dead
  worker's connection that lives elsewhere); strays follow it until a time. The ID of a connection
  that this process gave away has an owner: the handoff, which forwards.
* tombstones: it may live elsewhere, nothing is forwarded any more, and it must not be reset
  (RFC 9000 §21.11: never reset what could be active on any endpoint with the same key).

A forward that expires becomes a tombstone. Everything is bounded. When the tombstones overflow, the
oldest gives way and *all* resets are withheld until it would have expired. Clients then wait for
their idle timeout, but no live connection is ever reset for lack of memory.

Times are seconds of any one clock that never goes back.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Hashable, Iterable
from typing import Generic, TypeVar

from quicbaton.errors import InternalError, RefusedError
from quicbaton.limits import (
    MAX_FORWARDED_IDS,
    MAX_NO_RESET_IDS,
    MAX_RETIRED_IDS,
    MAX_ROUTED_IDS,
    NO_RESET_LIFETIME_S,
    RETIRED_ID_LIFETIME_S,
)
from quicbaton.reasons import Reason
from quicbaton.routing.quic_lb import IdConfigs, IdLayout, Place

OwnerT = TypeVar("OwnerT", bound=Hashable)

#: The destination of strays: a worker known by its number, or an address that a handoff named.
Target = Place | str

# Dead entries that the expiry heap may hold before it is rebuilt.
_HEAP_SLACK = 1024


def count_name(target: Target, place: Place) -> str:
    """The counter of datagrams that come to `place` and are sent on to `target`: the place that
    their ID names, on the same node because the kernel did not steer it there, or on another one
    because the network led it here; or the process that a handoff named."""
    if not isinstance(target, Place):
        return "forwarded"
    return "tossed" if target.node == place.node else "tossed_far"


class RoutingTable(Generic[OwnerT]):
    """IDs of one worker. `OwnerT` is the runtime's object for a connection."""

    def __init__(
        self,
        layout: IdLayout | IdConfigs,
        place: Place,
        peers: Iterable[Place] = (),
        *,
        max_owners: int = MAX_ROUTED_IDS,
        max_forwards: int = MAX_FORWARDED_IDS,
        max_tombstones: int = MAX_NO_RESET_IDS,
        max_retired: int = MAX_RETIRED_IDS,
    ) -> None:
        """`place` is this worker's; `peers` are the places to which packets may be tossed."""
        self.configs = IdConfigs.of(layout)
        self.place = place
        self.peers = set(peers) - {place}
        #: The numbers of the cluster's other nodes, each of whose places may be tossed to. A worker
        #: of theirs becomes one of `peers` when it is met.
        self.nodes: Container[int] = frozenset()
        #: Places whose unknown IDs this worker answers: its own, and those of dead workers.
        self.places = {place}
        #: The runtime reads it directly, for its fast path: one lookup of a short header's ID. Only
        #: the methods change it.
        self.owners: dict[bytes, OwnerT] = {}
        self.no_reset_until = float("-inf")
        self._retired: dict[bytes, tuple[OwnerT, float]] = {}  # in the order of retirement
        self._forwards: dict[bytes, tuple[Target, float]] = {}
        self._tombstones: dict[bytes, float] = {}
        self._heap: list[tuple[float, bytes]] = []  # (until, cid); may hold dead entries
        self._max_owners = max_owners
        self._max_forwards = max_forwards
        self._max_tombstones = max_tombstones
        self._max_retired = max_retired

    # --- commands ---

    def add(self, cid: bytes, owner: OwnerT) -> None:
        """Route `cid` to a connection here; ends its forward or tombstone.

        Raises:
            RefusedError: code `routing_table_full`.
            InternalError: another connection has this ID.
        """
        present = self.owners.get(cid)
        if present is not None and present != owner:
            raise InternalError(
                f"connection ID {cid.hex()} already leads to another connection",
                code=Reason.ID_COLLISION,
            )
        if present is None and len(self.owners) >= self._max_owners:
            raise RefusedError(
                f"the routing table holds {self._max_owners} connection IDs and is full",
                code=Reason.ROUTING_TABLE_FULL,
            )
        self._retired.pop(cid, None)
        self._forwards.pop(cid, None)
        self._tombstones.pop(cid, None)
        self.owners[cid] = owner

    def inherit(self, place: Place) -> None:
        """The worker at `place` is dead, and no other process can own its connections: its unknown
        IDs are now answered as our own are."""
        self.peers.discard(place)
        self.places.add(place)

    def inherit_all(self, places: Iterable[Place]) -> None:
        """No other process lives. The IDs of these places and all that were given away have no
        owner, and are answered as our own unknown IDs are."""
        for place in places:
            self.inherit(place)
        self._forwards.clear()
        self._tombstones.clear()
        self._heap.clear()
        self.no_reset_until = float("-inf")

    def remove(self, cid: bytes) -> None:
        """Forget `cid`: its connection is over in every process."""
        self.owners.pop(cid, None)
        self._retired.pop(cid, None)
        self._forwards.pop(cid, None)
        self._tombstones.pop(cid, None)

    def retire(self, cid: bytes, now: float) -> None:
        """The peer has retired `cid`: only late datagrams still come for it."""
        owner = self.owners.pop(cid, None)
        if owner is None:
            return
        if len(self._retired) >= self._max_retired:
            del self._retired[next(iter(self._retired))]
        self._retired[cid] = (owner, now + RETIRED_ID_LIFETIME_S)

    def forward(self, cid: bytes, to: Target, until: float) -> None:
        """Send datagrams for `cid` to its new owner; it is no longer ours.

        Raises:
            RefusedError: code `forwards_full`. Ask `has_room` before committing a handoff.
        """
        if cid not in self._forwards and not self.has_room(1):
            raise RefusedError(
                f"strays of {self._max_forwards} connection IDs are being forwarded already;"
                " hand over more slowly",
                code=Reason.FORWARDS_FULL,
            )
        self.owners.pop(cid, None)
        self._retired.pop(cid, None)
        self._tombstones.pop(cid, None)
        self._forwards[cid] = (to, until)
        self._schedule(until, cid)

    def has_room(self, count: int) -> bool:
        """Whether `count` more IDs can be forwarded."""
        return len(self._forwards) + count <= self._max_forwards

    def withhold_resets(self, cid: bytes, until: float) -> None:
        """Put a tombstone: until then drop datagrams for `cid`, and never reset it."""
        self.owners.pop(cid, None)
        self._retired.pop(cid, None)
        self._forwards.pop(cid, None)
        if cid not in self._tombstones and len(self._tombstones) >= self._max_tombstones:
            oldest = next(iter(self._tombstones))
            self.no_reset_until = max(self.no_reset_until, self._tombstones.pop(oldest))
        self._tombstones[cid] = until
        self._schedule(until, cid)

    def expire(self, now: float) -> None:
        """Turn expired forwards into tombstones; remove expired tombstones and retired IDs."""
        while self._retired:
            cid, (_, until) = next(iter(self._retired.items()))
            if now < until:
                break
            del self._retired[cid]
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, cid = heapq.heappop(heap)
            forward = self._forwards.get(cid)
            if forward is not None and forward[1] <= now:
                self.withhold_resets(cid, now + NO_RESET_LIFETIME_S)
            elif self._tombstones.get(cid, now + 1) <= now:
                del self._tombstones[cid]

    # --- questions ---

    def has_room_here(self, count: int) -> bool:
        """Whether `count` more IDs can be routed to connections of this process."""
        return len(self.owners) + count <= self._max_owners

    def owner_of(self, cid: bytes) -> OwnerT | None:
        """Return the owner of datagrams for `cid`, late ones included, or None."""
        owner = self.owners.get(cid)
        if owner is not None:
            return owner
        retired = self._retired.get(cid)
        return None if retired is None else retired[0]

    def forward_of(self, cid: bytes, now: float) -> Target | None:
        """Return the destination of strays of `cid`, or None."""
        entry = self._forwards.get(cid)
        return entry[0] if entry is not None and now < entry[1] else None

    def forwards_to(self, target: Target) -> list[bytes]:
        """Return the IDs whose strays go to `target`."""
        return [cid for cid, (to, _) in self._forwards.items() if to == target]

    def may_toss(self, place: Place) -> bool:
        """Whether datagrams whose IDs name `place` are passed on to it."""
        return place in self.peers or place.node in self.nodes

    def may_live_elsewhere(self, cid: bytes) -> bool:
        """Whether `cid` was given away or has a tombstone; an expired forward is one."""
        return cid in self._tombstones or cid in self._forwards

    def next_expiry(self) -> float | None:
        """Return the earliest time at which `expire` has something to do; None: never."""
        return self._heap[0][0] if self._heap else None

    def _schedule(self, until: float, cid: bytes) -> None:
        heapq.heappush(self._heap, (until, cid))
        live = len(self._forwards) + len(self._tombstones)
        if len(self._heap) > 2 * live + _HEAP_SLACK:
            # IDs that come and go leave dead entries behind, which must not accumulate. In place:
            # `expire` may be iterating over it.
            self._heap[:] = [(until, cid) for cid, (_, until) in self._forwards.items()]
            self._heap += [(until, cid) for cid, until in self._tombstones.items()]
            heapq.heapify(self._heap)

    def __repr__(self) -> str:
        return (
            f"RoutingTable(place={self.place!r}, owners={len(self.owners)},"
            f" forwards={len(self._forwards)}, tombstones={len(self._tombstones)})"
        )
