"""A network in memory: datagrams that are delayed, reordered, lost, repeated and damaged.

The link has no clock of its own: `send` is told the time, `next_at_s` says when the next datagram
arrives. All chance comes from one seed, with one generator per direction. So the fate of a
direction's n-th datagram depends only on the seed and n.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from quicbaton.errors import ConfigurationError
from quicbaton.transport.state import Address

#: The direction of a datagram, named by its sender.
Direction = Literal["client", "server"]


class Marked(bytes):
    """A datagram with ECN bits in its IP header; one that is plain `bytes` has none."""

    ecn: int

    @classmethod
    def of(cls, data: bytes, ecn: int) -> bytes:
        if not ecn:
            return bytes(data)
        marked = cls(data)
        marked.ecn = ecn
        return marked


def ecn_of(data: bytes) -> int:
    """The ECN bits of a datagram's IP header."""
    return data.ecn if isinstance(data, Marked) else 0


class Conditions(Struct, frozen=True):
    """What one direction of a link does to datagrams. The default: 10 ms and no losses."""

    delay_s: float = 0.01
    jitter_s: float = 0.0  # up to so much more delay for each datagram: reorders them
    loss: float = 0.0  # probabilities, 0 to 1
    duplication: float = 0.0
    corruption: float = 0.0  # one bit is flipped
    rate_bytes_per_s: float = 0.0  # 0: any
    queue_bytes: int = 1 << 20  # what waits for its turn when there is a rate; the rest is lost
    mtu_bytes: int = 65_507  # larger datagrams vanish
    ecn: Literal["kept", "bleached", "rewritten", "congested", "dropped"] = "kept"

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "corruption"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} is a probability, got {getattr(self, name)}")
        if min(self.delay_s, self.jitter_s, self.rate_bytes_per_s) < 0:
            raise ConfigurationError("delay, jitter and rate of a link are not negative")


#: By kind of link: the mark that every mark becomes. None, ECT(1), CE.
_REMARKED: Final = {"bleached": 0, "rewritten": 1, "congested": 3}


class Delivery(NamedTuple):
    """A datagram that arrives. It sorts by time, then by the order of sending."""

    at_s: float
    order: int
    direction: Direction
    data: bytes
    source: Address
    destination: Address


class _Queue:
    """The queue before the narrow place of a way. It is busy for as long as it is not empty."""

    def __init__(self) -> None:
        self.busy_until_s = 0.0


class _Way:
    def __init__(self, conditions: Conditions, seed: str) -> None:
        self.conditions = conditions
        self.random = Random(seed)
        self.queue = _Queue()


class Link:
    """Both directions between a client and a server.

    `intercept(direction, data, now)`, if set, is called with every datagram as it is sent, before
    chance applies. It returns the datagram, another one in its place, or None to lose it.
    """

    def __init__(
        self, client: Conditions, server: Conditions | None = None, seed: int | str = 0
    ) -> None:
        """`client` are the conditions for the client's datagrams. The server's are the same unless
        `server` is given."""
        self._ways: dict[Direction, _Way] = {
            "client": _Way(client, f"link {seed} client"),
            "server": _Way(server or client, f"link {seed} server"),
        }
        self._queue: list[Delivery] = []
        self._order = 0
        self.intercept: Callable[[Direction, bytes, float], bytes | None] | None = None

    def conditions(self, direction: Direction) -> Conditions:
        return self._ways[direction].conditions

    def change(self, client: Conditions, server: Conditions | None = None) -> None:
        """Set other conditions for datagrams sent from now on."""
        self._ways["client"].conditions = client
        self._ways["server"].conditions = server or client

    def share_queue(self, other: Link, direction: Direction) -> None:
        """Have the datagrams of both links wait in one queue, in this direction. Each goes at the
        rate of its own link: give both the same. `testing.run_together` keeps their time."""
        self._ways[direction].queue = other._ways[direction].queue

    def queued_s(self, direction: Direction, now: float) -> float:
        """How long a datagram sent now would wait in the queue."""
        return max(self._ways[direction].queue.busy_until_s - now, 0.0)

    @property
    def in_flight(self) -> int:
        """The number of datagrams that will arrive."""
        return len(self._queue)

    def send(
        self, direction: Direction, data: bytes, source: Address, destination: Address, now: float
    ) -> None:
        """Take a datagram from its sender."""
        if self.intercept is not None:
            passed = self.intercept(direction, data, now)
            if passed is None:
                return
            data = passed
        way = self._ways[direction]
        conditions, random = way.conditions, way.random
        # Always the same draws, so that one probability does not change the outcome of others.
        lost, doubled, damaged, bit = (random.random() for _ in range(4))
        delays = [random.random(), random.random()]
        if lost < conditions.loss or len(data) > conditions.mtu_bytes:
            return
        leaves_s = self._leave(way, len(data), now)
        if leaves_s is None:
            return
        if damaged < conditions.corruption and data:
            data = Marked.of(_flip(data, int(bit * len(data) * 8)), ecn_of(data))
        if ecn_of(data):
            if conditions.ecn == "dropped":
                return
            data = Marked.of(data, _REMARKED.get(conditions.ecn, ecn_of(data)))
        for draw in delays[: 1 + (doubled < conditions.duplication)]:
            at_s = leaves_s + conditions.delay_s + conditions.jitter_s * draw
            self._order += 1
            heappush(self._queue, Delivery(at_s, self._order, direction, data, source, destination))

    def next_at_s(self) -> float | None:
        """When the next datagram arrives; None if none is on its way."""
        return self._queue[0].at_s if self._queue else None

    def pop(self) -> Delivery:
        """The datagram that arrives next."""
        return heappop(self._queue)

    def clear(self) -> None:
        """Lose all datagrams that are on their way."""
        self._queue.clear()

    def _leave(self, way: _Way, size: int, now: float) -> float | None:
        """When the last byte leaves; None when the queue is full."""
        conditions = way.conditions
        rate = conditions.rate_bytes_per_s
        if not rate:
            return now
        queue = way.queue
        begin_s = max(now, queue.busy_until_s)
        if (begin_s - now) * rate + size > conditions.queue_bytes:
            return None
        queue.busy_until_s = begin_s + size / rate
        return queue.busy_until_s


def _flip(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit >> 3] ^= 1 << (bit & 7)
    return bytes(damaged)
